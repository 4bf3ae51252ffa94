import io
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import data
import models
import training
from engine import workers
from engine.checkpoints import Checkpoint
from engine.progress import Progress
from experiments import Experiment

QUICK = Experiment(model="mlp1", dataset="mnist_sample", epochs=1, batch_size=256)


class Deadly:
    """Ends the process that unpickles it, as a system that is out of memory does."""

    def __reduce__(self):
        return os._exit, (9,)


class Unreadable:
    """Cannot be unpickled."""

    def __reduce__(self):
        return int, ("no number",)


def task(seeds, title="", experiment=QUICK, dataset=None):
    return workers.Task(title, experiment, dataset, Path("unused"), list(seeds))


def trained(plan):
    """{(title, first seed): its runs or the failure} of every unit of a plan, each of which has come once."""
    with Progress(1) as progress:
        results = [((unit.task.title, unit.seeds[0]), runs) for unit, runs in workers.trained(plan, "cpu", progress)]
    assert len(dict(results)) == len(results) == len(plan.units)
    return dict(results)


# ---------------------------------------------------------------------------------------------------------------------
# Plans


@pytest.fixture
def measured(monkeypatch):
    """What measured fastest, on whatever machine that was."""
    monkeypatch.setattr(models, "RUNS_AT_ONCE", dict(mlp1=10, mlp3=10, cnn1=4, resnet=2))
    monkeypatch.setattr(models, "THREADS", dict(mlp1=1, mlp3=1, cnn1=2, resnet=2))


@pytest.mark.parametrize(
    ("seeds", "model", "options", "sizes", "jobs", "threads"),
    [
        (5, "mlp1", {}, [3, 2], 2, 1),
        (1, "mlp1", {}, [1], 1, 1),
        (10, "mlp1", {}, [5, 5], 2, 1),
        (25, "mlp1", {}, [9, 8, 8], 2, 1),
        (5, "mlp1", dict(jobs=1), [5], 1, 1),
        (5, "mlp1", dict(runs_at_once=1), [1, 1, 1, 1, 1], 2, 1),
        (5, "mlp1", dict(runs_at_once=5), [5], 1, 1),
        (4, "mlp1", dict(jobs=4), [1, 1, 1, 1], 4, 1),
        (4, "mlp1", dict(threads=3), [2, 2], 2, 3),
        (5, "cnn1", {}, [3, 2], 2, 1),
        (1, "cnn1", {}, [1], 1, 2),
        (9, "cnn1", dict(jobs=1), [3, 3, 3], 1, 2),
        (3, "resnet", dict(jobs=1, threads=1), [2, 1], 1, 1),
    ],
)
def test_a_plan_keeps_two_cores_busy(seeds, model, options, sizes, jobs, threads, measured, monkeypatch):
    monkeypatch.setattr("joblib.cpu_count", lambda: 2)
    plan = workers.make_plan([task(range(seeds), experiment=Experiment(model=model))], **options)
    assert [len(unit.seeds) for unit in plan.units] == sizes
    assert sorted(seed for unit in plan.units for seed in unit.seeds) == list(range(seeds))
    assert (plan.jobs, plan.threads) == (jobs, [threads])


def test_a_gpu_has_one_process_and_an_experiments_runs_side_by_side(measured, monkeypatch):
    monkeypatch.setattr("joblib.cpu_count", lambda: 16)
    tasks = [task(range(12), "a", Experiment(model="mlp1")), task(range(5), "b", Experiment(model="resnet"))]
    plan = workers.make_plan(tasks, device="cuda")
    assert (sorted(len(unit.seeds) for unit in plan.units), plan.jobs) == ([5, 12], 1)
    plan = workers.make_plan(tasks, jobs=2, runs_at_once=4, device="cuda")
    assert (sorted(len(unit.seeds) for unit in plan.units), plan.jobs) == ([2, 3, 4, 4, 4], 2)


THREE = [
    task(range(12), "small", Experiment(model="mlp1", epochs=10)),
    task([7, 3], "long", Experiment(model="mlp3", epochs=40)),
    task([0, 4, 5, 6, 9], "images", Experiment(model="cnn1", epochs=20)),
]


