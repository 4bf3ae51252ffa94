from dataclasses import replace

import made_up
import numpy as np
import pytest
from scipy import stats

from analysis import compare, findings
from engine import records
from experiments import Experiment
from studies.study import Claim, Entry, Study

LABELS = np.random.default_rng(0).integers(0, 10, 500)


HARDEST_FIRST = np.random.default_rng(1).permutation(500)


def make_record(folder, title, wrongs, shift=0, **figures):
    """A record with a run for each number of images that are wrong, the hardest; by a shift, others are hard."""
    record = records.Record(folder / title, Experiment(), dict(name="fashion_mnist"))
    record.folder.mkdir(parents=True)
    for seed, wrong in wrongs.items():
        generator = np.random.default_rng([seed, wrong])
        stored = made_up.log_probabilities(LABELS, np.roll(HARDEST_FIRST, shift)[:wrong], generator)
        own = -stored[np.arange(500), LABELS]
        of_run = dict(test_loss=float(own.mean()), train_accuracy=1 - wrong / 1000, val_accuracy=1 - wrong / 500)
        of_run["sparsity"] = dict(zeros=0.0, small=0.0, l2_norm=1.0)
        record.results[seed] = made_up.result(seed, 1 - wrong / 500, **of_run | figures)
        made_up.write_run(record.folder, record.results[seed], stored)
    return record


GOOD, BAD = (
    dict(zip(range(6), (20, 22, 25, 19, 21, 23), strict=True)),
    dict(zip(range(6), (80, 85, 88, 79, 90, 84), strict=True)),
)


@pytest.fixture
def trained(tmp_path):
    return {
        "good": make_record(tmp_path, "good", GOOD),
        "same": make_record(tmp_path, "same", {seed: wrong + 1 for seed, wrong in GOOD.items()}, shift=4),
        "bad": make_record(tmp_path, "bad", BAD, epochs=10),
    }


@pytest.mark.parametrize("name", ["test_accuracy", "test_loss"])
def test_a_difference_counts_the_chance_of_seeds_and_of_test_images(name, trained):
    good, bad = trained["good"], trained["bad"]
    found = findings.difference(good, bad, name, LABELS)
    by_seed = [good.results[seed][name] - bad.results[seed][name] for seed in GOOD]
    by_image = []
    for seed in GOOD:
        both = [records.read_log_probabilities(record.folder / f"seed-{seed}") for record in (good, bad)]
        if name == "test_accuracy":
            mine, theirs = ((each.argmax(1) == LABELS).astype(float) for each in both)
        else:
            mine, theirs = (-each[np.arange(500), LABELS].astype(float) for each in both)
        by_image.append(mine - theirs)
    np.testing.assert_allclose(np.mean(by_image, 1), by_seed, rtol=0, atol=1e-6)
    assert found.difference == pytest.approx(np.mean(by_seed))
    own = [record.results[seed][name] for record in (good, bad) for seed in GOOD]
    assert found == compare.paired(own[:6], own[6:], by_image)
    assert found.image_error > 0
    assert found.standard_error > stats.sem(by_seed)


def test_the_gap_has_the_chance_of_the_test_images_in_it(trained):
    gap, accuracy = (
        findings.difference(trained["good"], trained["bad"], name, LABELS) for name in ("gap", "test_accuracy")
    )
    assert gap.image_error == accuracy.image_error > 0
    assert gap.difference != accuracy.difference


def test_only_seeds_that_both_have_are_compared(trained, tmp_path):
    other = make_record(tmp_path, "other", {4: 80, 5: 81, 9: 100})
    assert findings.difference(trained["good"], other, "test_accuracy", LABELS).seeds == 2
    strange = make_record(tmp_path, "strange", {77: 10})
    assert findings.difference(trained["good"], strange, "test_accuracy", LABELS) is None


def test_figures_of_the_network_have_no_chance_of_images(trained):
    found = findings.difference(trained["good"], trained["bad"], "train_accuracy", LABELS)
    assert found.image_error == 0
    assert findings.difference(trained["bad"], 20, "epochs", LABELS).difference == -10
    assert findings.figure(trained["bad"].results[0], "gap") == pytest.approx(0.08)


