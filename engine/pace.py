"""How many runs go side by side: measured in the first seconds of a long training, and remembered for the next.

tasks = set_fastest(tasks, options)  # before make_plan(tasks, options)

The fastest number depends on the machine, and a run's bits depend on the runs beside it. So measurements are kept in
the user's cache folder, and the same command puts the same runs side by side the next time. With `--runs-at-once`, for
short training, and on a GPU or a cluster, nothing is measured.
"""

import contextlib
import heapq
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import cache, partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

import joblib
import numpy as np
import torch
from torch import Tensor, nn

from data import Dataset, Split
from engine.files import RecordError, check_types, read_json, write_whole
from engine.plan import Plan, Task, TrainOptions, make_plan, measured_for
from engine.provenance import read_cpu_name
from engine.seeds import MOST_SEEDS
from engine.workers import prepare_process, run_in_processes
from experiments import Experiment, join_settings
from sources.finding import find_cache
from training import Trainer, build_network, train_epoch

CANDIDATES = (1, 2, 3, 5)  # numbers of runs side by side to measure, beside the number in `plan.MEASURED`
TOLERANCE = 1.05  # fewer runs are chosen if training ends at most this many times later
LONG = 120  # estimated seconds of training from which measuring is worth its time
RATE = 2e10  # operations per second of a process in that estimate, roughly right for every network here
LARGEST_STEP = 6.4e10  # operations; a larger step gains nothing from more runs, and needs gigabytes of memory
ROUND = 0.05  # estimated seconds that a round trains each run; at least one step
# Settings that hardly change how long an image takes, or are named apart.
COSTLESS = {
    *("model", "batch_size", "dataset", "split_seed", "standardize", "epochs", "lr", "lr_scheduler", "lr_step_size"),
    *("lr_gamma", "warmup", "momentum", "nesterov"),
    *(setting.name for setting in fields(Experiment) if setting.metadata["group"] in ("penalties", "early stopping")),
}
ROUNDS, LEAST_SECONDS = 5, 3  # the least number of rounds after a first one, and the least time for all of them

Seconds = Mapping[int, float]  # {runs side by side: seconds that a process takes for an image of one run}
Measure = Callable[[Task, list[int], Plan], Seconds]


def set_fastest(
    tasks: list[Task], options: TrainOptions, measure: Measure | None = None, memory: Path | None = None
) -> list[Task]:
    """Set the fastest number of runs side by side in tasks that train for minutes, and print it.

    Args:
        measure: measures numbers of runs for a task; None: `measure_in_processes`.
        memory: the file with earlier measurements; None: `find_memory()`.
    """
    if options.runs_at_once or options.device != "cpu":
        return tasks

    def plan_with(most: int) -> Plan:
        return make_plan([replace(task, most=most) for task in tasks], options)

    widest = plan_with(MOST_SEEDS)
    if estimate_seconds(widest) < LONG:
        return tasks
    measure, memory = measure or measure_in_processes, memory or find_memory()
    numbers = [list_candidates(task, widest) for task in tasks]
    works = [name_work(task, candidates, widest) for task, candidates in zip(tasks, numbers, strict=True)]
    found: dict[str, tuple[int | None, str]] = {}  # {work: (most runs side by side, where this comes from)}
    for task, candidates, work in zip(tasks, numbers, works, strict=True):
        if len(candidates) == 1 or work in found:
            continue
        print(f"{task.experiment.model}, norm {task.experiment.norm}: ", end="", flush=True)
        found[work] = None, "table"
        seconds, choice, how = recall(memory, work, candidates), "remembered", f"remembered in {memory}"
        if seconds is None:
            try:
                seconds, choice = measure(task, candidates, widest), "measured"
            except Exception as error:  # training itself may succeed
                says = f"{type(error).__name__}: {error}".partition("\n")[0]
                print(f"runs side by side could not be measured ({says}); as many as in short training")
                continue
            how = f"measured, {remember(memory, work, seconds)}"
        fastest = choose_runs({runs: predict_end(plan_with(runs), seconds) for runs in candidates})
        found[work] = fastest, choice
        times = ", ".join(f"{runs}: {1e3 * of_image:.3g}" for runs, of_image in seconds.items())
        are = "1 run alone is" if fastest == 1 else f"{fastest} runs side by side are"
        where = "one process" if widest.jobs == 1 else f"{widest.jobs} processes"
        print(f"{are} fastest for this training in {where}, within 5 % ({times} ms for an image of a run; {how})")
    choices = [found.get(work, (None, "table")) for work in works]
    return [replace(task, most=most, choice=choice) for task, (most, choice) in zip(tasks, choices, strict=True)]


def list_candidates(task: Task, widest: Plan) -> list[int]:
    """List the numbers of runs side by side to measure for a task, up to the most that keep every process busy."""
    largest = min(len(task.seeds), max(len(unit.seeds) for unit in widest.units))
    of_table, _ = measured_for(task.experiment.model)
    step = count_training(task) * task.experiment.batch_size
    numbers = sorted({min(runs, largest) for runs in (*CANDIDATES, of_table)})
    return [runs for runs in numbers if runs == 1 or runs * step <= LARGEST_STEP]


# ---------------------------------------------------------------------------------------------------------------------
# Choosing


def estimate_seconds(plan: Plan) -> float:
    """Estimate how long a plan's training takes: roughly, but the same each time."""
    operations = sum(count_training(unit.task) * len(unit.task.dataset.train) * unit.epochs for unit in plan.units)
    return operations / RATE / plan.jobs


