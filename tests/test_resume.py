"""Trainings that are killed and typed again until they end, compared with trainings that are not."""

import contextlib
import itertools
import json
import multiprocessing
import os
import random
import shlex
import shutil
import signal
import sys
import time
from dataclasses import fields
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import UNSAFE, cut_dataset, read_files, read_outcome, refuse

import data
import train
import training
from engine import checkpoints, files, records
from experiments import Experiment, flag_of
from studies.study import LONGEST_TITLE

resource = pytest.importorskip("resource", reason="forks, kills and limits processes in POSIX's way")

MAY_DIFFER = ("seconds", "resumed_at", "finished", "command", "commit")  # of a result, and is no part of its bits
SMALL = ["--dataset", "mnist_sample", "--threads", "1"]
MLP = [*SMALL, "--seeds", "0-2", "--runs-at-once", "3", "--lr", "0.01", "--dropout", "0.2"]
MLP += ["--epochs", "12", "--patience", "2", "--l1", "1e-4", "--l1-mode", "proximal"]
MODERN = [
    *SMALL,
    "--seeds",
    "0-2",
    "--runs-at-once",
    "3",
    "--epochs",
    "12",
    "--lr-scheduler",
    "cosine",
    "--warmup",
    "2",
]
MODERN += ["--mixup", "0.4", "--cutout", "8", "--label-smoothing", "0.1", "--average", "0.9", "--max-norm", "2"]
MODERN += ["--clip-norm", "1", "--norm", "batch", "--patience", "3"]
CNN = [*SMALL, "--model", "cnn1", "--seeds", "0-1", "--runs-at-once", "2", "--epochs", "3", "--batch-size", "50"]
CNN += ["--optimizer", "sgd", "--lr", "0.1", "--lr-scheduler", "one_cycle", "--rotation", "10", "--dropout", "0.1"]
CNN += ["--elastic", "0.5", "--interpolation", "bilinear"]


@pytest.fixture(autouse=True)
def often(digits, monkeypatch):
    """Write a checkpoint after every epoch, and train on parts of the sample, whose epochs are short."""
    monkeypatch.setattr(checkpoints, "SECONDS_APART", 0)
    monkeypatch.setattr(checkpoints, "WRITINGS_APART", 0)
    few_digits = cut_dataset(digits, train=300, validation=100, test=100)
    monkeypatch.setattr(data, "load", lambda *which: few_digits)


