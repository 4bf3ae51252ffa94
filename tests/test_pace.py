import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import cut_dataset
from torch.utils.flop_counter import FlopCounterMode

from engine import pace
from engine.checkpoints import Checkpoint
from engine.plan import Task, TrainOptions, make_plan
from experiments import Experiment
from training import build_network

SLOWER_ALONE = {1: 6.4e-3, 2: 4.4e-3, 3: 4.3e-3, 5: 4.9e-3, 10: 5.5e-3}  # seconds for an image of a run
FASTEST_ALONE = {1: 4.0e-3, 2: 3.9e-3, 3: 4.5e-3, 5: 5.0e-3, 10: 6.0e-3}
CNN = Experiment(model="cnn1", dataset="mnist_sample", epochs=10_000, batch_size=128)


def measure_nothing(task, candidates, plan):
    pytest.fail("measures")


@pytest.fixture
def memory(tmp_path):
    return tmp_path / "cache" / "pace.json"


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr("joblib.cpu_count", lambda: 2)


def make_task(dataset, experiment=CNN, seeds=range(5), title="one", begun=()):
    return Task(title, experiment, dataset, Path(title), list(seeds), list(begun))


def return_seconds(seconds, calls=None):
    """Make a `measure` that returns known seconds, and appends each call to a list."""

    def measure(task, candidates, plan):
        if calls is not None:
            calls.append((task.label, candidates, plan.jobs, plan.threads))
        return {runs: seconds[runs] for runs in candidates}

    return measure


# ---------------------------------------------------------------------------------------------------------------------
# The rule


@pytest.mark.parametrize(
    ("ends", "chosen"),
    [
        ({1: 100.0}, 1),
        ({1: 100.0, 2: 99.0, 3: 96.0}, 1),
        ({1: 100.0, 2: 95.0, 3: 94.0}, 2),
        ({1: 100.0, 2: 90.0, 3: 80.0, 5: 83.0}, 3),
        ({1: 80.0, 2: 90.0}, 1),
    ],
)
def test_the_fewest_runs_within_five_percent_of_the_fastest_are_chosen(ends, chosen):
    assert pace.choose_runs(ends) == chosen


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize(
    ("seconds", "seeds", "tasks", "sizes"),
    [
        (SLOWER_ALONE, 5, 1, [3, 2]),  # 2+2+1 would leave a process idle in the end
        (SLOWER_ALONE, 4, 1, [2, 2]),
        (SLOWER_ALONE, 12, 1, [2] * 6),  # three rounds of two, as fast as two of three within 5 %
        (SLOWER_ALONE, 5, 8, [3] * 8 + [2] * 8),
        (FASTEST_ALONE, 5, 1, [1] * 5),
        (FASTEST_ALONE, 4, 1, [1] * 4),
    ],
)
def test_the_number_of_runs_with_which_the_whole_plan_ends_first_is_set(seconds, seeds, tasks, sizes, digits, memory):
    tasks = [make_task(digits, seeds=range(seeds), title=str(number)) for number in range(tasks)]
    options = TrainOptions(list(range(seeds)))
    plan = make_plan(pace.set_fastest(tasks, options, return_seconds(seconds), memory), options)
    assert sorted((len(unit.seeds) for unit in plan.units), reverse=True) == sizes
    assert {unit.checkpoint.choice for unit in plan.units} == {"measured"}


@pytest.mark.usefixtures("two_cores")
def test_each_kind_of_network_is_measured_once_with_numbers_that_make_sense(digits, clothes, memory, capsys):
    large = replace(CNN, model="resnet", batch_size=512)
    tasks = [
        make_task(digits, title="cnn"),
        make_task(digits, replace(CNN, l2=0.1), title="the same with L2"),
        make_task(digits, replace(CNN, norm="none"), title="no norm"),
        make_task(digits, replace(CNN, batch_size=64), title="small batches"),
        make_task(clothes, replace(CNN, model="mlp1", norm="none"), range(30), title="mlp"),
        make_task(digits, large, title="a step of two runs has enough to do"),
        make_task(digits, large, [0], title="one seed"),
    ]
    calls = []
    found = pace.set_fastest(tasks, TrainOptions(list(range(30))), return_seconds(SLOWER_ALONE, calls), memory)
    assert calls == [
        ("cnn", [1, 2, 3, 5], 2, [1]),
        ("no norm", [1, 2, 3, 5], 2, [1]),
        ("small batches", [1, 2, 3, 5], 2, [1]),
        ("mlp", [1, 2, 3, 5, 10], 2, [1]),
        ("a step of two runs has enough to do", [1, 2], 2, [1]),
    ]
    assert [task.choice for task in found] == ["measured"] * 6 + ["table"]
    assert found[-1].most is None
    first, *others = capsys.readouterr().out.splitlines()
    times = "1: 6.4, 2: 4.4, 3: 4.3, 5: 4.9 ms for an image of a run"
    says = f"3 runs side by side are fastest for this training in 2 processes, within 5 % ({times}; measured, kept in"
    assert first == f"cnn1, norm batch: {says} {memory})"
    assert len(others) == 4


