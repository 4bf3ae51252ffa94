"""Statistics over seeds: intervals, paired differences, and the verdict on a claim.

A difference between two experiments has two sources of chance: the seeds, which vary from run to run, and the test
images, which every run shares. The standard error of a comparison counts both.
"""

import math
from dataclasses import dataclass, replace
from statistics import mean, stdev

import numpy as np
from scipy import stats

FEWEST_SEEDS = 5  # for a verdict
MOST_SEEDS = 1000  # beyond which more seeds are no advice


def mean_interval(values, confidence=0.95):
    """Mean and half-width of its Student-t confidence interval over seeds; the half-width of one seed is NaN."""
    if len(values) < 2:
        return mean(values), math.nan
    quantile = stats.t.ppf((1 + confidence) / 2, len(values) - 1)
    return mean(values), float(quantile * stdev(values) / math.sqrt(len(values)))


@dataclass(frozen=True)
class Comparison:
    """A mean difference over seeds, one experiment's minus the other's."""

    difference: float
    seeds: int
    deviation: float  # of the seeds' differences
    image_error: float = 0.0  # the standard error over test images
    tests: int = 1  # that the interval is corrected for
    holm_p: float = math.nan  # p after Holm's correction

    @property
    def standard_error(self):
        return math.hypot(self.deviation / math.sqrt(self.seeds), self.image_error)

    @property
    def p(self):
        """Two-sided, of no difference, before any correction; Student's t with seeds − 1 degrees of freedom."""
        if self.seeds < 2:
            return math.nan
        if self.standard_error == 0:
            return 0.0 if self.difference else 1.0
        return float(2 * stats.t.sf(abs(self.difference) / self.standard_error, self.seeds - 1))

    def interval(self, confidence=0.95):
        """Lower and upper end, corrected for `tests` of them (Bonferroni); NaN with one seed."""
        if self.seeds < 2:
            return math.nan, math.nan
        quantile = stats.t.ppf(1 - (1 - confidence) / 2 / self.tests, self.seeds - 1)
        half = float(quantile) * self.standard_error
        return self.difference - half, self.difference + half

    def interval_for_margin(self):
        """The 90 % interval, not corrected: if it lies within a margin, two one-sided tests say so at 5 % (TOST)."""
        return replace(self, tests=1).interval(0.90)


def paired(one, other, image_differences=None):
    """The `Comparison` of two experiments' figures, a value a seed, the same seeds in the same order.

    Args:
        image_differences: (seeds, images): a figure's difference image by image, where the figure is a mean over test
            images; what they have in common over seeds is what other images would change. What is a single run's on a
            single image is in the deviation of the seeds already, and is subtracted (a two-way analysis of variance).

    Raises:
        ValueError: different numbers of seeds, or none.
    """
    if not len(one) == len(other) > 0:
        raise ValueError(f"{len(one)} and {len(other)} seeds: expected the same seeds, one at least")
    differences = [mine - theirs for mine, theirs in zip(one, other, strict=True)]
    image_error = 0.0
    if image_differences is not None:
        by_image = np.asarray(image_differences, dtype=np.float64)
        seeds, images = by_image.shape
        variance = by_image.mean(0).var(ddof=1)
        if seeds > 1:
            residuals = by_image - by_image.mean(0) - by_image.mean(1, keepdims=True) + by_image.mean()
            variance -= (residuals**2).sum() / (seeds - 1) / (images - 1) / seeds
        image_error = math.sqrt(max(variance, 0) / images)
    deviation = stdev(differences) if len(differences) > 1 else math.nan
    return Comparison(mean(differences), len(differences), deviation, image_error)


def holm(comparisons):
    """The comparisons, each with the number of tests that Holm's procedure corrects it for, and its p (Holm 1979).

    The smallest p is multiplied by the number of them, the next by one fewer, and so on; none becomes smaller than the
    one before. Once one is not significant at 5 %, neither are those with a larger p, so their intervals are corrected
    for as many tests as its own: each leaves out zero where the corrected p is below 5 %.
    """
    order = sorted(range(len(comparisons)), key=lambda index: (comparisons[index].seeds < 2, comparisons[index].p))
    corrected, tests, holm_p = list(comparisons), len(comparisons), 0.0
    for place, index in enumerate(order):
        if place == 0 or comparisons[order[place - 1]].p * tests < 0.05:
            tests = len(comparisons) - place
        holm_p = max(holm_p, min(1.0, comparisons[index].p * (len(comparisons) - place)))
        corrected[index] = replace(comparisons[index], tests=tests, holm_p=holm_p)
    return corrected


def verdict(comparison, direction, margin=None):
    """What a comparison says about a claim on the difference: `higher` or `lower` than zero, `not higher`, the `same`.

    Args:
        margin: differences within it make no practical difference; None where the figure has none.

    Returns:
        `supported`, `contradicted`, `undecided`, `too few seeds`, or, where a claim says that there is a difference,
        `no practical difference`.
    """
    if comparison.seeds < FEWEST_SEEDS:
        return "too few seeds"
    denied = direction in ("same", "not higher")  # that there is a difference
    low, high = comparison.interval_for_margin()
    if margin is not None and high < margin and (-margin < low or direction == "not higher"):
        return "supported" if denied else "no practical difference"
    if comparison.difference == comparison.standard_error == 0:  # the same figures in every run
        return "supported" if denied else "contradicted"
    low, high = comparison.interval()
    if low <= 0 <= high:
        return "undecided"
    found = "higher" if comparison.difference > 0 else "lower"
    return "supported" if found == direction.replace("not higher", "lower") else "contradicted"


def joint_verdict(verdicts):
    """Of a claim over several others: it holds when it holds against each, and not when it is contradicted by one."""
    for worst in ("too few seeds", "contradicted", "undecided", "no practical difference"):
        if worst in verdicts:
            return worst
    return "supported"


def seeds_to_decide(comparison, direction, margin=None):
    """How many seeds would probably bring a `verdict`, if the differences are what they seem; None if over MOST_SEEDS.

    The error over test images may prevent it however many there are.
    """
    for seeds in range(max(comparison.seeds + 1, FEWEST_SEEDS), MOST_SEEDS + 1):
        if verdict(replace(comparison, seeds=seeds), direction, margin) != "undecided":
            return seeds
    return None


def prediction_interval(values, others=1, confidence=0.95):
    """Lower and upper end of what holds all of `others` further draws, where `values` are draws of a normal variable.

    Student's t with n − 1 degrees of freedom, corrected for the number of draws (Bonferroni).
    """
    quantile = float(stats.t.ppf(1 - (1 - confidence) / 2 / others, len(values) - 1))
    half = quantile * stdev(values) * math.sqrt(1 + 1 / len(values))
    return mean(values) - half, mean(values) + half
