import math
from dataclasses import replace
from statistics import mean, stdev

import numpy as np
import pytest
from scipy import stats

from analysis.compare import (
    Comparison,
    compare_paired,
    compute_mean_interval,
    compute_prediction_interval,
    correct_holm,
)
from analysis.looks import Look

ONE, OTHER = [0.91, 0.93, 0.90, 0.94, 0.92], [0.90, 0.90, 0.91, 0.91, 0.90]


def test_the_interval_is_students():
    values = [1.0, 2.0, 4.0]
    average, half_width = compute_mean_interval(values)
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert (average - half_width, average + half_width) == pytest.approx((low, high))


def test_one_seed_has_no_interval():
    assert compute_mean_interval([3.0])[0] == 3.0
    assert math.isnan(compute_mean_interval([3.0])[1])
    comparison = compare_paired([3.0], [2.0])
    assert comparison.difference == 1.0
    assert math.isnan(comparison.p)
    assert all(map(math.isnan, comparison.interval()))


def test_without_an_error_over_images_a_comparison_is_scipys_paired_t_test():
    comparison, scipys = compare_paired(ONE, OTHER), stats.ttest_rel(ONE, OTHER)
    assert comparison.p == pytest.approx(scipys.pvalue)
    assert comparison.interval() == pytest.approx(tuple(scipys.confidence_interval(0.95)))
    at_look = replace(comparison, look=Look(0, 5))
    assert at_look.interval() == pytest.approx(tuple(scipys.confidence_interval(0.97)))
    assert at_look.interval_for_margin() == pytest.approx(tuple(scipys.confidence_interval(0.94)))
    assert replace(at_look, tests=9).interval_for_margin() == at_look.interval_for_margin()
    assert replace(at_look, tests=9).interval() == pytest.approx(tuple(scipys.confidence_interval(1 - 0.03 / 9)))
    assert compare_paired(OTHER, ONE).difference == pytest.approx(-comparison.difference)


def estimate_image_variance(by_image):
    """Estimate the variance over images from (seeds, images) values as textbooks do, by sums of squares."""
    seeds, images = by_image.shape
    of_images = seeds * ((by_image.mean(0) - by_image.mean()) ** 2).sum()
    of_seeds = images * ((by_image.mean(1) - by_image.mean()) ** 2).sum()
    rest = ((by_image - by_image.mean()) ** 2).sum() - of_images - of_seeds
    return (of_images / (images - 1) - rest / (seeds - 1) / (images - 1)) / seeds


def test_the_error_over_images_is_that_of_an_analysis_of_variance_and_adds_in_squares():
    generator = np.random.default_rng(0)
    by_image = generator.choice([-1, 0, 0, 0, 1], (5, 400)) + generator.normal(0, 1, 400)
    comparison = compare_paired(ONE, OTHER, by_image)
    variance = estimate_image_variance(by_image) / 400
    assert comparison.image_error**2 == pytest.approx(variance)
    seeds_alone = compare_paired(ONE, OTHER).standard_error
    assert comparison.standard_error**2 == pytest.approx(seeds_alone**2 + variance)


def test_the_chance_of_single_runs_on_single_images_is_counted_once():
    """If no image's difference is common to all runs, only the deviation over seeds counts, however noisy they are."""
    by_image = np.random.default_rng(0).normal(0, 1, (5, 400))
    by_image -= by_image.mean(0)
    assert compare_paired(ONE, OTHER, by_image).image_error == 0
    assert compare_paired(ONE[:1], OTHER[:1], by_image[:1]).image_error == pytest.approx(stats.sem(by_image[0]))


def test_the_interval_covers_what_other_seeds_and_other_images_would_give():
    """Draw seeds and images many times: the interval holds the truth in 95 % of the draws or a little more."""
    generator, covered = np.random.default_rng(1), 0
    for _ in range(400):
        images = generator.normal(0.3, 1, 200)  # what an image adds to the difference of every run
        runs = generator.normal(0, 0.05, (6, 1))
        by_image = images + runs + generator.normal(0, 0.5, (6, 200))
        low, high = compare_paired(by_image.mean(1), [0.0] * 6, by_image).interval()
        covered += low <= 0.3 <= high
    assert covered >= 0.93 * 400


