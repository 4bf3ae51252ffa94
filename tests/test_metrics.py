import math

import numpy as np
import pytest
from helpers import GOOD, LABELS, make_record, make_three_records
from scipy import stats

from analysis import compare
from analysis.metrics import (
    METRICS,
    Published,
    compare_records,
    compare_with_baseline,
    measure_images,
    name_other,
    read_metric,
)
from engine import run_files
from engine.files import RecordError
from studies import study


@pytest.fixture
def trained(tmp_path):
    return make_three_records(tmp_path)


@pytest.mark.parametrize("name", ["test_accuracy", "test_loss"])
def test_a_difference_counts_the_chance_of_seeds_and_of_test_images(name, trained):
    good, bad = trained["good"], trained["bad"]
    found = compare_records(good, bad, name, LABELS)
    by_seed = [good.results[seed][name] - bad.results[seed][name] for seed in GOOD]
    by_image = []
    for seed in GOOD:
        both = [run_files.read_log_probabilities(record.run_folder(seed)) for record in (good, bad)]
        if name == "test_accuracy":
            mine, theirs = ((each.argmax(1) == LABELS).astype(float) for each in both)
        else:
            mine, theirs = (-each[np.arange(500), LABELS].astype(float) for each in both)
        by_image.append(mine - theirs)
    np.testing.assert_allclose(np.mean(by_image, 1), by_seed, rtol=0, atol=1e-6)
    assert found.difference == pytest.approx(np.mean(by_seed))
    own = [record.results[seed][name] for record in (good, bad) for seed in GOOD]
    assert found == compare.compare_paired(own[:6], own[6:], by_image)
    assert found.image_error > 0
    assert found.standard_error > stats.sem(by_seed)


def test_the_gap_has_the_chance_of_the_test_images_in_it(trained):
    gap, accuracy = (
        compare_records(trained["good"], trained["bad"], name, LABELS) for name in ("gap", "test_accuracy")
    )
    assert gap.image_error == accuracy.image_error > 0
    assert gap.difference != accuracy.difference


def test_a_difference_to_a_constant_has_the_chance_of_images(trained):
    found = compare_records(trained["good"], 0.7, "test_accuracy", LABELS)
    correct = np.mean([measure_images(trained["good"], seed, "test_accuracy", LABELS) for seed in GOOD], axis=0)
    assert found.difference == pytest.approx(correct.mean() - 0.7)
    with_noise_of_runs = correct.std(ddof=1) / len(LABELS) ** 0.5
    assert 0.98 * with_noise_of_runs < found.image_error < with_noise_of_runs


def test_a_share_is_named_as_a_percentage():
    names = [
        name_other(*pair) for pair in (("BN", "gap"), (0.8846, "test_accuracy"), (20, "epochs"), (0.5, "test_loss"))
    ]
    assert names == ["BN", "88.46 %", "20", "0.5"]


def test_only_seeds_that_both_have_are_compared(trained, tmp_path):
    other = make_record(tmp_path, "other", {4: 80, 5: 81, 9: 100})
    assert compare_records(trained["good"], other, "test_accuracy", LABELS).seeds == 2
    strange = make_record(tmp_path, "strange", {77: 10})
    assert compare_records(trained["good"], strange, "test_accuracy", LABELS) is None


def test_metrics_of_the_network_have_no_chance_of_images(trained):
    found = compare_records(trained["good"], trained["bad"], "train_accuracy", LABELS)
    assert found.image_error == 0
    assert compare_records(trained["bad"], 20, "epochs", LABELS).difference == -10
    assert read_metric(trained["bad"].results[0], "gap") == pytest.approx(0.08)


def test_predictions_of_other_images_are_refused(trained):
    with pytest.raises(RecordError, match=r"float32 \(500, 10\), expected float32 \(400, 10\)"):
        compare_records(trained["good"], trained["bad"], "test_accuracy", LABELS[:400])


def test_small_predictions_give_the_same_differences_and_need_every_label(trained):
    names = ("test_accuracy", "test_loss")
    before = [compare_records(trained["good"], trained["bad"], name, LABELS) for name in names]
    for seed in GOOD:
        path = trained["good"].run_folder(seed) / "predictions.npz"
        path.write_bytes(run_files.shrink_predictions(path.parent, LABELS))
    assert [compare_records(trained["good"], trained["bad"], name, LABELS) for name in names] == before
    with pytest.raises(RecordError, match="it lacks the log-probability of an image's label"):
        compare_records(trained["good"], trained["bad"], "test_loss", (LABELS + 1) % 10)


def test_differences_to_the_baseline_are_corrected_together(trained):
    found = compare_with_baseline(trained["good"], trained.values(), "test_accuracy", LABELS)
    assert found.keys() == {"same", "bad"}
    assert (found["bad"].tests, found["same"].tests) == (2, 1)


def test_every_metric_that_claims_speak_of_is_known():
    assert set(study.CLAIM_METRICS) < set(study.PUBLISHED_METRICS) <= METRICS.keys()


def test_one_run_tells_nothing_about_another():
    assert Published("a title", "test_accuracy", 0.5, [0.5]).place == ""


def test_a_published_metric_lies_beside_one_more_run_of_ours():
    ours = [0.90, 0.91, 0.93]
    half_width = stats.t.ppf(0.975, 2) * np.std(ours, ddof=1) * math.sqrt(1 + 1 / 3)
    for distance, place in ((0.999, "inside"), (1.001, "above"), (-0.999, "inside"), (-1.001, "below")):
        published = Published("a title", "test_accuracy", np.mean(ours) + distance * half_width, ours)
        assert published.place == place
