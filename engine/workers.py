"""Processes that train the units of a plan, and the records of what they trained.

failures = train_and_record(plan, options, train_units)
"""

import contextlib
import ctypes
import os
import platform
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import torch
from joblib.externals.loky.process_executor import BrokenProcessPool

import training
from engine import records
from engine.files import RecordError
from engine.plan import Plan, TrainOptions, Unit, join_label
from engine.progress import Progress
from engine.provenance import describe_machine, git_commit
from experiments import UserError
from training import Run


class Interrupted(KeyboardInterrupt):
    """Ctrl-C came after the checkpoints of the plan were begun."""


@dataclass(frozen=True)
class UnitResult:
    """What came of a unit: its runs, or the reason why there are none."""

    number: int  # of the unit in its plan
    runs: list[Run] = field(default_factory=list)
    error: str = ""  # one line


TrainUnits = Callable[[Plan, str, Progress], Iterator[UnitResult]]


def check_device(device: str) -> None:
    """Check that torch finds a device.

    Raises:
        UserError: it does not.
    """
    is_available = dict(cpu=True, cuda=torch.cuda.is_available(), mps=torch.backends.mps.is_available())
    if not is_available[device]:
        known = ", ".join(name for name, is_there in is_available.items() if is_there)
        raise UserError(f"--device {device}: this torch ({torch.__version__}) finds none; expected one of: {known}")


def train_and_record(plan: Plan, options: TrainOptions, train: TrainUnits) -> list[str]:
    """Train a plan and record each run as soon as its unit is done; return a line for each unit that failed.

    Args:
        train: `train_units`, or the same on a cluster.

    Raises:
        Interrupted: Ctrl-C ended it.
    """
    for unit in plan.units:
        unit.checkpoint.begin()
    shared = dict(command=options.command, commit=git_commit())
    failures = []
    try:
        with Progress(sum(unit.epochs for unit in plan.units)) as progress:
            for result in train(plan, options.device, progress):
                unit, error = plan.units[result.number], result.error
                if not error:
                    try:
                        _record(unit, result.runs, shared, progress)
                    except RecordError as problem:
                        error = str(problem)
                if error:
                    failures.append(f"failed: {unit.name}: {error}\n")
                    progress.say(failures[-1].rstrip())
    except KeyboardInterrupt:
        raise Interrupted from None
    return failures


def _record(unit: Unit, runs: list[Run], shared: dict[str, Any], progress: Progress) -> None:
    for run in runs:
        run.result |= shared | dict(finished=datetime.now(UTC).isoformat(timespec="seconds"))
        path = records.write_run(unit.task.folder, run)
        says = f"seed {run.seed}: {describe_outcome(run.result)} → {path}"
        progress.say(join_label(unit.task.label, says))
    unit.checkpoint.delete()
    progress.spare(unit.epochs - unit.count_trained(runs))


def describe_outcome(result: dict[str, Any]) -> str:
    """Say what came of a run: its test accuracy, or that it diverged."""
    if result["diverged"]:
        return result["stop_reason"]
    accuracy, epoch = 100 * result["test_accuracy"], result["chosen_epoch"]
    return f"test accuracy {accuracy:.2f} % at epoch {epoch} ({result['stop_reason']})"


# ---------------------------------------------------------------------------------------------------------------------
# Processes


def train_units(plan: Plan, device: str, progress: Progress) -> Iterator[UnitResult]:
    """Train the units of a plan and yield each result as it comes; a unit that fails does not stop the others."""
    if len(plan.units) == 1 or (device != "cpu" and plan.jobs == 1):  # on a GPU, other processes only take memory
        for number, unit in enumerate(plan.units):
            yield train_unit(number, unit, device, partial(progress.show, unit.task.label, unit.task.experiment.epochs))
        return
    left = set(range(len(plan.units)))
    with progress.receive_from_processes() as show:
        calls = []
        for number, unit in enumerate(plan.units):
            show_unit = partial(show, unit.task.label, unit.task.experiment.epochs)
            calls.append(joblib.delayed(train_unit)(number, unit, device, show_unit))
        try:
            for result in _run_in_processes(calls, plan):
                left.remove(result.number)
                yield result
        except BrokenProcessPool:
            progress.say("a training process died, perhaps for lack of memory: one unit at a time from here on")
        for number in sorted(left):
            try:
                (result,) = _run_in_processes([calls[number]], plan)
            except BrokenProcessPool:
                result = UnitResult(number, error="its process died, perhaps for lack of memory; try --runs-at-once 1")
            yield result


def _run_in_processes(calls: list[Any], plan: Plan) -> Any:
    warnings.filterwarnings("ignore", ".*tasks", module="joblib")  # advice where Ctrl-C cuts the results off
    with (
        joblib.parallel_config(backend="loky", inner_max_num_threads=max(plan.threads)),
        _without_ctrl_c(),
    ):
        # With one job, joblib would train in this process, which must survive a unit that dies.
        return joblib.Parallel(
            n_jobs=max(plan.jobs, 2),
            pre_dispatch=plan.jobs,
            return_as="generator_unordered",
            initializer=_end_with,
            initargs=(os.getpid(),),
        )(calls)


def train_unit(number: int, unit: Unit, device: str, show: Callable[[list[training.Row]], None] | None) -> UnitResult:
    """Train a unit in this process; `show` is `training.train`'s `on_epoch`."""
    task, checkpoint = unit.task, replace(unit.checkpoint)  # a copy, as another process has it anyway
    try:
        prepare_process(device, checkpoint.threads)
        runs = training.train(task.experiment, unit.seeds, task.dataset, device, show, checkpoint)
        for run in runs:
            run.result |= describe_machine(device)
        return UnitResult(number, runs)
    except Exception as error:  # whatever it is, the other units are trained, and it is reported at the end
        where = traceback.extract_tb(error.__traceback__)[-1]
        says = str(error).partition("\n")[0]  # torch adds its own traceback
        where_from = f"{Path(where.filename).name}, line {where.lineno}"
        return UnitResult(number, error=f"{type(error).__name__}: {says} ({where_from})")


def prepare_process(device: str, threads: int | None) -> None:
    """Set this process's threads and memory for training, and on a GPU its arithmetic.

    Args:
        threads: None leaves torch's setting alone.
    """
    if threads:
        torch.set_num_threads(threads)
    if platform.libc_ver()[0] == "glibc":  # page faults of large freed tensors cost more than a layer's arithmetic
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no block of its own for a large tensor
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: what is free stays with the process
    if device == "cuda":  # the same bits each time, where torch knows how to, rounded as on a CPU
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the first matrix product is asked for
        torch.use_deterministic_algorithms(True, warn_only=True)  # operations without such a form warn
        deterministic: Any = torch.utils.deterministic
        deterministic.fill_uninitialized_memory = False  # nothing here reads it
        torch.backends.cudnn.allow_tf32 = False


def _end_with(parent: int) -> None:
    """End this process when its parent is killed; it would train unseen beside the parent's successor."""

    def watch() -> None:
        while os.getppid() == parent:  # Windows keeps the number
            time.sleep(0.1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Start processes that ignore Ctrl-C, so that this one ends them without their tracebacks."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
