"""The part of a report on the runs of many people: who gave which seeds, and each difference by person.

compared = list(compare_by_person(findings, givers))
add_people(document, findings, givers, compared)    # tables, and a forest plot as in a meta-analysis
"""

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from matplotlib.figure import Figure
from scipy import stats

from analysis.compare import LEVEL, Comparison
from analysis.document import Document
from analysis.findings import Findings
from analysis.metrics import METRICS, compare_records, list_common_seeds, name_other
from analysis.plots import set_range
from analysis.style import GREY, in_style, wrap_title
from analysis.tables import Number, Table, show_difference
from engine.records import Record
from engine.seeds import list_seeds

Givers = dict[tuple[str, str, int], str]  # {(group, title, seed): the person who gave the run}
PANELS = 3  # panels of the figure beside each other
WIDTHS = {1: 5, 2: 8, 3: 10}  # inches of so many


@dataclass(frozen=True)
class ByPerson:
    """A difference between two experiments, for each person and for all of them together."""

    label: str
    metric: str
    people: dict[str, Comparison]
    pooled: Comparison
    p: float  # of the hypothesis that all people's seeds show the same difference; NaN if there are too few seeds


def add_people(document: Document, findings: Findings, givers: Givers, compared: list[ByPerson]) -> None:
    """Add what stands behind the pooled runs of one study, and the figure of each difference by person.

    Args:
        compared: the result of `compare_by_person`.
    """
    document.say("### People and machines")
    document.add_table(make_people_table(findings, givers), "The people and the machines behind every experiment")
    if not compared:
        return
    document.add_figure(
        f"{findings.name}-people",
        "Each difference by person, and below it (black) that of all seeds together, with 95 % intervals, which are "
        "not corrected for the number of comparisons",
        lambda: plot_people(compared),
    )
    document.add_table(
        make_differences_table(findings, compared),
        "Each difference, with an interval that is not corrected, and whether people differ",
    )
    tests, p = find_smallest_p(compared)
    if not tests:
        needs = "two people with at least two seeds each, and differences that vary from seed to seed"
        document.say(f"Whether people differ cannot be tested: it needs {needs}.")
        return
    differ = "people, or their machines, differ" if p < LEVEL else "people and their machines do not differ"
    document.say(
        f"p is that of an analysis of variance: do the paired differences vary more between people than within? The "
        f"smallest p, corrected for the number of tests ({tests}), is {Number(p, places=3)}: {differ}"
        f"{'' if p < LEVEL else ' distinguishably'}."
    )


def write_warning(compared: Collection[ByPerson]) -> Iterator[str]:
    """Write that intervals and verdicts are too sure, if people differ."""
    if find_smallest_p(compared)[1] < LEVEL:
        yield (
            "People, or their machines, differ in at least one of these differences (see *People and machines*). "
            "Intervals and verdicts do not count that: they hold for these people, and are too narrow for others."
        )


def find_smallest_p(compared: Collection[ByPerson]) -> tuple[int, float]:
    """Return the number of differences that can be tested, and the smallest p with Bonferroni's correction for it."""
    ps = [each.p for each in compared if not math.isnan(each.p)]
    return len(ps), min(1.0, len(ps) * min(ps)) if ps else math.nan


def make_people_table(findings: Findings, givers: Givers) -> Table:
    """Tabulate how many people and kinds of machines stand behind each experiment, and who gave which seeds."""
    rows = []
    for title, record in findings.trained.items():
        seeds_of = _group_seeds(record, list(record.results), givers)
        machines = {(result["device"], str(result.get("platform"))) for result in record.results.values()}
        who = "; ".join(f"{person}: {list_seeds(seeds)}" for person, seeds in seeds_of.items())
        rows.append((findings.labels_of[title], len(seeds_of), len(machines), len(record.results), who))
    return Table(
        f"{findings.name}-people", ("experiment", "people", "kinds of machines", "seeds", "seeds of each"), rows
    )


def _group_seeds(record: Record, seeds: list[int], givers: Givers) -> dict[str, list[int]]:
    people: dict[str, list[int]] = {}
    for seed in seeds:
        people.setdefault(givers[record.group, record.title, seed], []).append(seed)
    return dict(sorted(people.items()))


