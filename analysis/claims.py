"""Verdicts on the claims of a study, each at the last planned look that its experiments reach.

judgements = judge_claims(study, trained, labels, margin=0.001)
judgements[0].verdict       # 'supported'
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import mean

import numpy as np
from numpy.typing import NDArray

from analysis import compare
from analysis.compare import Comparison
from analysis.looks import Look, find_next_look, plan_looks
from analysis.metrics import METRICS, compare_at_look
from engine.records import Record
from studies.study import Claim, Study

DECIDED = ("supported", "contradicted", "no practical difference")
TOO_SMALL = "the test set is too small to tell"


@dataclass(frozen=True)
class Judgement:
    """A claim with its comparisons and its verdict, and the reason for a verdict that is missing or undecided."""

    claim: Claim
    subject: str  # the title of the experiment that the claim is about
    comparisons: dict[str, Comparison]  # {title or constant: comparison of the subject with it}
    verdict: str
    why: str = ""
    next_look: Look | None = None  # the look that may decide what is undecided; None: there is none

    @property
    def is_decided(self) -> bool:
        """Whether the verdict is one on the claim, and not that it is open."""
        return self.verdict in DECIDED

    @property
    def titles(self) -> list[str]:
        """The titles of the experiments that are compared."""
        others = self.claim.against if isinstance(self.claim.against, tuple) else ()
        return [self.subject, *others]

    @property
    def look(self) -> Look | None:
        """The look at which the verdict stands: the earliest of its comparisons'; None if one reaches no look."""
        looks = [comparison.look for comparison in self.comparisons.values()]
        return min(filter(None, looks), key=lambda look: look.number) if looks and all(looks) else None

    @property
    def explained(self) -> str:
        """The verdict and its reason."""
        return f"{self.verdict}: {self.why}" if self.why else self.verdict


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
    return [_decide(judgement, margin, study.seeds, corrected) for judgement in judgements]


def _compare(claim: Claim, study: Study, trained: dict[str, Record], labels: NDArray[np.int64]) -> Judgement:
    """Compare the experiments that a claim names, or give the reason why they cannot be compared."""
    subject = _choose_subject(claim, trained)
    titles = claim.against if isinstance(claim.against, tuple) else ()
    if missing := [title for title in (subject, *titles) if title not in trained]:
        return Judgement(claim, subject, {}, "no finished run", ", ".join(missing))
    for title in titles:
        if study.trained_as[subject] == study.trained_as[title]:
            return Judgement(claim, subject, {}, "not compared", f"{subject} and {title} have the same settings")
    others: dict[str, Record | float] = {title: trained[title] for title in titles}
    if not isinstance(claim.against, tuple):
        others = {str(claim.against): claim.against}
    comparisons = {}
    for title, other in others.items():
        comparison = compare_at_look(trained[subject], other, claim.metric, study.seeds, labels)
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


def _decide(judgement: Judgement, margin: float, planned: int, corrected: Iterator[Comparison]) -> Judgement:
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
    judgement = replace(judgement, comparisons=comparisons, verdict=compare.join_verdicts(list(verdicts.values())))
    if judgement.verdict not in ("too few seeds", "undecided"):
        return judgement
    open_comparisons = [comparisons[title] for title, verdict in verdicts.items() if verdict == judgement.verdict]
    last = plan_looks(planned)[-1]
    if judgement.verdict == "undecided" and not all(
        compare.can_seeds_decide(comparison, claim.direction, claim_margin, last) for comparison in open_comparisons
    ):
        return replace(judgement, why=TOO_SMALL)
    next_look = find_next_look(planned, min(comparison.seeds for comparison in open_comparisons))
    return replace(judgement, next_look=next_look, why=f"next is {next_look}" if next_look else "no look is left")
