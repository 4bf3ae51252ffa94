"""The verdicts of two folders of runs side by side: do they agree?

add_agreement(document, all_findings, others, "other-runs")
"""

from collections import Counter
from collections.abc import Iterable

from analysis.claims import Judgement
from analysis.compare import Comparison
from analysis.document import Document
from analysis.findings import Findings
from analysis.metrics import list_common_seeds
from analysis.tables import Table, escaped, show_difference
from analysis.verdicts import DECIDED
from engine.seeds import format_seeds

AGREE, ONE_UNDECIDED, BOTH_UNDECIDED, CONTRADICT = "agree", "one undecided", "both undecided", "contradict"
NOT_JUDGED = "not judged in both"  # one of them lacks runs, or enough seeds
COMPATIBLE = "compatible"  # a difference, and one too small to matter: both can be so


def add_agreement(document: Document, all_findings: Iterable[Findings], others: Iterable[Findings], name: str) -> None:
    """Add a table for each study that both folders have: each claim's verdict here and there, and whether they agree.

    Args:
        name: what the other folder is called in the report.
    """
    by_name = {findings.name: findings for findings in others}
    pairs = [(findings, by_name[findings.name]) for findings in all_findings if findings.name in by_name]
    document.say(f"### Beside {escaped(name)}")
    for _, there in pairs:
        if there.study.claims and there.problem:
            runs = f"the runs of {there.group} in {name}"
            document.say(escaped(f"Without their test images, {runs} are not judged: {there.problem}"))
    pairs = [(here, there) for here, there in pairs if here.judgements and there.judgements]
    if not pairs:
        document.say("The two folders have no study in common whose claims are judged in both.")
    for here, there in pairs:
        table, counts = compare_verdicts(here, there)
        said = ", ".join(f"{how}: {count}" for how, count in counts.items())
        document.say(f"Verdicts of {escaped(here.group)}, by claims: {said}.")
        if shared := find_shared_seeds(here, there):
            seeds = ", ".join(f"{title} {format_seeds(seeds)}" for title, seeds in shared.items())
            document.say(f"The two share seeds, so they are not independent: {escaped(seeds)}.")
        document.add_table(table, f"The verdicts of {here.group} here and in {name}")


def compare_verdicts(here: Findings, there: Findings) -> tuple[Table, Counter[str]]:
    """Tabulate the verdicts of two findings of the same study, and count how many agree."""
    rows: list[tuple] = []
    counts: Counter[str] = Counter()
    for one, other in zip(here.judgements, there.judgements, strict=True):
        how = judge_agreement(one, other)
        counts[how] += 1
        claim = one.claim
        words: tuple[str, ...] = claim.says, claim.kind, claim.metric.replace("_", " ")
        looks = (each.look.number + 1 if each.look else "" for each in (one, other))
        outcome: tuple[int | str, ...] = *looks, one.explained, other.explained, how
        is_shared = one.subject == other.subject  # of several experiments, each folder may have another best
        for title in [title for title in one.comparisons if is_shared and title in other.comparisons] or [""]:
            differences = [
                show_difference(judgement.comparisons[title], claim.metric) if title else ""
                for judgement in (one, other)
            ]
            rows.append((*words, f"{one.subject} − {title}" if title else "", *differences, *outcome))
            words, outcome = ("",) * len(words), ("",) * len(outcome)
    of_claim, of_both = ("claim", "kind", "metric", "compared"), ("difference here", "there")
    header = (*of_claim, *of_both, "look here", "look there", "verdict here", "verdict there", "together")
    return Table(f"{here.name}-agreement", header, rows), counts


def judge_agreement(one: Judgement, other: Judgement) -> str:
    """Tell whether two verdicts on a claim agree, contradict each other, or leave it open."""
    if {one.verdict, other.verdict} - {*DECIDED, "undecided"}:
        return NOT_JUDGED
    decided = [judgement.verdict for judgement in (one, other) if judgement.is_decided]
    if len(decided) < 2:
        return ONE_UNDECIDED if decided else BOTH_UNDECIDED
    if one.verdict == other.verdict != "contradicted":
        return AGREE
    shared = one.comparisons.keys() & other.comparisons.keys() if one.subject == other.subject else ()
    is_opposite = any(are_opposite(one.comparisons[title], other.comparisons[title]) for title in shared)
    is_reversed = set(decided) == {"supported", "contradicted"} and one.claim.direction in ("higher", "lower")
    if is_opposite or is_reversed:
        return CONTRADICT
    return AGREE if one.verdict == other.verdict else COMPATIBLE


def are_opposite(one: Comparison, other: Comparison) -> bool:
    """Tell whether the intervals of two differences lie on opposite sides of 0."""
    lows, highs = zip(one.interval(), other.interval(), strict=True)
    return min(highs) < 0 < max(lows)


def find_shared_seeds(here: Findings, there: Findings) -> dict[str, list[int]]:
    """Return {title: seeds that both have} for the experiments that share any."""
    shared = {
        title: list_common_seeds(record, there.trained[title])
        for title, record in here.trained.items()
        if title in there.trained
    }
    return {title: seeds for title, seeds in shared.items() if seeds}