def compare_by_person(findings: Findings, givers: Givers) -> Iterator[ByPerson]:
    """Compare what the claims compare or, without claims, each experiment with its baseline, for each person.

    A person's seeds are those of which they gave both runs.
    """
    if not findings.dataset:
        return
    labels = findings.labels
    for subject, other, metric in _list_pairs(findings):
        one, two = findings.record(subject), findings.record(other) if isinstance(other, str) else other
        pooled = compare_records(one, two, metric, labels)
        if pooled is None:
            continue
        people = {}
        for person, seeds in _group_seeds(one, list_common_seeds(one, two), givers).items():
            if isinstance(two, Record):
                seeds = [seed for seed in seeds if givers[two.group, two.title, seed] == person]
            if seeds and (comparison := compare_records(one, two, metric, labels, seeds)):
                people[person] = comparison
        against = findings.labels_of[other] if isinstance(other, str) else other
        label = f"{findings.labels_of[subject]} − {name_other(against, metric)}"
        yield ByPerson(label, metric, people, pooled, measure_homogeneity(people.values()))


def _list_pairs(findings: Findings) -> list[tuple[str, str | float, str]]:
    """List what is compared, without repetition: (subject, title or constant, metric)."""
    pairs: list[tuple[str, str | float, str]] = [
        (judgement.subject, other, judgement.claim.metric)
        for judgement in findings.judgements
        if judgement.comparisons
        for other in judgement.claim.others
    ]
    if not pairs:
        pairs = [(title, findings.baselines[title], "test_accuracy") for title in findings.differences]
    return list(dict.fromkeys(pairs))


def measure_homogeneity(people: Collection[Comparison]) -> float:
    """Return p of a one-way analysis of variance: the hypothesis is that all people have the same mean difference.

    People share the test images, so the error over images plays no part. The result is NaN for fewer than two people
    with at least two seeds each, or if nobody's seeds differ.
    """
    groups = [each for each in people if each.seeds > 1]
    freedom = sum(each.seeds - 1 for each in groups)
    within = sum((each.seeds - 1) * each.deviation**2 for each in groups)
    if len(groups) < 2 or within == 0:
        return math.nan
    seeds = sum(each.seeds for each in groups)
    center = sum(each.seeds * each.difference for each in groups) / seeds
    between = sum(each.seeds * (each.difference - center) ** 2 for each in groups)
    f = between / (len(groups) - 1) / (within / freedom)
    return float(stats.f.sf(f, len(groups) - 1, freedom))


def make_differences_table(findings: Findings, compared: list[ByPerson]) -> Table:
    """Tabulate each difference over all people, and p of the hypothesis that people do not differ in it."""
    rows = [
        (
            each.label,
            METRICS[each.metric].name,
            len(each.people),
            each.pooled.seeds,
            show_difference(each.pooled, each.metric),
            "" if math.isnan(each.p) else Number(each.p, places=3),
        )
        for each in compared
    ]
    header = ("compared", "metric", "people", "n", "difference", "p of no difference between people")
    return Table(f"{findings.name}-by-person", header, rows)


@in_style
def plot_people(compared: list[ByPerson]) -> Figure:
    """Plot each difference with its 95 % interval for each person, and below them that of all seeds together."""
    columns = min(PANELS, len(compared))
    rows = math.ceil(len(compared) / columns)
    longest = max(len(each.people) for each in compared) + 1
    figure = Figure(figsize=(WIDTHS[columns], rows * (1 + 0.17 * longest)), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in panels[len(compared) :]:
        panel.set_visible(False)
    for panel, each in zip(panels, compared, strict=False):
        drawn = [*each.people.items(), ("all", each.pooled)]
        metric, intervals = METRICS[each.metric], []
        panel.axvline(0, color=GREY, linewidth=1)
        for place, (_, comparison) in enumerate(drawn):
            colour, marker, size = ("#0072B2", "o", 4) if place < len(each.people) else ("black", "D", 5)
            panel.plot(metric.scale * comparison.difference, place, marker, color=colour, markersize=size, zorder=3)
            low, high = (metric.scale * end for end in comparison.interval())
            panel.plot([low, high], [place, place], color=colour, linewidth=1.2, zorder=2)
            intervals.append((low, high, comparison.seeds))
        panel.set_yticks(range(len(drawn)), [person.replace("$", r"\$") for person, _ in drawn])
        set_range(panel, [0, *(metric.scale * comparison.difference for _, comparison in drawn)], intervals)
        panel.tick_params(labelsize=7)
        panel.set_ylim(len(drawn) - 0.5, -0.5)
        panel.grid(axis="y", visible=False)
        panel.set_title(f"{wrap_title(each.label)}\n{metric.name}", fontsize=8)
        panel.set_xlabel(f"difference{' (points)' if metric.is_share else ''}", fontsize=7)
    return figure
