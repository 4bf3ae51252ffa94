"""What the records say: each experiment's figures, differences between experiments, and verdicts on a study's claims.

Figures are those of `study.FIGURES`; the runs of two experiments are compared seed by seed, over the seeds both have.
"""

import math
from dataclasses import dataclass, replace
from statistics import mean

import numpy as np

import compare
import records

MARGINS = ("test_accuracy", "train_accuracy", "gap")  # figures of which a difference can be too small to matter


def figure(result, name):
    """One figure of a run's result.json."""
    match name:
        case "gap":
            return result["train_accuracy"] - result["test_accuracy"]
        case "zeros":
            return result["sparsity"]["zeros"]
        case _:
            return result[name]


def difference(one, other, name, labels):
    """The `compare.Comparison` of a figure of two records, or of a record and a constant; None without a common seed.

    Args:
        labels: of the test images, (images,); the figures that are means over test images count their chance too.
    """
    if not isinstance(other, records.Record):
        values = [figure(result, name) for result in one.results.values()]
        return compare.paired(values, [float(other)] * len(values))
    seeds = sorted(one.results.keys() & other.results.keys())
    if not seeds:
        return None
    by_image = None
    if name in ("test_accuracy", "test_loss"):
        by_image = [by_test_image(one, seed, name, labels) - by_test_image(other, seed, name, labels) for seed in seeds]
    values = ([figure(record.results[seed], name) for seed in seeds] for record in (one, other))
    return compare.paired(*values, by_image)


def by_test_image(record, seed, name, labels):
    """What each test image adds to a run's accuracy (0 or 1) or loss, (images,).

    Raises:
        records.RecordError: the stored predictions are not of these images.
    """
    log_probabilities = records.read_log_probabilities(record.folder / f"seed-{seed}")
    if len(log_probabilities) != len(labels):
        raise records.RecordError(
            f"{record.folder}/seed-{seed}: predictions of {len(log_probabilities)} images, expected {len(labels)}; "
            f"train it anew with --seeds {seed} --force"
        )
    if name == "test_accuracy":
        return (log_probabilities.argmax(1) == labels).astype(np.float64)
    return -log_probabilities[np.arange(len(labels)), labels].astype(np.float64)


def differences_to(baseline, others, name, labels):
    """{title: comparison with the baseline} of the records that share seeds with it, corrected by Holm's procedure."""
    found = {record.title: difference(record, baseline, name, labels) for record in others if record is not baseline}
    found = {title: comparison for title, comparison in found.items() if comparison}
    return dict(zip(found, compare.holm(list(found.values())), strict=True))


@dataclass(frozen=True)
class Judgement:
    """A claim with what was found: the comparison with each of the others, and the verdict or why there is none."""

    claim: object  # study.Claim
    one: str  # the title that was compared
    comparisons: dict[str, compare.Comparison]
    verdict: str


def judge(study, trained, labels):
    """A `Judgement` of each claim of a study; the intervals are corrected over all comparisons of the claims.

    Args:
        trained: {title: record} of what was trained, with the study's own settings.
    """
    judgements = []
    for claim in study.claims:
        one = _the_one(claim, trained)
        others = claim.others if isinstance(claim.others, tuple) else (str(claim.others),)
        missing = [title for title in (one, *others) if title in study.experiments and title not in trained]
        same = [title for title in others if study.experiments.get(title) and _same_settings(study, one, title)]
        comparisons, why = {}, ""
        if missing:
            why = f"not trained: {', '.join(missing)}"
        elif same:
            why = f"not compared: {one} and {same[0]} have the same settings"
        else:
            found = {
                title: difference(trained[one], trained.get(title, claim.others), claim.figure, labels)
                for title in others
            }
            comparisons = {title: comparison for title, comparison in found.items() if comparison}
            why = "" if len(comparisons) == len(found) else "no seed in common"
        judgements.append(Judgement(claim, one, comparisons, why))

    corrected = iter(compare.holm([each for judgement in judgements for each in judgement.comparisons.values()]))
    return [_with_verdict(judgement, study.margin, corrected) for judgement in judgements]


def _the_one(claim, trained):
    if isinstance(claim.one, str):
        return claim.one
    if missing := [title for title in claim.one if title not in trained]:
        return missing[0]  # without it the best is not known

    def validation(title):
        return mean(result["val_accuracy"] for result in trained[title].results.values())

    return max(claim.one, key=validation)


def _same_settings(study, one, other):
    return study.trained_as(one) == study.trained_as(other)


def _with_verdict(judgement, margin, corrected):
    if judgement.verdict:
        return judgement
    claim = judgement.claim
    comparisons = {title: next(corrected) for title in judgement.comparisons}
    margin = margin if claim.figure in MARGINS else None
    verdicts = [compare.verdict(comparison, claim.direction, margin) for comparison in comparisons.values()]
    verdict = compare.joint_verdict(verdicts)
    if verdict == "undecided":
        needed = [
            compare.seeds_to_decide(comparison) or math.inf
            for comparison, own in zip(comparisons.values(), verdicts, strict=True)
            if own == "undecided"
        ]
        advice = (
            "the test set is too small to tell"
            if max(needed) == math.inf
            else f"about {max(needed)} seeds would decide"
        )
        verdict = f"undecided ({advice})"
    return replace(judgement, comparisons=comparisons, verdict=verdict)