# ---------------------------------------------------------------------------------------------------------------------
# When nothing is measured


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize(
    ("options", "experiment", "seeds", "choice", "sizes"),
    [
        (dict(runs_at_once=4), CNN, 5, "given", [3, 2]),
        (dict(device="cuda"), CNN, 5, "all", [5]),
        ({}, replace(CNN, epochs=20), 5, "table", [1] * 5),
        ({}, CNN, 2, "table", [1, 1]),
        (dict(jobs=5), CNN, 5, "table", [1] * 5),
    ],
    ids=["given", "GPU", "short", "one seed for each core", "one seed for each process"],
)
def test_nothing_is_measured(options, experiment, seeds, choice, sizes, digits, memory, capsys):
    options = TrainOptions(list(range(seeds)), **options)
    tasks = pace.set_fastest([make_task(digits, experiment, range(seeds))], options, measure_nothing, memory)
    plan = make_plan(tasks, options)
    assert [len(unit.seeds) for unit in plan.units] == sizes
    assert {unit.checkpoint.choice for unit in plan.units} == {choice}
    assert capsys.readouterr().out == ""
    assert not memory.exists()


@pytest.mark.usefixtures("two_cores")
def test_a_resumed_unit_keeps_its_runs_and_how_they_were_chosen(digits, memory):
    begun = Checkpoint(Path("one"), [5, 6, 7, 8], 1, [[5, 6, 7, 8]], epoch=1, choice="given")
    options = TrainOptions(list(range(9)))
    tasks = [make_task(digits, begun=[begun])]
    plan = make_plan(pace.set_fastest(tasks, options, return_seconds(SLOWER_ALONE), memory), options)
    assert sorted((unit.seeds, unit.checkpoint.choice) for unit in plan.units) == [
        ([0, 1], "measured"),
        ([2, 3, 4], "measured"),
        ([5, 6, 7, 8], "given"),
    ]


@pytest.mark.usefixtures("two_cores")
def test_where_measuring_fails_the_table_is_used_and_the_next_kind_is_measured(digits, memory, capsys):
    def fail_once(task, candidates, plan):
        if task.label == "first":
            raise RuntimeError("no memory\nand a traceback")
        return {runs: SLOWER_ALONE[runs] for runs in candidates}

    tasks = [make_task(digits, title="first"), make_task(digits, replace(CNN, norm="none"), title="second")]
    first, second = pace.set_fastest(tasks, TrainOptions(list(range(5))), fail_once, memory)
    assert (first.most, first.choice, second.most, second.choice) == (None, "table", 3, "measured")
    assert capsys.readouterr().out.splitlines()[0] == (
        "cnn1, norm batch: runs side by side could not be measured (RuntimeError: no memory); as many as in short "
        "training"
    )


# ---------------------------------------------------------------------------------------------------------------------
# What is remembered


