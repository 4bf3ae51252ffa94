"""Trainings that are killed and typed again, until they end, against trainings that are not."""

import contextlib
import itertools
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from functools import partial

import pytest

import checkpoints
import data
import train

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills processes in POSIX's way")

TIMES = ("seconds", "resumed_at", "finished", "command")  # of a result: what an interruption may change
SMALL = ["--dataset", "mnist_sample", "--threads", "1"]
MLP = [*SMALL, "--seeds", "0-2", "--runs-at-once", "3", "--lr", "0.01", "--dropout", "0.2"]
MLP += ["--epochs", "12", "--patience", "2", "--l1", "1e-4", "--l1-mode", "proximal"]
CNN = [*SMALL, "--model", "cnn1", "--seeds", "0-1", "--runs-at-once", "2", "--epochs", "3", "--batch-size", "50"]
CNN += ["--optimizer", "sgd", "--lr", "0.1", "--lr-scheduler", "one_cycle", "--rotation", "10", "--dropout", "0.1"]


@pytest.fixture(autouse=True)
def often(digits, monkeypatch):
    """A checkpoint after every epoch, and parts of the sample, whose epochs are short."""
    monkeypatch.setattr(checkpoints, "SECONDS_APART", 0)
    monkeypatch.setattr(checkpoints, "WRITINGS_APART", 0)
    counts = dict(train=300, validation=100, test=100)
    parts = {}
    for name, count in counts.items():
        split = getattr(digits, name)
        every = len(split) // count  # the images come sorted by class
        parts[name] = data.Split(split.images[::every][:count], split.labels[::every][:count])
    monkeypatch.setattr(data, "load", lambda *which: data.Dataset(**{**vars(digits), **parts}))


def start(words, runs_dir, before=lambda: None):
    """The command in a process of its own, forked from here so that nothing has to be imported again."""

    def run():
        with open(f"{runs_dir}.log", "a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            before()
            train.main([*words, "--runs-dir", str(runs_dir)])

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def outcome(runs_dir):
    """Every file of the runs that is to be the same, {name: content}."""
    found = {str(path.relative_to(runs_dir)): path.read_bytes() for path in runs_dir.rglob("*") if path.is_file()}
    for name, content in found.items():
        if name.endswith("result.json"):
            found[name] = {key: value for key, value in json.loads(content).items() if key not in TIMES}
    return found


def log_of(runs_dir):
    return runs_dir.with_name(f"{runs_dir.name}.log").read_text()


@pytest.fixture
def kills(request):
    return request.config.getoption("--kills")


@pytest.mark.parametrize("words", [MLP, CNN], ids=["early stopping", "one cycle"])
def test_a_training_that_is_killed_at_random_moments_ends_with_the_same_bits(words, kills, tmp_path):
    started = time.monotonic()
    train.main([*words, "--runs-dir", str(tmp_path / "whole")])
    longest = time.monotonic() - started
    whole = outcome(tmp_path / "whole")
    killed = trainings = 0
    while killed < kills:
        trainings += 1
        runs_dir = tmp_path / str(trainings)
        status = None
        while status != 0:
            process = start(words, runs_dir)
            process.join(random.uniform(0, longest))
            process.kill()
            process.join()
            status = process.exitcode
            assert status in (0, -signal.SIGKILL), log_of(runs_dir)
            killed += status != 0
        assert outcome(runs_dir) == whole
    print(f"{killed} kills, {trainings} trainings with the same bits")


TINY = [*SMALL, "--seeds", "0-1", "--runs-at-once", "2", "--epochs", "2", "--batch-size", "100"]
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir")  # and files opened for writing


@pytest.fixture
def whole(tmp_path):
    train.main([*TINY, "--runs-dir", str(tmp_path / "whole")])
    return outcome(tmp_path / "whole")


def test_a_training_that_is_killed_before_any_change_of_a_file_ends_with_the_same_bits(whole, kills, tmp_path):
    def kill_before(number, runs_dir):
        """Have this process killed before its change number so-and-so of what is under `runs_dir`."""
        changes = itertools.count()

        def watch(event, arguments):
            changing = event in CHANGES or (event == "open" and str(arguments[1])[0] in "wxa")
            if changing and str(arguments[0]).startswith(str(runs_dir)) and next(changes) == number:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)

    for number in itertools.count(step=max(1, 24 // kills)):  # all of them from --kills 24 on
        runs_dir = tmp_path / str(number)
        process = start(TINY, runs_dir, partial(kill_before, number, runs_dir))
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), log_of(runs_dir)
        train.main([*TINY, "--runs-dir", str(runs_dir)])
        assert outcome(runs_dir) == whole
        if process.exitcode == 0:
            break
    assert number > 24, "there are more changes than these"


@pytest.mark.parametrize("fault", [False, True])
def test_the_comparison_notices_that_the_optimizers_moments_were_not_saved(fault, whole, tmp_path, monkeypatch):
    write = checkpoints.Checkpoint.write

    def write_and_die(checkpoint, epoch, state):
        if fault and state:
            state["optimizer"]["state"] = {}
        write(checkpoint, epoch, state)
        if epoch == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patches:
        patches.setattr(checkpoints.Checkpoint, "write", write_and_die)
        process = start(TINY, tmp_path / "runs")
        process.join()
    assert process.exitcode == -signal.SIGKILL
    train.main([*TINY, "--runs-dir", str(tmp_path / "runs")])
    for path in (tmp_path / "runs").rglob("result.json"):
        assert json.loads(path.read_text())["resumed_at"] == [1]
    assert (outcome(tmp_path / "runs") == whole) is not fault
