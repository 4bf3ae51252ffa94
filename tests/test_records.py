import json

import numpy as np
import pytest
import torch

import data
import records
from experiments import Experiment

EXPERIMENT = Experiment(dataset="mnist_sample", l1=0.001, epochs=2)


@pytest.fixture
def description(digits):
    return records.describe(EXPERIMENT, digits)


@pytest.fixture
def folder(tmp_path, description):
    return records.open_folder(tmp_path, records.SINGLE, description)


def make_run(seed, accuracy=0.5):
    rows = [dict.fromkeys(records.HISTORY, 0.1) | dict(seed=seed, epoch=epoch, val_loss=1 / epoch) for epoch in (1, 2)]
    weights = {"1.weight": torch.full((2, 3), float(seed))}
    return records.Run(
        seed,
        dict.fromkeys(records.FIGURES, 0.1) | dict(seed=seed, test_accuracy=accuracy),
        rows,
        weights,
        np.eye(4, 3, dtype=np.float32),
    )


def test_what_was_written_is_read_back(folder):
    run = make_run(3)
    path = records.write_run(folder, run)
    assert path == folder / "seed-3"
    assert records.read_history(path) == run.history
    assert torch.equal(records.read_weights(path)["1.weight"], run.weights["1.weight"])
    assert np.array_equal(records.read_log_probabilities(path), run.log_probabilities)
    (record,), problems = records.read_all(folder.parents[1])
    assert (record.experiment, record.results, problems) == (EXPERIMENT, {3: run.result}, [])
    assert record.table == "single"


def test_seeds_add_up_in_one_folder(folder, tmp_path, description):
    records.write_run(folder, make_run(10))
    assert records.open_folder(tmp_path, records.SINGLE, description) == folder
    records.write_run(folder, make_run(2))
    assert records.finished_seeds(folder) == [2, 10]


def test_only_whole_folders_with_their_own_names_are_left(folder):
    records.write_run(folder, make_run(0))
    records.write_run(folder, make_run(0, accuracy=0.75))
    assert sorted(path.name for path in folder.iterdir()) == ["experiment.json", "seed-0"]
    assert json.loads((folder / "seed-0" / "result.json").read_text())["test_accuracy"] == 0.75


def test_a_run_that_cannot_be_written_leaves_the_old_one(folder, monkeypatch):
    records.write_run(folder, make_run(0))

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full_disk)
    with pytest.raises(records.RecordError, match="No space left"):
        records.write_run(folder, make_run(0, accuracy=0.75))
    assert sorted(path.name for path in folder.iterdir()) == ["experiment.json", "seed-0"]
    assert json.loads((folder / "seed-0" / "result.json").read_text())["test_accuracy"] == 0.5


def test_other_data_under_the_same_name_is_refused(folder, tmp_path, description):
    other = {**description, "dataset": {**description["dataset"], "checksum": "0" * 64}}
    with pytest.raises(records.RecordError, match="recorded with dataset checksum"):
        records.open_folder(tmp_path, records.SINGLE, other)


def test_another_split_seed_is_another_experiment(digits, tmp_path, folder):
    experiment = Experiment(dataset="mnist_sample", l1=0.001, epochs=2, split_seed=1)
    other = records.open_folder(tmp_path, records.SINGLE, records.describe(experiment, digits))
    assert other != folder


def test_a_runs_folder_that_is_a_file_is_refused(tmp_path, description):
    (tmp_path / "file").write_text("")
    with pytest.raises(records.RecordError, match="--runs-dir"):
        records.open_folder(tmp_path / "file", records.SINGLE, description)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "cannot be read"),
        ("[]", "expected a JSON object"),
        ('{"format": 99}', "format 99, expected 1"),
        ('{"format": 1, "experiment": {"model": "mlp9"}, "dataset": {}}', "not an experiment of this version"),
        ('{"format": 1, "experiment": {"colour": "red"}, "dataset": {}}', "not an experiment of this version"),
        ('{"format": 1}', "not an experiment of this version"),
    ],
)
def test_what_cannot_be_read_is_left_out_and_named(content, problem, folder, digits, tmp_path):
    records.write_run(folder, make_run(0))
    other = records.open_folder(tmp_path, records.SINGLE, records.describe(Experiment(dataset="mnist_sample"), digits))
    records.write_run(other, make_run(1))
    (folder / "experiment.json").write_text(content)
    found, problems = records.read_all(tmp_path)
    assert [record.folder for record in found] == [other]
    assert len(problems) == 1
    assert problem in problems[0]
    assert str(folder) in problems[0]


def test_a_run_that_lacks_a_file_is_not_finished(folder):
    for file in records.FILES:
        path = records.write_run(folder, make_run(0))
        assert records.finished_seeds(folder) == [0]
        (path / file).unlink()
        assert records.finished_seeds(folder) == []
        assert f"{path}: {file} missing" in records.read_all(folder.parents[1])[1][0]


def test_the_old_run_comes_back_if_the_new_one_cannot_take_its_place(folder, monkeypatch):
    records.write_run(folder, make_run(0))
    rename = records.os.rename

    def fail_for_the_new_one(source, target):
        if target == folder / "seed-0" and not str(source).endswith("-old"):
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(records.os, "rename", fail_for_the_new_one)
    with pytest.raises(records.RecordError, match="Input/output error"):
        records.write_run(folder, make_run(0, accuracy=0.75))
    assert sorted(path.name for path in folder.iterdir()) == ["experiment.json", "seed-0"]
    assert json.loads((folder / "seed-0" / "result.json").read_text())["test_accuracy"] == 0.5


def test_settings_that_were_edited_are_noticed(folder, tmp_path):
    records.write_run(folder, make_run(0))
    path = folder / "experiment.json"
    path.write_text(path.read_text().replace('"lr": 0.001', '"lr": 0.1'))
    found, problems = records.read_all(tmp_path)
    assert found == []
    assert "its settings or its folder's name were changed" in problems[0]


@pytest.mark.parametrize("content", ['{"seed": ', "{}", "[]"])
def test_a_damaged_result_is_left_out_and_named(content, folder, tmp_path):
    for seed in (0, 1):
        records.write_run(folder, make_run(seed))
    (folder / "seed-1" / "result.json").write_text(content)
    (record,), problems = records.read_all(tmp_path)
    assert list(record.results) == [0]
    assert "seed-1" in problems[0]
    assert "--seeds 1 --force" in problems[0]


def test_unfinished_folders_are_not_seen(folder, tmp_path):
    (folder / ".seed-0-abc").mkdir()
    (folder / "seed-x").mkdir()
    (folder / "seed-x" / "result.json").write_text("{}")
    (folder / "seed-5").mkdir()
    assert records.finished_seeds(folder) == []
    found, problems = records.read_all(tmp_path)
    assert found == []
    assert [problem.split(":")[0] for problem in problems] == [str(folder / "seed-5"), str(folder / "seed-x")]


def test_the_data_sets_description_is_recorded(description, digits):
    assert description["dataset"]["checksum"] == digits.checksum == data.load("mnist_sample", "unused").checksum
    assert description["dataset"]["mean"] == list(digits.mean)
    assert (description["dataset"]["train"], description["dataset"]["test"]) == (3600, 700)
