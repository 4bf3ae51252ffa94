"""Trainings on a Dask cluster: a real scheduler, and workers in other processes."""

import io
import logging
import os
import signal
import socket
import sys
import time

import pytest
from helpers import cut_dataset, end_with, read_outcome, refuse

import data
import train
from engine import checkpoints, cluster, records, workers

MAY_DIFFER = ("seconds", "finished", "command")  # of a result, and is no part of its bits
SEEDS = ["--dataset", "mnist_sample", "--seeds", "0-5", "--runs-at-once", "2", "--threads", "1"]
WORDS = [*SEEDS, "--epochs", "4", "--patience", "3", "--dropout", "0.2", "--l2", "0.01"]
LONG = [*SEEDS, "--epochs", "100000"]


def refuse_cluster(address, capsys, tmp_path):
    """Return the line with which a command refuses a cluster that cannot be used; nothing is written."""
    line = refuse(train.main, [*WORDS, "--cluster", address, "--runs-dir", tmp_path / "runs"], capsys)
    assert not (tmp_path / "runs").exists()
    start = f"train.py: error: --cluster {address}: "
    assert line.startswith(start)
    return line.removeprefix(start)


@pytest.mark.parametrize("address", ["", "localhost", "localhost:8786", "http://localhost:8786", "tcp://localhost"])
def test_what_is_no_address_is_refused(address, capsys, tmp_path):
    assert refuse_cluster(address, capsys, tmp_path).startswith(
        "expected the address that a scheduler prints, such as tcp://"
    )


def test_where_dask_is_not_installed_one_line_says_how_to_install_it(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "distributed", None)
    line = refuse_cluster("tcp://localhost:8786", capsys, tmp_path)
    assert line == "needs Dask; pip install -r requirements-cluster.txt"


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
        line = refuse_cluster(f"tcp://127.0.0.1:{silent.getsockname()[1]}", capsys, tmp_path)
    assert line.startswith("no scheduler there (")
    assert line.endswith("); start one with python -m dask scheduler")


# ---------------------------------------------------------------------------------------------------------------------
# With workers


@pytest.fixture(scope="module")
def dask():
    """Start a scheduler with two workers."""
    distributed = pytest.importorskip("distributed", reason="needs requirements-cluster.txt")
    settings = dict(n_workers=2, threads_per_worker=1, processes=True, memory_limit=0, dashboard_address=":0")
    with distributed.LocalCluster(**settings) as started:
        yield started


@pytest.fixture(autouse=True)
def small(digits, monkeypatch):
    """Train on parts of the sample, whose epochs are short, and write a checkpoint after each epoch."""
    few_digits = cut_dataset(digits, train=600, validation=100, test=100)
    monkeypatch.setattr(data, "load", lambda *which: few_digits)
    monkeypatch.setattr(checkpoints, "SECONDS_APART", 0)
    monkeypatch.setattr(checkpoints, "WRITINGS_APART", 0)


@pytest.fixture
def here(tmp_path):
    """Return what the same units leave that are trained in this process."""
    for seeds in ("0-1", "2-3", "4-5"):
        train.main([*WORDS, "--seeds", seeds, "--runs-dir", str(tmp_path / "here")])
    return read_outcome(tmp_path / "here", MAY_DIFFER)


def train_on(dask, words, runs_dir):
    train.main([*words, "--cluster", dask.scheduler_address, "--runs-dir", str(runs_dir)])


def wait_for(condition):
    """Return what `condition()` is once it is true."""
    for _ in range(600):
        if value := condition():
            return value
        time.sleep(0.1)
    raise AssertionError("nothing happens")


def find_training(dask):
    """Return the processes of the workers that train."""
    return [
        worker.pid
        for worker in dask.workers.values()
        if getattr(dask.scheduler.workers.get(worker.worker_address), "processing", None)
    ]


def test_what_dask_logs_while_a_connection_fails_is_not_shown(dask, monkeypatch, capsys, tmp_path):
    log, shown = logging.getLogger("distributed"), io.StringIO()

    def fail(*_, **__):
        log.error("a traceback of many lines")
        raise OSError("lost")

    handler = logging.StreamHandler(shown)
    log.addHandler(handler)
    monkeypatch.setattr("distributed.Client", fail)
    line = refuse_cluster(dask.scheduler_address, capsys, tmp_path)
    log.removeHandler(handler)
    assert line == "no scheduler there (lost); start one with python -m dask scheduler"
    assert shown.getvalue() == ""


