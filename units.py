"""Units of work: which seeds train side by side, and in which process.

plan = make_plan([Task("", experiment, dataset, folder, seeds=[0, 1, 2])])
for unit, runs in trained(plan, "cpu", progress):    # in whatever order they are done
"""

import contextlib
import math
import signal
import traceback
import warnings
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

# torch and joblib take seconds to import: the functions that need them do, so that refusals answer at once.


@dataclass(frozen=True)
class Task:
    """An experiment and the seeds of it that are to be trained."""

    title: str  # what a study calls it
    experiment: object  # experiments.Experiment
    dataset: object  # data.Dataset
    folder: Path  # of its records
    seeds: list[int]


@dataclass(frozen=True)
class Unit:
    task: Task
    seeds: list[int]  # side by side in one process

    @property
    def epochs(self):
        return self.task.experiment.epochs * len(self.seeds)


@dataclass(frozen=True)
class Plan:
    units: list[Unit]
    jobs: int  # processes at a time
    threads: int  # of each process

    def __str__(self):
        sizes = [str(len(unit.seeds)) for unit in self.units]
        sizes = "+".join(sizes) if len(sizes) <= 10 else f"{len(sizes)} units of up to {max(sizes, key=int)}"
        processes = f"{self.jobs} processes" if self.jobs > 1 else "one process"
        return f"{processes} ({sizes} side by side), {self.threads} thread{'s' * (self.threads > 1)} each"


class Failure(str):
    """Why a unit was not trained, in one line."""


def make_plan(tasks, jobs=None, threads=None, runs_at_once=None):
    """Units enough to keep every core busy, none with more runs than measured fastest, the longest first."""
    import joblib

    import models

    cores = joblib.cpu_count()
    processes = jobs or cores
    units = []
    for task in tasks:
        count = math.ceil(len(task.seeds) / (runs_at_once or models.RUNS_AT_ONCE[task.experiment.model]))
        if not runs_at_once:
            count = max(count, min(math.ceil(processes / len(tasks)), len(task.seeds)))
        bounds = [len(task.seeds) * unit // count for unit in range(count + 1)]
        units += [Unit(task, task.seeds[start:end]) for start, end in pairwise(bounds)]
    units.sort(key=lambda unit: unit.epochs, reverse=True)
    processes = min(processes, len(units))
    measured = min(models.THREADS[task.experiment.model] for task in tasks)
    return Plan(units, processes, threads or max(1, min(cores // processes, measured)))


def trained(plan, device, progress):
    """Yield (unit, runs) of each unit as it is done; (unit, Failure) of one that failed, and the others go on."""
    if len(plan.units) == 1:
        (unit,) = plan.units
        show = partial(progress.show, unit.task.title, unit.task.experiment.epochs)
        yield unit, _train(0, unit, device, plan.threads, show)[1]
        return

    from joblib.externals.loky.process_executor import BrokenProcessPool

    left = dict(enumerate(plan.units))
    with progress.shown_from_afar() as show:
        try:
            for number, runs in _in_processes(left, plan.jobs, plan.threads, device, show):
                yield left.pop(number), runs
        except BrokenProcessPool:
            progress.say("a training process died, perhaps for want of memory: one unit at a time from here on")
        for number, unit in list(left.items()):
            try:
                ((_, runs),) = _in_processes({number: unit}, plan.jobs, plan.threads, device, show)
            except BrokenProcessPool:
                runs = Failure("its process died, perhaps for want of memory; try --runs-at-once 1")
            yield unit, runs


def _in_processes(units, jobs, threads, device, show):
    import joblib

    calls = [
        joblib.delayed(_train)(
            number, unit, device, threads, partial(show, unit.task.title, unit.task.experiment.epochs)
        )
        for number, unit in units.items()
    ]
    warnings.filterwarnings("ignore", ".*tasks", module="joblib")  # advice where Ctrl-C cuts the results off
    with joblib.parallel_config(backend="loky", inner_max_num_threads=threads), _ctrl_c_ignored():
        # One job would be done in this process, which is not to be killed with it.
        return joblib.Parallel(n_jobs=max(jobs, 2), pre_dispatch=jobs, return_as="generator_unordered")(calls)


def _train(number, unit, device, threads, show):
    import training

    try:
        return number, training.train(unit.task.experiment, unit.seeds, unit.task.dataset, device, threads, show)
    except Exception as error:  # whatever it is, the other units go on, and it is said at the end
        where = traceback.extract_tb(error.__traceback__)[-1]
        says = str(error).partition("\n")[0]  # torch adds its own traceback
        return number, Failure(f"{type(error).__name__}: {says} ({Path(where.filename).name}, line {where.lineno})")


@contextlib.contextmanager
def _ctrl_c_ignored():
    """Processes started meanwhile leave Ctrl-C to this one, which ends them, instead of printing tracebacks."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