@pytest.mark.parametrize("cores", [1, 2, 16])
@pytest.mark.parametrize("tasks", [THREE, THREE[:2], THREE[2:]], ids=["three", "two", "one"])
@pytest.mark.parametrize(
    "options", [{}, dict(jobs=1), dict(jobs=3), dict(jobs=40, threads=2), dict(runs_at_once=2), dict(runs_at_once=100)]
)
def test_a_plan_of_several_tasks_trains_every_seed_once_the_longest_first(cores, tasks, options, measured, monkeypatch):
    monkeypatch.setattr("joblib.cpu_count", lambda: cores)
    plan = workers.make_plan(tasks, **options)

    planned = [(unit.task.title, seed) for unit in plan.units for seed in unit.seeds]
    assert sorted(planned) == sorted((task.title, seed) for task in tasks for seed in task.seeds)
    epochs = [unit.epochs for unit in plan.units]
    assert epochs == sorted(epochs, reverse=True)
    assert sum(epochs) == sum(task.experiment.epochs * len(task.seeds) for task in tasks)
    for unit in plan.units:
        most = options.get("runs_at_once") or models.RUNS_AT_ONCE[unit.task.experiment.model]
        assert 1 <= len(unit.seeds) <= most

    processes = options.get("jobs", cores)
    assert 1 <= plan.jobs == min(processes, len(plan.units))
    if "runs_at_once" not in options:  # else it has been said how few units there are
        assert len(plan.units) >= min(processes, len(tasks))
        assert len(plan.units) >= min(processes, len(planned)) or len(tasks) > 1
    (threads,) = plan.threads
    if "threads" in options:
        assert threads == options["threads"]
    else:
        assert threads == 1 or plan.jobs * threads <= cores
        assert 1 <= threads <= min(models.THREADS[task.experiment.model] for task in tasks)


def test_units_that_were_begun_go_on_as_they_were_and_others_are_planned_around_them(measured, monkeypatch):
    monkeypatch.setattr("joblib.cpu_count", lambda: 4)
    whole = workers.make_plan([task(range(11))])
    assert [(unit.seeds, unit.checkpoint.threads) for unit in whole.units] == [
        ([2, 3, 4], 1),
        ([5, 6, 7], 1),
        ([8, 9, 10], 1),
        ([0, 1], 1),
    ]
    begun = [unit.checkpoint for unit in whole.units if unit.seeds != [8, 9, 10]]
    begun[0].epoch = 1
    plan = workers.make_plan([replace(task([8, 9, 10]), begun=begun)], threads=2, runs_at_once=2)
    assert [(unit.seeds, unit.checkpoint.threads, unit.epochs) for unit in plan.units] == [
        ([5, 6, 7], 1, 3),
        ([0, 1], 1, 2),
        ([9, 10], 2, 2),
        ([8], 2, 1),
        ([2, 3, 4], 1, 0),
    ]
    assert str(plan) == "4 processes (3+2+2+1+3 side by side), 1 or 2 threads each"


def test_a_plan_says_what_it_is_going_to_do():
    def plan(sizes, jobs, threads):
        seeds = iter(range(100))
        planned = [Checkpoint(Path("unused"), [next(seeds) for _ in range(size)], threads, []) for size in sizes]
        return workers.Plan([workers.Unit(task(range(100)), checkpoint) for checkpoint in planned], jobs)

    assert str(plan([3, 2], 2, 1)) == "2 processes (3+2 side by side), 1 thread each"
    assert str(plan([3], 1, 2)) == "one process (3 side by side), 2 threads each"
    assert str(plan([3, 2] * 6, 2, 1)) == "2 processes (12 units of up to 3 side by side), 1 thread each"


# ---------------------------------------------------------------------------------------------------------------------
# Training them


def test_one_process_at_a_time_and_two_give_the_same_bits(digits, capsys):
    tasks = [
        task([0, 1], "dropout", replace(QUICK, dropout=0.3), digits),
        task([0, 2], "proximal", replace(QUICK, l1=0.01, l1_mode="proximal"), digits),
        task([0], "norm", replace(QUICK, norm="batch"), digits),
    ]
    two, one = (trained(workers.make_plan(tasks, jobs=jobs, threads=1)) for jobs in (2, 1))
    assert one.keys() == two.keys() == {("dropout", 0), ("proximal", 0), ("norm", 0)}
    for name in one:
        for run, same in zip(one[name], two[name], strict=True):
            assert (run.seed, run.history) == (same.seed, same.history)
            assert np.array_equal(run.log_probabilities, same.log_probabilities)
            assert run.weights.keys() == same.weights.keys()
            assert all(torch.equal(run.weights[name], same.weights[name]) for name in run.weights)
    assert [run.seed for run in one["proximal", 0]] == [0, 2]
    assert one["proximal", 0][0].result["sparsity"] != one["dropout", 0][0].result["sparsity"]
    shown = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert sorted(shown) == sorted(
        2 * ["dropout, epoch 1/1, seeds 0-1", "proximal, epoch 1/1, seeds 0,2", "norm, epoch 1/1, seed 0"]
    )