def test_predictions_of_other_images_are_refused(trained):
    with pytest.raises(
        records.RecordError, match=r"predictions of \(500, 10\) images and classes, expected \(400, 10\)"
    ):
        findings.difference(trained["good"], trained["bad"], "test_accuracy", LABELS[:400])


def test_differences_to_the_baseline_are_corrected_together(trained):
    found = findings.differences_to(trained["good"], trained.values(), "test_accuracy", LABELS)
    assert found.keys() == {"same", "bad"}
    assert (found["bad"].tests, found["same"].tests) == (2, 1)


MARGIN = 0.02


def a_study(*claims):
    entries = {
        "good": Entry("own", Experiment()),
        "same": Entry("own", Experiment(l1=0.001)),
        "bad": Entry("own", Experiment(l2=0.001)),
        "good again": Entry("own", Experiment()),
    }
    return Study("?", entries, "good", claims)


def a_claim(one, others, figure, direction):
    return Claim("own", "…", one, others, figure, direction)


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
        (a_claim("good", ("bad",), "zeros", "higher"), "contradicted"),
        (
            a_claim("good", ("good again",), "test_accuracy", "lower"),
            "not compared: good and good again have the same settings",
        ),
        (a_claim(("bad", "same"), ("bad",), "test_accuracy", "higher"), "supported"),
    ],
)
def test_claims_are_judged(claim, expected, trained):
    trained["good again"] = trained["good"]
    (judgement,) = findings.judge(a_study(claim), trained, LABELS, MARGIN)
    assert judgement.verdict == expected
    if isinstance(claim.one, tuple):
        assert judgement.one == "same", "the better one by validation"


def test_a_claim_that_cannot_be_judged_says_why(trained, tmp_path):
    claim = a_claim("good", ("bad",), "test_accuracy", "higher")
    (judgement,) = findings.judge(a_study(claim), {"good": trained["good"]}, LABELS, MARGIN)
    assert judgement.verdict == "no finished run: bad"
    strange = make_record(tmp_path, "strange", {77: 10})
    (judgement,) = findings.judge(a_study(claim), {"good": trained["good"], "bad": strange}, LABELS, MARGIN)
    assert judgement.verdict == "no seed in common"
    few = replace(trained["bad"], results={seed: trained["bad"].results[seed] for seed in range(4)})
    (judgement,) = findings.judge(a_study(claim), {"good": trained["good"], "bad": few}, LABELS, MARGIN)
    assert judgement.verdict == "too few seeds"


def test_an_undecided_claim_says_what_would_decide_it(trained):
    claim = a_claim("good", ("same",), "test_accuracy", "higher")
    (judgement,) = findings.judge(a_study(claim), trained, LABELS, 0.0001)
    assert judgement.verdict == "undecided (the test set is too small to tell)"
    noisy = dict(zip(range(6), (20, 40, 5, 10, 60, 10), strict=True))
    for seed, wrong in noisy.items():
        trained["same"].results[seed]["train_accuracy"] = 1 - wrong / 500
    claim = a_claim("good", ("same",), "train_accuracy", "higher")
    (judgement,) = findings.judge(a_study(claim), trained, LABELS, MARGIN)
    assert judgement.verdict.startswith("undecided (about ")


def test_all_claims_of_a_study_are_corrected_together(trained):
    claims = [
        a_claim("good", ("bad",), "test_accuracy", "higher"),
        a_claim("good", ("same", "bad"), "test_loss", "lower"),
    ]
    first, second = findings.judge(a_study(*claims), trained, LABELS, MARGIN)
    tests = [each.tests for judgement in (first, second) for each in judgement.comparisons.values()]
    assert sorted(tests) == [1, 2, 3]


def test_a_claim_without_a_common_seed_takes_no_other_claims_figures(trained, tmp_path):
    trained["good again"] = make_record(tmp_path, "strange", {77: 10})
    study = replace(a_study(), claims=(a_claim("good", ("bad", "good again"), "test_accuracy", "higher"),))
    study.experiments["good again"] = Entry("own", Experiment(l1=0.5))
    study = replace(study, claims=(*study.claims, a_claim("bad", ("good",), "test_accuracy", "higher")))
    first, second = findings.judge(study, trained, LABELS, MARGIN)
    assert (first.verdict, first.comparisons) == ("no seed in common", {})
    assert second.comparisons["good"].difference < 0
    assert second.verdict == "contradicted"
