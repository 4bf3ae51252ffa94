"""What a report lacks: why verdicts are missing, with the commands that fill the gaps.

document.say(*write_gaps(findings))
"""

from collections.abc import Iterable, Iterator

from analysis.findings import Findings
from analysis.metrics import list_common_seeds
from analysis.tables import escaped
from analysis.wording import list_new_seeds, name_title
from engine.seeds import continue_seeds, list_seeds
from experiments import join_settings


def write_gaps(findings: Findings) -> Iterator[str]:
    """Write why verdicts are missing, with the commands that fill the gaps."""
    study = findings.study
    if unknown := sorted({record.study for record in findings.trained.values() if record.study and study.is_single}):
        yield escaped(f"studies/ has no study {unknown[0]}, so its claims are not judged; put its file there again")
    if findings.problem:
        yield f"Without their test images, these runs are not compared: {escaped(findings.problem)}"
    if findings.left_out:
        known = [title for title in findings.left_out if title in study.titles]
        says = f"Left out: {escaped(', '.join(findings.left_out))}, trained with other settings than the study has"
        train = (
            f"; undo the change of the study, or replace all their runs: `{study.command('--only', *known)} --force`"
        )
        yield f"{says}{train if known else ''}"
    of_study = study.trained_as.get(study.baseline or "")
    if of_study in findings.missing:
        command, named = study.command("--only", of_study) + _flag_seeds(findings), name_title(of_study)
        if of_study != study.baseline:
            named = f"{name_title(str(study.baseline))}, recorded as {named}"
        yield f"The baseline, {named}, is not trained yet, so nothing is compared with it: `{command}`"
    for title in dict.fromkeys(findings.baselines.values()):
        for titles, reason in (
            (findings.diverged, "diverged in every run"),
            (findings.left_out, "was trained with other settings"),
            (findings.other_data, "was trained on other data"),
        ):
            if title in titles:
                yield f"The baseline, {name_title(title)}, {reason}, so nothing is compared with it."
    yield from _write_unpaired(findings)
    if missing := findings.missing:
        yield f"Not trained yet: `{study.command('--only', *missing)}{_flag_seeds(findings)}`"
    for baseline in findings.missing_baselines:
        trained = findings.trained.items()
        first, *others = [title for title, record in trained if record.experiment.baseline() == baseline]
        more = f" and {len(others)} more" if others else ""
        of_these = f"{name_title(findings.labels_of[first])}{more}"
        yield f"`{baseline.name}`, the baseline of {of_these}, is not trained yet: `{baseline.command}`"
    if findings.diverged:
        yield escaped(f"Every run diverged: {', '.join(findings.diverged)}.")
    counts = {title: len(record.results) for title, record in findings.trained.items()}
    planned = study.needed_seeds
    few = [title for title, count in counts.items() if count < planned]
    are_told = any(judgement.verdict == "too few seeds" for judgement in findings.judgements)
    if few and not are_told:
        if study.is_single:
            commands = {findings.trained[title].experiment.command: [title] for title in few}
        else:
            commands = {study.command() if few == list(findings.trained) else study.command("--only", *few): few}
        no_verdict = "there is no verdict" if findings.judgements else "intervals are wide"
        seeds_of = {command: _continue(findings, titles, planned) for command, titles in commands.items()}
        typed = [f"`{command} --seeds {seeds}`" for command, seeds in seeds_of.items()]
        listed = f" {typed[0]}" if len(typed) == 1 else "".join(f"\n- {each}" for each in typed)
        yield f"Under {planned} seeds {no_verdict}, and with one there is no interval:{listed}"
    if study.overrides and study.claims:
        yield escaped(
            "The claims are not judged: the study was trained with other settings than its own "
            f"({join_settings('', study.overrides).removeprefix(',')})."
        )


def _write_unpaired(findings: Findings) -> Iterator[str]:
    """Write which experiments have no seed that their baseline has, and the command that trains these seeds."""
    for title, baseline in findings.baselines.items():
        if baseline not in findings.trained or list_common_seeds(findings.trained[title], findings.trained[baseline]):
            continue
        study, seeds = findings.study, list_seeds(findings.trained[baseline].results)
        command = findings.trained[title].experiment.command if study.is_single else study.command("--only", title)
        named, its = (name_title(findings.labels_of[each]) for each in (title, baseline))
        says = f"{named} and its baseline, {its}, have no seed in common, so they are not compared"
        yield f"{says}: `{command} --seeds {seeds}`"


def _flag_seeds(findings: Findings) -> str:
    """Return ` --seeds 0-4`, as the other experiments have; empty if the study trains these without a flag."""
    seeds = continue_seeds(findings.list_seeds(), findings.study.needed_seeds)
    return "" if seeds == [*range(findings.study.seeds)] else f" --seeds {list_seeds(seeds)}"


def _continue(findings: Findings, titles: Iterable[str], planned: int) -> str:
    """Return `0-4`: the seeds of some experiments, those that others have, and then those after them.

    In a report on the runs of many people, only the last, which nobody has, as many as the experiments lack in common.
    """
    of_titles, known = [findings.trained[title] for title in titles], findings.list_seeds()
    seeds_of = [set(record.seeds) for record in of_titles]
    planned += max(len(record.diverged) for record in of_titles)  # others take the place of those that diverged
    if findings.is_pooled:
        return list_new_seeds(known, planned - len(set.intersection(*seeds_of)))
    own = set.union(*seeds_of)
    return list_seeds(continue_seeds([*own, *sorted(set(known) - own)][:planned], planned))
