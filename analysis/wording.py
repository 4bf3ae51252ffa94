"""The sentences of the report: the findings, and how to read the report; see `gaps.py` for what is missing."""

import math
from collections.abc import Iterator
from statistics import mean

from analysis.claims import Judgement
from analysis.compare import LEVEL, Comparison, compute_mean_interval
from analysis.findings import Findings
from analysis.metrics import METRICS
from analysis.tables import Number, escaped, show_difference, show_metric
from engine.seeds import continue_seeds, list_seeds
from experiments import Experiment
from studies.study import MOST_TO_DECIDE

HOW_TO_READ = """\
**Metrics.** Accuracies are percentages: the mean ± half the width of the 95 % Student-t interval over seeds; one seed
has no interval. They are measured in evaluation mode on plain images, at the epoch that the run hands in. Losses are
means over images, without penalty. Zeros and small are the shares of weights that are exactly zero, and below 0.001 in
size; ‖w‖ is the root of the sum of their squares. Seconds are those of a process, divided by the runs side by side
in it. An experiment in bold has the best validation accuracy, distinguishably above the second's over the seeds; the
chance of the validation images is not counted.

**Differences** are paired by seed and counted in points. Their intervals count the chance of the seeds and, for metrics
of test images (test accuracy, test loss, gap), the chance of these images. In a table with a baseline, all seeds are
used, and the 95 % intervals and p are corrected for the number of comparisons (Holm).

**Looks.** A verdict is taken only at planned looks: at the number of seeds that the study plans, at its double, its
fourfold and its eightfold, with the first seeds in the order of their numbers. The first decision stands. Whoever
judges again after every few seeds errs more often than in 5 % of cases; so look 1 may err in 3 %, and each later look
in half as many as the look before it. A claim's interval has the level of its look, corrected for the comparisons of
all claims of the study (Holm); before look 1 it is a corrected 95 % interval, without a verdict.

**Verdicts**, in this order:

1. The difference is *no practical difference* if the interval of two one-sided tests at the look's level, which is not
   corrected (margin ±), lies within the margin, which is named above the claims. That supports a claim that two are the
   same. For a claim that the first is not higher, only the interval's upper end counts.
2. A claim is *supported* or *contradicted* if its corrected interval leaves out zero. To contradict that two are the
   same, or that the first is not higher, the difference must also reach the margin, if the metric has one.
3. Otherwise it is *undecided*.

A claim that makes several comparisons has one verdict, the first of these that one of them has: *contradicted*,
*undecided*, *no practical difference*. It is *supported* if all support it.

**Images.** Validation images chose what was chosen within a run, and each run was tested once, after its training.

**Files.** Every table is in `tables/` as CSV, every figure in `figures/` as PNG; unless `--slim` left them out, tables
are there for LaTeX and figures as PDF, too."""


def write_heading(findings: Findings) -> str:
    """Write the heading: the group, the data set and, unless it is 0, the seed of the split."""
    heading = f"{findings.group}: {findings.dataset_name}"
    if findings.split_seed:
        heading += f", split with seed {findings.split_seed}"
    return escaped(heading)


def describe_limits(findings: Findings) -> str:
    """Say what the study limits, and how near the trained experiments come to it; without limits, an empty text."""
    study, trained = findings.study, findings.trained.values()
    limits, reached = [], []
    if study.most_parameters:
        limits.append(f"{study.most_parameters:,} parameters")
        largest = max(result["parameters"] for record in trained for result in record.results.values())
        reached.append(f"the largest network here has {largest:,}")
    if study.most_epochs:
        limits.append(f"{study.most_epochs} epochs")
        reached.append(f"the longest training {max(record.experiment.epochs for record in trained)} epochs")
    return f"The study allows at most {' and '.join(limits)}; {', '.join(reached)}." if limits else ""


def write_findings(findings: Findings) -> Iterator[str]:
    """Write the verdicts, or else the differences; then the best experiment, published metrics and undecided claims."""
    if shared := [each for each in findings.shared_settings if not each.startswith("dataset=")]:
        yield f"All these experiments have {', '.join(f'`{each}`' for each in shared)}, which their names leave out."
    sentences = [*_write_verdicts(findings)] or [*_write_differences(findings), *_write_others(findings)]
    yield from sentences
    yield from _write_best(findings)
    yield from _write_published(findings)
    yield from _write_undecided(findings)


def _write_verdicts(findings: Findings) -> Iterator[str]:
    for judgement in findings.judgements:
        claim = judgement.claim
        if not judgement.is_decided:
            continue
        effects = describe_effects(judgement.comparisons, claim.metric)
        source = "the write-up says" if claim.kind in ("as run", "corrected") else "the claim"
        corrected = "with what was corrected, " if claim.kind == "corrected" else ""
        diverged = _count_diverged(findings, judgement)
        without = f", without {diverged} diverged {'runs' if diverged > 1 else 'run'}" if diverged else ""
        verdict = f"{corrected}**{judgement.verdict}**{describe_margin(judgement, findings.margin)}"
        yield (
            f"{name_title(judgement.subject)} {effects}, at {judgement.look}{without}; "
            f"{source} “{escaped(claim.says)}”: {verdict}."
        )


