"""Statistics over seeds: intervals, paired differences, and corrections for many of them.

The difference between two experiments varies with the seeds, which differ from run to run, and with the test images,
which all runs share. The standard error of a comparison includes both sources of variation.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from analysis.looks import Look

LEVEL = 0.05  # the probability of an error in intervals that no verdict is taken from


def compute_mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Compute the mean and the half-width of its 95 % interval (Student's t; NaN for one value)."""
    if len(values) < 2:
        return mean(values), math.nan
    return mean(values), _student_quantile(1 - LEVEL, len(values)) * stdev(values) / math.sqrt(len(values))


def compute_prediction_interval(values: Sequence[float], draws: int = 1) -> tuple[float, float]:
    """Compute an interval that holds all of `draws` more values from the same normal distribution, at 95 %.

    It is corrected for the number of draws (Bonferroni).
    """
    half_width = _student_quantile(1 - LEVEL / draws, len(values)) * stdev(values) * math.sqrt(1 + 1 / len(values))
    return mean(values) - half_width, mean(values) + half_width


def _student_quantile(confidence: float, values: int) -> float:
    """Compute the half-width of an interval in standard errors."""
    return float(special.stdtrit(values - 1, (1 + confidence) / 2))


@dataclass(frozen=True)
class Comparison:
    """The mean over seeds of a paired difference: the metric of one experiment minus that of another."""

    difference: float
    seeds: int
    deviation: float  # standard deviation of the seeds' differences
    image_error: float = 0.0  # standard error over test images
    tests: int = 1  # number of tests that the interval is corrected for
    holm_p: float = math.nan  # p after Holm's correction
    look: Look | None = None  # the planned look that was taken; None: no verdict may be taken

    @property
    def standard_error(self) -> float:
        """The standard error over seeds and test images together."""
        return math.hypot(self.deviation / math.sqrt(self.seeds), self.image_error)

    @property
    def p(self) -> float:
        """The uncorrected two-sided p-value for no difference: Student's t with seeds − 1 degrees of freedom."""
        if self.seeds < 2:
            return math.nan
        if self.standard_error == 0:
            return 0.0 if self.difference else 1.0
        return float(2 * special.stdtr(self.seeds - 1, -abs(self.difference) / self.standard_error))

    @property
    def level(self) -> float:
        """The probability of an error that the comparison may spend: its look's, or 5 %."""
        return self.look.level if self.look else LEVEL

    def interval(self) -> tuple[float, float]:
        """Compute the interval at the comparison's level, corrected for `tests` tests; NaN for one seed."""
        return self._interval(1 - self.level / self.tests)

    def interval_for_margin(self) -> tuple[float, float]:
        """Compute the uncorrected interval that tests equivalence by two one-sided tests, each at the level (TOST)."""
        return self._interval(1 - 2 * self.level)

    def _interval(self, confidence: float) -> tuple[float, float]:
        if self.seeds < 2:
            return math.nan, math.nan
        half_width = _student_quantile(confidence, self.seeds) * self.standard_error
        return self.difference - half_width, self.difference + half_width


def compare_paired(one: Sequence[float], other: Sequence[float], by_image: ArrayLike | None = None) -> Comparison:
    """Compare the values of a metric in two experiments, with the same seeds in the same order.

    Args:
        by_image: the difference on each test image, (seeds, images), if the metric is a mean over test images.

    Raises:
        ValueError: the numbers of seeds differ or are zero.
    """
    if not len(one) == len(other) > 0:
        raise ValueError(f"{len(one)} and {len(other)} seeds: expected the same seeds, at least one")
    differences = [mine - theirs for mine, theirs in zip(one, other, strict=True)]
    deviation = stdev(differences) if len(differences) > 1 else math.nan
    image_error = 0.0 if by_image is None else _estimate_image_error(np.asarray(by_image, dtype=np.float64))
    return Comparison(mean(differences), len(differences), deviation, image_error)


def _estimate_image_error(by_image: NDArray[np.float64]) -> float:
    """Estimate the standard error over test images from the difference on each image, (seeds, images).

    The means over seeds show how much the images vary. They still contain noise from run to run, which the deviation
    over seeds already includes, so this noise is subtracted (two-way analysis of variance).
    """
    seeds, images = by_image.shape
    variance = by_image.mean(0).var(ddof=1)
    if seeds > 1:
        residuals = by_image - by_image.mean(0) - by_image.mean(1, keepdims=True) + by_image.mean()
        variance -= (residuals**2).sum() / (seeds - 1) / (images - 1) / seeds
    return math.sqrt(max(variance, 0) / images)


def correct_holm(comparisons: Sequence[Comparison], tests: int | None = None) -> list[Comparison]:
    """Return the comparisons with `tests` and `holm_p` set by Holm's step-down procedure (Holm 1979).

    The smallest of n p-values is multiplied by n, the next by n − 1, and so on; a corrected p is never smaller than the
    previous one. From the first p that is not significant at its level, it and all larger ones have intervals corrected
    for the same number of tests. An interval therefore excludes zero exactly if its corrected p is below the level.
    Where comparisons have different levels, because they stand at different looks, "smaller" means smaller in
    proportion to the level, as in Holm's procedure with weights.

    Args:
        tests: n, if more tests are planned than there are comparisons yet; None: the number of comparisons.
    """
    planned = len(comparisons) if tests is None else tests

    def ratio(comparison: Comparison) -> float:
        return math.inf if comparison.seeds < 2 else comparison.p / comparison.level

    ratios = list(map(ratio, comparisons))
    corrected, left, holm_ratio, is_significant = list(comparisons), planned, 0.0, True
    before = -1.0  # the ratio of the comparison before
    for place, index in enumerate(sorted(range(len(comparisons)), key=ratios.__getitem__)):
        comparison = comparisons[index]
        if is_significant and ratios[index] > before:  # equal ratios have equal intervals
            left = planned - place
        before = ratios[index]
        is_significant = before * left < 1
        holm_ratio = max(holm_ratio, ratios[index] * (planned - place))
        holm_p = math.nan if comparison.seeds < 2 else min(1.0, holm_ratio * comparison.level)
        corrected[index] = replace(comparison, tests=left, holm_p=holm_p)
    return corrected
