import contextlib
import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import choose

import models
from engine import checkpoints, records
from engine.checkpoints import Checkpoint
from engine.plan import (
    MEASURED,
    Plan,
    Task,
    TrainOptions,
    Unit,
    check_network,
    load_datasets,
    make_plan,
    make_tasks,
    split_seeds,
)
from experiments import MODELS, Experiment, UserError
from studies import STUDIES
from studies.study import Entry, Study

QUICK = Experiment(dataset="mnist_sample", epochs=1, batch_size=256)
FASTEST = {"mlp": (10, 1), "cnn": (4, 2), "resnet": (2, 2)}  # on no particular machine


def make_task(seeds, label="", experiment=QUICK):
    return Task(label, experiment, dataset=None, folder=Path("unused"), seeds=list(seeds))


def plan_tasks(tasks, **options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.plan.MEASURED", FASTEST)
        return make_plan(tasks, TrainOptions(seeds=[], **options))


# ---------------------------------------------------------------------------------------------------------------------
# What goes side by side


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
def test_a_plan_keeps_two_cores_busy(seeds, model, options, sizes, jobs, threads, monkeypatch):
    monkeypatch.setattr("joblib.cpu_count", lambda: 2)
    plan = plan_tasks([make_task(range(seeds), experiment=Experiment(model=model))], **options)
    assert [len(unit.seeds) for unit in plan.units] == sizes
    assert sorted(seed for unit in plan.units for seed in unit.seeds) == list(range(seeds))
    assert (plan.jobs, plan.threads) == (jobs, [threads])


def test_a_gpu_has_one_process_and_an_experiments_runs_side_by_side(monkeypatch):
    monkeypatch.setattr("joblib.cpu_count", lambda: 16)
    tasks = [make_task(range(12), "a", Experiment(model="mlp1")), make_task(range(5), "b", Experiment(model="resnet"))]
    plan = plan_tasks(tasks, device="cuda")
    assert (sorted(len(unit.seeds) for unit in plan.units), plan.jobs) == ([5, 12], 1)
    plan = plan_tasks(tasks, jobs=2, runs_at_once=4, device="cuda")
    assert (sorted(len(unit.seeds) for unit in plan.units), plan.jobs) == ([2, 3, 4, 4, 4], 2)
    assert {unit.checkpoint.device for unit in plan.units} == {"cuda"}


THREE = [
    make_task(range(12), "small", Experiment(model="mlp1", epochs=10)),
    make_task([7, 3], "long", Experiment(model="mlp3", epochs=40)),
    make_task([0, 4, 5, 6, 9], "images", Experiment(model="cnn1", epochs=20)),
]


@pytest.mark.parametrize("cores", [1, 2, 16])
@pytest.mark.parametrize("tasks", [THREE, THREE[:2], THREE[2:]], ids=["three", "two", "one"])
@pytest.mark.parametrize(
    "options", [{}, dict(jobs=1), dict(jobs=3), dict(jobs=40, threads=2), dict(runs_at_once=2), dict(runs_at_once=100)]
)
def test_a_plan_of_several_tasks_trains_every_seed_once_the_longest_first(cores, tasks, options, monkeypatch):
    monkeypatch.setattr("joblib.cpu_count", lambda: cores)
    plan = plan_tasks(tasks, **options)

    planned = [(unit.task.label, seed) for unit in plan.units for seed in unit.seeds]
    assert sorted(planned) == sorted((task.label, seed) for task in tasks for seed in task.seeds)
    epochs = [unit.epochs for unit in plan.units]
    assert epochs == sorted(epochs, reverse=True)
    assert sum(epochs) == sum(task.experiment.epochs * len(task.seeds) for task in tasks)
    fastest = {task.label: FASTEST[task.experiment.model[:3]] for task in tasks}  # (runs, threads)
    for unit in plan.units:
        assert 1 <= len(unit.seeds) <= (options.get("runs_at_once") or fastest[unit.task.label][0])

    processes = options.get("jobs", cores)
    assert 1 <= plan.jobs == min(processes, len(plan.units))
    if "runs_at_once" not in options:  # which says how few units there are
        assert len(plan.units) >= min(processes, len(tasks))
        if len(tasks) == 1:
            assert len(plan.units) >= min(processes, len(planned))
    (threads,) = plan.threads
    if "threads" in options:
        assert threads == options["threads"]
    else:
        assert threads == 1 or plan.jobs * threads <= cores
        assert 1 <= threads <= min(threads for _, threads in fastest.values())


def test_units_that_were_begun_are_resumed_as_they_were_and_others_are_planned_around_them(monkeypatch):
    monkeypatch.setattr("joblib.cpu_count", lambda: 4)
    whole = plan_tasks([make_task(range(11))])
    assert [(unit.seeds, unit.checkpoint.threads) for unit in whole.units] == [
        ([2, 3, 4], 1),
        ([5, 6, 7], 1),
        ([8, 9, 10], 1),
        ([0, 1], 1),
    ]
    begun = [unit.checkpoint for unit in whole.units if unit.seeds != [8, 9, 10]]
    begun[0].epoch = 1
    plan = plan_tasks([replace(make_task([8, 9, 10]), begun=begun)], threads=2, runs_at_once=2)
    assert [(unit.seeds, unit.checkpoint.threads, unit.epochs) for unit in plan.units] == [
        ([5, 6, 7], 1, 3),
        ([0, 1], 1, 2),
        ([9, 10], 2, 2),
        ([8], 2, 1),
        ([2, 3, 4], 1, 0),
    ]
    assert str(plan) == "4 processes (3+2+2+1+3 seeds side by side), 1 or 2 threads each"


def test_a_plan_says_what_it_is_going_to_do():
    def plan(sizes, jobs, threads):
        seeds = iter(range(100))
        planned = [Checkpoint(Path("unused"), [next(seeds) for _ in range(size)], threads, []) for size in sizes]
        return Plan([Unit(make_task(range(100)), checkpoint) for checkpoint in planned], jobs)

    assert str(plan([3, 2], 2, 1)) == "2 processes (3+2 seeds side by side), 1 thread each"
    assert str(plan([1, 1], 2, 1)) == "2 processes (one seed at a time), 1 thread each"
    assert str(plan([3], 1, 2)) == "one process (3 seeds side by side), 2 threads each"
    assert str(plan([3, 2] * 6, 2, 1)) == "2 processes (12 times up to 3 seeds side by side), 1 thread each"


def test_every_model_was_measured():
    for model in MODELS:
        settings = dict(hidden=(8,)) if model == "mlp" else {}
        plan = make_plan([make_task([0], experiment=Experiment(model=model, **settings))], TrainOptions(seeds=[0]))
        assert len(plan.units) == 1
    assert all(runs >= 1 and threads >= 1 for runs, threads in MEASURED.values())


# ---------------------------------------------------------------------------------------------------------------------
# What is left to train


@pytest.fixture
def folder(tmp_path, digits):
    """Open the folder of an experiment."""
    folder = tmp_path / "runs" / "single" / QUICK.name
    records.open_folder(folder, records.describe(QUICK, digits, QUICK.name))
    return folder


@pytest.fixture
def begun(folder):
    """Leave what a command leaves that was killed after one epoch of seeds 0 and 1."""
    Checkpoint(folder, [0, 1], 1, [[0, 1]]).write(1, {})
    return folder


def split(folder, seeds, **options):
    """Return (seeds in no unit yet, [(seeds, threads) of the units to resume], all of this in words)."""
    missing, resumed, lines = split_seeds(folder, TrainOptions(seeds, **options))
    return missing, [(checkpoint.seeds, checkpoint.threads) for checkpoint in resumed], "; ".join(lines)


def test_seeds_that_were_begun_together_are_resumed_together_whatever_is_asked_for(begun):
    asked = dict(runs_at_once=1, threads=2)
    says = "resumed: seeds 0-1 after epoch 1, side by side and with threads as begun"
    assert split(begun, [1, 2, 3], **asked) == ([2, 3], [([0, 1], 1)], f"{says}; to train: seeds 2-3")
    assert split(begun, [0], **asked) == ([], [([0, 1], 1)], says)
    assert split(begun, [4], **asked) == ([4], [], "to train: seed 4")


def test_force_discards_what_was_begun_and_says_so(begun):
    with pytest.raises(UserError, match="seeds 0-1 are half trained side by side; discard all with --seeds 0-1"):
        split(begun, [1], force=True)
    says = "discarded by --force: seeds 0-1 after epoch 1; to train: seeds 0-1"
    assert split(begun, [0, 1], force=True) == ([0, 1], [], says)
    assert split(begun, [0, 1]) == ([0, 1], [], "to train: seeds 0-1")


def test_units_of_which_nothing_is_trained_are_planned_again_if_asked_otherwise(begun):
    checkpoint = Checkpoint(begun, [0, 1], 1, [[0, 1]])
    says = "to train: seeds 0-1"
    for asked in (dict(runs_at_once=1), dict(threads=2), dict(device="cuda")):
        checkpoint.write(0, None)
        assert split(begun, [0, 1], runs_at_once=2, threads=1) == ([], [([0, 1], 1)], says)
        assert split(begun, [0, 1], **asked) == ([0, 1], [], says)
        assert not checkpoint.path.exists()
    checkpoint.write(0, None)
    assert split(begun, [0]) == ([0], [], "to train: seed 0")


def test_what_began_on_another_device_is_refused_unless_force_starts_it_again(begun):
    Checkpoint(begun, [0, 1], 1, [[0, 1]], device="cuda").write(1, {})
    with pytest.raises(UserError) as caught:
        split(begun, [0, 1])
    assert str(caught.value) == (
        f"--device cpu: {QUICK.name}, seeds 0-1 began on cuda; resume with --device cuda, or start again with --force"
    )
    assert split(begun, [0, 1], device="cuda") == ([], [([0, 1], 1)], "resumed: seeds 0-1 after epoch 1")
    assert split(begun, [0, 1], force=True) == (
        [0, 1],
        [],
        "discarded by --force: seeds 0-1 after epoch 1; to train: seeds 0-1",
    )


def test_a_checkpoint_says_where_its_number_of_seeds_comes_from_if_it_is_not_older(folder, monkeypatch):
    Checkpoint(folder, [0, 1], 1, [[0, 1]], choice="measured").write(1, {})
    with monkeypatch.context() as older:
        save = torch.save

        def save_without_choice(content, file):
            del content["choice"]
            save(content, file)

        older.setattr(torch, "save", save_without_choice)
        Checkpoint(folder, [2, 3], 1, [[2, 3]]).write(1, {})
    _, begun, _ = split_seeds(folder, TrainOptions([0, 2]))
    assert [(checkpoint.seeds, checkpoint.choice) for checkpoint in begun] == [
        ([0, 1], "measured"),
        ([2, 3], "unknown"),
    ]


def test_finished_seeds_are_skipped_unless_they_were_begun_again(begun, monkeypatch):
    monkeypatch.setattr(records, "finished_seeds", lambda _: [0, 1, 5])
    says = "resumed: seeds 0-1 after epoch 1; skipped: seed 5 finished already (--force trains them again)"
    assert split(begun, [0, 1, 5]) == ([], [([0, 1], 1)], says)
    assert split(begun, [5, 6], force=True) == ([5, 6], [], "to train: seeds 5-6")


# ---------------------------------------------------------------------------------------------------------------------
# Tasks


SMALL_STUDY = Study(
    name="small",
    asks="What is quick?",
    experiments={
        "first": Entry("own", QUICK),
        "other split": Entry("own", replace(QUICK, split_seed=1, l1=0.1)),
        "first again": Entry("control", QUICK, "a note"),
    },
    baseline="first",
)


@pytest.fixture
def locks():
    with contextlib.ExitStack() as stack:
        yield stack


def test_a_task_is_an_experiment_of_a_study_in_its_folder_which_is_locked(tmp_path, locks, capsys):
    study = SMALL_STUDY.with_overrides(dict(epochs=2))
    tasks, elsewhere = make_tasks(study, study.experiments, TrainOptions([0, 1], tmp_path), locks)
    assert elsewhere == []
    group = tmp_path / "small,epochs=2"
    assert [(task.label, task.folder) for task in tasks] == [
        ("first", group / "first"),
        ("other split", group / "other split"),
    ]
    assert all((task.seeds, task.begun) == ([0, 1], []) for task in tasks)
    assert tasks[1].experiment == replace(QUICK, split_seed=1, l1=0.1, epochs=2)
    assert not torch.equal(tasks[0].dataset.train.images, tasks[1].dataset.train.images), "other splits"
    assert capsys.readouterr().out.splitlines()[2:] == [
        "first; to train: seeds 0-1",
        "other split; penalized: 54,912 of 55,050 parameters a run, in 3 of 6 tensors (--penalize weights); "
        "to train: seeds 0-1",
        "first again: has the settings of first, so it is trained and recorded as first",
    ]
    description = json.loads((tasks[0].folder / "experiment.json").read_text())
    assert (description["study"], description["title"]) == ("small", "first")
    assert description["overrides"] == dict(epochs=2)
    for task in tasks:
        with pytest.raises(checkpoints.TrainedElsewhere), checkpoints.lock(task.folder):
            pass
    locks.close()
    with checkpoints.lock(tasks[0].folder):
        pass


def test_an_experiment_typed_by_hand_has_no_label_and_stands_under_its_name(tmp_path, locks):
    study = Study.typed_by_hand({QUICK.name: QUICK})
    (task,), _ = make_tasks(study, study.experiments, TrainOptions([0], tmp_path), locks)
    assert (task.label, task.folder) == ("", tmp_path / "single" / QUICK.name)
    description = json.loads((task.folder / "experiment.json").read_text())
    assert (description["study"], description["title"], description["overrides"]) == (None, QUICK.name, {})


def test_what_another_command_trains_is_left_to_it(tmp_path, locks, capsys):
    with checkpoints.lock(tmp_path / "small" / "first"):
        tasks, elsewhere = make_tasks(SMALL_STUDY, SMALL_STUDY.experiments, TrainOptions([0], tmp_path), locks)
    assert [task.label for task in tasks] == ["other split"]
    (line,) = elsewhere
    assert line.startswith(f"not trained: first: process {os.getpid()} on {socket.gethostname()} since 2")
    assert line in capsys.readouterr().out


def test_an_experiment_with_nothing_left_is_no_task_and_not_locked(tmp_path, locks, monkeypatch, capsys):
    monkeypatch.setattr(records, "finished_seeds", lambda _: [0])
    assert make_tasks(SMALL_STUDY, ["first"], TrainOptions([0], tmp_path), locks) == ([], [])
    assert "first; skipped: seed 0 finished already" in capsys.readouterr().out
    with checkpoints.lock(tmp_path / "small" / "first"):
        pass


def test_a_network_that_does_not_fit_is_refused_with_the_title_that_a_study_has():
    strange = Experiment(model="cnn2", norm="group", groups=3)
    with pytest.raises(UserError, match=r"^--groups 3: does not divide"):
        check_network(strange, Study.typed_by_hand({strange.name: strange}), strange.name, Path("unused"))
    with pytest.raises(UserError, match=r"^GN: --groups 3: does not divide"):
        check_network(strange, STUDIES["mnist-norms"], "GN", Path("unused"))


# ---------------------------------------------------------------------------------------------------------------------
# Data sets


@pytest.mark.usefixtures("offline")
def test_images_of_digits_are_replaced_by_their_sample_too(tmp_path, locks, capsys):
    words = ["--study", "ghost-size", "--lr", "0.1", "--epochs", "1"]
    study, titles = choose(words)
    tasks, _ = make_tasks(study, titles, TrainOptions([0, 1], tmp_path / "runs", tmp_path / "data"), locks)
    assert capsys.readouterr().err.count("WARNING: training on the small embedded sample mnist_sample") == 1
    group = tmp_path / "runs" / "ghost-size,dataset=mnist_sample,epochs=1,lr=0.1"
    assert [task.folder for task in tasks] == [group / title for title in STUDIES["ghost-size"].experiments]
    assert {(task.experiment.dataset, task.dataset.name) for task in tasks} == {("mnist_sample", "mnist_sample")}
    assert all(task.seeds == [0, 1] for task in tasks)
    description = json.loads((group / "128" / "experiment.json").read_text())
    assert description["overrides"] == dict(dataset="mnist_sample", epochs=1, lr=0.1)


@pytest.mark.usefixtures("offline")
def test_each_data_set_is_loaded_once_for_each_split(tmp_path, capsys):
    unnamed = Experiment(model="cnn1")
    named, other_split = replace(unnamed, dataset="mnist_sample"), replace(unnamed, split_seed=1)
    datasets = load_datasets([unnamed, replace(unnamed, l1=0.1), named, other_split], tmp_path)
    assert {which: dataset.name for which, dataset in datasets.items()} == {
        ("mnist", 0): "mnist_sample",
        ("mnist_sample", 0): "mnist_sample",
        ("mnist", 1): "mnist_sample",
    }
    captured = capsys.readouterr()
    assert captured.err.count("WARNING") == 2
    assert captured.out.count(": 3,600 train / 700 validation / 700 test images\n") == 3


def test_a_network_above_the_limit_of_its_study_is_refused():
    small = replace(SMALL_STUDY, most_parameters=55_050)
    experiment = small.experiments["first"].experiment
    assert models.count_parameters(check_network(experiment, small, "first", Path("unused"))) == 55_050
    with pytest.raises(UserError, match=r"^first: 55,050 parameters, but small allows at most 55,049; make the"):
        check_network(experiment, replace(small, most_parameters=55_049), "first", Path("unused"))
