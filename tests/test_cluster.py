"""Trainings on a Dask cluster: a real scheduler, and workers in processes of their own."""

import os
import signal
import socket
import sys
import time

import pytest
from bits import outcome

import data
import train
from engine import checkpoints, cluster, records, workers

MAY_DIFFER = ("seconds", "finished", "command")  # of a result, and is no part of its bits
SEEDS = ["--dataset", "mnist_sample", "--seeds", "0-5", "--runs-at-once", "2", "--threads", "1"]
WORDS = [*SEEDS, "--epochs", "4", "--patience", "3", "--dropout", "0.2", "--l2", "0.01"]
LONG = [*SEEDS, "--epochs", "100000"]


def refused(address, capsys, tmp_path):
    """The one line that a command answers with whose cluster cannot be used; nothing is written."""
    with pytest.raises(SystemExit) as caught:
        train.main([*WORDS, "--cluster", address, "--runs-dir", str(tmp_path / "runs")])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"train.py: error: --cluster {address}: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()
    return error.partition(f"--cluster {address}: ")[2]


@pytest.mark.parametrize("address", ["", "localhost", "localhost:8786", "http://localhost:8786", "tcp://localhost"])
def test_what_is_no_address_is_refused(address, capsys, tmp_path):
    assert refused(address, capsys, tmp_path).startswith("expected an address as a scheduler prints it, such as tcp://")


def test_where_dask_is_not_installed_one_line_says_how_to_install_it(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "distributed", None)
    line = refused("tcp://localhost:8786", capsys, tmp_path)
    assert line == "needs Dask; pip install -r requirements-cluster.txt\n"


@pytest.fixture
def impatient(monkeypatch):
    pytest.importorskip("distributed", reason="needs requirements-cluster.txt")
    monkeypatch.setattr(cluster, "REACH_SECONDS", 1)


@pytest.mark.parametrize("listens", [True, False])
def test_an_address_where_no_scheduler_answers_is_refused(listens, impatient, capsys, tmp_path):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if listens:
            silent.listen()
        line = refused(f"tcp://127.0.0.1:{silent.getsockname()[1]}", capsys, tmp_path)
    assert line.startswith("no scheduler there (")
    assert line.endswith("); start one with python -m dask scheduler\n")


# ---------------------------------------------------------------------------------------------------------------------
# With workers


@pytest.fixture(scope="module")
def dask():
    """A scheduler with two workers."""
    distributed = pytest.importorskip("distributed", reason="needs requirements-cluster.txt")
    settings = dict(n_workers=2, threads_per_worker=1, processes=True, memory_limit=0, dashboard_address=":0")
    with distributed.LocalCluster(**settings) as started:
        yield started


@pytest.fixture(autouse=True)
def small(digits, monkeypatch):
    """Parts of the sample, whose epochs are short, and a checkpoint after each of them."""
    parts = {name: getattr(digits, name) for name in ("train", "validation", "test")}
    parts = {name: data.Split(split.images[::6], split.labels[::6]) for name, split in parts.items()}
    monkeypatch.setattr(data, "load", lambda *which: data.Dataset(**{**vars(digits), **parts}))
    monkeypatch.setattr(checkpoints, "SECONDS_APART", 0)
    monkeypatch.setattr(checkpoints, "WRITINGS_APART", 0)


@pytest.fixture
def here(tmp_path):
    """What the same units leave that are trained in this process."""
    for seeds in ("0-1", "2-3", "4-5"):
        train.main([*WORDS, "--seeds", seeds, "--runs-dir", str(tmp_path / "here")])
    return outcome(tmp_path / "here", MAY_DIFFER)


def train_on(dask, words, runs_dir):
    train.main([*words, "--cluster", dask.scheduler_address, "--runs-dir", str(runs_dir)])


def wait_for(condition):
    """What `condition()` is once it is true."""
    for _ in range(600):
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError("nothing happens")


def training_on(dask):
    """The processes of the workers that train."""
    return [
        worker.pid
        for worker in dask.workers.values()
        if getattr(dask.scheduler.workers.get(worker.worker_address), "processing", None)
    ]


def test_the_bits_are_those_of_this_machine(dask, here, tmp_path, capsys):
    train_on(dask, [*WORDS, "--jobs", "2"], tmp_path / "runs")
    assert outcome(tmp_path / "runs", MAY_DIFFER) == here
    out = capsys.readouterr().out
    assert f"training on {dask.scheduler_address}: 2 processes (2+2+2 side by side), 1 thread each\n" in out


def test_what_a_worker_had_that_was_killed_is_trained_by_another_with_the_same_bits(
    dask, here, tmp_path, capsys, monkeypatch
):
    killed, write_run = [], records.write_run

    def write_and_kill(folder, run):
        if not killed:
            killed.append(wait_for(lambda: training_on(dask))[0])
            os.kill(killed[0], signal.SIGKILL)
        return write_run(folder, run)

    monkeypatch.setattr(records, "write_run", write_and_kill)
    train_on(dask, WORDS, tmp_path / "runs")
    assert outcome(tmp_path / "runs", MAY_DIFFER) == here
    assert " is gone; its units go to others: seeds " in capsys.readouterr().out


def test_what_was_begun_here_goes_on_there_with_the_same_bits(dask, here, tmp_path, capsys, monkeypatch):
    write = checkpoints.Checkpoint.write

    def write_and_stop(checkpoint, epoch, state):
        write(checkpoint, epoch, state)
        if epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints.Checkpoint, "write", write_and_stop)
    with pytest.raises(SystemExit):
        train.main([*WORDS, "--seeds", "0-1", "--runs-dir", str(tmp_path / "runs")])
    monkeypatch.setattr(checkpoints.Checkpoint, "write", write)
    train_on(dask, WORDS, tmp_path / "runs")
    assert "goes on: seeds 0-1 after epoch 2; to train: seeds 2-5" in capsys.readouterr().out
    found = outcome(tmp_path / "runs", MAY_DIFFER)
    for name in found:
        if name.endswith(("seed-0/result.json", "seed-1/result.json")):
            assert found[name]["resumed_at"] == [2]
            found[name]["resumed_at"] = []
    assert found == here


def test_ctrl_c_ends_what_is_trained_there(dask, tmp_path, capsys, monkeypatch):
    def interrupt(futures):
        wait_for(lambda: len(training_on(dask)) == 2)
        raise KeyboardInterrupt

    monkeypatch.setattr("distributed.as_completed", interrupt)
    with pytest.raises(SystemExit) as caught:
        train_on(dask, LONG, tmp_path / "runs")
    assert caught.value.code == 130
    from distributed import Client

    with Client(dask) as client:
        wait_for(lambda: not any(client.run(lambda dask_worker: len(dask_worker.active_threads)).values()))


def test_a_worker_with_other_code_is_refused_before_anything_is_written(dask, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(cluster.code(), "training.py", "another")  # here; the workers have their own
    line = refused(dask.scheduler_address, capsys, tmp_path)
    assert line.endswith(" has another training.py; start it in a copy of this folder, and again after every change\n")


def test_a_worker_with_other_code_that_comes_later_fails_its_unit(digits):
    failure = cluster._train(None, digits, "cpu", cluster.code() | {"training.py": "another"})
    assert isinstance(failure, workers.Failure)
    assert failure.startswith("a worker that came later has another training.py; start it in a copy of this folder")