def _count_diverged(findings: Findings, judgement: Judgement) -> int:
    """Count the runs whose seeds a verdict's look passed over because they diverged."""
    records = [findings.record(title) for title in findings.list_compared(judgement)]
    shared = sorted(set.intersection(*(set(record.results) for record in records)))
    last = shared[next(iter(judgement.comparisons.values())).seeds - 1]
    return sum(seed < last for record in records for seed in record.diverged)


def _write_undecided(findings: Findings) -> Iterator[str]:
    alike: dict[tuple, list[Judgement]] = {}
    for judgement in findings.judgements:
        if not judgement.is_decided:
            why, judged = "" if judgement.next_look else judgement.why, tuple(findings.list_judged(judgement))
            key = judgement.verdict, judgement.look, judgement.next_look, why, judged
            alike.setdefault(key, []).append(judgement)
    for (verdict, look, _, why, _), judgements in alike.items():
        at = f" at {look}" if look else ""
        reason = f"{' of' if verdict == 'no finished run' else ','} {why}" if why else ""
        says = "; ".join(dict.fromkeys(f"“{each.claim.says}” ({each.claim.kind})" for each in judgements))
        if verdict == "too few seeds":  # what the claims say is of no use yet
            says = f"{len(judgements)} of {len(findings.judgements)} claims"
        yield escaped(f"{verdict[0].upper()}{verdict[1:]}{at}{reason}: {says}.") + _say_next(findings, judgements)


def _say_next(findings: Findings, judgements: list[Judgement]) -> str:
    """Say what the next look at some undecided claims needs and costs; an empty text if none is left."""
    next_look = judgements[0].next_look
    if next_look is None:
        return ""
    needed: dict[str, int] = {}
    for judgement in judgements:
        for title in findings.list_compared(judgement):
            needed[title] = max(needed.get(title, 0), findings.count_needed(judgement, next_look))
    known, judged = findings.list_seeds(), findings.list_judged(judgements[0])
    shared = set.intersection(*(set(findings.record(title).seeds) for title in needed))
    lacking: dict[int, list[str]] = {}  # {number of seeds: titles that lack so many}
    for title, count in needed.items():
        if findings.is_pooled:  # seeds that nobody has, each for all experiments
            seeds = count - len(shared)
        else:
            seeds = len(set(continue_seeds(known, count, judged)).difference(findings.record(title).seeds))
        if seeds > 0:
            lacking.setdefault(seeds, []).append(title)
    runs = "; ".join(f"{seeds} more of {', '.join(map(name_title, titles))}" for seeds, titles in lacking.items())
    seconds = sum(
        seeds * mean(findings.values(title, "seconds")) for seeds, titles in lacking.items() for title in titles
    )
    limit = [] if next_look.seeds <= MOST_TO_DECIDE else ["--most-seeds", str(next_look.seeds)]
    command = findings.study.command("--until-decided", *limit)
    if findings.is_pooled:  # nobody has all the runs that this command begins with
        command = findings.study.command("--only", *needed, "--seeds", list_new_seeds(known, max(lacking)))
    return f" The next is {next_look}: {runs}; about {_say_duration(seconds)} of one process: `{command}`"


def _say_duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 1.5:
        return "a minute"
    return f"{minutes:.0f} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"


def _write_differences(findings: Findings) -> Iterator[str]:
    for title, comparison in findings.differences.items():
        seeds = f"over {comparison.seeds} seeds" if comparison.seeds > 1 else "in one seed, which gives no interval"
        effect = describe_effects({findings.labels_of[findings.baselines[title]]: comparison}, "test_accuracy")
        yield f"{name_title(findings.labels_of[title])} {effect}, {seeds}."
    if any(comparison.seeds > 1 for comparison in findings.differences.values()):
        yield "These 95 % intervals are corrected for their number (Holm); a verdict asks for more."


def _write_others(findings: Findings) -> Iterator[str]:
    """Write the test accuracy of each experiment that is neither compared nor a baseline."""
    compared = {*findings.differences, *(findings.baselines[title] for title in findings.differences)}
    for title in findings.trained:
        if title not in compared:
            values = [100 * value for value in findings.values(title, "test_accuracy")]
            seeds = f"{len(values)} seeds" if len(values) > 1 else "one seed"
            accuracy = Number(*compute_mean_interval(values))
            yield f"{name_title(findings.labels_of[title])} has a test accuracy of {accuracy} % over {seeds}."


