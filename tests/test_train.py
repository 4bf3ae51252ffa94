import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import read_files, refuse

import data
import studies
import train
from engine import records, run_files
from experiments import Experiment
from studies.fashion_mlp import THIRD
from studies.study import Entry, Study

QUICK = ["--dataset", "mnist_sample", "--epochs", "2", "--threads", "1"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--model", "mlp9"], "'mlp9' (choose from"),
        (["--dataset", "imagenet"], "'imagenet' (choose from"),
        (["--l1", "-1"], "--l1 -1.0: expected a finite number, at least 0"),
        (["--l1", "nan"], "--l1 nan: expected a finite number, at least 0"),
        (["--l1", "much"], "'much'"),
        (["--dropout", "1.5"], "--dropout 1.5: expected"),
        (["--epochs", "0"], "--epochs 0: expected"),
        (["--model", "mlp3", "--hidden", "64"], "--hidden 64: needs --model mlp; the other networks have"),
        (["--seeds", "3,3"], "--seeds 3,3: seed 3 is named twice"),
        (["--seeds", "4-0"], "--seeds 4-0: the range 4-0 falls; write 0-4"),
        (["--seeds", "a"], "--seeds a: expected seeds such as 0-4"),
        (["--seeds", ""], "--seeds : expected seeds such as 0-4"),
        (["--seeds", "1-2-3"], "--seeds 1-2-3: expected seeds such as 0-4"),
        (["--seeds", "٣"], "expected seeds such as 0-4"),
        (["--seeds", "9" * 5000], "expected seeds of at most 4294967295, found 9"),
        (["--seeds", "4294967296"], "expected seeds of at most 4294967295"),
        (["--split-seed", "4294967296"], "--split-seed 4294967296: expected a whole number, at least 0 and at most"),
        (["--threads", "1000000"], "1000000: expected a whole number from 1 to 1024"),
        (["--dataset", "mnist", "--data-dir", "a" * 300], "cannot be read (File name too long)"),
        (["--seeds", "0-5000"], "--seeds 0-5000: expected at most 1000 seeds"),
        (["--seeds", "0-999,1000-1999"], "--seeds 0-999,1000-1999: expected at most 1000 seeds; name the others"),
        (["--seeds", "99999999999"], "expected seeds of at most 4294967295, found 9"),
        (["--jobs", "0"], "0: expected a whole number from 1 to 1024"),
        (["--threads", "many"], "many: expected a whole number from 1 to 1024"),
        (["--colour", "red"], "unrecognized arguments: --colour red"),
        (["--weight_decay", "0.1"], "unrecognized arguments: --weight_decay 0.1; did you mean --weight-decay?\n"),
        (["--model", "cnn2", "--dataset", "cifar10", "--summary"], "--model cnn2: of images of 32×32 pixels it leaves"),
        (["--model", "cnn2", "--norm", "group", "--groups", "3", "--summary"], "error: --groups 3: does not divide"),
        (
            ["--model", "cnn1", "--dataset", "mnist_sample", "--norm", "group", "--groups", "3"],
            "the 8 channels of a layer",
        ),
        (["--study", "mnist"], "'mnist' (choose from"),
        (["--only", "L1", "dropout"], "--only L1: needs --study NAME"),
        (["--list", "--model", "mlp3"], "--list --model: settings need --study NAME"),
        (
            ["--study", "l1-path", "--only", "no L1", "L9"],
            '--only L9: expected experiments of l1-path: "no L1", "sub',
        ),
        (["--study", "l1-path", "--only"], "--only: expected at least one argument"),
        (["--study", "l1-path", "--model", "cnn1"], "--model: a study has its own networks"),
        (["--study", "l1-path", "--hidden"], "--hidden: a study has its own networks"),
        (["--study", "l1-path", "--seeds", "4-0"], "--seeds 4-0: the range 4-0 falls"),
        (["--study", "l1-path", "--epochs", "0"], "no L1: cannot be trained with these settings (--epochs 0: expected"),
        (
            ["--study", "l1-path", "--norm-position", "after"],
            "no L1: cannot be trained with these settings (--norm-position af",
        ),
        (
            ["--study", "mnist-norms", "--groups", "4"],
            "BN+L1: cannot be trained with these settings (--groups 4: needs",
        ),
        (["--study", "mnist-l1-l2-ghost", "--norm", "none"], "GBN: cannot be trained with these settings (--freeze"),
        (
            ["--study", "ghost-size", "--norm", "layer", "--only", "128", "--groups", "3"],
            "128: cannot be trained with",
        ),
        (
            ["--study", "ghost-size", "--only", "128", "--norm", "group", "--groups", "3", "--summary"],
            "128: --groups 3: ",
        ),
        (
            ["--study", "mnist-dropout-ghost", "--dataset", "cifar10", "--summary"],
            "L1+BN: --model cnn2: of images of 32",
        ),
    ],
)
def test_a_mistake_is_answered_with_one_line(words, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert expected in f"{refuse(train.main, words, capsys)}\n"
    assert list(tmp_path.iterdir()) == []


def test_a_device_that_is_not_there_is_refused(capsys, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    error = refuse(train.main, [*QUICK, "--device", "cuda", "--runs-dir", str(tmp_path / "runs")], capsys)
    assert "--device cuda" in error
    assert "expected one of: cpu" in error
    assert not (tmp_path / "runs").exists()


def run_folders(runs_dir):
    return {path.name: path for path in sorted(runs_dir.glob("single/*/seed-*"))}


def test_runs_are_recorded_skipped_added_to_and_replaced(tmp_path, capsys):
    words = [*QUICK, "--l1", "0.001", "--runs-dir", str(tmp_path)]
    train.main([*words, "--seeds", "0-1"])
    out = capsys.readouterr().out
    assert "penalized: 54,912 of 55,050 parameters a run, in 3 of 6 tensors" in out
    folders = run_folders(tmp_path)
    assert list(folders) == ["seed-0", "seed-1"]
    assert folders["seed-0"].parent.name == "mlp1,dataset=mnist_sample,epochs=2,l1=0.001"
    result = json.loads((folders["seed-0"] / "result.json").read_text())
    assert result["command"] == "train.py " + " ".join([*words, "--seeds", "0-1"])
    assert result["seeds_beside"] == [0]
    assert result["versions"]["torch"] == torch.__version__
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    train.main([*words, "--seeds", "0-2", "--jobs", "1"])
    assert "skipped: seeds 0-1 finished already" in capsys.readouterr().out
    assert list(run_folders(tmp_path)) == ["seed-0", "seed-1", "seed-2"]
    assert all(path.read_bytes() == content for path, content in before.items())

    train.main([*words, "--seeds", "0-2"])
    out = capsys.readouterr().out
    assert "skipped: seeds 0-2" in out
    assert "training" not in out

    train.main([*words, "--seeds", "1", "--force"])
    after = json.loads((folders["seed-1"] / "result.json").read_text())
    assert after["command"].endswith("--force")
    assert list(run_folders(tmp_path)) == ["seed-0", "seed-1", "seed-2"]


def test_one_process_and_two_give_the_same_bits(tmp_path):
    words = [*QUICK, "--batch-size", "256", "--dropout", "0.2", "--seeds", "0-3", "--runs-at-once", "2"]
    for jobs in ("1", "2"):
        train.main([*words, "--jobs", jobs, "--runs-dir", str(tmp_path / jobs)])
    one, two = run_folders(tmp_path / "1"), run_folders(tmp_path / "2")
    assert list(one) == list(two) == ["seed-0", "seed-1", "seed-2", "seed-3"]
    for seed, folder in one.items():
        assert (folder / "history.csv").read_bytes() == (two[seed] / "history.csv").read_bytes()
        assert np.array_equal(run_files.read_log_probabilities(folder), run_files.read_log_probabilities(two[seed]))
        weights, same = run_files.read_weights(folder), run_files.read_weights(two[seed])
        assert all(torch.equal(weights[name], same[name]) for name in weights)


def test_a_line_an_epoch_where_there_is_no_terminal(tmp_path, capsys):
    train.main([*QUICK, "--seeds", "0-1", "--jobs", "1", "--l2", "0.01", "--runs-dir", str(tmp_path)])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert [line.split(":")[0] for line in lines] == ["epoch 1/2, seeds 0-1", "epoch 2/2, seeds 0-1"]
    assert all("validation loss" in line and "penalty" in line for line in lines)


# ---------------------------------------------------------------------------------------------------------------------
# Studies


PATH = ["--study", "l1-path", "--dataset", "mnist_sample", "--epochs", "2", "--threads", "1"]
TWO = ["--only", "no L1", "proximal 0.001", "--seeds", "0-1"]
GROUP = "l1-path,dataset=mnist_sample,epochs=2"


@pytest.fixture(scope="module")
def two_experiments(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    train.main([*PATH, *TWO, "--jobs", "2", "--runs-dir", str(folder)])
    return folder


@pytest.fixture
def trained(two_experiments, tmp_path):
    """Copy a runs folder with two seeds of two experiments of a study."""
    return shutil.copytree(two_experiments, tmp_path / "runs")


@pytest.fixture
def quick_study(monkeypatch):
    """Add a study that is trained in a second."""
    quick = Experiment(model="mlp1", batch_size=256, epochs=1, dataset="mnist_sample")
    entries = {"first": Entry("own", quick), "first again": Entry("control", quick, "a note")}
    monkeypatch.setitem(studies.STUDIES, "quick", Study("quick", "What is quick?", entries, baseline="first"))


def test_a_study_is_a_group_of_titles_with_seeds(two_experiments):
    recorded, problems = records.read_all(two_experiments)
    assert problems == []
    assert [(record.group, record.title) for record in recorded] == [(GROUP, "no L1"), (GROUP, "proximal 0.001")]
    assert {record.study for record in recorded} == {"l1-path"}
    assert all(record.overrides == dict(dataset="mnist_sample", epochs=2) for record in recorded)
    expected = replace(studies.STUDIES["l1-path"].experiments["no L1"].experiment, dataset="mnist_sample", epochs=2)
    assert recorded[0].experiment == expected
    assert recorded[1].experiment == replace(expected, l1=0.001, l1_mode="proximal")
    for record in recorded:
        assert sorted(record.results) == [0, 1]
        for seed, result in record.results.items():
            assert (result["epochs"], result["seeds_beside"]) == (2, [0, 1])
            words = [*PATH, *TWO, "--jobs", "2", "--runs-dir", str(two_experiments)]
            assert shlex.split(result["command"]) == ["train.py", *words]
            assert {path.name for path in record.run_folder(seed).iterdir()} == set(records.FILES)
    assert read_files(two_experiments).keys() >= {Path(GROUP, "no L1", "experiment.json")}


def test_a_study_that_is_finished_is_skipped_and_stays_as_it_is(trained, capsys):
    before = read_files(trained)
    train.main([*PATH, *TWO, "--runs-dir", str(trained)])
    out = capsys.readouterr().out
    assert "no L1; skipped: seeds 0-1 finished already (--force trains them again)\n" in out
    assert "tensors (--penalize weights); skipped: seeds 0-1 finished already" in out
    assert "training" not in out
    assert read_files(trained) == before


def test_only_the_seeds_that_are_missing_are_trained(trained, capsys):
    before = read_files(trained)
    shutil.rmtree(trained / GROUP / "proximal 0.001" / "seed-1")
    train.main([*PATH, *TWO, "--runs-dir", str(trained)])
    out = capsys.readouterr().out
    assert "no L1; skipped: seeds 0-1" in out
    assert "skipped: seed 0 finished already (--force trains them again); to train: seed 1\n" in out
    assert "training: one process (one seed at a time)" in out
    assert "proximal 0.001, epoch 2/2, seed 1: " in out
    after = read_files(trained)
    assert after.keys() == before.keys()
    new = Path(GROUP, "proximal 0.001", "seed-1")
    assert [name for name in before if after[name] != before[name] and new not in name.parents] == []


def test_force_trains_again_what_was_asked_for(trained):
    before = read_files(trained)
    train.main([*PATH, "--only", "no L1", "--seeds", "1", "--force", "--runs-dir", str(trained)])
    after = read_files(trained)
    changed = {name for name in before if after[name] != before[name]}
    assert {name.parent for name in changed} == {Path(GROUP, "no L1", "seed-1")}
    assert json.loads(after[Path(GROUP, "no L1", "seed-1", "result.json")])["seeds_beside"] == [1]
    assert after.keys() == before.keys()


def test_a_study_that_was_edited_is_refused_until_force_replaces_it(trained, capsys, monkeypatch):
    before = read_files(trained)
    study = studies.STUDIES["l1-path"]
    experiments = study.experiments | {"no L1": Entry("own", replace(THIRD, lr=0.01))}
    monkeypatch.setitem(studies.STUDIES, "l1-path", replace(study, experiments=experiments))
    words = [*PATH, "--only", "no L1", "--seeds", "0", "--runs-dir", str(trained)]
    error = refuse(train.main, words, capsys)
    assert "experiment.json: recorded with experiment lr 0.001, now 0.01;" in error
    assert error.endswith('or replace it with --only "no L1" --force, which discards seeds 0-1')
    assert str(trained / GROUP / "no L1") in error
    assert read_files(trained) == before

    train.main([*words, "--force"])
    out = capsys.readouterr().out
    assert "no L1: recorded with experiment lr 0.001, now 0.01; discarded by --force: seeds 0-1\nno L1; to train" in out
    folder = Path(GROUP, "no L1")
    assert records.finished_seeds(trained / folder) == [0]  # seed 1 went with the old settings
    assert json.loads((trained / folder / "experiment.json").read_text())["experiment"]["lr"] == 0.01
    after = read_files(trained)
    others = [name for name in before if folder not in name.parents]
    assert len(others) == 9
    assert all(after[name] == before[name] for name in others)


def test_titles_with_the_same_settings_are_trained_once_and_that_is_said(quick_study, tmp_path, capsys):
    words = ["--study", "quick", "--seeds", "0", "--threads", "1", "--runs-dir", str(tmp_path)]
    train.main([*words, "--only", "first again"])
    out = capsys.readouterr().out
    assert "first again: has the settings of first, so it is trained and recorded as first\n" in out
    assert "first, epoch 1/1, seed 0: " in out
    assert [path.name for path in (tmp_path / "quick").iterdir()] == ["first"]

    train.main([*words, "--only", "first", "first again"])
    out = capsys.readouterr().out
    assert "first; skipped: seed 0 finished already" in out
    assert "first again: has the settings of first, so it is trained and recorded as first\n" in out
    assert "training:" not in out
    assert [path.name for path in (tmp_path / "quick").iterdir()] == ["first"]


# ---------------------------------------------------------------------------------------------------------------------
# Data


@pytest.fixture
def no_data(tmp_path, offline):
    """Return the words of a command that finds no full data set."""
    return ["--data-dir", str(tmp_path / "data"), "--runs-dir", str(tmp_path / "runs"), "--epochs", "1"]


def test_where_no_data_set_was_named_the_sample_takes_its_place_loudly(no_data, tmp_path, capsys):
    train.main([*no_data, "--seeds", "0"])
    captured = capsys.readouterr()
    assert "WARNING: training on the small embedded sample fashion_mnist_sample" in captured.err
    assert "no network" in captured.err
    (folder,) = run_folders(tmp_path / "runs").values()
    assert folder.parent.name == "mlp1,dataset=fashion_mnist_sample,epochs=1"
    description = json.loads((folder.parent / "experiment.json").read_text())
    assert description["experiment"]["dataset"] == description["dataset"]["name"] == "fashion_mnist_sample"


def test_a_study_of_the_sample_is_a_group_beside_the_studys(no_data, tmp_path, capsys):
    words = [*no_data, "--study", "l1-path", "--only", "no L1", "--seeds", "0"]
    train.main(words)
    assert "WARNING: training on the small embedded sample fashion_mnist_sample" in capsys.readouterr().err
    (record,), problems = records.read_all(tmp_path / "runs")
    assert (record.group, problems) == ("l1-path,dataset=fashion_mnist_sample,epochs=1", [])
    assert (record.study, record.title) == ("l1-path", "no L1")
    assert record.overrides == dict(dataset="fashion_mnist_sample", epochs=1)
    assert record.experiment.dataset == record.dataset["name"] == "fashion_mnist_sample"

    train.main([*words, "--dataset", "fashion_mnist_sample"])  # the same, asked for
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "no L1; skipped: seed 0 finished already" in captured.out
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [record.group]


@pytest.mark.parametrize(
    "words",
    [
        ["--dataset", "fashion_mnist"],
        ["--dataset", "mnist"],
        ["--dataset", "cifar10"],
        ["--study", "fashion-mlp", "--dataset", "mnist"],
        ["--study", "fashion-mlp", "--dataset", "fashion_mnist"],  # which it would take anyway
    ],
)
def test_a_data_set_that_was_named_is_never_replaced(words, no_data, tmp_path, capsys):
    error = refuse(train.main, [*no_data, *words], capsys)
    assert "Ways to get it" in error
    assert str(tmp_path / "data") in error
    assert not (tmp_path / "runs").exists()


def test_a_data_dir_that_is_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    words = ["--data-dir", str(tmp_path / "file"), "--runs-dir", str(tmp_path / "runs")]
    assert "is a file" in refuse(train.main, words, capsys)
    assert not (tmp_path / "runs").exists()


def test_a_network_that_does_not_fit_is_refused_before_a_download(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "download", lambda *_: pytest.fail("downloads"))
    words = [
        "--model",
        "cnn2",
        "--dataset",
        "cifar10",
        "--data-dir",
        str(tmp_path),
        "--runs-dir",
        str(tmp_path / "runs"),
    ]
    assert "--model cnn2: of images of 32×32 pixels it leaves 2×2 pixels" in refuse(train.main, words, capsys)
    assert list(tmp_path.iterdir()) == []
