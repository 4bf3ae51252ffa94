"""Names of folders, and the runs, submissions and checkpoints that earlier versions wrote in format 2."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import read_files

import train
from engine import records, run_files
from engine.files import RecordError
from experiments import Experiment, flag_of
from studies import STUDIES
from studies.study import LONGEST_GROUP

PACKED = Path(__file__).with_name("format_2")
BEGUN = ["--model", "mlp", "--hidden", "4", "--dataset", "mnist_sample", "--epochs", "3", "--l1", "0.001"]
BEGUN += ["--jobs", "1", "--threads", "1"]
BEGUN_NAME = "mlp,hidden=4,dataset=mnist_sample,epochs=3,l1=0.001"
OLD_STUDY = ["--study", "mnist-norms", "--dataset", "mnist_sample", "--epochs", "1", "--batch-size", "256"]
SHORT = dict(dataset="mnist_sample", epochs=1, batch_size=256)
MANY = dict(split_seed=3, crop_padding=1, crop_mode="reflect", flip=True, rotation=9.0, rotation_fill=2)
MANY |= dict(brightness=0.5, contrast=0.5, lr=0.02)


@pytest.fixture
def old_runs(tmp_path):
    """Unpack the runs of an old submission."""
    with zipfile.ZipFile(PACKED / "submission.zip") as archive:
        archive.extractall(tmp_path, [name for name in archive.namelist() if name.startswith("runs/")])
    return tmp_path / "runs"


@pytest.fixture
def begun(tmp_path):
    """Unpack the runs folder of an old command that was interrupted after epoch 1 of seeds 1 and 2."""
    with zipfile.ZipFile(PACKED / "begun.zip") as archive:
        archive.extractall(tmp_path / "begun" / "single")
    return tmp_path / "begun"


def words_of(settings):
    """Return the flags of settings, as they are typed."""
    words = []
    for name, value in settings.items():
        words += [flag_of(name), *([] if value is True else [str(value)])]
    return words


def test_old_runs_tell_study_title_overrides_and_settings(old_runs):
    recorded, problems = records.read_all(old_runs)
    assert problems == []
    assert [(record.study, record.title, record.overrides, sorted(record.results)) for record in recorded] == [
        ("mnist-norms", "BN", SHORT, [0, 1]),
        ("mnist-norms", "GN", SHORT, [0, 1]),
        ("mnist-norms", "no norm", SHORT | MANY, [0]),  # of a group whose name was cut
        (None, BEGUN_NAME, {}, [0]),
    ]
    folder = recorded[2].folder.parent.name
    assert (len(folder), len(recorded[2].group)) == (120, LONGEST_GROUP)
    assert folder.endswith("-5646bc7d")
    assert recorded[3].experiment == Experiment(model="mlp", hidden=(4,), dataset="mnist_sample", epochs=3, l1=0.001)
    for record in recorded[:3]:
        study = STUDIES["mnist-norms"].with_overrides(record.overrides)
        assert study.group == record.group
        assert record.experiment == study.experiments[record.title].experiment
    assert [record.title for record in records.read_all(old_runs, "mnist-norms")[0]] == ["BN", "GN", "no norm"]


def test_old_settings_that_were_edited_or_a_folder_that_was_renamed_are_noticed(old_runs):
    path = old_runs / "single" / BEGUN_NAME / "experiment.json"
    path.write_text(path.read_text().replace('"lr": 0.001', '"lr": 0.1'))
    assert [record.study for record in records.read_all(old_runs)[0]] == ["mnist-norms"] * 3
    (problem,) = records.read_all(old_runs)[1]
    assert problem.startswith(f"{path}: holds mlp,hidden=4,dataset=mnist_sample,epochs=3,lr=0.1,l1=0.001; its settings")


def test_an_old_group_of_an_unknown_name_is_no_known_study(old_runs):
    (old_runs / "mnist-norms,dataset=mnist_sample,epochs=1,batch_size=256").rename(old_runs / "backup")
    recorded, problems = records.read_all(old_runs)
    assert problems == []
    of_backup = [record for record in recorded if record.group == "backup"]
    assert [(record.title, record.overrides) for record in of_backup] == [("BN", {}), ("GN", {})]
    assert not any(record.study in STUDIES for record in of_backup)


def test_an_old_checkpoint_is_resumed_and_the_training_ends_as_one_that_was_not_interrupted(begun, tmp_path, capsys):
    folder = begun / "single" / BEGUN_NAME
    before = read_files(folder)
    train.main([*BEGUN, "--seeds", "0-2", "--runs-dir", str(begun)])
    assert "skipped: seed 0 finished already" in capsys.readouterr().out
    train.main([*BEGUN, "--seeds", "1-2", "--runs-dir", str(tmp_path / "whole")])
    after = read_files(folder)
    assert before.keys() - after.keys() == {Path("checkpoint-1-2.pt")}
    assert all(after[name] == before[name] for name in before.keys() & after.keys())
    for seed in (1, 2):
        resumed, whole = (path / f"seed-{seed}" for path in (folder, tmp_path / "whole" / "single" / BEGUN_NAME))
        assert json.loads((resumed / "result.json").read_text())["resumed_at"] == [1]
        weights = run_files.read_weights(whole)
        # The first epoch was trained on another machine, whose rounding may differ.
        for name, tensor in run_files.read_weights(resumed).items():
            torch.testing.assert_close(tensor, weights[name], rtol=0, atol=1e-3)
        for row, same in zip(run_files.read_history(resumed), run_files.read_history(whole), strict=True):
            assert row == pytest.approx(same, abs=1e-3)
        log_probabilities = [run_files.read_log_probabilities(path) for path in (resumed, whole)]
        np.testing.assert_allclose(*log_probabilities, rtol=0, atol=1e-2)


@pytest.mark.parametrize(
    ("settings", "title", "finished"), [(SHORT, "GN", [0, 1]), (SHORT | MANY, "no norm", [0])], ids=["", "cut name"]
)
def test_seeds_are_added_to_an_old_folder(settings, title, finished, old_runs, capsys):
    words = ["--study", "mnist-norms", *words_of(settings), "--only", title, "--threads", "1"]
    train.main([*words, "--seeds", "0,5", "--runs-dir", str(old_runs)])
    out = capsys.readouterr().out
    assert "skipped: seed 0 finished already" in out
    recorded, problems = records.read_all(old_runs)
    assert problems == []
    (record,) = (record for record in recorded if record.title == title)
    assert sorted(record.results) == [*finished, 5]
    assert json.loads((record.folder / "experiment.json").read_text())["format"] == 2, "it is not rewritten"


def test_an_old_folder_with_other_settings_is_refused_and_replaced_by_force(old_runs, digits):
    folder = old_runs / "single" / BEGUN_NAME
    other = Experiment(model="mlp", hidden=(4,), dataset="mnist_sample", epochs=3, l1=0.002)
    description = records.describe(other, digits, BEGUN_NAME)
    with pytest.raises(RecordError, match=r"recorded with experiment l1 0\.001, now 0\.002; name another --runs-dir"):
        records.open_folder(folder, description)
    records.open_folder(folder, description, replace=True)
    assert json.loads((folder / "experiment.json").read_text())["format"] == 3
    assert records.finished_seeds(folder) == []