def test_a_unit_that_fails_leaves_the_others_alone(digits):
    strange = replace(digits, train=data.Split(digits.train.images, digits.train.labels + 100))
    tasks = [task([0], "good", dataset=digits), task([0, 1], "broken", dataset=strange)]
    results = trained(workers.make_plan(tasks, jobs=2, threads=1, runs_at_once=1))
    assert results.keys() == {("good", 0), ("broken", 0), ("broken", 1)}
    (run,) = results["good", 0]
    assert run.result["test_accuracy"] > 0.3
    for seed in (0, 1):
        failure = results["broken", seed]
        assert isinstance(failure, workers.Failure)
        assert failure.startswith("IndexError: Target 10")
        assert failure.endswith(")")
        assert " (functional.py, line " in failure
        assert "\n" not in failure


def test_a_unit_that_fails_in_this_process_is_a_line_too(digits, monkeypatch):
    def fail(*args):
        raise RuntimeError("first line\nException raised from somewhere (most recent call first):")

    monkeypatch.setattr(training, "train", fail)
    (failure,) = trained(workers.make_plan([task([3], dataset=digits)])).values()
    line = fail.__code__.co_firstlineno + 1
    assert isinstance(failure, workers.Failure)
    assert failure == f"RuntimeError: first line (test_workers.py, line {line})"


def test_ctrl_c_is_no_failure(digits, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", interrupt)
    with pytest.raises(KeyboardInterrupt):
        trained(workers.make_plan([task([0], dataset=digits)]))


def test_a_process_that_dies_takes_no_other_unit_with_it(digits, capsys):
    tasks = [
        task([0, 1, 2, 3], "deadly", dataset=Deadly()),
        task([0, 1, 2], "unreadable", dataset=Unreadable()),
        task([0, 1], "good", dataset=digits),
    ]
    results = trained(workers.make_plan(tasks, jobs=2, threads=1))
    assert results.keys() == {("deadly", 0), ("unreadable", 0), ("good", 0)}
    for title in ("deadly", "unreadable"):
        assert isinstance(results[title, 0], workers.Failure)
        assert results[title, 0] == "its process died, perhaps for want of memory; try --runs-at-once 1"
    assert [run.seed for run in results["good", 0]] == [0, 1]
    out = capsys.readouterr().out
    assert out.count("a training process died, perhaps for want of memory: one unit at a time from here on\n") == 1
    assert "good, epoch 1/1, seeds 0-1: " in out


# ---------------------------------------------------------------------------------------------------------------------
# Progress


def rows(*seeds, epoch=1):
    figures = dict(train_loss=0.5, train_accuracy=0.75, val_loss=0.25, val_accuracy=0.875, penalty=0.0)
    return [dict(seed=seed, epoch=epoch) | figures for seed in seeds]


def test_a_terminal_shows_one_bar_over_the_epochs_of_all_runs(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress(10) as progress:
        progress.show("dropout", 5, rows(0, 1, 2))
        progress.spare(4)
        progress.show("dropout", 5, rows(0, 1, 2, epoch=2))
        progress.bar.refresh()
    assert "6/6" in terminal.getvalue()
    assert "validation 87.50 %" in terminal.getvalue()


def test_without_a_terminal_a_line_says_who_has_come_how_far(capsys):
    with Progress(10) as progress:
        progress.show("dropout", 5, rows(0, 1, 2, 7, epoch=2))
        progress.show("", 15, rows(4))
        progress.spare(3)
    first, second = capsys.readouterr().out.splitlines()
    figures = "train loss 0.5000 accuracy 75.00 %, validation loss 0.2500 accuracy 87.50 %"
    assert first == f"dropout, epoch 2/5, seeds 0-2,7: {figures}"
    assert second == f"epoch 1/15, seed 4: {figures}"


def test_what_is_shown_from_afar_has_come_when_the_work_is_over(capsys):
    with Progress(10) as progress, progress.shown_from_afar() as show:
        for epoch in (1, 2, 3):
            show("far", 3, rows(0, epoch=epoch))
    assert [line.split(",")[1] for line in capsys.readouterr().out.splitlines()] == [f" epoch {n}/3" for n in (1, 2, 3)]
    show("far", 3, rows(0))  # nobody looks any more, and that is no error
    assert capsys.readouterr().out == ""