def test_other_numbers_of_seeds_are_refused():
    with pytest.raises(ValueError, match="5 and 4 seeds"):
        compare_paired(ONE, OTHER[:4])
    with pytest.raises(ValueError, match="0 and 0 seeds"):
        compare_paired([], [])


def test_metrics_that_are_the_same_in_every_run_leave_nothing_to_chance():
    assert compare_paired([0.5] * 5, [0.5] * 5).p == 1.0
    assert compare_paired([0.5] * 5, [0.25] * 5).p == 0.0


def with_p(p, seeds=6):
    """A comparison with this p."""
    quantile = float(stats.t.isf(p / 2, seeds - 1))
    return Comparison(quantile, seeds, math.sqrt(seeds))


def test_holms_correction_steps_down_until_one_is_not_significant():
    ps = [0.04, 0.001, 0.02, 0.012]  # in order: 0.001·4, 0.012·3, 0.02·2, 0.04·1
    assert [comparison.tests for comparison in correct_holm([with_p(p) for p in ps])] == [1, 4, 2, 3]
    ps = [0.04, 0.001, 0.03, 0.02]  # 0.02·3 = 0.06: it and those after it are not significant
    corrected = correct_holm([with_p(p) for p in ps])
    assert [comparison.tests for comparison in corrected] == [3, 4, 3, 3]
    significant = [not low <= 0 <= high for low, high in (comparison.interval() for comparison in corrected)]
    assert significant == [False, True, False, False]


def test_holms_correction_rejects_what_it_does_in_a_published_example():
    """The fifteen p of Benjamini and Hochberg (1995): Bonferroni's procedure and Hochberg's both reject three.

    Holm's rejects at least as many as the one and at most as many as the other.
    """
    ps = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344]
    ps += [0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0]
    corrected = correct_holm([with_p(p) for p in ps])
    assert [each.p * each.tests for each in corrected[:4]] == pytest.approx([0.0015, 0.0056, 0.0247, 0.1140])
    significant = [not low <= 0 <= high for low, high in (each.interval() for each in corrected)]
    assert significant == [True] * 3 + [False] * 12
    steps = [p * (15 - place) for place, p in enumerate(ps)]
    assert [each.holm_p for each in corrected] == pytest.approx([min(1, max(steps[: n + 1])) for n in range(15)])


def test_equal_ps_are_corrected_equally():
    corrected = correct_holm([with_p(0.001), with_p(0.004), with_p(0.001), with_p(0.02)])
    assert [each.tests for each in corrected] == [4, 2, 4, 1]
    assert corrected[0].interval() == corrected[2].interval()


def test_one_seed_does_not_disturb_holms_order():
    corrected = correct_holm([replace(with_p(0.5), seeds=1), with_p(0.01)])
    assert corrected[1].tests == 2


def test_tests_that_are_planned_are_corrected_for():
    first, second = correct_holm([with_p(0.001), with_p(0.012)], tests=5)
    assert (first.tests, second.tests) == (5, 4)
    assert (first.holm_p, second.holm_p) == pytest.approx((0.005, 0.048))


def test_holms_order_is_that_of_p_in_proportion_to_the_level():
    first, second = with_p(0.014), replace(with_p(0.009), look=Look(1, 5))  # 0.014 / 0.03 < 0.009 / 0.015
    first = replace(first, look=Look(0, 10))
    corrected = correct_holm([first, second])
    assert [each.tests for each in corrected] == [2, 1]
    significant = [not low <= 0 <= high for low, high in (each.interval() for each in corrected)]
    assert significant == [True, True]
    assert [each.holm_p < each.level for each in corrected] == significant
    assert [each.tests for each in correct_holm([replace(first, look=Look(1, 5)), second])] == [2, 2]


@pytest.mark.parametrize("draws", [1, 2, 7])
def test_a_prediction_interval_is_scipys_quantile_corrected_for_the_draws(draws):
    values = [0.80, 0.82, 0.79, 0.85, 0.81]
    half_width = stats.t.ppf(1 - 0.025 / draws, 4) * stdev(values) * math.sqrt(1 + 1 / 5)
    expected = mean(values) - half_width, mean(values) + half_width
    assert compute_prediction_interval(values, draws) == pytest.approx(expected)
