from dataclasses import replace
from types import SimpleNamespace

import pytest
from helpers import LABELS, make_record, make_three_records

from analysis.claims import EQUAL, TOO_SMALL, judge_claims
from analysis.looks import Look
from analysis.tables import make_claims_table
from experiments import Experiment
from studies.study import Claim, Entry, Study

MARGIN = 0.02


@pytest.fixture
def trained(tmp_path):
    return make_three_records(tmp_path)


def a_study(*claims):
    entries = {
        "good": Entry("own", Experiment()),
        "same": Entry("own", Experiment(l1=0.001)),
        "bad": Entry("own", Experiment(l2=0.001)),
        "good again": Entry("own", Experiment()),
    }
    return Study("mine", "?", entries, "good", claims)


def a_claim(subject, against, metric, direction):
    return Claim("own", "…", subject, against, metric, direction)


@pytest.mark.parametrize(
    ("claim", "expected"),
    [
        (a_claim("good", ("bad",), "test_accuracy", "higher"), "supported"),
        (a_claim("good", ("bad",), "test_loss", "lower"), "supported"),
        (a_claim("bad", ("good", "same"), "test_accuracy", "higher"), "contradicted"),
        (a_claim("good", ("same",), "test_accuracy", "same"), "supported"),
        (a_claim("good", ("bad", "same"), "test_accuracy", "higher"), "no practical difference"),
        (a_claim("bad", 20, "epochs", "lower"), "supported"),
        (a_claim("good", 20, "epochs", "higher"), "contradicted"),
        (a_claim("good", ("bad",), "zeros", "higher"), "no practical difference"),
        (
            a_claim("good", ("good again",), "test_accuracy", "lower"),
            "not compared",
        ),
        (a_claim(("bad", "same"), ("bad",), "test_accuracy", "higher"), "supported"),
    ],
)
def test_claims_are_judged(claim, expected, trained):
    trained["good again"] = trained["good"]
    (judgement,) = judge_claims(a_study(claim), trained, LABELS, MARGIN)
    assert judgement.verdict == expected
    if isinstance(claim.subject, tuple):
        assert judgement.subject == "same", "the better one by validation"


def test_a_claim_of_several_comparisons_has_one_verdict_in_its_table(trained):
    claim = a_claim("good", ("bad", "same"), "test_accuracy", "higher")
    judgements = judge_claims(a_study(claim), trained, LABELS, MARGIN)
    table = make_claims_table(SimpleNamespace(name="mine", judgements=judgements))
    shown = [(row[0], row[3], row[-1]) for row in table.rows]
    assert shown == [(claim.says, "good − bad", "no practical difference"), ("", "good − same", "")]


def test_a_few_weights_that_happen_to_be_zero_decide_no_claim(trained):
    trained["good"].results[0]["sparsity"]["zeros"] = 1e-5
    (judgement,) = judge_claims(a_study(a_claim("good", ("bad",), "zeros", "higher")), trained, LABELS, MARGIN)
    assert judgement.verdict == "no practical difference"


def test_a_claim_that_cannot_be_judged_says_why(trained, tmp_path):
    claim = a_claim("good", ("bad",), "test_accuracy", "higher")
    (judgement,) = judge_claims(a_study(claim), {"good": trained["good"]}, LABELS, MARGIN)
    assert judgement.explained == "no finished run: “bad”"
    strange = make_record(tmp_path, "strange", {77: 10})
    (judgement,) = judge_claims(a_study(claim), {"good": trained["good"], "bad": strange}, LABELS, MARGIN)
    assert judgement.verdict == "no seed in common"
    few = replace(trained["bad"], results={seed: trained["bad"].results[seed] for seed in range(4)})
    (judgement,) = judge_claims(a_study(claim), {"good": trained["good"], "bad": few}, LABELS, MARGIN)
    assert judgement.explained == "too few seeds: next is look 1 (5 seeds)"
    assert judgement.look is None
    with_twin = a_study(replace(claim, against=("good again", "bad")))
    (judgement,) = judge_claims(with_twin, trained, LABELS, MARGIN)
    assert judgement.explained == "not compared: good and good again have the same settings"


def test_an_undecided_claim_says_what_would_decide_it(trained):
    claim = a_claim("good", ("same",), "test_accuracy", "higher")
    (judgement,) = judge_claims(a_study(claim), trained, LABELS, 0.0001)
    assert (judgement.verdict, judgement.why, judgement.next_look) == ("undecided", TOO_SMALL, None)
    noisy = dict(zip(range(6), (20, 40, 5, 10, 60, 10), strict=True))
    for seed, wrong in noisy.items():
        trained["same"].results[seed]["train_accuracy"] = 1 - wrong / 500
    claim = a_claim("good", ("same",), "train_accuracy", "higher")
    (judgement,) = judge_claims(a_study(claim), trained, LABELS, MARGIN)
    assert judgement.explained == "undecided: next is look 2 (10 seeds)"
    assert (judgement.look, judgement.next_look) == (Look(0, 5), Look(1, 5))