@cache
def count_operations(experiment: Experiment, shape: tuple[int, int, int], classes: int) -> tuple[int, int]:
    """Count the multiplications and additions in linear layers and convolutions for an image: (training, evaluation).

    The backward pass of a layer has two products as large as that of the forward pass, for the gradients of its weights
    and of its input. The first layer needs no gradient of its input, the image.
    """
    found: list[int] = []

    def note(layer: Any, _: Any, output: Tensor) -> None:
        found.append(2 * output.numel() * layer.weight[0].numel())  # each output is the product of two vectors

    network = build_network(experiment, shape, classes, seed=0)
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.register_forward_hook(note)
    network.eval()(torch.zeros(1, *shape))
    return 3 * sum(found) - found[0], sum(found)


def count_training(task: Task) -> int:
    """Count the operations with which a task trains one run on one image."""
    return count_operations(task.experiment, task.dataset.shape, len(task.dataset.classes))[0]


def predict_end(plan: Plan, seconds: Seconds) -> float:
    """Predict how long a plan takes if every task is as fast as the measured one."""
    ends = [0.0] * plan.jobs  # a heap: the next unit starts in the process that is free first
    for unit in plan.units:
        of_image = np.interp(len(unit.seeds), list(seconds), list(seconds.values()))
        heapq.heapreplace(ends, ends[0] + float(of_image) * len(unit.task.dataset.train) * unit.epochs)
    return max(ends)


def choose_runs(ends: Mapping[int, float]) -> int:
    """Choose the smallest number of runs side by side with which training ends at most 5 % later than at best.

    Args:
        ends: {runs side by side: seconds until training ends}.
    """
    return min(runs for runs, end in ends.items() if end <= TOLERANCE * min(ends.values()))


# ---------------------------------------------------------------------------------------------------------------------
# Measuring


def measure_in_processes(task: Task, candidates: list[int], plan: Plan, least: float = LEAST_SECONDS) -> Seconds:
    """Measure some numbers of runs side by side for a task, with as many processes busy as a plan has.

    Args:
        least: the least time in seconds.
    """
    experiment, train_set = task.experiment, task.dataset.train
    steps = max(1, round(ROUND * RATE / count_training(task) / experiment.batch_size))
    images = steps * experiment.batch_size
    part = Split(train_set.images[:images], train_set.labels[:images])
    dataset = replace(task.dataset, train=part, validation=part, test=part, is_standardized=experiment.standardize)
    call = partial(time_rounds, experiment, dataset, candidates, max(plan.threads), least)
    of_processes = list(run_in_processes([call] * plan.jobs, plan.jobs))
    return {runs: fmean(seconds[runs] for seconds in of_processes) for runs in candidates}


def time_rounds(experiment: Experiment, dataset: Dataset, candidates: list[int], threads: int, least: float) -> Seconds:
    """Time the training of a data set in this process, with each number of runs side by side in turn.

    Returns:
        The median of all rounds but the first, in which memory is allocated.
    """
    prepare_process("cpu", threads)
    endless = replace(experiment, epochs=1_000_000)
    trainers = {runs: Trainer(endless, dataset, list(range(runs)), "cpu") for runs in candidates}
    rounds: list[dict[int, float]] = []
    started = time.perf_counter()
    while len(rounds) <= ROUNDS or time.perf_counter() - started < least:
        times = {}
        for runs, trainer in trainers.items():
            began = time.perf_counter()
            train_epoch(trainer, dataset, epoch=len(rounds) + 1)
            times[runs] = (time.perf_counter() - began) / runs / len(dataset.train)
        rounds.append(times)
    return {runs: median(times[runs] for times in rounds[1:]) for runs in candidates}


# ---------------------------------------------------------------------------------------------------------------------
# Remembering


def find_memory() -> Path:
    """Return the path of the file with earlier measurements, in the user's cache folder."""
    return find_cache() / "pace.json"


def name_work(task: Task, candidates: list[int], plan: Plan) -> str:
    """Name what the fastest number of runs depends on: the settings with a cost, plan, this machine and torch."""
    shape = "x".join(map(str, task.dataset.shape))
    costly = {name: value for name, value in task.experiment.changed().items() if name not in COSTLESS}
    return (
        f"{join_settings(task.experiment.model, costly)}, batches of {task.experiment.batch_size}, images of {shape}, "
        f"{candidates} runs, {plan.jobs} processes, {max(plan.threads)} threads, "
        f"{read_cpu_name()}, {joblib.cpu_count()} cores, torch {torch.__version__}"
    )


def recall(memory: Path, work: str, candidates: list[int]) -> Seconds | None:
    """Read earlier measurements from a file; return None if there are none, and print why if the file is damaged."""
    try:
        found = read_json(memory).get(work) if memory.exists() else None
        if found is None:
            return None
        check_types(found, {str(runs): float for runs in candidates}, f"{memory}: seconds of")
    except (OSError, RecordError, ValueError) as error:
        print(f"{error}; measuring again: ", end="", flush=True)
        return None
    return {runs: found[str(runs)] for runs in candidates}


def remember(memory: Path, work: str, seconds: Seconds) -> str:
    """Add measurements to the file with earlier ones, and return where they are or why they could not be kept."""
    content: dict[str, Any] = {}
    with contextlib.suppress(RecordError):  # a missing or damaged file is replaced
        content = read_json(memory)
    content[work] = {str(runs): of_image for runs, of_image in seconds.items()}
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_whole(memory, (json.dumps(content, indent=2) + "\n").encode())
    except OSError as error:
        return f"not kept, as {memory} cannot be written ({error.strerror})"
    return f"kept in {memory}"