def start(words, runs_dir, before=lambda: None):
    """Start the command in a process that is forked from here, so that nothing has to be imported again."""

    def run():
        with open(f"{runs_dir}.log", "a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            before()
            train.main([*words, "--runs-dir", str(runs_dir)])

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def log_of(runs_dir):
    return runs_dir.with_name(f"{runs_dir.name}.log").read_text()


@pytest.fixture
def kills(request):
    return request.config.getoption("--kills")


@pytest.mark.parametrize("words", [MLP, CNN, MODERN], ids=["early stopping", "one cycle", "modern"])
def test_a_training_that_is_killed_at_random_moments_ends_with_the_same_bits(words, kills, tmp_path):
    train.main([*words, "--runs-dir", str(tmp_path / "whole")])  # here, so that what it imports is imported for all
    whole = read_outcome(tmp_path / "whole", MAY_DIFFER)
    started = time.monotonic()
    start(words, tmp_path / "again").join()
    longest = time.monotonic() - started
    assert read_outcome(tmp_path / "again", MAY_DIFFER) == whole
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
        assert read_outcome(runs_dir, MAY_DIFFER) == whole
    print(f"{killed} kills, {trainings} trainings with the same bits")


TINY = [*SMALL, "--seeds", "0-1", "--runs-at-once", "2", "--epochs", "2", "--batch-size", "100"]
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir")  # and files opened for writing


@pytest.fixture
def whole(tmp_path):
    train.main([*TINY, "--runs-dir", str(tmp_path / "whole")])
    return read_outcome(tmp_path / "whole", MAY_DIFFER)


def test_a_training_that_is_killed_before_any_change_of_a_file_ends_with_the_same_bits(whole, kills, tmp_path):
    def kill_before(number, runs_dir):
        """Have this process killed before its change of that number to what is under `runs_dir`."""
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
        assert read_outcome(runs_dir, MAY_DIFFER) == whole
        if process.exitcode == 0:
            break
    assert number > 24, "there are more changes than these"


def kill_after_the_first_epoch(lose=None):
    """Have this process killed once the first epoch's checkpoint is written, without the state of `lose`."""
    write = checkpoints.Checkpoint.write

    def write_and_die(checkpoint, epoch, state):
        if epoch and lose:
            state[lose]["state"] = {}
        write(checkpoint, epoch, state)
        if epoch:
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoints.Checkpoint.write = write_and_die


@pytest.mark.parametrize("lose", [None, "optimizer"])
def test_the_comparison_notices_that_the_optimizers_moments_were_not_saved(lose, whole, tmp_path):
    process = start(TINY, tmp_path / "runs", partial(kill_after_the_first_epoch, lose))
    process.join()
    assert process.exitcode == -signal.SIGKILL
    train.main([*TINY, "--runs-dir", str(tmp_path / "runs")])
    outcome = read_outcome(tmp_path / "runs", MAY_DIFFER)
    assert outcome.keys() == whole.keys()
    for path in (tmp_path / "runs").rglob("result.json"):
        assert json.loads(path.read_text())["resumed_at"] == [1]
    assert (outcome == whole) is not bool(lose)


# ---------------------------------------------------------------------------------------------------------------------
# In one process


class Interrupted(checkpoints.Checkpoint):
    """Interrupt the training that it keeps after an epoch."""

    last = 2

    def write_if_due(self, epoch, make_state):
        super().write_if_due(epoch, make_state)
        if epoch == self.last:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "settings",
    [
        dict(lr_scheduler="step", lr_step_size=1, dropout=0.2),
        dict(optimizer="sgd", nesterov=True, lr_scheduler="one_cycle", lr=0.1),
        dict(optimizer="adamw", weight_decay=0.1, norm="ghost"),
        dict(optimizer="sgd", momentum=0.9, l1=1e-3, l1_mode="proximal", norm="layer"),
        dict(average=0.99, norm="batch", l2=1e-3),
        dict(average=0.9, patience=1, lr=0.05, clip_norm=1.0, max_norm=1.0),
        dict(lr_scheduler="cosine", warmup=1, mixup=0.4, cutout=8, label_smoothing=0.1),
        dict(model="cnn1", warmup=3, channel_dropout=0.2, dropout=0.1),
        dict(lr=0.05, patience=1, monitor="val_accuracy", restore="last"),
        dict(lr=0.05, patience=2, start_from_epoch=2, min_delta=0.01),
    ],
    ids=str,
)
def test_every_kind_of_training_is_resumed_with_the_same_bits(settings, tmp_path):
    check_resuming(Experiment(**settings, epochs=4, batch_size=50, dataset="mnist_sample"), 2, tmp_path)


def test_a_training_whose_runs_have_all_diverged_has_nothing_left_to_train(tmp_path):
    experiment = Experiment(optimizer="sgd", lr=1e30, epochs=4, batch_size=50, dataset="mnist_sample")
    assert check_resuming(experiment, 1, tmp_path) == []


def check_resuming(experiment, last, tmp_path):
    """Interrupt a training after an epoch, resume it, and return what it shows from there on."""
    dataset, shown, folder = data.load("mnist_sample", "unused"), [], tmp_path / "single" / "x"
    records.open_folder(folder, records.describe(experiment, dataset, "x"))
    whole = training.train(experiment, [0, 1], dataset)
    interrupted = Interrupted(folder, [0, 1], 1, [[0, 1]])
    interrupted.last = last
    interrupted.begin()
    with pytest.raises(KeyboardInterrupt):
        training.train(experiment, [0, 1], dataset, checkpoint=interrupted)
    (checkpoint,) = checkpoints.find_unfinished(folder)
    assert checkpoint.epoch == last
    runs = training.train(experiment, [0, 1], dataset, on_epoch=shown.append, checkpoint=checkpoint)
    for run, same in zip(runs, whole, strict=True):
        assert repr(run.history) == repr(same.history)  # as NaN is not itself
        for name, tensor in same.weights.items():
            torch.testing.assert_close(run.weights[name], tensor, rtol=0, atol=0, equal_nan=True)
        assert np.array_equal(run.log_probabilities, same.log_probabilities, equal_nan=True)
        assert repr(run.result | dict(seconds=0)) == repr(same.result | dict(seconds=0, resumed_at=[last]))
    return shown


# ---------------------------------------------------------------------------------------------------------------------
# The same command again, or another


@pytest.fixture
def begun(tmp_path):
    """Leave the runs folder of a command that was killed after one epoch."""
    process = start(TINY, tmp_path / "begun", kill_after_the_first_epoch)
    process.join()
    return tmp_path / "begun"