@pytest.mark.usefixtures("two_cores")
def test_what_was_measured_once_is_used_again_for_the_same_work_alone(digits, memory, capsys, monkeypatch):
    def choose(measure, experiment=CNN, seeds=5, **options):
        options = TrainOptions(list(range(seeds)), **options)
        (task,) = pace.set_fastest([make_task(digits, experiment, range(seeds))], options, measure, memory)
        return task.most, task.choice

    assert choose(return_seconds(SLOWER_ALONE)) == (3, "measured")
    capsys.readouterr()
    assert choose(measure_nothing) == (3, "remembered")
    assert capsys.readouterr().out.endswith(f"ms for an image of a run; remembered in {memory})\n")
    assert choose(measure_nothing, replace(CNN, l1=0.1, lr=0.1)) == (3, "remembered")

    other = return_seconds(FASTEST_ALONE)
    others = [
        dict(experiment=replace(CNN, batch_size=100)),
        dict(experiment=replace(CNN, norm="layer")),
        dict(experiment=replace(CNN, rotation=10)),
        dict(experiment=replace(CNN, dropout=0.5)),
        dict(experiment=replace(CNN, model="cnn3", norm_position="before")),
        dict(seeds=4),
        dict(jobs=1),
        dict(threads=2),
    ]
    for different in others:
        assert choose(other, **different) == (1, "measured"), different
        assert choose(measure_nothing, **different) == (1, "remembered"), different
    monkeypatch.setattr(torch, "__version__", "9.9")
    assert choose(other) == (1, "measured")
    monkeypatch.undo()


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize("content", ["", "[]", '{"a": 1, "b"', "wrong types", "one is missing"])
def test_a_damaged_file_is_said_and_measured_and_written_again(content, digits, memory, capsys):
    options, tasks = TrainOptions(list(range(5))), [make_task(digits)]
    pace.set_fastest(tasks, options, return_seconds(SLOWER_ALONE), memory)
    (work,) = json.loads(memory.read_text())
    of_types = {"wrong types": {"1": "x", "2": 1.0, "3": 1.0}, "one is missing": {"1": 1.0, "2": 1.0}}
    memory.write_text(json.dumps({work: of_types[content]}) if content in of_types else content)
    capsys.readouterr()
    (task,) = pace.set_fastest(tasks, options, return_seconds(SLOWER_ALONE), memory)
    assert (task.most, task.choice) == (3, "measured")
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert f"{memory}: " in out
    assert "; measuring again: 3 runs side by side are fastest for this training in" in out
    (task,) = pace.set_fastest(tasks, options, measure_nothing, memory)
    assert task.choice == "remembered"


@pytest.mark.usefixtures("two_cores")
def test_a_file_that_cannot_be_written_is_said_and_stops_nothing(digits, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    memory = tmp_path / "file" / "pace.json"
    (task,) = pace.set_fastest([make_task(digits)], TrainOptions(list(range(5))), return_seconds(SLOWER_ALONE), memory)
    assert (task.most, task.choice) == (3, "measured")
    (line,) = capsys.readouterr().out.splitlines()
    assert f"measured, not kept, as {memory} cannot be written (" in line


def test_the_file_is_in_the_users_cache_folder(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert pace.find_memory() == Path("/somewhere/regularization-toolkit/pace.json")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    if os.name == "posix":
        assert pace.find_memory() == Path("/home/me/.cache/regularization-toolkit/pace.json")


# ---------------------------------------------------------------------------------------------------------------------
# What is counted and measured


@pytest.mark.parametrize(
    "experiment",
    [
        Experiment(model="mlp", hidden=(30,), norm="batch"),
        *(Experiment(model=model, dataset="mnist_sample") for model in ("mlp3", "cnn1", "cnn2", "cnn3")),
        Experiment(model="resnet", dataset="cifar10", dropout=0.0),
    ],
    ids=lambda experiment: experiment.model,
)
def test_operations_are_counted_as_torch_counts_them(experiment):
    shape = (3, 32, 32) if experiment.model == "resnet" else (1, 28, 28)
    network = build_network(experiment, shape, 7, seed=0)
    with FlopCounterMode(display=False) as counter:
        loss = network(torch.zeros(2, *shape)).sum()
        evaluation = counter.get_total_flops()
        loss.backward()
    assert pace.count_operations(experiment, shape, 7) == (counter.get_total_flops() / 2, evaluation / 2)


def test_an_mlp_has_two_operations_for_each_weight_of_each_product():
    weights = [784 * 30, 30 * 10]
    counted = pace.count_operations(Experiment(model="mlp", hidden=(30,)), (1, 28, 28), 10)
    assert counted == (2 * (2 * weights[0] + 3 * weights[1]), 2 * sum(weights))


def test_every_process_times_every_number_of_runs_with_any_settings(digits):
    few = cut_dataset(digits, train=64, validation=1, test=1)
    experiment = replace(CNN, optimizer="sgd", lr_scheduler="one_cycle", dropout=0.1, rotation=10, batch_size=32)
    task = make_task(few, experiment)
    plan = make_plan([replace(task, most=3)], TrainOptions(task.seeds, jobs=2, threads=1))
    seconds = pace.measure_in_processes(task, [1, 2], plan, least=0)
    assert seconds.keys() == {1, 2}
    assert all(of_image > 0 for of_image in seconds.values())
