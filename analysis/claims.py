"""Verdicts on the claims of a study, from the metrics in its records.

judgements = judge_claims(study, trained, labels, margin=0.001)
judgements[0].verdict       # 'supported'
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import mean

import numpy as np
from numpy.typing import NDArray

from analysis import compare
from analysis.compare import Comparison
from analysis.metrics import METRICS, compare_records
from engine.records import Record
from studies.study import Claim, Study


@dataclass(frozen=True)
class Judgement:
    """A claim with its comparisons and its verdict, or the reason why there is no verdict."""

    claim: Claim
    subject: str  # the title of the experiment that the claim is about
    comparisons: dict[str, Comparison]  # {title or constant: comparison of the subject with it}
    verdict: str


def judge_claims(study: Study, trained: dict[str, Record], labels: NDArray[np.int64], margin: float) -> list[Judgement]:
    """Judge each claim of a study; intervals are corrected for the comparisons of all claims together.

    Args:
        trained: {title: record} of the experiments that were trained without overrides.
        labels: the classes of the test images, (images,).
        margin: accuracies that differ by less than this make no practical difference.
    """
    judgements = [_compare(claim, study, trained, labels) for claim in study.claims]
    comparisons = [comparison for judgement in judgements for comparison in judgement.comparisons.values()]
    corrected = iter(compare.correct_holm(comparisons))
    return [_decide(judgement, margin, corrected) for judgement in judgements]


def _compare(claim: Claim, study: Study, trained: dict[str, Record], labels: NDArray[np.int64]) -> Judgement:
    """Compare the experiments that a claim names, or give the reason why they cannot be compared."""
    subject = _choose_subject(claim, trained)
    titles = claim.against if isinstance(claim.against, tuple) else ()
    if missing := [title for title in (subject, *titles) if title not in trained]:
        return Judgement(claim, subject, {}, f"no finished run: {', '.join(missing)}")
    for title in titles:
        if study.trained_as[subject] == study.trained_as[title]:
            return Judgement(claim, subject, {}, f"not compared: {subject} and {title} have the same settings")
    others: dict[str, Record | float] = {title: trained[title] for title in titles}
    if not isinstance(claim.against, tuple):
        others = {str(claim.against): claim.against}
    comparisons = {}
    for title, other in others.items():
        comparison = compare_records(trained[subject], other, claim.metric, labels)
        if comparison is None:
            return Judgement(claim, subject, {}, "no seed in common")
        comparisons[title] = comparison
    return Judgement(claim, subject, comparisons, "")


def _choose_subject(claim: Claim, trained: dict[str, Record]) -> str:
    if isinstance(claim.subject, str):
        return claim.subject
    if missing := [title for title in claim.subject if title not in trained]:
        return missing[0]  # the best is known only when all are trained

    def validation_accuracy(title: str) -> float:
        return mean(result["val_accuracy"] for result in trained[title].results.values())

    return max(claim.subject, key=validation_accuracy)


def _decide(judgement: Judgement, margin: float, corrected: Iterator[Comparison]) -> Judgement:
    """Complete a judgement with the next comparisons from `corrected` and with a verdict."""
    if judgement.verdict:
        return judgement
    claim = judgement.claim
    comparisons = {title: next(corrected) for title in judgement.comparisons}
    claim_margin = margin if METRICS[claim.metric].has_margin else None
    verdicts = {
        title: compare.judge_comparison(comparison, claim.direction, claim_margin)
        for title, comparison in comparisons.items()
    }
    verdict = compare.join_verdicts(list(verdicts.values()))
    if verdict == "undecided":
        undecided = [comparisons[title] for title, verdict in verdicts.items() if verdict == "undecided"]
        verdict = f"undecided ({_say_what_would_decide(undecided, claim.direction, claim_margin)})"
    return replace(judgement, comparisons=comparisons, verdict=verdict)


def _say_what_would_decide(undecided: list[Comparison], direction: str, margin: float | None) -> str:
    def count_seeds(comparison: Comparison) -> float:
        return compare.count_seeds_to_decide(comparison, direction, margin) or math.inf

    if (needed := max(map(count_seeds, undecided))) < math.inf:
        return f"about {needed} seeds would decide"
    if max(count_seeds(replace(comparison, deviation=0.0)) for comparison in undecided) == math.inf:
        return "the test set is too small to tell"
    return f"more than {compare.MOST_SEEDS:,} seeds would be needed"
