"""What `train.py --until-decided` trains next: the experiments of undecided claims, up to the next planned look.

step = find_next_step(study, found, data_dir, most_seeds=40)
step.titles, step.seeds     # nothing is left to train if there are no titles
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from analysis.claims import Judgement
from analysis.findings import gather
from engine.records import Record
from experiments import UserError
from studies.study import Study


@dataclass(frozen=True)
class Step:
    """The experiments that need more seeds, and what is known before they are trained."""

    titles: list[str]  # empty: nothing is left to train
    seeds: int  # how many each of these experiments needs in all, with others in place of those that diverged
    judged: tuple[int, ...]  # seeds that these experiments share, if looks were taken at them
    says: str  # one line; without titles, a line more for each claim that stays undecided


def find_next_step(
    study: Study, found: Iterable[Record], data_dir: Path, most_seeds: int, last: Step | None = None
) -> Step:
    """Judge a study's claims, and find the experiments that undecided claims compare.

    The claims at the earliest look come first, and of these those that lost the fewest seeds to divergence, so that all
    experiments of a step need the same seeds.

    Args:
        found: the records of the study, as far as it is trained.
        most_seeds: a look at more seeds than this is not planned; seeds that diverged do not count.
        last: the step that was just trained; the same step again would train nothing, because some runs are damaged.

    Raises:
        UserError: the claims cannot be judged.
    """
    of_study = [each for each in gather(found, data_dir)[0] if each.group == study.group]
    if not of_study:
        raise UserError(f"--until-decided: no run of {study.group} on its own data set, so its claims are not judged")
    findings = of_study[0]
    if findings.problem:
        raise UserError(f"--until-decided: {findings.problem}")
    judgements = findings.judgements
    says = f"decided: {sum(each.is_decided for each in judgements)} of {len(judgements)} claims"
    undecided = ""
    for each in judgements:
        beyond = f", above --most-seeds {most_seeds}" if each.next_look and each.next_look.seeds > most_seeds else ""
        undecided += "" if each.is_decided else f"\n{each.explained}{beyond}: {each.claim.says}"
    # {(seeds of the next look, needed seeds, judged seeds): claims}
    waiting: dict[tuple[int, int, tuple[int, ...]], list[Judgement]] = {}
    for judgement in judgements:
        look = judgement.next_look
        if look and look.seeds <= most_seeds:
            at = look.seeds, findings.count_needed(judgement, look), tuple(findings.list_judged(judgement))
            waiting.setdefault(at, []).append(judgement)
    within_reach = {at: claims for at, claims in waiting.items() if at[1] <= 2 * at[0]}  # or it might never end
    if not within_reach:
        return Step([], 0, (), f"{says}{'; too many runs diverged' if waiting else ''}{undecided}")
    (_, needed, judged), claims = min(within_reach.items(), key=lambda item: item[0])
    titles = list(dict.fromkeys(title for claim in claims for title in findings.list_compared(claim)))
    named = ", ".join(f'"{title}"' for title in titles)
    if last and (last.titles, last.seeds) == (titles, needed):
        return Step([], 0, (), f"{says}; {claims[0].next_look} is not reached by {named}: runs are damaged{undecided}")
    return Step(titles, needed, judged, f"{says}; {claims[0].next_look} is next, for {named}")
