from dataclasses import replace

import pytest
from helpers import PLAIN, override, read_rows, write_own, write_report, write_runs

import data
from experiments import Experiment
from grading import untrusted
from studies import STUDIES
from studies.study import Entry, Study


def test_a_study_with_many_overrides_is_read_though_its_folders_name_is_cut(runs, digits):
    settings = dict(epochs=10, batch_size=128, optimizer="sgd", lr=0.1, momentum=0.9)
    settings |= dict(lr_scheduler="step", lr_step_size=5, lr_gamma=0.25, split_seed=3, rotation=5.0)
    study = override("fashion-mlp", **settings)
    assert "lr_gamma" not in study.group
    write_runs(runs, digits, study.experiments["third"].experiment, [0.9], study, "third")
    text = write_report(runs)
    assert "--rotation 5.0" in text
    assert "--lr-gamma 0.25" in text
    assert read_rows(text, "kind")["third"]["settings that differ from those of third"] == "the same"


def test_data_other_than_the_experiments_are_refused(runs, digits):
    write_runs(runs, digits, replace(PLAIN, dataset="fashion_mnist_sample"), [0.9])
    found, (problem,) = untrusted.read_runs(runs)
    assert found == []
    assert "of fashion_mnist_sample, trained on mnist_sample" in problem


def test_hand_typed_experiments_of_different_splits_are_not_compared(runs, digits):
    write_runs(runs, digits, PLAIN, [0.9])
    write_runs(runs, data.load("mnist_sample", "unused", 1), replace(PLAIN, split_seed=1), [0.8])
    text = write_report(runs)
    assert "## single: mnist_sample\n" in text
    assert "## single: mnist_sample, split with seed 1\n" in text
    assert "test − baseline" not in text


def test_what_diverged_is_not_called_untrained(runs, digits):
    study = override("fashion-mlp")
    third, simple = (study.experiments[title].experiment for title in ("third", "simple"))
    write_runs(runs, digits, third, [0.9] * 5, study, "third")
    write_runs(runs, digits, simple, [0.9], study, "simple", diverged=True, stop_reason="diverged: so")
    text = write_report(runs)
    assert "Every run diverged: simple." in text
    assert "--only second" in text
    assert "--only simple" not in text


def test_an_experiment_that_its_models_normalization_does_not_go_with_has_a_report(runs, digits):
    alone = Experiment(model="cnn1", dataset="mnist_sample", norm="layer", batch_size=1, l1=0.1)
    write_runs(runs, digits, alone, [0.9])
    assert f"`{replace(alone, l1=0.0).command}`" in write_report(runs)


def test_a_study_without_a_baseline_has_a_report(runs, digits, monkeypatch):
    entries = {"narrow": Entry("own", PLAIN), "L1": Entry("own", replace(PLAIN, l1=0.1))}
    study = Study("mine", "?", entries, baseline=None)
    monkeypatch.setitem(STUDIES, "mine", study)
    for title in study.experiments:
        write_runs(runs, digits, study.experiments[title].experiment, [0.9, 0.8], study, title)
    assert "Each experiment's baseline is itself without regularization. narrow: mlp1 by adam" in write_report(runs)


def test_a_study_whose_baseline_does_not_go_with_the_overrides_has_a_report(runs, digits):
    study = override("mnist-norms", groups=2)
    write_runs(runs, digits, study.experiments["GN"].experiment, [0.9], study, "GN")
    text = write_report(runs)
    assert "The baseline is BN, which does not go with what was changed. GN: cnn3 by sgd" in text
    assert read_rows(text, "kind")["GN"]["settings that differ from those of GN"] == "the same"
    assert "BN" not in read_rows(text, "kind")


