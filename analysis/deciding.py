"""What `train.py --until-decided` trains next: the experiments of undecided claims, up to the next planned look.

step = find_next_step(study, found, data_dir, most_seeds=40)
step.titles, step.seeds     # nothing is left to train if there are no titles
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from analysis.findings import gather
from engine.records import Record
from experiments import UserError
from studies.study import Study


@dataclass(frozen=True)
class Step:
    """The experiments that need more seeds, and what is known before they are trained."""

    titles: list[str]  # empty: nothing is left to train
    seeds: int  # how many each of these experiments needs in all, with others in place of those that diverged
    says: str  # one line; without titles, a line more for each claim that stays undecided


def find_next_step(
    study: Study, found: Iterable[Record], data_dir: Path, most_seeds: int, last: Step | None = None
) -> Step:
    """Judge a study's claims, and find the experiments that undecided claims compare.

    The claims at the earliest look come first, so that all experiments of a step need the same number of seeds.

    Args:
        found: the records of the study, as far as it is trained.
        most_seeds: a look that needs more seeds than this is not planned.
        last: the step that was just trained; the same step again would train nothing, because some runs are damaged.

    Raises:
        UserError: the claims cannot be judged.
    """
    found = [record for record in found if record.group == study.group]
    of_study = gather(found, data_dir)[0]
    if not of_study:
        raise UserError(f"--until-decided: no run of {study.group} on its own data set, so its claims are not judged")
    findings = of_study[0]
    if findings.problem:
        raise UserError(f"--until-decided: {findings.problem}")
    judgements = findings.judgements
    says = f"{sum(each.is_decided for each in judgements)} of {len(judgements)} claims are decided"
    looks = [each.next_look for each in judgements if each.next_look and each.next_look.seeds <= most_seeds]
    if not looks:
        undecided = [f"\n{each.explained}: {each.claim.says}" for each in judgements if not each.is_decided]
        return Step([], 0, says + "".join(undecided))
    look = min(looks, key=lambda look: look.seeds)
    compared = [title for each in judgements if each.next_look == look for title in each.claim.titles]
    titles = list(dict.fromkeys(study.trained_as[title] for title in compared))
    named = ", ".join(f'"{title}"' for title in titles)
    seeds = look.seeds + len({seed for record in found if record.title in titles for seed in record.diverged})
    if seeds > most_seeds or (last and (last.titles, last.seeds) == (titles, seeds)):
        return Step([], 0, f"{says}; {look} is not reached by {named}: too many of their runs diverged or are damaged")
    return Step(titles, seeds, f"{says}; {look} is next, for {named}")
