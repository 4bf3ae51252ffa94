"""The claims of a study, judged at the planned looks that their experiments reach.

judgements = judge_claims(study, trained, labels, margin=0.001)
judgements[0].verdict       # 'supported'
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import mean

import numpy as np
from numpy.typing import NDArray

from analysis.compare import Comparison
from analysis.looks import Look, plan_looks
from analysis.metrics import METRICS, compare_records, name_other
from analysis.verdicts import DECIDED, Answer, Question, can_be_decided, decide_at_looks
from engine.records import Record
from studies.study import Claim, Study

TOO_SMALL = "the test set is too small, so no look would decide it while its difference and the other verdicts stay"
EQUAL = "both are equal in every run, and this metric has no margin"


@dataclass(frozen=True)
class Judgement:
    """A claim with its comparisons and its verdict, and the reason for a verdict that is missing or undecided."""

    claim: Claim
    verdict: str
    why: str = ""
    subject: str = ""  # the title of the experiment that the claim is about; empty if nothing is compared
    comparisons: dict[str, Comparison] = field(default_factory=dict)  # {title or constant: comparison with it}
    look: Look | None = None  # the look at which the verdict stands
    next_look: Look | None = None  # the look that may decide what is undecided; None: there is none

    @property
    def is_decided(self) -> bool:
        """Whether the verdict is one on the claim, and not that it is open."""
        return self.verdict in DECIDED

    @property
    def explained(self) -> str:
        """The verdict and its reason."""
        return f"{self.verdict}: {self.why}" if self.why else self.verdict


@dataclass(frozen=True)
class Reached:
    """A look that a claim reaches, and what the claim compares there."""

    look: Look
    subject: str
    comparisons: dict[str, Comparison]  # {title or constant: comparison with it}


def judge_claims(study: Study, trained: dict[str, Record], labels: NDArray[np.int64], margin: float) -> list[Judgement]:
    """Judge each claim of a study; intervals are corrected for the comparisons of all claims together.

    A claim is judged with the seeds that all its experiments share. It waits for all experiments that it names.
    There is one judgement for each claim, in their order.

    Args:
        trained: {title: record} of the experiments that were trained without overrides.
        labels: the classes of the test images, (images,).
        margin: accuracies that differ by less than this make no practical difference.
    """
    # The best of several subjects by validation is one of as many tests: its runs are those that chose it.
    tests = sum(len(_list_subjects(claim, study)) * len(claim.others) for claim in study.claims)
    found = [_prepare(claim, study, trained, labels, tests) for claim in study.claims]
    asked = [(place, reached) for place, reached in enumerate(found) if isinstance(reached, list)]
    questions = [_ask(study.claims[place], reached, margin) for place, reached in asked]
    for (place, reached), question, answer in zip(asked, questions, decide_at_looks(questions, tests), strict=True):
        found[place] = _complete(study.claims[place], reached, question, answer, study.seeds)
    return [judgement for judgement in found if isinstance(judgement, Judgement)]  # which all are by now


def _prepare(
    claim: Claim, study: Study, trained: dict[str, Record], labels: NDArray[np.int64], tests: int
) -> Judgement | list[Reached]:
    """Compare the experiments of a claim at each look that they reach; without any, say why in a judgement."""
    subjects = _list_subjects(claim, study)
    if not subjects:
        of_subjects = {study.trained_as[title] for title in claim.subjects}
        alike = [title for title in claim.titles if study.trained_as[title] in of_subjects]
        return Judgement(claim, "not compared", f"{' and '.join(alike)} have the same settings")
    if missing := [title for title in claim.titles if title not in trained]:
        return Judgement(claim, "no finished run", " and ".join(f"“{title}”" for title in missing))
    seeds = sorted(set.intersection(*(set(trained[title].results) for title in claim.titles)))
    if not seeds:
        return Judgement(claim, "no seed in common")
    first, *_ = looks = plan_looks(study.seeds)
    if len(seeds) < first.seeds:
        subject, compared = _compare(claim, subjects, trained, labels, seeds)
        compared = {name: replace(comparison, tests=tests) for name, comparison in compared.items()}
        return Judgement(claim, "too few seeds", f"next is {first}", subject, compared, next_look=first)
    reached = []
    for look in looks:
        if look.seeds <= len(seeds):
            subject, compared = _compare(claim, subjects, trained, labels, seeds[: look.seeds])
            compared = {name: replace(comparison, look=look) for name, comparison in compared.items()}
            reached.append(Reached(look, subject, compared))
    return reached


def _list_subjects(claim: Claim, study: Study) -> list[str]:
    """List the titles that a claim can be about: those with other settings than what they are compared with."""
    others = {study.trained_as[other] for other in claim.others if isinstance(other, str)}
    return [title for title in claim.subjects if study.trained_as[title] not in others]


def _compare(
    claim: Claim, subjects: list[str], trained: dict[str, Record], labels: NDArray[np.int64], seeds: Sequence[int]
) -> tuple[str, dict[str, Comparison]]:
    """Compare the best subject by validation with what the claim names, over some seeds."""

    def validation_accuracy(title: str) -> float:
        return mean(trained[title].results[seed]["val_accuracy"] for seed in seeds)

    subject = max(subjects, key=validation_accuracy)
    comparisons = {}
    for other in claim.others:
        with_what = trained[other] if isinstance(other, str) else other
        if comparison := compare_records(trained[subject], with_what, claim.metric, labels, seeds):
            comparisons[name_other(other, claim.metric)] = comparison
    return subject, comparisons


def _ask(claim: Claim, reached: list[Reached], margin: float) -> Question:
    compared = [list(each.comparisons.values()) for each in reached]
    return Question(claim.direction, margin if METRICS[claim.metric].has_margin else None, compared)


def _complete(claim: Claim, reached: list[Reached], question: Question, answer: Answer, planned: int) -> Judgement:
    """Return the judgement at the look where the verdict stands; if it is undecided, with the reason."""
    (at,) = [each for each in reached if each.look == answer.comparisons[0].look]
    comparisons = dict(zip(at.comparisons, answer.comparisons, strict=True))
    judgement = Judgement(claim, answer.verdict, "", at.subject, comparisons, at.look)
    if judgement.is_decided:
        return judgement
    later = plan_looks(planned)[len(reached) :]
    if not later:
        return replace(judgement, why="no look is left")
    if not can_be_decided(answer.comparisons, question.direction, question.margin, later):
        is_equal = question.margin is None and any(
            each.difference == each.standard_error == 0 for each in answer.comparisons
        )
        return replace(judgement, why=EQUAL if is_equal else TOO_SMALL)
    return replace(judgement, why=f"next is {later[0]}", next_look=later[0])