def resume(words, runs_dir, capsys):
    """Run a command, and return what it says of the seeds and which seeds are finished afterwards."""
    train.main([*TINY, *words, "--runs-dir", str(runs_dir)])
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("mlp1,dataset=mnist_sample,"))
    (folder,) = runs_dir.glob("single/mlp1*")
    return line.partition("; ")[2], records.finished_seeds(folder)


def test_seeds_that_were_begun_together_are_resumed_together_whatever_is_asked_for(begun, whole, tmp_path, capsys):
    words = ["--seeds", "1-2", "--runs-at-once", "1", "--threads", "2"]
    says = "resumed: seeds 0-1 after epoch 1, side by side and with threads as begun; to train: seed 2"
    assert resume(words, begun, capsys) == (says, [0, 1, 2])
    resumed = read_outcome(begun, MAY_DIFFER)
    assert all(resumed[name] == content for name, content in whole.items())


def test_force_starts_again_what_was_begun(begun, capsys):
    line = refuse(train.main, [*TINY, "--runs-dir", str(begun), "--seeds", "1", "--force"], capsys)
    assert "seeds 0-1 are half trained side by side; discard all with --seeds 0-1, or first let them finish" in line
    says = "discarded by --force: seeds 0-1 after epoch 1; to train: seeds 0-1"
    assert resume(["--seeds", "0-1", "--force"], begun, capsys) == (says, [0, 1])


def test_what_began_on_another_device_is_refused_here(begun, capsys):
    (path,) = begun.rglob("checkpoint-0-1.pt")
    content = checkpoints._read(path)
    state, epoch = content.pop("state"), content.pop("epoch")
    checkpoints.Checkpoint(path.parent, **content | dict(device="cuda")).write(epoch, state)
    before = path.read_bytes()
    with pytest.raises(SystemExit) as caught:
        train.main([*TINY, "--runs-dir", str(begun)])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("train.py: error: --device cpu: ")
    assert "seeds 0-1 began on cuda; resume with --device cuda, or start again with --force" in error
    assert path.read_bytes() == before


def test_seconds_add_up(begun):
    (path,) = begun.rglob("checkpoint-0-1.pt")
    (checkpoint,) = checkpoints.find_unfinished(path.parent)
    state = checkpoint.read()
    assert state["seconds"] > 0
    checkpoint.write(1, state | dict(seconds=1e6))
    train.main([*TINY, "--runs-dir", str(begun)])
    assert json.loads((path.parent / "seed-0" / "result.json").read_text())["seconds"] > 1e6 / 2


def test_a_damaged_checkpoint_is_said_and_training_starts_again(begun, whole, capsys):
    (path,) = begun.rglob("checkpoint-0-1.pt")
    path.write_bytes(path.read_bytes()[:-1])
    train.main([*TINY, "--runs-dir", str(begun)])
    assert "set aside as checkpoint-0-1.pt.unreadable" in capsys.readouterr().err
    path.with_name("checkpoint-0-1.pt.unreadable").unlink()
    assert read_outcome(begun, MAY_DIFFER) == whole


# ---------------------------------------------------------------------------------------------------------------------
# Disk


def read_complaints(runs_dir):
    """Read what a command has said of what went wrong."""
    lines = log_of(runs_dir).replace(f"{runs_dir}/single/mlp1,dataset=mnist_sample,epochs=2,batch_size=100", "X")
    return [line for line in lines.splitlines() if "cannot" in line or "Error" in line or "kept" in line]


NO_CHECKPOINT = (
    "X/checkpoint-0-1.pt: cannot be written ({}), and is tried again; until then, an interruption of seeds 0-1 loses "
    "the epochs after epoch 0"
)


@pytest.mark.parametrize(
    ("largest", "status", "expected"),
    [
        (1_000, 2, ["train.py: error: X: cannot be written (File too large); name another --runs-dir"]),
        (
            100_000,
            1,
            [
                NO_CHECKPOINT.format("File too large"),
                *["failed: seeds 0-1: X/seed-0: cannot be written (File too large); the other runs are unharmed"] * 2,
                "finished runs are kept; the same command tries the others again",
            ],
        ),
        (300_000, 0, [NO_CHECKPOINT.format("File too large")]),
    ],
)
def test_a_file_that_may_not_grow_that_large_is_one_line_and_damages_nothing(
    largest, status, expected, whole, tmp_path
):
    runs_dir = tmp_path / "runs"
    process = start(TINY, runs_dir, partial(resource.setrlimit, resource.RLIMIT_FSIZE, (largest, -1)))
    process.join()
    assert read_complaints(runs_dir) == expected
    assert process.exitcode == status
    train.main([*TINY, "--runs-dir", str(runs_dir)])
    assert read_outcome(runs_dir, MAY_DIFFER) == whole