def test_a_baseline_is_known_by_its_settings_and_not_by_its_folder(runs, digits):
    (runs / "backup").mkdir(parents=True)
    write_runs(runs, digits, PLAIN, [0.8, 0.9]).rename(runs / "backup" / "my own")
    write_runs(runs, digits, replace(PLAIN, l1=0.1), [0.5, 0.6]).rename(runs / "backup" / "with L1")
    text = write_report(runs)
    assert "is not trained yet" not in text
    assert "*with L1* lowers" in text
    assert "against *my own*" in text


def test_labels_are_never_equal_although_folders_are_named_after_other_settings(runs, digits):
    (runs / "backup").mkdir(parents=True)
    write_runs(runs, digits, replace(PLAIN, l1=0.1), [0.5, 0.6]).rename(runs / "backup" / "mlp1")
    write_runs(runs, digits, PLAIN, [0.8, 0.9]).rename(runs / "backup" / PLAIN.name)
    assert f"*mlp1* lowers test accuracy by 30.00 ± 0.00 points against *{PLAIN.name}*" in write_report(runs)


@pytest.mark.parametrize("diverged", ["again", "plain"])
def test_of_two_folders_with_the_same_settings_all_runs_of_one_may_have_diverged(diverged, runs, digits):
    (runs / "backup").mkdir(parents=True)
    for name in ("again", "plain"):
        folder = write_runs(runs, digits, PLAIN, [0.8, 0.9], diverged=name == diverged)
        folder.rename(runs / "backup" / name)
    write_runs(runs, digits, replace(PLAIN, l1=0.1), [0.5, 0.6]).rename(runs / "backup" / "with L1")
    text = write_report(runs)
    left_out = "backup/plain: has the settings of again, whose runs are not there; move it away"
    assert (f"Left out: {left_out}" in text) == (diverged == "again")
    assert ("plain (same settings as again)" in text) == (diverged == "plain")


def test_titles_that_overrides_make_the_same_are_rows_of_one_training(runs, digits):
    study = override("l1-path", l1=0.5)
    write_runs(runs, digits, study.experiments["no L1"].experiment, [0.9], study, "no L1")
    text = write_report(runs)
    assert "subgradient 0.003 (same settings as no L1)" in read_rows(text, "test %")
    assert '--l1 0.5 --only "proximal 1e-05" --seeds 0-4`' in text, "the one training that is missing"


def test_where_the_test_images_cannot_be_read_nothing_is_compared(runs, digits):
    folder = write_runs(runs, digits, PLAIN, [0.8])
    write_runs(runs, digits, replace(PLAIN, l1=0.1), [0.8])
    for path in folder.parent.glob("*/experiment.json"):
        path.write_text(path.read_text().replace(digits.checksum, "0" * 64))
    assert "Without their test images, these runs are not compared: mnist_sample in" in write_report(runs)


def test_the_content_that_is_there_counts_whichever_experiment_comes_first(runs, tmp_path):
    """Without any, the content of the most runs counts."""
    for model, seed in (("mlp1", 0), ("mlp2", 1), ("mlp3", 1)):
        write_own(tmp_path / "cells.npz", count=10, seed=seed)
        cells = data.load("cells.npz", tmp_path)
        write_runs(runs, cells, Experiment(model=model, dataset="cells.npz"), [0.9])
    for is_there in (True, False):
        text = write_report(runs, data_dir=tmp_path if is_there else tmp_path / "nothing")
        assert "mlp1,dataset=cells.npz: trained on another cells.npz than mlp2,dataset=cells.npz" in text
        assert ("these runs are not compared" in text) == (not is_there)


def test_what_was_trained_on_another_content_of_a_file_is_left_out_and_not_called_untrained(runs, tmp_path):
    for model, seed in (("mlp1", 0), ("mlp2", 1)):
        write_own(tmp_path / "cells.npz", count=10, seed=seed)
        cells = data.load("cells.npz", tmp_path)
        write_runs(runs, cells, Experiment(model=model, dataset="cells.npz"), [0.9])
    text = write_report(runs)
    assert "mlp2,dataset=cells.npz: trained on another cells.npz than mlp1,dataset=cells.npz" in text
    assert "Not trained yet" not in text
