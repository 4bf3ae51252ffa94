"""Units of work: which seeds train side by side, and in which process.

plan = make_plan([Task("", experiment, dataset, folder, seeds=[0, 1, 2])])
for unit, runs in trained(plan, "cpu", progress):    # in whatever order they are done
"""

import contextlib
import math
import os
import signal
import threading
import time
import traceback
import warnings
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

from engine.checkpoints import Checkpoint

# torch and joblib take seconds to import: the functions that need them do, so that refusals answer at once.


@dataclass(frozen=True)
class Task:
    """An experiment and what of it is to be trained."""

    title: str  # what a study calls it
    experiment: object  # experiments.Experiment
    dataset: object  # data.Dataset
    folder: Path  # of its records
    seeds: list[int]  # in no unit yet
    begun: list[Checkpoint] = field(default_factory=list)  # units of other seeds, which go on as they were planned


@dataclass(frozen=True)
class Unit:
    task: Task
    checkpoint: Checkpoint

    @property
    def seeds(self):
        """Those side by side in one process."""
        return self.checkpoint.seeds

    @property
    def epochs(self):
        """How many are left, at most, of all its runs together."""
        return (self.task.experiment.epochs - self.checkpoint.epoch) * len(self.seeds)


@dataclass(frozen=True)
class Plan:
    units: list[Unit]
    jobs: int  # processes at a time

    @property
    def threads(self):
        """Of each process: the numbers there are."""
        return sorted({unit.checkpoint.threads for unit in self.units})

    def __str__(self):
        sizes = [str(len(unit.seeds)) for unit in self.units]
        sizes = "+".join(sizes) if len(sizes) <= 10 else f"{len(sizes)} units of up to {max(sizes, key=int)}"
        processes = f"{self.jobs} processes" if self.jobs > 1 else "one process"
        threads = f"{' or '.join(map(str, self.threads))} thread{'s' * (self.threads != [1])} each"
        return f"{processes} ({sizes} side by side), {threads}"


class Failure(str):
    """Why a unit was not trained, in one line."""


def make_plan(tasks, jobs=None, threads=None, runs_at_once=None, device="cpu"):
    """Units enough to keep every core busy, none with more runs than measured fastest, the longest first.

    A GPU has one process, and all runs of an experiment side by side in it.

    Units that were begun are as they were, whatever is asked for now: a run's bits depend on the seeds beside it.
    """
    import joblib

    import models

    cores = joblib.cpu_count()
    on_cpu = device == "cpu"
    processes = jobs or (cores if on_cpu else 1)
    planned = []  # for each task, the seeds of each new unit
    for task in tasks:
        most = models.RUNS_AT_ONCE[task.experiment.model] if on_cpu else max(len(task.seeds), 1)
        count = math.ceil(len(task.seeds) / (runs_at_once or most))
        if not runs_at_once:
            wanted = math.ceil(processes / len(tasks)) - len(task.begun)
            count = max(count, min(wanted, len(task.seeds)))
        bounds = [len(task.seeds) * unit // max(count, 1) for unit in range(count + 1)]
        planned.append([task.seeds[start:end] for start, end in pairwise(bounds)])
    processes = min(processes, sum(len(task.begun) + len(new) for task, new in zip(tasks, planned, strict=True)))
    measured = min(models.THREADS[task.experiment.model] for task in tasks)
    threads = threads or max(1, min(cores // processes, measured))
    units = []
    for task, new in zip(tasks, planned, strict=True):
        units += [Unit(task, checkpoint) for checkpoint in task.begun]
        units += [Unit(task, Checkpoint(task.folder, seeds, threads, new, device)) for seeds in new]
    return Plan(sorted(units, key=lambda unit: unit.epochs, reverse=True), processes)


def trained(plan, device, progress):
    """Yield (unit, runs) of each unit as it is done; (unit, Failure) of one that failed, and the others go on."""
    if len(plan.units) == 1 or (device != "cpu" and plan.jobs == 1):  # on a GPU, other processes only take memory
        for unit in plan.units:
            show = partial(progress.show, unit.task.title, unit.task.experiment.epochs)
            yield unit, train_unit(unit, device, show)
        return

    from joblib.externals.loky.process_executor import BrokenProcessPool

    left = dict(enumerate(plan.units))
    with progress.shown_from_afar() as show:
        try:
            for number, runs in _in_processes(left, plan.jobs, device, show):
                yield left.pop(number), runs
        except BrokenProcessPool:
            progress.say("a training process died, perhaps for want of memory: one unit at a time from here on")
        for number, unit in list(left.items()):
            try:
                ((_, runs),) = _in_processes({number: unit}, plan.jobs, device, show)
            except BrokenProcessPool:
                runs = Failure("its process died, perhaps for want of memory; try --runs-at-once 1")
            yield unit, runs


def _in_processes(units, jobs, device, show):
    import joblib

    calls = [
        joblib.delayed(_train)(number, unit, device, partial(show, unit.task.title, unit.task.experiment.epochs))
        for number, unit in units.items()
    ]
    threads = max(unit.checkpoint.threads for unit in units.values())
    warnings.filterwarnings("ignore", ".*tasks", module="joblib")  # advice where Ctrl-C cuts the results off
    with joblib.parallel_config(backend="loky", inner_max_num_threads=threads), _ctrl_c_ignored():
        # One job would be done in this process, which is not to be killed with it.
        return joblib.Parallel(
            n_jobs=max(jobs, 2),
            pre_dispatch=jobs,
            return_as="generator_unordered",
            initializer=_end_with,
            initargs=(os.getpid(),),
        )(calls)


def _end_with(parent):
    """End this process when its parent is killed, which would otherwise train on, unseen, beside its successor."""

    def watch():
        while os.getppid() == parent:  # Windows keeps the number
            time.sleep(0.1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _train(number, unit, device, show):
    return number, train_unit(unit, device, show)


def train_unit(unit, device, show=None):
    """The runs of a unit, trained in this process, or the Failure; `show` is `training.train`'s `on_epoch`."""
    import training

    task, checkpoint = unit.task, replace(unit.checkpoint)  # a copy, as another process has it anyway
    try:
        return training.train(task.experiment, unit.seeds, task.dataset, device, checkpoint.threads, show, checkpoint)
    except Exception as error:  # whatever it is, the other units go on, and it is said at the end
        where = traceback.extract_tb(error.__traceback__)[-1]
        says = str(error).partition("\n")[0]  # torch adds its own traceback
        return Failure(f"{type(error).__name__}: {says} ({Path(where.filename).name}, line {where.lineno})")


@contextlib.contextmanager
def _ctrl_c_ignored():
    """Processes started meanwhile leave Ctrl-C to this one, which ends them, instead of printing tracebacks."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