def test_all_claims_of_a_study_are_corrected_together(trained):
    claims = [
        a_claim("good", ("bad",), "test_accuracy", "higher"),
        a_claim("good", ("same", "bad"), "test_loss", "lower"),
    ]
    first, second = judge_claims(a_study(*claims), trained, LABELS, MARGIN)
    tests = [each.tests for judgement in (first, second) for each in judgement.comparisons.values()]
    assert sorted(tests) == [1, 2, 3]


def test_the_best_of_several_subjects_is_one_of_as_many_tests(trained):
    """Validation and test accuracy of a run go together, so whichever was lucky in both would be chosen."""
    claim = a_claim(("good", "same"), ("bad",), "test_accuracy", "higher")
    (judgement,) = judge_claims(a_study(claim), trained, LABELS, MARGIN)
    assert judgement.comparisons["bad"].tests == 2


def test_what_is_equal_in_every_run_is_undecided_without_a_margin(trained):
    for result in trained["good"].results.values():
        result["epochs"] = 20
    (judgement,) = judge_claims(a_study(a_claim("good", 20, "epochs", "lower")), trained, LABELS, MARGIN)
    assert (judgement.verdict, judgement.why, judgement.next_look) == ("undecided", EQUAL, None)


def test_what_is_equal_in_every_run_is_no_reason_within_a_margin(trained):
    study = a_study(a_claim("good", ("good again", "same"), "test_accuracy", "higher"))
    study.experiments["good again"] = Entry("own", Experiment(l1=0.5))
    (judgement,) = judge_claims(study, trained | {"good again": trained["good"]}, LABELS, 0.0001)
    assert judgement.comparisons["good again"].difference == 0
    assert (judgement.verdict, judgement.why) == ("undecided", TOO_SMALL)


def test_a_claim_without_a_common_seed_takes_no_other_claims_metrics(trained, tmp_path):
    trained["good again"] = make_record(tmp_path, "strange", {77: 10})
    study = replace(a_study(), claims=(a_claim("good", ("bad", "good again"), "test_accuracy", "higher"),))
    study.experiments["good again"] = Entry("own", Experiment(l1=0.5))
    study = replace(study, claims=(*study.claims, a_claim("bad", ("good",), "test_accuracy", "higher")))
    first, second = judge_claims(study, trained, LABELS, MARGIN)
    assert (first.verdict, first.comparisons) == ("no seed in common", {})
    assert second.comparisons["good"].difference < 0
    assert second.verdict == "contradicted"


def test_the_subject_of_a_look_is_the_best_in_its_seeds(trained):
    """Seeds of a later look choose nothing at an earlier one."""
    claim = a_claim(("good", "same"), ("bad",), "test_accuracy", "higher")
    (first,) = judge_claims(a_study(claim), trained, LABELS, MARGIN)
    last = max(trained["good"].results)
    assert first.look == Look(0, 5)
    assert last not in range(5), "it belongs to no look"
    trained["same"].results[last]["val_accuracy"] = 100.0
    (again,) = judge_claims(a_study(claim), trained, LABELS, MARGIN)
    assert again.subject == first.subject == "good"


def test_too_few_seeds_reject_nothing_for_other_claims(trained):
    """Four seeds with a tiny p are no look; they are corrected for, and help no other claim."""
    few = replace(trained["bad"], results={seed: trained["bad"].results[seed] for seed in range(4)})
    claims = (
        a_claim("bad", ("good",), "test_accuracy", "lower"),
        a_claim("same", ("good",), "train_accuracy", "lower"),
    )
    _, alone = judge_claims(a_study(*claims), trained | {"bad": few}, LABELS, MARGIN)
    assert alone.comparisons["good"].tests == 2


def test_between_two_looks_the_earlier_one_stands(trained):
    """Six seeds are no look when five are planned: the sixth, in the order of the numbers, is not used."""
    claim = a_claim("good", ("bad",), "train_accuracy", "higher")
    (at_five,) = judge_claims(a_study(claim), trained, LABELS, MARGIN)
    assert at_five.comparisons["bad"].seeds == 5
    last = max(trained["bad"].results)
    trained["bad"].results[last]["train_accuracy"] = 0.0
    (again,) = judge_claims(a_study(claim), trained, LABELS, MARGIN)
    assert again == at_five
    (planned,) = judge_claims(replace(a_study(claim), seeds=6), trained, LABELS, MARGIN)
    assert planned.comparisons["bad"].seeds == 6
    assert planned.comparisons["bad"].difference > at_five.comparisons["bad"].difference