def _write_best(findings: Findings) -> Iterator[str]:
    if len(findings.trained) > 1:
        best, second = (name_title(findings.labels_of[title]) for title in findings.by_validation[:2])
        than = {
            "equal": f"equal to {second}",
            "supported": f"distinguishably above {second}",
            "contradicted": f"but below {second} in the first seeds that both have",
            "too few seeds": f"before {second}; they have fewer seeds in common than a verdict needs",
        }.get(findings.lead, f"not distinguishable from {second}")
        yield f"By validation accuracy the best is {best}, {than}."


def _write_published(findings: Findings) -> Iterator[str]:
    """Write how many published metrics one more run of ours could have reached, and which lie outside."""
    known = [published for published in findings.published_metrics if published.place]
    outside = [
        f"{METRICS[each.name].name} of {name_title(each.title)} ({show_metric(each.value, each.name)}, {each.place} "
        f"{' to '.join(str(show_metric(end, each.name)) for end in each.interval)}"
        f"{' %' if METRICS[each.name].is_share else ''})"
        for each in known
        if each.place != "inside"
    ]
    if known:
        by_chance = f"about {Number(LEVEL * len(known), places=1)} would by chance"
        others = f". Outside, where {by_chance}: {', '.join(outside)}" if outside else ""
        inside = f"{len(known) - len(outside)} of {len(known)} published metrics"
        yield f"{inside} lie inside the 95 % interval for one more run of ours{others}."


def name_title(title: str) -> str:
    """Return an experiment's title in italics."""
    return f"*{escaped(title)}*"


def describe_effects(comparisons: dict[str, Comparison], metric: str) -> str:
    """Describe differences in a metric: `lowers test accuracy by 1.14 ± 0.30 points against *third*`.

    Args:
        comparisons: {title: comparison with this experiment}.
    """
    words, unit = METRICS[metric].name, " points" if METRICS[metric].is_share else ""
    amounts: dict[str, list[str]] = {}
    for title, comparison in comparisons.items():
        number = show_difference(comparison, metric)
        low, high = comparison.interval()
        effect, by = f"changes {words}", "by "
        if low <= 0 <= high:
            effect, by = f"shows no certain change of {words},", ""
        elif not math.isnan(low):
            effect = f"{'raises' if comparison.difference > 0 else 'lowers'} {words}"
            number = number._replace(value=abs(number.value), signed=False)
        amounts.setdefault(effect, []).append(f"{by}{number}{unit} against {name_title(title)}")
    return " and ".join(f"{effect} {' and '.join(of_effect)}" for effect, of_effect in amounts.items())


def describe_margin(judgement: Judgement, margin: float) -> str:
    """Describe the uncorrected intervals that lie within the margin, if the verdict comes from them."""
    metric, direction = METRICS[judgement.claim.metric], judgement.claim.direction
    from_margin = "supported" if direction in ("same", "not higher") else "no practical difference"
    if not metric.has_margin or judgement.verdict != from_margin:
        return ""
    points = round(metric.scale * margin, 9)  # 100 * 0.0011 would be above 0.11
    within = []
    for title, comparison in judgement.comparisons.items():
        low, high = comparison.interval_for_margin()
        if high < margin and (-margin < low or direction == "not higher"):
            ends = [_show_end(metric.scale * end, points, metric.places) for end in (low, high)]
            against = f" against {name_title(title)}" if len(judgement.comparisons) > 1 else ""
            within.append(f"{' to '.join(ends)}{against}")
    lie, where = ("end", "below") if direction == "not higher" else ("lie", "within")
    interval, lies = ("intervals", lie) if len(within) > 1 else ("interval", f"{lie}s")
    return f", as the uncorrected {interval}, {' and '.join(within)}, {lies} {where} the margin of {points:g} points"


def _show_end(end: float, margin: float, places: int) -> str:
    """Return the end of an interval, with as many more decimals as show on which side of the margin it lies."""
    while (abs(round(end, places)) < margin) != (abs(end) < margin):
        places += 1
    return str(Number(end, places=places, signed=True))


def list_new_seeds(known: list[int], count: int) -> str:
    """Return `5-9`: seeds that nobody has."""
    return list_seeds(range(known[-1] + 1, known[-1] + 1 + count))


def describe_training(experiment: Experiment) -> str:
    """Describe how an experiment trains: `adam with learning rate 0.001, batches of 64, 15 epochs at most`."""
    every = f"every {experiment.lr_step_size} epochs" if experiment.lr_step_size != 1 else "each epoch"
    schedule = {
        "constant": "",
        "step": f", times {experiment.lr_gamma:g} {every}",
        "cosine": ", falling to 0 (cosine)",
        "one_cycle": " at its peak (one cycle)",
    }[experiment.lr_scheduler]
    momentum = f" and momentum {experiment.momentum:g}" if experiment.momentum else ""
    epochs = f"{experiment.epochs} epochs" if experiment.epochs > 1 else "1 epoch"
    return (
        f"{experiment.model} by {experiment.optimizer} with learning rate {experiment.lr:g}{schedule}{momentum}, "
        f"batches of {experiment.batch_size}, {epochs} at most"
    )
