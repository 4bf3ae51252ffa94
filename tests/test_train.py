import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from joblib.externals.loky import reusable_executor

import records
import sources
import train

ROOT = Path(__file__).resolve().parents[1]
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
        (["--seeds", "99999999999"], "expected seeds such as 0-4"),
        (["--jobs", "0"], "0: expected a whole number from 1 to 1024"),
        (["--threads", "many"], "many: expected a whole number from 1 to 1024"),
        (["--colour", "red"], "unrecognized arguments: --colour red"),
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


@pytest.mark.parametrize("words", [["--help"], ["--l1", "-1"], ["--seeds", "4-0"], ["--model", "mlp9"]])
def test_help_and_refusals_answer_before_anything_heavy_is_imported(words):
    code = f"""
import sys, train
try:
    train.main({words!r})
except SystemExit:
    heavy = {{"torch", "torchvision", "sklearn", "scipy", "joblib"}} & set(sys.modules)
    sys.exit(f"imported: {{heavy}}" if heavy else 0)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def test_seeds_are_named_as_a_printer_takes_pages():
    assert train.parse_seeds("0-4") == [0, 1, 2, 3, 4]
    assert train.parse_seeds("7") == [7]
    assert train.parse_seeds("0,3,5-9") == [0, 3, 5, 6, 7, 8, 9]
    assert train.parse_seeds("4, 2") == [4, 2]
    for text in ("0-4", "7", "0,3,5-9"):
        assert train.seed_list(train.parse_seeds(text)).split()[1] == text


@pytest.mark.parametrize(
    ("seeds", "options", "sizes", "jobs", "threads"),
    [
        (5, {}, [2, 3], 2, 1),
        (1, {}, [1], 1, 1),
        (10, {}, [5, 5], 2, 1),
        (25, {}, [8, 8, 9], 2, 1),
        (5, dict(jobs=1), [5], 1, 1),
        (5, dict(runs_at_once=1), [1, 1, 1, 1, 1], 2, 1),
        (5, dict(runs_at_once=5), [5], 1, 1),
        (4, dict(jobs=4), [1, 1, 1, 1], 4, 1),
        (4, dict(threads=3), [2, 2], 2, 3),
    ],
)
def test_a_plan_keeps_two_cores_busy(seeds, options, sizes, jobs, threads, monkeypatch):
    monkeypatch.setattr("joblib.cpu_count", lambda: 2)
    plan = train.make_plan(list(range(seeds)), "mlp1", **options)
    assert [len(unit) for unit in plan.units] == sizes
    assert sum(plan.units, []) == list(range(seeds))  # noqa: RUF017 a handful of lists
    assert (plan.jobs, plan.threads) == (jobs, threads)


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
    words = [*QUICK, "--dropout", "0.2", "--seeds", "0-3", "--threads", "1", "--runs-at-once", "2"]
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
# Data


@pytest.fixture
def no_data(tmp_path, monkeypatch):
    """A machine with no full data set and no network."""
    monkeypatch.setattr(sources, "DEBIAN_FASHION_MNIST", tmp_path / "none")
    monkeypatch.setattr(sources, "reach", lambda urls: dict.fromkeys(urls, "no network"))
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


@pytest.mark.parametrize("dataset", ["fashion_mnist", "mnist", "cifar10"])
def test_a_data_set_that_was_named_is_never_replaced(dataset, no_data, tmp_path, capsys):
    error = refused([*no_data, "--dataset", dataset], capsys)
    assert "Ways to get it" in error
    assert str(tmp_path / "data") in error
    assert not (tmp_path / "runs").exists()


def test_a_data_dir_that_is_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    words = ["--data-dir", str(tmp_path / "file"), "--runs-dir", str(tmp_path / "runs")]
    assert "is a file" in refused(words, capsys)
    assert not (tmp_path / "runs").exists()


def test_training_from_files_that_are_there_does_not_import_torchvision(tmp_path):
    code = f"""
import sys, train
train.main({[*QUICK, "--seeds", "0", "--runs-dir", str(tmp_path)]!r})
sys.exit("torchvision" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


# ---------------------------------------------------------------------------------------------------------------------
# Ctrl-C


@pytest.mark.skipif(os.name != "posix", reason="sends a signal to a process group")
@pytest.mark.parametrize("seeds", ["0-3", "0"], ids=["two processes", "one process"])
def test_ctrl_c_ends_every_process_with_one_line(seeds, tmp_path):
    words = ["--dataset", "mnist_sample", "--epochs", "100000", "--seeds", seeds, "--jobs", "2"]
    process = subprocess.Popen(
        [sys.executable, "train.py", *words, "--runs-dir", str(tmp_path)],
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
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.split("\n") == ["", "interrupted: finished runs are kept; the same command trains what is missing", ""]
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["experiment.json"]
    for _ in range(100):  # joblib's own helper process ends a moment after its parent
        if not processes_of_group(process.pid):
            break
        time.sleep(0.1)
    assert processes_of_group(process.pid) == []


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_a_killed_process_is_said_with_one_line(tmp_path, capsys, monkeypatch):
    def kill_a_worker(progress, rows):
        os.kill(next(iter(reusable_executor._executor._processes)), signal.SIGKILL)

    monkeypatch.setattr(train.Progress, "show", kill_a_worker)
    words = ["--dataset", "mnist_sample", "--epochs", "100000", "--seeds", "0-1", "--jobs", "2"]
    assert "a training process was killed" in refused([*words, "--runs-dir", str(tmp_path)], capsys)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["experiment.json"]


def processes_of_group(group):
    listing = subprocess.run(["ps", "-eo", "pgid=,args="], capture_output=True, text=True, check=True).stdout
    return [line for line in listing.splitlines() if line.split()[0] == str(group)]
