"""Statistics over seeds: intervals, paired differences, and verdicts on claims.

A difference between two experiments varies with the seeds, which differ from run to run, and with the test images,
which all runs share. The standard error of a comparison counts both.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

FEWEST_SEEDS = 5  # for a verdict
MOST_SEEDS = 1000  # that are advised to reach a verdict


def compute_mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Compute the mean and half the width of its 95 % interval (Student's t), which is NaN for one value."""
    if len(values) < 2:
        return mean(values), math.nan
    return mean(values), _student_quantile(0.95, len(values)) * stdev(values) / math.sqrt(len(values))


def compute_prediction_interval(values: Sequence[float], draws: int = 1) -> tuple[float, float]:
    """Compute the interval that holds `draws` more draws of the same normal variable with 95 % confidence."""
    half_width = _student_quantile(0.95, len(values), draws) * stdev(values) * math.sqrt(1 + 1 / len(values))
    return mean(values) - half_width, mean(values) + half_width


def _student_quantile(confidence: float, values: int, tests: int = 1) -> float:
    """Compute how many standard errors each half of an interval spans, corrected for `tests` tests (Bonferroni)."""
    return float(stats.t.ppf(1 - (1 - confidence) / 2 / tests, values - 1))


@dataclass(frozen=True)
class Comparison:
    """A mean difference over seeds: one experiment's metric minus the other's."""

    difference: float
    seeds: int
    deviation: float  # standard deviation of the seeds' differences
    image_error: float = 0.0  # standard error over test images
    tests: int = 1  # number of tests that the interval is corrected for
    holm_p: float = math.nan  # p after Holm's correction

    @property
    def standard_error(self) -> float:
        """The standard error over seeds and test images together."""
        return math.hypot(self.deviation / math.sqrt(self.seeds), self.image_error)

    @property
    def p(self) -> float:
        """The two-sided p of no difference, not corrected: Student's t with seeds − 1 degrees of freedom."""
        if self.seeds < 2:
            return math.nan
        if self.standard_error == 0:
            return 0.0 if self.difference else 1.0
        return float(2 * stats.t.sf(abs(self.difference) / self.standard_error, self.seeds - 1))

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Compute the confidence interval, corrected for `tests` tests (Bonferroni); NaN for one seed."""
        if self.seeds < 2:
            return math.nan, math.nan
        half_width = _student_quantile(confidence, self.seeds, self.tests) * self.standard_error
        return self.difference - half_width, self.difference + half_width

    def interval_for_margin(self) -> tuple[float, float]:
        """Compute the uncorrected 90 % interval; within a margin, it passes two one-sided tests at 5 % (TOST)."""
        return replace(self, tests=1).interval(0.90)


def compare_paired(one: Sequence[float], other: Sequence[float], by_image: ArrayLike | None = None) -> Comparison:
    """Compare two experiments by a metric, given for the same seeds in the same order.

    Args:
        by_image: (seeds, images), the difference of each test image, for a metric that is a mean over images.

    Raises:
        ValueError: the numbers of seeds differ or are zero.
    """
    if not len(one) == len(other) > 0:
        raise ValueError(f"{len(one)} and {len(other)} seeds: expected the same seeds, one at least")
    differences = [mine - theirs for mine, theirs in zip(one, other, strict=True)]
    deviation = stdev(differences) if len(differences) > 1 else math.nan
    image_error = 0.0 if by_image is None else _estimate_image_error(np.asarray(by_image, dtype=np.float64))
    return Comparison(mean(differences), len(differences), deviation, image_error)


def _estimate_image_error(by_image: NDArray[np.float64]) -> float:
    """Estimate the standard error over test images from their differences, (seeds, images).

    The mean over seeds shows how images vary. What varies from run to run on a single image is already in the
    deviation over seeds, so it is subtracted (two-way analysis of variance).
    """
    seeds, images = by_image.shape
    variance = by_image.mean(0).var(ddof=1)
    if seeds > 1:
        residuals = by_image - by_image.mean(0) - by_image.mean(1, keepdims=True) + by_image.mean()
        variance -= (residuals**2).sum() / (seeds - 1) / (images - 1) / seeds
    return math.sqrt(max(variance, 0) / images)


def correct_holm(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Set `tests` and `holm_p` of every comparison by Holm's step-down procedure (Holm 1979).

    The smallest p is multiplied by the number of comparisons, the next by one fewer, and so on; no corrected p is
    smaller than the one before it. After the first p that is not significant at 5 %, none is, so all later intervals
    share its number of tests: an interval excludes zero exactly if its corrected p is below 5 %.
    """
    order = sorted(range(len(comparisons)), key=lambda index: (comparisons[index].seeds < 2, comparisons[index].p))
    corrected, tests, holm_p = list(comparisons), len(comparisons), 0.0
    for place, index in enumerate(order):
        if place == 0 or comparisons[order[place - 1]].p * tests < 0.05:
            tests = len(comparisons) - place
        holm_p = max(holm_p, min(1.0, comparisons[index].p * (len(comparisons) - place)))
        corrected[index] = replace(comparisons[index], tests=tests, holm_p=holm_p)
    return corrected


def judge_comparison(comparison: Comparison, direction: str, margin: float | None = None) -> str:
    """Decide whether a comparison supports the claim that its difference has a direction.

    Args:
        direction: `higher` or `lower` than zero, `not higher`, or the `same`.
        margin: differences within it make no practical difference; None for metrics without a margin.

    Returns:
        `supported`, `contradicted`, `undecided`, `too few seeds` or, for a claim of `higher` or `lower`,
        `no practical difference`.
    """
    if comparison.seeds < FEWEST_SEEDS:
        return "too few seeds"
    claims_a_difference = direction in ("higher", "lower")
    low, high = comparison.interval_for_margin()
    if margin is not None and high < margin and (-margin < low or direction == "not higher"):
        return "no practical difference" if claims_a_difference else "supported"
    if comparison.difference == comparison.standard_error == 0:  # the metric is the same in every run
        return "contradicted" if claims_a_difference else "supported"
    low, high = comparison.interval()
    if low <= 0 <= high:
        return "undecided"
    supported = ("higher",) if comparison.difference > 0 else ("lower", "not higher")
    return "supported" if direction in supported else "contradicted"


def join_verdicts(verdicts: Sequence[str]) -> str:
    """Join the verdicts on a claim against several experiments: it holds if it holds against each of them."""
    for worst in ("too few seeds", "contradicted", "undecided", "no practical difference"):
        if worst in verdicts:
            return worst
    return "supported"


def count_seeds_to_decide(comparison: Comparison, direction: str, margin: float | None = None) -> int | None:
    """Count the seeds that would probably bring a verdict if the difference and its deviation stay as they are.

    Returns:
        None if not even MOST_SEEDS would: no number of seeds reduces the error over test images.
    """
    for seeds in range(max(comparison.seeds + 1, FEWEST_SEEDS), MOST_SEEDS + 1):
        if judge_comparison(replace(comparison, seeds=seeds), direction, margin) != "undecided":
            return seeds
    return None
