import math
from dataclasses import replace

import pytest
from scipy import stats

from analysis.compare import Comparison
from analysis.looks import Look, plan_looks
from analysis.verdicts import Question, can_be_decided, decide_at_looks, join_verdicts, judge_comparison

MARGIN = 0.005


LOOK = Look(0, 6)
DIRECT, TWO_SIDED_TESTS = 0.97, 0.94  # confidence of the interval and of the margin's, at the first look


def a_comparison(low, high, confidence=DIRECT):
    """A comparison with this interval, at the first look."""
    quantile = float(stats.t.ppf((1 + confidence) / 2, LOOK.seeds - 1))
    return Comparison((low + high) / 2, LOOK.seeds, (high - low) / 2 / quantile * math.sqrt(LOOK.seeds), look=LOOK)


@pytest.mark.parametrize(
    ("interval", "confidence", "claimed", "expected"),
    [
        ((0.01, 0.02), DIRECT, "higher", "supported"),
        ((0.01, 0.02), DIRECT, "lower", "contradicted"),
        ((0.01, 0.02), DIRECT, "same", "contradicted"),
        ((0.01, 0.02), DIRECT, "not higher", "contradicted"),
        ((-0.02, -0.01), DIRECT, "lower", "supported"),
        ((-0.02, -0.01), DIRECT, "higher", "contradicted"),
        ((-0.001, 0.02), DIRECT, "higher", "undecided"),
        ((-0.02, 0.02), DIRECT, "same", "undecided"),
        ((-0.02, 0.02), DIRECT, "not higher", "undecided"),
        ((-0.02, -0.01), DIRECT, "not higher", "supported"),
        ((-0.02, 0.0049), TWO_SIDED_TESTS, "not higher", "supported"),  # a gain, if any, has no consequence
        ((-0.02, 0.0051), TWO_SIDED_TESTS, "not higher", "undecided"),
        ((-0.0049, 0.0049), TWO_SIDED_TESTS, "same", "supported"),
        ((-0.0051, 0.0049), TWO_SIDED_TESTS, "same", "undecided"),
        ((0.001, 0.0049), TWO_SIDED_TESTS, "same", "supported"),  # it differs from zero, without consequence
        ((0.0001, 0.0098), DIRECT, "same", "undecided"),  # it differs from zero, perhaps without consequence
        ((-0.0098, -0.0001), DIRECT, "same", "undecided"),
        ((0.0001, 0.0098), DIRECT, "not higher", "undecided"),
        ((-0.0098, -0.0001), DIRECT, "not higher", "supported"),
        ((0.0001, 0.0101), DIRECT, "same", "contradicted"),
        ((0.0001, 0.0101), DIRECT, "not higher", "contradicted"),
        ((0.0001, 0.0098), DIRECT, "higher", "supported"),
        ((0.001, 0.0049), TWO_SIDED_TESTS, "higher", "no practical difference"),
        ((-0.0049, -0.001), TWO_SIDED_TESTS, "higher", "no practical difference"),
    ],
)
def test_verdicts(interval, confidence, claimed, expected):
    assert judge_comparison(a_comparison(*interval, confidence), claimed, MARGIN) == expected


def test_a_difference_that_is_the_margin_but_for_rounding_is_not_below_it():
    least = math.nextafter(MARGIN, 0)
    for difference in (least, -least):
        comparison = Comparison(difference, LOOK.seeds, 0.0001, look=LOOK)
        assert judge_comparison(comparison, "same", MARGIN) == "contradicted"


def test_a_metric_without_a_margin_has_no_practical_indifference():
    comparison = a_comparison(0.001, 0.004)
    assert judge_comparison(comparison, "higher", MARGIN) == "no practical difference"
    assert judge_comparison(comparison, "higher") == "supported"
    assert judge_comparison(comparison, "same") == judge_comparison(comparison, "not higher") == "contradicted"
    assert judge_comparison(a_comparison(-0.001, 0.001), "same") == "undecided"
    assert judge_comparison(a_comparison(-0.001, 0.001), "not higher") == "undecided"
    assert judge_comparison(a_comparison(-0.004, -0.001), "not higher") == "supported"


def test_the_correction_counts_for_zero_and_not_for_the_margin():
    comparison = a_comparison(0.0001, 0.02)
    assert judge_comparison(comparison, "higher", MARGIN) == "supported"
    assert judge_comparison(replace(comparison, tests=2), "higher", MARGIN) == "undecided"
    within = a_comparison(-0.0049, 0.0049, TWO_SIDED_TESTS)
    assert judge_comparison(replace(within, tests=50), "same", MARGIN) == "supported"


def test_a_later_look_needs_a_smaller_p():
    comparison = a_comparison(0.0001, 0.02)  # p is just below the 3 % of the first look
    assert judge_comparison(comparison, "higher") == "supported"
    assert judge_comparison(replace(comparison, look=Look(1, 3)), "higher") == "undecided"
    within = a_comparison(-0.0049, 0.0049, TWO_SIDED_TESTS)
    assert judge_comparison(within, "same", MARGIN) == "supported"
    assert judge_comparison(replace(within, look=Look(1, 3)), "same", MARGIN) == "undecided"