def test_a_folder_that_is_removed_meanwhile_is_a_line(tmp_path):
    def remove_it():
        write = checkpoints.Checkpoint.write

        def remove_and_write(checkpoint, epoch, state):
            if epoch:
                shutil.rmtree(checkpoint.folder)
            write(checkpoint, epoch, state)

        checkpoints.Checkpoint.write = remove_and_write

    runs_dir = tmp_path / "runs"
    process = start(TINY, runs_dir, remove_it)
    process.join()
    why = "No such file or directory"
    assert read_complaints(runs_dir) == [
        NO_CHECKPOINT.format(why),
        *[f"failed: seeds 0-1: X/seed-0: cannot be written ({why})"] * 2,
        "finished runs are kept; the same command tries the others again",
    ]
    assert process.exitcode == 1


def test_runs_that_are_trained_again_and_cannot_be_written_leave_the_old_runs(whole, tmp_path):
    before = read_files(tmp_path / "whole")
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (100_000, -1))
    os.rename(tmp_path / "whole", tmp_path / "runs")
    process = start([*TINY, "--force"], tmp_path / "runs", limit)
    process.join()
    assert process.exitcode == 1
    assert read_files(tmp_path / "runs").items() >= before.items()


# ---------------------------------------------------------------------------------------------------------------------
# Paths

EVERY_FLAG = shlex.split("""
    --model cnn3 --dataset mnist_sample --split-seed 4294967295 --standardize --crop-padding 2 --crop-mode reflect
    --flip --rotation 7.123456789 --rotation-fill 1 --affine-degrees 7.123456789 --affine-translate 0.123456789
    --affine-scale 0.123456789 --elastic 0.123456789 --interpolation bilinear --brightness 0.123456789
    --contrast 0.123456789 --epochs 2 --batch-size 100 --optimizer sgd --lr 0.0123456789 --lr-scheduler step
    --lr-step-size 1 --lr-gamma 0.123456789 --momentum 0.123456789 --nesterov --weight-decay 1.23456789e-05
    --l1 1.23456789e-05 --l1-mode proximal --l2 1.23456789e-05 --l2-form norm --penalize all --dropout 0.123456789
    --norm group --norm-position before --group-size 2 --freeze-gamma --patience 2 --monitor val_accuracy
    --min-delta 1.23456789e-05 --start-from-epoch 2 --restore last --label-smoothing 0.123456789 --mixup 0.123456789
    --cutout 3 --channel-dropout 0.123456789 --max-norm 1.23456789 --clip-norm 1.23456789
""")


def test_paths_fit_everywhere_even_with_every_flag_and_the_largest_seeds(tmp_path, monkeypatch):
    seen = []

    def noting(function):
        def note_and_call(*paths, **options):
            seen.extend(map(str, paths))
            return function(*paths, **options)

        return note_and_call

    given = {word for word in EVERY_FLAG if word.startswith("--")}
    settings = [flag_of(setting.name) for setting in fields(Experiment)]
    excluded = {"--hidden", "--l1-reduction", "--groups", "--ghost-splits", "--warmup", "--average"}  # by others
    assert set(settings) - given == excluded
    for module, name in ((os, "rename"), (os, "replace"), (files, "flush"), (records, "flush")):
        monkeypatch.setattr(module, name, noting(getattr(module, name)))
    for study in ([], ["--study", "mnist-dropout-ghost", "--only", "L1+L2+GBN, true", "--norm", "ghost"]):
        start_at = EVERY_FLAG.index("--dataset") if study else 0
        words = [*study, *EVERY_FLAG[start_at:]]
        if study:
            start_of_norm = words.index("group") - 1
            words[start_of_norm : start_of_norm + 2] = []
            words[words.index("--group-size") : words.index("--freeze-gamma")] = []
        words += ["--seeds", "4294967294-4294967295", "--runs-at-once", "2", "--jobs", "1", "--runs-dir", str(tmp_path)]
        for _ in range(2):  # the second time replaces the runs
            train.main([*words, "--force"])
    below = [Path(path).relative_to(tmp_path) for path in seen]
    longest_title, this_process = "t" * LONGEST_TITLE, str(os.getpid())
    of_longest = [Path(path.parts[0], longest_title, *path.parts[2:]) for path in below if path.parts[0] != "single"]
    assert len(of_longest) > 20
    for path in [*below, *of_longest]:
        assert len("d" * 60 + "/runs/" + str(path).replace(f"-{this_process}", "-4194304")) < 260, path
        for part in path.parts:
            assert len(part.encode()) <= 100
            assert not UNSAFE.search(part.removeprefix(".")), part
