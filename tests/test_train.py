import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import made_up
import numpy as np
import pytest
import torch

import data
import studies
import train
from engine import checkpoints, records
from engine.plan import make_tasks
from engine.progress import seed_list
from experiments import Experiment
from sources import downloading, finding
from studies.study import Entry, Study

ROOT = Path(__file__).resolve().parents[1]
INTERRUPTED = (
    "interrupted: finished runs are kept, and the others as they were at their last checkpoint, if there was time for "
    "one; the same command goes on from there"
)
QUICK = ["--dataset", "mnist_sample", "--epochs", "2", "--threads", "1"]


def refused(words, capsys):
    """The one line that a refused command answers with."""
    with pytest.raises(SystemExit) as caught:
        train.main(words)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("train.py: error: ")
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--model", "mlp9"], "'mlp9' (choose from"),
        (["--dataset", "imagenet"], "'imagenet' (choose from"),
        (["--l1", "-1"], "--l1 -1.0: expected a finite number at least 0"),
        (["--l1", "nan"], "--l1 nan: expected a finite number at least 0"),
        (["--l1", "much"], "'much'"),
        (["--dropout", "1.5"], "--dropout 1.5: expected"),
        (["--epochs", "0"], "--epochs 0: expected"),
        (["--model", "mlp3", "--hidden", "64"], "--hidden 64: --model mlp3 has its own widths"),
        (["--seeds", "3,3"], "--seeds 3,3: seed 3 is named twice"),
        (["--seeds", "4-0"], "--seeds 4-0: the range 4-0 falls; write 0-4"),
        (["--seeds", "a"], "--seeds a: expected seeds such as 0-4"),
        (["--seeds", ""], "--seeds : expected seeds such as 0-4"),
        (["--seeds", "1-2-3"], "--seeds 1-2-3: expected seeds such as 0-4"),
        (["--seeds", "٣"], "expected seeds such as 0-4"),
        (["--seeds", "9" * 5000], "expected seeds such as 0-4"),
        (["--seeds", "4294967296"], "expected seeds of at most 4294967295"),
        (["--split-seed", "4294967296"], "--split-seed 4294967296: expected a whole number at least 0 and at most"),
        (["--threads", "1000000"], "1000000: expected a whole number from 1 to 1024"),
        (["--dataset", "mnist", "--data-dir", "a" * 300], "cannot be read (File name too long)"),
        (["--seeds", "0-5000"], "--seeds 0-5000: expected at most 1000 seeds"),
        (["--seeds", "0-999,1000-1999"], "--seeds 0-999,1000-1999: expected at most 1000 seeds; others by another"),
        (["--seeds", "99999999999"], "expected seeds such as 0-4"),
        (["--jobs", "0"], "0: expected a whole number from 1 to 1024"),
        (["--threads", "many"], "many: expected a whole number from 1 to 1024"),
        (["--colour", "red"], "unrecognized arguments: --colour red"),
        (["--model", "cnn2", "--dataset", "cifar10", "--summary"], "--model cnn2: of images of 32×32 pixels it leaves"),
        (["--model", "cnn2", "--norm", "group", "--groups", "3", "--summary"], "error: --groups 3: does not divide"),
        (
            ["--model", "cnn1", "--dataset", "mnist_sample", "--norm", "group", "--groups", "3"],
            "the 8 channels of a layer",
        ),
        (["--study", "mnist"], "'mnist' (choose from"),
        (["--only", "L1", "dropout"], "--only L1: names experiments of a --study"),
        (["--list", "--model", "mlp3"], "--list --model: settings go with --list --study NAME"),
        (
            ["--study", "l1-path", "--only", "no L1", "L9"],
            '--only L9: is none of l1-path\'s experiments, "no L1", "sub',
        ),
        (["--study", "l1-path", "--only"], "--only: expected at least one argument"),
        (["--study", "l1-path", "--model", "cnn1"], "--model: a study has its own networks"),
        (["--study", "l1-path", "--hidden"], "--hidden: a study has its own networks"),
        (["--study", "l1-path", "--seeds", "4-0"], "--seeds 4-0: the range 4-0 falls"),
        (["--study", "l1-path", "--epochs", "0"], "no L1: does not go with what was given: --epochs 0: expected"),
        (
            ["--study", "l1-path", "--norm-position", "after"],
            "no L1: does not go with what was given: --norm-position af",
        ),
        (
            ["--study", "mnist-norms", "--norm", "batch"],
            "GN: does not go with what was given: --group-size 4: goes with",
        ),
        (["--study", "mnist-l1-l2-ghost", "--norm", "none"], "GBN: does not go with what was given: --freeze-gamma:"),
        (
            ["--study", "ghost-size", "--norm", "layer", "--only", "128", "--groups", "3"],
            "128: does not go with what was",
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
    assert expected in refused(words, capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_device_that_is_not_there_is_refused(capsys, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    error = refused([*QUICK, "--device", "cuda", "--runs-dir", str(tmp_path / "runs")], capsys)
    assert "--device cuda" in error
    assert "expected one of: cpu" in error
    assert not (tmp_path / "runs").exists()


def test_help_and_refusals_answer_before_anything_heavy_is_imported():
    code = """
import sys, train
for words in (["--help"], ["--l1", "-1"], ["--seeds", "4-0"], ["--study", "l1-path", "--only", "L9"]):
    try:
        train.main(words)
    except SystemExit:
        heavy = {"torch", "torchvision", "sklearn", "scipy", "joblib"} & set(sys.modules)
        if heavy:
            sys.exit(f"{words} imported {heavy}")
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def test_seeds_are_named_as_a_printer_takes_pages():
    assert train.parse_seeds("0-4") == [0, 1, 2, 3, 4]
    assert train.parse_seeds("7") == [7]
    assert train.parse_seeds("0,3,5-9") == [0, 3, 5, 6, 7, 8, 9]
    assert train.parse_seeds("4, 2") == [4, 2]
    for text in ("0-4", "7", "0,3,5-9"):
        assert seed_list(train.parse_seeds(text)).split()[1] == text


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
        assert np.array_equal(records.read_log_probabilities(folder), records.read_log_probabilities(two[seed]))
        weights, same = records.read_weights(folder), records.read_weights(two[seed])
        assert all(torch.equal(weights[name], same[name]) for name in weights)


def test_a_line_an_epoch_where_there_is_no_terminal(tmp_path, capsys):
    train.main([*QUICK, "--seeds", "0-1", "--jobs", "1", "--l2", "0.01", "--runs-dir", str(tmp_path)])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert [line.split(":")[0] for line in lines] == ["epoch 1/2, seeds 0-1", "epoch 2/2, seeds 0-1"]
    assert all("validation loss" in line and "penalty" in line for line in lines)


def test_the_summary_lists_the_layers_and_trains_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train.main(["--model", "mlp3", "--norm", "batch", "--summary"])
    out = capsys.readouterr().out
    assert "95,050 parameters a run" in out
    assert "50,240" in out
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------------------------------
# Studies


PATH = ["--study", "l1-path", "--dataset", "mnist_sample", "--epochs", "2", "--threads", "1"]
TWO = ["--only", "no L1", "proximal 0.001", "--seeds", "0-1"]
TABLE = "l1-path,dataset=mnist_sample,epochs=2"


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def two_experiments(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    train.main([*PATH, *TWO, "--jobs", "2", "--runs-dir", str(folder)])
    return folder


@pytest.fixture
def trained(two_experiments, tmp_path):
    """A runs folder with two seeds of two experiments of a study."""
    return shutil.copytree(two_experiments, tmp_path / "runs")


@pytest.fixture
def quick_study(monkeypatch):
    """A study of our own that is trained in a second."""
    small = Experiment(model="mlp1", batch_size=256, epochs=1, dataset="mnist_sample")
    study = Study(
        asks="What is quick?",
        experiments={
            "first": Entry("own", small),
            "other split": Entry("own", replace(small, split_seed=1)),
            "first again": Entry("control", small, "a note"),
        },
        baseline="first",
    )
    monkeypatch.setitem(studies.STUDIES, "quick", study)


def test_a_study_is_a_table_of_titles_with_seeds(two_experiments):
    found, problems = records.read_all(two_experiments)
    assert problems == []
    assert [(record.table, record.title) for record in found] == [(TABLE, "no L1"), (TABLE, "proximal 0.001")]
    expected = replace(studies.STUDIES["l1-path"].experiments["no L1"].experiment, dataset="mnist_sample", epochs=2)
    assert found[0].experiment == expected
    assert found[1].experiment == replace(expected, l1=0.001, l1_mode="proximal")
    for record in found:
        assert sorted(record.results) == [0, 1]
        for seed, result in record.results.items():
            assert (result["epochs"], result["seeds_beside"]) == (2, [0, 1])
            words = [*PATH, *TWO, "--jobs", "2", "--runs-dir", str(two_experiments)]
            assert shlex.split(result["command"]) == ["train.py", *words]
            assert {path.name for path in (record.folder / f"seed-{seed}").iterdir()} == set(records.FILES)
    assert contents(two_experiments).keys() >= {Path(TABLE, "no L1", "experiment.json")}


def test_a_study_that_is_finished_is_skipped_and_stays_as_it_is(trained, capsys):
    before = contents(trained)
    train.main([*PATH, *TWO, "--runs-dir", str(trained)])
    out = capsys.readouterr().out
    assert "no L1; skipped: seeds 0-1 finished already (--force trains anew)\n" in out
    assert "tensors (--penalize weights); skipped: seeds 0-1 finished already" in out
    assert "training" not in out
    assert contents(trained) == before


def test_only_the_seeds_that_are_missing_are_trained(trained, capsys):
    before = contents(trained)
    shutil.rmtree(trained / TABLE / "proximal 0.001" / "seed-1")
    train.main([*PATH, *TWO, "--runs-dir", str(trained)])
    out = capsys.readouterr().out
    assert "no L1; skipped: seeds 0-1" in out
    assert "skipped: seed 0 finished already (--force trains anew); to train: seed 1\n" in out
    assert "training: one process (1 side by side)" in out
    assert "proximal 0.001, epoch 2/2, seed 1: " in out
    after = contents(trained)
    assert after.keys() == before.keys()
    new = Path(TABLE, "proximal 0.001", "seed-1")
    assert [name for name in before if after[name] != before[name] and new not in name.parents] == []


def test_what_is_finished_when_ctrl_c_comes_stays(trained, capsys, monkeypatch):
    shutil.rmtree(trained / TABLE / "proximal 0.001")
    before = contents(trained)
    write_run, written = records.write_run, []

    def interrupt_the_second(folder, run):
        if written:
            raise KeyboardInterrupt
        written.append(write_run(folder, run))
        return written[0]

    monkeypatch.setattr(records, "write_run", interrupt_the_second)
    words = [*PATH, *TWO, "--runs-at-once", "2", "--runs-dir", str(trained)]
    with pytest.raises(SystemExit) as caught:
        train.main(words)
    assert caught.value.code == 130
    assert capsys.readouterr().err.endswith(f"\n{INTERRUPTED}\n")
    monkeypatch.undo()
    assert written == [trained / TABLE / "proximal 0.001" / "seed-0"]
    assert records.finished_seeds(written[0].parent) == [0]
    assert [path.name for path in written[0].parent.iterdir() if path.name.startswith(".")] == []
    assert contents(trained).items() >= before.items()

    weights = (written[0] / "weights.pt").read_bytes()
    train.main(words)
    assert "to train: seeds 0-1\n" in capsys.readouterr().out  # both, as the bits of one depend on the other
    assert records.finished_seeds(written[0].parent) == [0, 1]
    assert (written[0] / "weights.pt").read_bytes() == weights


def test_force_trains_what_was_asked_for_anew(trained):
    before = contents(trained)
    train.main([*PATH, "--only", "no L1", "--seeds", "1", "--force", "--runs-dir", str(trained)])
    after = contents(trained)
    changed = {name for name in before if after[name] != before[name]}
    assert {name.parent for name in changed} == {Path(TABLE, "no L1", "seed-1")}
    assert json.loads(after[Path(TABLE, "no L1", "seed-1", "result.json")])["seeds_beside"] == [1]
    assert after.keys() == before.keys()


def test_a_study_that_was_edited_is_refused_until_force_replaces_it(trained, capsys, monkeypatch):
    before = contents(trained)
    study = studies.STUDIES["l1-path"]
    experiments = study.experiments | {"no L1": Entry("own", replace(studies.THIRD, lr=0.01))}
    monkeypatch.setitem(studies.STUDIES, "l1-path", replace(study, experiments=experiments))
    words = [*PATH, "--only", "no L1", "--seeds", "0", "--runs-dir", str(trained)]
    error = refused(words, capsys)
    assert "experiment.json: recorded with experiment lr 0.001, now 0.01;" in error
    assert "--force" in error
    assert str(trained / TABLE / "no L1") in error
    assert contents(trained) == before

    train.main([*words, "--force"])
    folder = Path(TABLE, "no L1")
    assert records.finished_seeds(trained / folder) == [0]  # seed 1 went with the old settings
    assert json.loads((trained / folder / "experiment.json").read_text())["experiment"]["lr"] == 0.01
    after = contents(trained)
    others = [name for name in before if folder not in name.parents]
    assert len(others) == 9
    assert all(after[name] == before[name] for name in others)


def test_an_experiment_that_fails_is_named_at_the_end_and_the_others_are_recorded(
    quick_study, tmp_path, capsys, monkeypatch
):
    load = data.load

    def load_strange_digits(name, data_dir, split_seed):
        dataset = load(name, data_dir, split_seed)
        if not split_seed:
            return dataset
        return replace(dataset, train=data.Split(dataset.train.images, dataset.train.labels + 100))

    monkeypatch.setattr(data, "load", load_strange_digits)
    words = ["--study", "quick", "--seeds", "0-1", "--threads", "1", "--runs-dir", str(tmp_path)]
    with pytest.raises(SystemExit) as caught:
        train.main(words)
    assert caught.value.code == 1
    captured = capsys.readouterr()
    failure, advice = captured.err.splitlines()
    assert failure.startswith("failed: other split, seeds 0-1: IndexError: Target 10")
    assert advice == "finished runs are kept; the same command tries the others again"
    assert failure in captured.out  # when it happened
    assert records.finished_seeds(tmp_path / "quick" / "first") == [0, 1]
    left = contents(tmp_path / "quick" / "other split").keys()
    assert left == {Path("experiment.json"), Path("checkpoint-0-1.pt")}

    monkeypatch.setattr(data, "load", load)
    train.main([*words, "--jobs", "1"])
    assert "first; skipped: seeds 0-1" in capsys.readouterr().out
    assert records.finished_seeds(tmp_path / "quick" / "other split") == [0, 1]


def test_a_run_that_cannot_be_written_is_a_failure_and_the_next_is_tried(trained, capsys, monkeypatch):
    shutil.rmtree(trained / TABLE / "no L1" / "seed-0")
    shutil.move(trained / TABLE / "no L1" / "seed-1", trained / "elsewhere")
    (trained / TABLE / "no L1" / "seed-0").write_text("a file")
    with pytest.raises(SystemExit) as caught:
        train.main([*PATH, *TWO, "--runs-at-once", "1", "--jobs", "2", "--runs-dir", str(trained)])
    assert caught.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith(f"failed: no L1, seed 0: {trained / TABLE / 'no L1' / 'seed-0'}: is a file")
    assert records.finished_seeds(trained / TABLE / "no L1") == [1]


def test_an_experiment_that_another_command_trains_is_left_to_it_and_the_next_is_trained(trained, capsys):
    for title in ("no L1", "proximal 0.001"):
        shutil.rmtree(trained / TABLE / title / "seed-1")
    with checkpoints.lock(trained / TABLE / "no L1"), pytest.raises(SystemExit) as caught:
        train.main([*PATH, *TWO, "--runs-dir", str(trained)])
    assert caught.value.code == 3
    captured = capsys.readouterr()
    assert captured.err.startswith(f"not trained: no L1: process {os.getpid()} on {socket.gethostname()} since 2")
    assert captured.err.endswith(" is training it; try again when it has ended\n")
    assert captured.err in captured.out  # before the others were trained
    assert records.finished_seeds(trained / TABLE / "no L1") == [0]
    assert records.finished_seeds(trained / TABLE / "proximal 0.001") == [0, 1]


def test_titles_with_the_same_settings_are_trained_once_and_that_is_said(quick_study, tmp_path, capsys):
    words = ["--study", "quick", "--seeds", "0", "--threads", "1", "--runs-dir", str(tmp_path)]
    train.main([*words, "--only", "first again"])
    out = capsys.readouterr().out
    assert "first again: the same settings as first, trained under that title\n" in out
    assert "first, epoch 1/1, seed 0: " in out
    assert [path.name for path in (tmp_path / "quick").iterdir()] == ["first"]

    train.main([*words, "--only", "first", "first again"])
    out = capsys.readouterr().out
    assert "first; skipped: seed 0 finished already" in out
    assert "first again: the same settings as first, trained under that title\n" in out
    assert "training:" not in out
    assert [path.name for path in (tmp_path / "quick").iterdir()] == ["first"]


def row_of(table, title):
    (row,) = (line for line in table.splitlines() if line.startswith(f"{title}  "))
    return " ".join(row.split())


def test_the_list_has_every_study_and_title_and_what_of_it_is_trained(tmp_path, capsys):
    folders = [f"fashion-mlp/L1/seed-{seed}" for seed in (0, 1, 7)]
    folders += [f"fashion-mlp,dataset=fashion_mnist_sample/{title}/seed-2" for title in ("L1", "L2")]
    for folder in (*folders, "l1-path/no L1/seed-3"):
        (tmp_path / folder).mkdir(parents=True)
        for file in records.FILES[: 3 if "7" in folder else 4]:
            (tmp_path / folder / file).write_text(json.dumps(made_up.result(0, 0.5)))
    before = contents(tmp_path)
    train.main(["--list", "--runs-dir", str(tmp_path)])
    out = capsys.readouterr().out
    starts = [out.index(f"{name}: {study.asks}\n") for name, study in studies.STUDIES.items()]
    assert starts == sorted(starts)
    ends = [*starts[1:], len(out)]
    tables = {name: out[start:end] for name, start, end in zip(studies.STUDIES, starts, ends, strict=True)}
    for name, study in studies.STUDIES.items():
        for title, entry in study.experiments.items():
            assert row_of(tables[name], title).startswith(f"{title} {entry.kind} ")
    # seed 7 lacks a file
    assert row_of(tables["fashion-mlp"], "L1") == "L1 as run 94,154 seeds 0-1, seed 2 on fashion_mnist_sample"
    assert " 94,154 seed 2 on fashion_mnist_sample " in row_of(tables["fashion-mlp"], "L2")
    assert row_of(tables["l1-path"], "no L1") == "no L1 own 94,154 seed 3"
    assert out.count("seed 3") == 1
    assert row_of(tables["mnist-dropout-ghost"], "BN").endswith("the same settings as L2+BN")
    assert contents(tmp_path) == before


def test_the_list_of_one_study_is_that_of_the_settings_beside_it(trained, capsys):
    where = ["--study", "l1-path", "--list", "--runs-dir", str(trained)]
    train.main([*where, "--dataset", "mnist_sample", "--epochs", "2"])
    out = capsys.readouterr().out
    assert row_of(out, "no L1") == "no L1 own 94,154 seeds 0-1"
    assert row_of(out, "proximal 0.001") == "proximal 0.001 own 94,154 seeds 0-1"
    assert row_of(out, "proximal 0.003") == "proximal 0.003 own 94,154"
    assert "fashion-mlp" not in out
    train.main([*where, "--only", "no L1"])
    out = capsys.readouterr().out
    assert row_of(out, "no L1") == "no L1 own 94,154"  # nothing at its own settings
    assert "proximal" not in out
    train.main(["--study", "mnist-norms", "--only", "LN", "--norm", "batch", "--list"])  # GN would not go with it
    assert row_of(capsys.readouterr().out, "LN").startswith("LN as run ")


def test_the_summary_of_a_study_has_the_layers_of_every_experiment(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train.main(["--study", "mnist-norms", "--summary"])
    out = capsys.readouterr().out
    titles = [line.split(":")[0] for line in out.splitlines() if line.endswith("parameters a run")]
    assert titles == list(studies.STUDIES["mnist-norms"].experiments)
    assert "LN, per pixel: 44,712 parameters a run" in out
    train.main(["--study", "mnist-norms", "--only", "LN", "--norm", "batch", "--summary"])
    (heading,) = (line for line in capsys.readouterr().out.splitlines() if "a run" in line)
    assert heading.startswith("LN: ")
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------------------------------
# Data


@pytest.fixture
def no_data(tmp_path, monkeypatch):
    """A machine with no full data set and no network."""
    monkeypatch.setattr(finding, "DEBIAN_FASHION_MNIST", tmp_path / "none")
    monkeypatch.setattr(downloading, "reach", lambda urls: dict.fromkeys(urls, "no network"))
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


def test_a_study_of_the_sample_is_a_table_of_its_own(no_data, tmp_path, capsys):
    words = [*no_data, "--study", "l1-path", "--only", "no L1", "--seeds", "0"]
    train.main(words)
    assert "WARNING: training on the small embedded sample fashion_mnist_sample" in capsys.readouterr().err
    (record,), problems = records.read_all(tmp_path / "runs")
    assert (record.table, problems) == ("l1-path,dataset=fashion_mnist_sample,epochs=1", [])
    assert record.title == "no L1"
    assert record.experiment.dataset == record.dataset["name"] == "fashion_mnist_sample"

    train.main([*words, "--dataset", "fashion_mnist_sample"])  # the same, asked for
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "no L1; skipped: seed 0 finished already" in captured.out
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [record.table]


def test_images_of_digits_are_replaced_by_their_sample_too(no_data, tmp_path, capsys):
    args = train.make_parser().parse_args([*no_data, "--study", "ghost-size", "--lr", "0.1"])
    with contextlib.ExitStack() as locks:
        tasks, _ = make_tasks(args, *train.what_is_asked(args), [0, 1], locks)
    assert capsys.readouterr().err.count("WARNING: training on the small embedded sample mnist_sample") == 1
    table = tmp_path / "runs" / "ghost-size,dataset=mnist_sample,epochs=1,lr=0.1"
    assert [task.folder for task in tasks] == [table / title for title in studies.STUDIES["ghost-size"].experiments]
    assert {(task.experiment.dataset, task.dataset.name) for task in tasks} == {("mnist_sample", "mnist_sample")}
    assert all(task.seeds == [0, 1] for task in tasks)


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
    error = refused([*no_data, *words], capsys)
    assert "Ways to get it" in error
    assert str(tmp_path / "data") in error
    assert not (tmp_path / "runs").exists()


def test_a_data_dir_that_is_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    words = ["--data-dir", str(tmp_path / "file"), "--runs-dir", str(tmp_path / "runs")]
    assert "is a file" in refused(words, capsys)
    assert not (tmp_path / "runs").exists()


# ---------------------------------------------------------------------------------------------------------------------
# Ctrl-C


@pytest.fixture
def two_processes(tmp_path):
    """A command whose two processes have begun to train."""
    (tmp_path / "torchvision.py").write_text("import os; os._exit(77)")  # that nothing imports where the data are there
    words = ["--dataset", "mnist_sample", "--epochs", "100000", "--seeds", "0-3", "--jobs", "2"]
    process = subprocess.Popen(
        [sys.executable, "train.py", *words, "--runs-dir", str(tmp_path / "runs")],
        env=os.environ | dict(PYTHONPATH=str(tmp_path)),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell's & ignores it
    )
    for line in process.stdout:
        if line.startswith("epoch"):
            break
    yield process
    for _ in range(100):  # the others end a moment after their parent
        if not processes_of_group(process.pid):
            break
        time.sleep(0.1)
    assert processes_of_group(process.pid) == []


@pytest.mark.skipif(os.name != "posix", reason="sends a signal to a process group")
def test_ctrl_c_pressed_twice_ends_every_process_with_one_line(two_processes, tmp_path):
    os.killpg(two_processes.pid, signal.SIGINT)
    time.sleep(0.05)
    os.killpg(two_processes.pid, signal.SIGINT)
    _, error = two_processes.communicate(timeout=60)
    assert two_processes.returncode == 130
    assert error == f"\n{INTERRUPTED}\n"
    left = {path.name for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    assert left == {"experiment.json", "checkpoint-0-1.pt", "checkpoint-2-3.pt"}


@pytest.mark.skipif(os.name != "posix", reason="ends a process in POSIX's way")
def test_processes_end_with_a_parent_that_is_killed_and_its_lock_opens(two_processes, tmp_path, capsys):
    words = ["--dataset", "mnist_sample", "--epochs", "100000", "--seeds", "0", "--runs-dir", str(tmp_path / "runs")]
    with pytest.raises(SystemExit) as caught:
        train.main(words)
    assert caught.value.code == 3
    captured = capsys.readouterr()
    start = (
        f"not trained: mlp1,dataset=mnist_sample,epochs=100000: process {two_processes.pid} on {socket.gethostname()}"
    )
    assert captured.err.startswith(f"{start} since ")
    assert captured.err in captured.out

    two_processes.kill()
    two_processes.wait()
    folder = tmp_path / "runs" / "single" / "mlp1,dataset=mnist_sample,epochs=100000"
    with checkpoints.lock(folder):
        assert [checkpoint.seeds for checkpoint in checkpoints.unfinished(folder)] == [[0, 1], [2, 3]]


def interrupt(*_):
    raise KeyboardInterrupt  # and no signal, which a shell's & has ignored


def test_ctrl_c_ends_a_training_in_this_process(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(train.Progress, "show", interrupt)
    words = ["--dataset", "mnist_sample", "--epochs", "100000", "--seeds", "0", "--runs-dir", str(tmp_path)]
    for force, says in (([], INTERRUPTED), (["--force"], INTERRUPTED.replace("command", "command without --force"))):
        with pytest.raises(SystemExit) as caught:
            train.main([*words, *force])
        assert caught.value.code == 130
        assert capsys.readouterr().err == f"\n{says}\n"
        left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
        assert left == {"experiment.json", "checkpoint-0.pt"}


def processes_of_group(group):
    listing = subprocess.run(["ps", "-eo", "pgid=,args="], capture_output=True, text=True, check=True).stdout
    return [line for line in listing.splitlines() if line.split()[0] == str(group)]


def test_a_network_that_does_not_fit_is_refused_before_a_download(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(downloading, "download", lambda *_: pytest.fail("downloads"))
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
    assert "--model cnn2: of images of 32×32 pixels it leaves 2×2 pixels" in refused(words, capsys)
    assert list(tmp_path.iterdir()) == []