@pytest.mark.parametrize("direction", ["higher", "lower", "same", "not higher"])
def test_equal_metrics_in_every_run_decide_only_where_there_is_a_margin(direction):
    """Five runs that all stop at the same epoch do not show that the next one will."""
    none = Comparison(0.0, 5, 0.0, look=Look(0, 5))
    assert judge_comparison(none, direction) == "undecided"
    within = "no practical difference" if direction in ("higher", "lower") else "supported"
    assert judge_comparison(none, direction, MARGIN) == within


def test_a_claim_over_several_holds_against_each_and_fails_against_one():
    assert join_verdicts(["supported", "supported"]) == "supported"
    assert join_verdicts(["supported", "undecided"]) == "undecided"
    assert join_verdicts(["undecided", "contradicted"]) == "contradicted"
    assert join_verdicts(["supported", "no practical difference"]) == "no practical difference"


def test_more_seeds_do_not_help_where_the_test_set_is_too_small():
    comparison, looks = a_comparison(-0.001, 0.005), [Look(3, 5)]
    assert judge_comparison(comparison, "higher") == "undecided"
    assert can_be_decided([replace(comparison, image_error=0.0006)], "higher", None, looks)
    assert not can_be_decided([replace(comparison, image_error=0.0009)], "higher", None, looks)
    assert can_be_decided([replace(comparison, image_error=0.0009)], "higher", MARGIN, looks), "no practical difference"


def test_an_earlier_look_can_decide_what_a_later_one_cannot():
    """Later looks have smaller levels, which widens intervals where seeds do not narrow them."""
    comparison = Comparison(0.0, 10, 0.005, image_error=0.002, look=Look(0, 10))
    second, last = Look(1, 10), Look(3, 10)
    assert can_be_decided([comparison], "same", MARGIN, [second])
    assert not can_be_decided([comparison], "same", MARGIN, [last])
    assert can_be_decided([comparison], "same", MARGIN, [second, last])


def test_one_comparison_that_would_contradict_is_enough_to_decide():
    stuck, clear = Comparison(0.0001, 5, 0.01, image_error=0.01), Comparison(-0.1, 5, 0.01, image_error=0.001)
    assert not can_be_decided([stuck], "higher", None, [Look(1, 5)])
    assert can_be_decided([stuck, clear], "higher", None, [Look(1, 5)])


# ---------------------------------------------------------------------------------------------------------------------
# Look by look


def at_looks(*ps, planned=5):
    """A claim with one comparison, which has these p at the first, second, ... look."""
    comparisons = []
    for look, p in zip(plan_looks(planned), ps, strict=False):
        quantile = float(stats.t.isf(p / 2, look.seeds - 1))
        comparisons.append([Comparison(quantile, look.seeds, math.sqrt(look.seeds), look=look)])
    return Question("higher", None, comparisons)


def test_the_first_decision_stands():
    """Otherwise training on after a decision would undo it, and the way to the seeds would matter."""
    (answer,) = decide_at_looks([at_looks(0.02, 0.5, 0.5)], tests=1)
    assert (answer.verdict, answer.comparisons[0].seeds) == ("supported", 5)
    assert answer == decide_at_looks([at_looks(0.02)], tests=1)[0]


def test_an_undecided_claim_stands_at_its_last_look():
    (answer,) = decide_at_looks([at_looks(0.2, 0.2, 0.2)], tests=1)
    assert (answer.verdict, answer.comparisons[0].seeds) == ("undecided", 20)
    (answer,) = decide_at_looks([at_looks(0.2, 0.01)], tests=1)
    assert (answer.verdict, answer.comparisons[0].seeds) == ("supported", 10)


def test_what_other_claims_need_later_changes_no_verdict():
    """The second claim needs the first to be rejected: then it is corrected for one test alone."""
    both = [at_looks(0.001, 0.001), at_looks(0.02)]
    assert [answer.verdict for answer in decide_at_looks(both, tests=2)] == ["supported", "supported"]
    several = Question(
        "higher",
        None,
        [
            [*first, *other]
            for first, other in zip(at_looks(0.001, 0.9).at_looks, at_looks(0.9, 0.9).at_looks, strict=True)
        ],
    )
    before = decide_at_looks([Question("higher", None, several.at_looks[:1]), at_looks(0.014)], tests=3)
    after = decide_at_looks([several, at_looks(0.014)], tests=3)
    assert [answer.verdict for answer in before] == ["undecided", "supported"]
    assert after[1] == before[1], "though the first claim's rejected comparison is not rejected any more"


def test_an_undecided_claim_is_not_decided_by_the_looks_of_others():
    """Or more seeds of its own would undo the decision."""
    first, others = (0.021, 0.9), (0.027, 0.00003)
    before = decide_at_looks([at_looks(*first[:1]), at_looks(*others)], tests=2)
    after = decide_at_looks([at_looks(*first), at_looks(*others)], tests=2)
    assert [answer.verdict for answer in before] == [answer.verdict for answer in after] == ["undecided", "supported"]


def test_comparisons_that_are_not_trained_yet_are_corrected_for():
    assert decide_at_looks([at_looks(0.02)], tests=1)[0].verdict == "supported"
    (answer,) = decide_at_looks([at_looks(0.02)], tests=2)
    assert (answer.verdict, answer.comparisons[0].tests) == ("undecided", 2)
