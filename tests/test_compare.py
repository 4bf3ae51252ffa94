import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from analysis.compare import Comparison, holm, joint_verdict, mean_interval, paired, seeds_to_decide, verdict

ONE, OTHER = [0.91, 0.93, 0.90, 0.94, 0.92], [0.90, 0.90, 0.91, 0.91, 0.90]


def test_the_interval_is_students():
    values = [1.0, 2.0, 4.0]
    average, half_width = mean_interval(values)
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert (average - half_width, average + half_width) == pytest.approx((low, high))


def test_one_seed_has_no_interval():
    assert mean_interval([3.0])[0] == 3.0
    assert math.isnan(mean_interval([3.0])[1])
    comparison = paired([3.0], [2.0])
    assert comparison.difference == 1.0
    assert math.isnan(comparison.p)
    assert all(map(math.isnan, comparison.interval()))


def test_without_an_error_over_images_a_comparison_is_scipys_paired_t_test():
    comparison, scipys = paired(ONE, OTHER), stats.ttest_rel(ONE, OTHER)
    assert comparison.p == pytest.approx(scipys.pvalue)
    assert comparison.interval() == pytest.approx(tuple(scipys.confidence_interval(0.95)))
    assert comparison.interval(0.9) == pytest.approx(tuple(scipys.confidence_interval(0.9)))
    assert replace(comparison, tests=9).interval_for_margin() == comparison.interval(0.9)
    assert paired(OTHER, ONE).difference == pytest.approx(-comparison.difference)


def images_by_analysis_of_variance(table):
    """The variance over images of a (seeds, images) table, as textbooks have it: by sums of squares."""
    seeds, images = table.shape
    of_images = seeds * ((table.mean(0) - table.mean()) ** 2).sum()
    of_seeds = images * ((table.mean(1) - table.mean()) ** 2).sum()
    rest = ((table - table.mean()) ** 2).sum() - of_images - of_seeds
    return (of_images / (images - 1) - rest / (seeds - 1) / (images - 1)) / seeds


def test_the_error_over_images_is_that_of_an_analysis_of_variance_and_adds_in_squares():
    generator = np.random.default_rng(0)
    by_image = generator.choice([-1, 0, 0, 0, 1], (5, 400)) + generator.normal(0, 1, 400)
    comparison = paired(ONE, OTHER, by_image)
    variance = images_by_analysis_of_variance(by_image) / 400
    assert comparison.image_error**2 == pytest.approx(variance)
    seeds_alone = paired(ONE, OTHER).standard_error
    assert comparison.standard_error**2 == pytest.approx(seeds_alone**2 + variance)


def test_the_chance_of_single_runs_on_single_images_is_counted_once():
    """Without anything common to images, only the deviation of the seeds is left, however noisy each run is."""
    by_image = np.random.default_rng(0).normal(0, 1, (5, 400))
    by_image -= by_image.mean(0)
    assert paired(ONE, OTHER, by_image).image_error == 0
    assert paired(ONE[:1], OTHER[:1], by_image[:1]).image_error == pytest.approx(stats.sem(by_image[0]))


def test_the_interval_covers_what_other_seeds_and_other_images_would_give():
    """Draw seeds and images anew, many times: the interval holds the truth in 95 % of them or a little more."""
    generator, covered = np.random.default_rng(1), 0
    for _ in range(400):
        images = generator.normal(0.3, 1, 200)  # what an image adds whoever is trained
        runs = generator.normal(0, 0.05, (6, 1))
        by_image = images + runs + generator.normal(0, 0.5, (6, 200))
        low, high = paired(by_image.mean(1), [0.0] * 6, by_image).interval()
        covered += low <= 0.3 <= high
    assert covered >= 0.93 * 400


def test_other_numbers_of_seeds_are_refused():
    with pytest.raises(ValueError, match="5 and 4 seeds"):
        paired(ONE, OTHER[:4])
    with pytest.raises(ValueError, match="0 and 0 seeds"):
        paired([], [])


def test_figures_that_are_the_same_in_every_run_leave_nothing_to_chance():
    assert paired([0.5] * 5, [0.5] * 5).p == 1.0
    assert paired([0.5] * 5, [0.25] * 5).p == 0.0


def with_p(p, seeds=6):
    """A comparison with this p."""
    quantile = float(stats.t.isf(p / 2, seeds - 1))
    return Comparison(quantile, seeds, math.sqrt(seeds))


def test_holms_correction_steps_down_until_one_is_not_significant():
    ps = [0.04, 0.001, 0.02, 0.012]  # in order: 0.001·4, 0.012·3, 0.02·2, 0.04·1
    assert [comparison.tests for comparison in holm([with_p(p) for p in ps])] == [1, 4, 2, 3]
    ps = [0.04, 0.001, 0.03, 0.02]  # 0.02·3 = 0.06: it and those after it are not significant
    corrected = holm([with_p(p) for p in ps])
    assert [comparison.tests for comparison in corrected] == [3, 4, 3, 3]
    significant = [not low <= 0 <= high for low, high in (comparison.interval() for comparison in corrected)]
    assert significant == [False, True, False, False]


