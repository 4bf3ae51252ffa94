"""The rule of comparison as a whole, on simulated studies of which the truth is known.

python -m pytest tests/test_statistics.py --studies 2000 -rP      # more of them than in the suite, and what came out
"""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from analysis.compare import compare_paired, correct_holm
from analysis.looks import Look
from analysis.verdicts import judge_comparison

IMAGES = 10_000
CLAIMED = ("higher", "lower", "same", "higher")  # of four experiments, each against the same baseline
SHARED = 0.8  # of the variance of an image's ease: the same under every experiment
SIZES = {  # accuracy and its deviation over seeds: a CNN on MNIST, MLPs on Fashion-MNIST without and with proximal L1
    "99.4 %": (0.994, 0.0005),
    "88 %": (0.88, 0.004),
    "81 %": (0.81, 0.0125),
}


class Population:
    """All the images and seeds that a study could have drawn.

    Most images every run gets right. The others are hard: a run gets one right where its ability, the image's ease in
    its experiment and chance add up to more than zero. Ease varies as much as chance, so the probability p to be got
    right is uniform over hard images: its mean is 1/2, and that of p·(1 − p) is 1/6. Runs of MLPs on Fashion-MNIST
    differ from each other, within an experiment and between two, in about as many images as these.

    Args:
        accuracy: over all images and seeds, of every experiment but the last.
        deviation: of the runs' accuracies on a given test set; the last experiment is better by as much.
    """

    def __init__(self, accuracy, deviation):
        self.hard = 2 * (1 - accuracy)  # the share of images
        from_chance = self.hard / 6 / IMAGES  # of the variance over seeds
        accuracy_by_ability = self.hard * stats.norm.pdf(0, scale=math.sqrt(2))
        self.ability = math.sqrt(deviation**2 - from_chance) / accuracy_by_ability  # its standard deviation
        self.advantage = stats.norm.ppf(0.5 + deviation / self.hard, scale=math.hypot(self.ability, math.sqrt(2)))

    def study(self, generator, seeds):
        """Which images of a new test set each run gets right, float64 (experiments, seeds, images).

        The baseline comes first, then an experiment for each claim, in truth no better and no worse, then the better.
        """

        def normal(*shape):
            return generator.standard_normal(shape, dtype=np.float32)

        experiments, hard = len(CLAIMED) + 2, generator.binomial(IMAGES, self.hard)
        ease = math.sqrt(SHARED) * normal(hard) + math.sqrt(1 - SHARED) * normal(experiments, 1, hard)
        ability = self.ability * normal(experiments, seeds, 1)
        ability[-1] += self.advantage
        correct = np.ones((experiments, seeds, IMAGES))
        correct[..., :hard] = ability + ease + normal(experiments, seeds, hard) > 0
        return correct


def with_the_baseline(correct):
    """Each experiment's `Comparison` with the first."""
    accuracies = correct.mean(2).tolist()
    return [compare_paired(accuracies[one], accuracies[0], correct[one] - correct[0]) for one in range(1, len(correct))]


def covers(comparison, truth):
    low, high = comparison.interval()
    return low <= truth <= high


@pytest.mark.parametrize("seeds", [5, 10])
@pytest.mark.parametrize(("accuracy", "deviation"), SIZES.values(), ids=SIZES)
def test_intervals_cover_the_truth_and_few_studies_find_what_is_not_there(accuracy, deviation, seeds, request):
    population, generator = Population(accuracy, deviation), np.random.default_rng(seeds)
    outcomes, studies, look = [], request.config.getoption("studies"), Look(0, seeds)
    for _ in range(studies):
        *alike, better = with_the_baseline(population.study(generator, seeds))
        # Without a margin, which would only withhold some verdicts.
        at_look = correct_holm([replace(comparison, look=look) for comparison in alike])
        verdicts = set(map(judge_comparison, at_look, CLAIMED))
        is_wrong = bool(verdicts & {"supported", "contradicted"})
        outcomes.append((covers(alike[0], 0), covers(better, deviation), is_wrong))
    covered, better_covered, wrong = np.mean(outcomes, axis=0)
    print(f"covered {covered:.2%}, where the truth is a difference {better_covered:.2%}; wrong verdicts {wrong:.2%}")
    chance = 2 * math.sqrt(0.05 * 0.95 / studies)  # two standard errors of a share of 5 %; a point in 2,000 studies
    assert covered >= 0.95 - chance
    assert better_covered >= 0.95 - chance
    assert wrong <= look.level + chance


@pytest.mark.parametrize(("accuracy", "deviation"), SIZES.values(), ids=SIZES)
def test_simulated_runs_are_as_accurate_and_as_far_apart_as_they_should_be(accuracy, deviation):
    population, generator = Population(accuracy, deviation), np.random.default_rng(0)
    studies = np.stack([population.study(generator, 5).mean(2) for _ in range(200)])  # (studies, experiments, seeds)
    alike, better = studies[:, :-1], studies[:, -1]
    assert alike.mean() == pytest.approx(accuracy, abs=3 * math.sqrt(accuracy * (1 - accuracy) / IMAGES / len(studies)))
    assert better.mean() - alike.mean() == pytest.approx(deviation, rel=0.1)
    assert math.sqrt(studies.var(2, ddof=1).mean()) == pytest.approx(deviation, rel=0.05)
