"""Verdicts on claims about differences, look by look; see `looks.py` for when and at which level.

questions = [Question("higher", margin=0.005, at_looks=[[comparison_at_look_1], [comparison_at_look_2]])]
answers = decide_at_looks(questions, tests=15)
answers[0].verdict      # 'undecided'
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

from analysis.compare import Comparison, correct_holm
from analysis.looks import Look

DECIDED = ("supported", "contradicted", "no practical difference")


@dataclass(frozen=True)
class Question:
    """What a claim says about differences, and the differences that were measured."""

    direction: str  # see `judge_comparison`
    margin: float | None
    at_looks: list[list[Comparison]]  # at each look that is reached: the comparison with each experiment of the claim


@dataclass(frozen=True)
class Answer:
    """The verdict on a claim, and the corrected comparisons at the look where it stands."""

    verdict: str
    comparisons: list[Comparison]


def decide_at_looks(questions: Sequence[Question], tests: int) -> list[Answer]:
    """Judge claims at one look after the other until each is decided or has no further look; a decision stands.

    So a verdict does not depend on whether the seeds were trained at once or step by step, nor on later looks. It may
    depend on other claims' differences at the same look: intervals are corrected for all comparisons together, each at
    its claim's look (Holm; Ye, Li, Liu and Yao 2013, "A group sequential Holm procedure with multiple primary
    endpoints").

    Args:
        questions: claims that reach the first look at least.
        tests: the number of comparisons to correct for: all that are planned, even if some reach no look yet.
    """
    answers: dict[int, Answer] = {}
    at, going_on = [0] * len(questions), list(range(len(questions)))
    while going_on:
        current = [question.at_looks[number] for question, number in zip(questions, at, strict=True)]
        corrected = iter(correct_holm(list(chain(*current)), tests))
        for index, (question, comparisons) in enumerate(zip(questions, current, strict=True)):
            comparisons = [next(corrected) for _ in comparisons]
            if index in going_on:  # a verdict stands at its own look, whatever other claims' looks bring
                answers[index] = Answer(_judge(comparisons, question.direction, question.margin), comparisons)
        going_on = [
            index
            for index in going_on
            if answers[index].verdict not in DECIDED and at[index] + 1 < len(questions[index].at_looks)
        ]
        for index in going_on:
            at[index] += 1
    return [answers[index] for index in range(len(questions))]


def can_be_decided(
    comparisons: Sequence[Comparison], direction: str, margin: float | None, looks: Sequence[Look]
) -> bool:
    """Tell whether a claim would be decided at one of these looks if its differences stayed and seeds did not vary.

    Seeds do not reduce the error over test images, so a small test set can leave a claim undecided.
    """
    return any(
        _judge([replace(each, seeds=look.seeds, look=look, deviation=0.0) for each in comparisons], direction, margin)
        in DECIDED
        for look in looks
    )


def _judge(comparisons: Sequence[Comparison], direction: str, margin: float | None) -> str:
    return join_verdicts([judge_comparison(comparison, direction, margin) for comparison in comparisons])


def judge_comparison(comparison: Comparison, direction: str, margin: float | None = None) -> str:
    """Decide whether a comparison supports a claim about the direction of its difference.

    Args:
        direction: the claim: `higher` (a difference above zero), `lower`, `not higher` or `same`.
        margin: smaller differences make no practical difference, and contradict no claim of `same` or `not higher`;
            None for a metric without a margin.

    Returns:
        `supported`, `contradicted`, `undecided` or, if the claim is `higher` or `lower`, `no practical difference`.
    """
    claims_a_difference = direction in ("higher", "lower")
    low, high = comparison.interval_for_margin()
    if margin is not None and high < margin and (-margin < low or direction == "not higher"):
        return "no practical difference" if claims_a_difference else "supported"
    low, high = comparison.interval()
    if not (low > 0 or high < 0):
        return "undecided"
    if direction in (("higher",) if comparison.difference > 0 else ("lower", "not higher")):
        return "supported"
    size = abs(comparison.difference)
    if claims_a_difference or margin is None or size > margin or math.isclose(size, margin):
        return "contradicted"
    return "undecided"  # more seeds may show that the difference is below the margin, which supports the claim


def join_verdicts(verdicts: Sequence[str]) -> str:
    """Join the verdicts on a claim: it is supported only if it is supported against every experiment."""
    for worst in ("contradicted", "undecided", "no practical difference"):
        if worst in verdicts:
            return worst
    return "supported"