def test_holms_correction_rejects_what_it_does_in_a_published_example():
    """The fifteen p of Benjamini and Hochberg (1995): Bonferroni's procedure and Hochberg's both reject three.

    Holm's rejects at least as many as the one and at most as many as the other.
    """
    ps = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344]
    ps += [0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0]
    corrected = holm([with_p(p) for p in ps])
    assert [each.p * each.tests for each in corrected[:4]] == pytest.approx([0.0015, 0.0056, 0.0247, 0.1140])
    significant = [not low <= 0 <= high for low, high in (each.interval() for each in corrected)]
    assert significant == [True] * 3 + [False] * 12
    steps = [p * (15 - place) for place, p in enumerate(ps)]
    assert [each.holm_p for each in corrected] == pytest.approx([min(1, max(steps[: n + 1])) for n in range(15)])
    assert [verdict(each, "higher") for each in corrected] == ["supported"] * 3 + ["undecided"] * 12


def test_one_seed_does_not_disturb_holms_order():
    corrected = holm([replace(with_p(0.5), seeds=1), with_p(0.01)])
    assert corrected[1].tests == 2


MARGIN = 0.005


def a_comparison(low, high, seeds=6, confidence=0.95):
    """A comparison with this interval."""
    quantile = float(stats.t.ppf((1 + confidence) / 2, seeds - 1))
    return Comparison((low + high) / 2, seeds, (high - low) / 2 / quantile * math.sqrt(seeds))


@pytest.mark.parametrize(
    ("interval", "confidence", "claimed", "expected"),
    [
        ((0.01, 0.02), 0.95, "higher", "supported"),
        ((0.01, 0.02), 0.95, "lower", "contradicted"),
        ((0.01, 0.02), 0.95, "same", "contradicted"),
        ((0.01, 0.02), 0.95, "not higher", "contradicted"),
        ((-0.02, -0.01), 0.95, "lower", "supported"),
        ((-0.02, -0.01), 0.95, "higher", "contradicted"),
        ((-0.001, 0.02), 0.95, "higher", "undecided"),
        ((-0.02, 0.02), 0.95, "same", "undecided"),
        ((-0.02, 0.02), 0.95, "not higher", "undecided"),
        ((-0.02, -0.01), 0.95, "not higher", "supported"),
        ((-0.02, 0.0049), 0.90, "not higher", "supported"),  # if it is a gain, then one of no consequence
        ((-0.02, 0.0051), 0.90, "not higher", "undecided"),
        ((-0.0049, 0.0049), 0.90, "same", "supported"),
        ((-0.0051, 0.0049), 0.90, "same", "undecided"),
        ((0.001, 0.0049), 0.90, "same", "supported"),  # distinguishable from zero, and yet of no consequence
        ((0.001, 0.0049), 0.90, "higher", "no practical difference"),
        ((-0.0049, -0.001), 0.90, "higher", "no practical difference"),
    ],
)
def test_verdicts(interval, confidence, claimed, expected):
    assert verdict(a_comparison(*interval, confidence=confidence), claimed, MARGIN) == expected


def test_a_figure_without_a_margin_has_no_practical_indifference():
    comparison = a_comparison(0.001, 0.004)
    assert verdict(comparison, "higher", MARGIN) == "no practical difference"
    assert verdict(comparison, "higher") == "supported"
    assert verdict(a_comparison(-0.001, 0.001), "same") == "undecided"
    assert verdict(a_comparison(-0.001, 0.001), "not higher") == "undecided"
    assert verdict(a_comparison(-0.004, -0.001), "not higher") == "supported"


def test_the_correction_counts_for_zero_and_not_for_the_margin():
    comparison = a_comparison(0.0001, 0.02)
    assert verdict(comparison, "higher", MARGIN) == "supported"
    assert verdict(replace(comparison, tests=2), "higher", MARGIN) == "undecided"
    within = a_comparison(-0.0049, 0.0049, confidence=0.90)
    assert verdict(replace(within, tests=50), "same", MARGIN) == "supported"


def test_under_five_seeds_there_is_no_verdict():
    assert verdict(a_comparison(0.01, 0.02, seeds=4), "higher", MARGIN) == "too few seeds"
    assert verdict(a_comparison(0.01, 0.02, seeds=5), "higher", MARGIN) == "supported"


def test_the_same_figures_in_every_run_contradict_a_difference():
    none = Comparison(0.0, 5, 0.0)
    assert verdict(none, "higher") == "contradicted"
    assert verdict(none, "same") == verdict(none, "not higher") == "supported"


def test_a_claim_over_several_holds_against_each_and_fails_against_one():
    assert joint_verdict(["supported", "supported"]) == "supported"
    assert joint_verdict(["supported", "undecided"]) == "undecided"
    assert joint_verdict(["undecided", "contradicted"]) == "contradicted"
    assert joint_verdict(["supported", "no practical difference"]) == "no practical difference"
    assert joint_verdict(["too few seeds", "contradicted"]) == "too few seeds"


def test_so_many_seeds_decide_and_one_fewer_does_not():
    comparison = replace(a_comparison(-0.001, 0.005, seeds=5), tests=3)
    needed = seeds_to_decide(comparison, "higher")
    assert needed > 5
    for seeds, decides in ((needed, True), (needed - 1, False)):
        low, high = replace(comparison, seeds=seeds).interval()
        assert (not low <= 0 <= high) == decides
    assert seeds_to_decide(Comparison(0.0002, 5, 0.0055), "higher", MARGIN) == 6, (
        "then there is no practical difference"
    )


def test_more_seeds_do_not_help_where_the_test_set_is_too_small():
    assert seeds_to_decide(replace(a_comparison(-0.001, 0.005), image_error=0.0011), "higher") is None
    assert seeds_to_decide(replace(a_comparison(-0.001, 0.005), image_error=0.0005), "higher") is not None