def test_the_bits_are_those_of_this_machine(dask, here, tmp_path, capsys):
    train_on(dask, [*WORDS, "--jobs", "2"], tmp_path / "runs")
    assert read_outcome(tmp_path / "runs", MAY_DIFFER) == here
    out = capsys.readouterr().out
    assert f"training on {dask.scheduler_address}: 2 processes (2+2+2 seeds side by side), 1 thread each\n" in out


def test_the_units_of_a_worker_that_was_killed_are_trained_by_another_with_the_same_bits(
    dask, here, tmp_path, capsys, monkeypatch
):
    killed, write_run = [], records.write_run

    def write_and_kill(folder, run):
        if not killed:
            killed.append(wait_for(lambda: find_training(dask))[0])
            os.kill(killed[0], signal.SIGKILL)
        return write_run(folder, run)

    monkeypatch.setattr(records, "write_run", write_and_kill)
    train_on(dask, WORDS, tmp_path / "runs")
    assert read_outcome(tmp_path / "runs", MAY_DIFFER) == here
    assert " is gone; other workers train its seeds: seeds " in capsys.readouterr().out


def test_what_was_begun_here_is_resumed_there_with_the_same_bits(dask, here, tmp_path, capsys, monkeypatch):
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
    assert "resumed: seeds 0-1 after epoch 2; to train: seeds 2-5" in capsys.readouterr().out
    outcome = read_outcome(tmp_path / "runs", MAY_DIFFER)
    for name in outcome:
        if name.endswith(("seed-0/result.json", "seed-1/result.json")):
            assert outcome[name]["resumed_at"] == [2]
            outcome[name]["resumed_at"] = []
    assert outcome == here


def test_units_that_were_planned_here_keep_their_threads_there(dask, tmp_path, monkeypatch):
    words = ["--dataset", "mnist_sample", "--epochs", "1", "--seeds", "0-1"]

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(workers, "train_units", stop)
    with pytest.raises(SystemExit):
        train.main([*words, "--threads", "2", "--jobs", "1", "--runs-dir", str(tmp_path)])
    train_on(dask, words, tmp_path)
    ((record,), _) = records.read_all(tmp_path)
    assert [record.results[seed]["threads"] for seed in (0, 1)] == [2, 2]
    assert record.results[0]["seeds_beside"] == [0, 1]


def test_ctrl_c_ends_what_is_trained_there(dask, tmp_path, capsys, monkeypatch):
    def interrupt(futures):
        wait_for(lambda: len(find_training(dask)) == 2)
        raise KeyboardInterrupt

    monkeypatch.setattr("distributed.as_completed", interrupt)
    end_with(130, lambda words: train_on(dask, words, tmp_path / "runs"), LONG, capsys)
    from distributed import Client

    with Client(dask) as client:
        wait_for(lambda: not any(client.run(lambda dask_worker: len(dask_worker.active_threads)).values()))


def test_a_worker_with_other_code_is_refused_before_anything_is_written(dask, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(cluster.hash_code(), "training.py", "another")  # here; the workers have their own
    line = refuse_cluster(dask.scheduler_address, capsys, tmp_path)
    assert line.endswith(" has a different training.py; restart it in an up-to-date copy of this folder")


def test_a_worker_with_other_code_that_comes_later_fails_its_unit(digits):
    result = cluster._train(3, None, digits, "cpu", cluster.hash_code() | {"training.py": "another"})
    assert (result.number, result.runs) == (3, [])
    says = "a worker that joined later has a different training.py; restart it in an up-to-date copy of this folder"
    assert result.error.startswith(says)


def test_every_difference_between_codes_is_found():
    ours = cluster.hash_code()
    assert {"train.py", "engine/cluster.py", "studies/fashion_mlp.py", "sources/catalogue.py"} <= ours.keys()
    assert cluster.compare_code(dict(ours)) is None
    for changed in (ours | {"data.py": "another"}, {name: ours[name] for name in ours if name != "data.py"}):
        assert cluster.compare_code(changed).startswith("has a different data.py; restart it in an up")
    assert cluster.compare_code(ours | {"studies/mine.py": "new"}).startswith("has a different studies/mine.py; ")
    says = "cannot load the code (No module named 'engine'); restart it in an up-to-date copy of"
    assert cluster.compare_code(ModuleNotFoundError("No module named 'engine'")).startswith(says)
