"""Training the units of a plan in processes, and recording their runs.

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
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from joblib.externals.loky import get_reusable_executor, process_executor
from joblib.externals.loky.process_executor import BrokenProcessPool

import training
from engine import console, records
from engine.checkpoints import UnitEnded
from engine.files import RecordError
from engine.plan import Plan, TrainOptions, Unit, join_label
from engine.progress import Progress
from engine.provenance import describe_machine, git_commit
from engine.seeds import list_seeds
from experiments import UserError
from studies.study import join_words
from training import Run


class Interrupted(KeyboardInterrupt):
    """A signal stopped training after the first checkpoint of every unit was written."""


@dataclass(frozen=True)
class UnitResult:
    """The result of training a unit: its runs, an error, or neither if a signal ended it."""

    number: int  # the unit's index in its plan
    runs: list[Run] = field(default_factory=list)
    error: str = ""  # one line; empty if the unit succeeded


IDLE_SECONDS = 300  # after which a process without work ends

TrainUnits = Callable[[Plan, str, Progress], Generator[UnitResult]]


def check_device(device: str) -> None:
    """Check that torch finds a device.

    Raises:
        UserError: torch does not find the device.
    """
    is_available = dict(cpu=True, cuda=torch.cuda.is_available(), mps=torch.backends.mps.is_available())
    if not is_available[device]:
        known = ", ".join(name for name, is_there in is_available.items() if is_there)
        raise UserError(f"--device {device}: not found by torch {torch.__version__}; expected one of: {known}")


def train_and_record(plan: Plan, options: TrainOptions, train_plan: TrainUnits) -> list[str]:
    """Train a plan and record each run as soon as its unit is done; return a line for each failed unit.

    A first SIGTERM or SIGHUP ends each unit after its epoch; with a cluster, whose workers write no checkpoints, it
    interrupts at once.

    Args:
        train_plan: `train_units` of this module, or of `cluster.py` with a client.

    Raises:
        Interrupted: a signal stopped training.
    """
    for unit in plan.units:
        unit.checkpoint.begin()
    shared = dict(command=options.command, commit=git_commit())
    failures = []
    try:
        with Progress(sum(unit.epochs for unit in plan.units)) as progress, contextlib.ExitStack() as context:
            if train_plan is train_units:
                context.enter_context(console.warned_first(progress.end))
            for result in context.enter_context(contextlib.closing(train_plan(plan, options.device, progress))):
                unit, error = plan.units[result.number], result.error
                if result.runs:
                    try:
                        _record(unit, result.runs, shared, progress)
                    except RecordError as problem:
                        error = str(problem)
                if error:
                    failures.append(f"failed: {unit.name}: {error}\n")
                    progress.say(failures[-1].rstrip())
            if progress.ended_by:
                raise KeyboardInterrupt(progress.ended_by)
            if progress.error:
                raise progress.error
    except KeyboardInterrupt as interrupt:
        raise Interrupted(*interrupt.args) from None
    return failures


def _record(unit: Unit, runs: list[Run], shared: dict[str, Any], progress: Progress) -> None:
    for run in runs:
        finished = datetime.now(UTC).isoformat(timespec="seconds")
        run.result |= shared | dict(runs_at_once=unit.checkpoint.choice, finished=finished)
        path = records.write_run(unit.task.folder, run)
        says = f"seed {run.seed}: {describe_outcome(run.result)} → {path}"
        progress.say(join_label(unit.task.label, says))
    unit.checkpoint.delete()
    progress.spare(unit.epochs - unit.count_trained(runs))


def describe_outcome(result: dict[str, Any]) -> str:
    """Describe how a run ended: its test accuracy, or that it diverged."""
    if result["diverged"]:
        return result["stop_reason"]
    accuracy, epoch = 100 * result["test_accuracy"], result["chosen_epoch"]
    return f"test accuracy {accuracy:.2f} % at epoch {epoch} ({result['stop_reason']})"


# ---------------------------------------------------------------------------------------------------------------------
# Processes


def train_units(plan: Plan, device: str, progress: Progress) -> Generator[UnitResult]:
    """Train the units of a plan and yield each result when it arrives; a failed unit does not stop the others."""
    if len(plan.units) == 1 or (device != "cpu" and plan.jobs == 1):  # more processes on a GPU only use more memory
        for number, unit in enumerate(plan.units):
            if not progress.is_ending:
                show_unit = partial(progress.show, unit.task.label, unit.task.experiment.epochs)
                yield train_unit(number, unit, device, show_unit)
        return
    left = set(range(len(plan.units)))
    with progress.receive_from_processes() as show:
        calls = []
        for number, unit in enumerate(plan.units):
            show_unit = partial(show, unit.task.label, unit.task.experiment.epochs)
            calls.append(partial(train_unit, number, unit, device, show_unit))
        try:
            for result in run_in_processes((call for call in calls if not progress.is_ending), plan.jobs):
                left.remove(result.number)
                yield result
        except BrokenProcessPool:
            progress.say(
                "a training process died, perhaps for lack of memory: training continues with one process at a time"
            )
        for number in sorted(left):
            if progress.is_ending:
                break
            try:
                (result,) = run_in_processes([calls[number]], jobs=1)
            except BrokenProcessPool:
                died = f"its process died, perhaps for lack of memory; {advise_alone(plan.units[number])}"
                result = UnitResult(number, error=died)
            yield result


def advise_alone(unit: Unit) -> str:
    """Name the flags that train a unit's seeds one at a time; without --force, they resume side by side as begun."""
    only = ["--only", unit.task.label] if unit.task.label else []
    words = join_words(*only, "--seeds", list_seeds(unit.seeds), "--force", "--runs-at-once", "1")
    return f"train its seeds one at a time, with {words}"


def run_in_processes(calls: Iterable[Callable[[], Any]], jobs: int) -> Iterator[Any]:
    """Run calls in some processes, and yield their results as they arrive; a call is taken when a process is free.

    Raises:
        BrokenProcessPool: a process died.
    """
    left = iter(calls)
    running: set[Any] = set()  # futures
    # joblib.Parallel would take calls ahead, and make one call in this process, which must survive if that one dies.
    executor = get_reusable_executor(jobs, timeout=IDLE_SECONDS, initializer=_begin_process, initargs=(os.getpid(),))
    try:
        while True:
            with console.ignoring_signals():  # which the processes that are started now inherit
                running |= {executor.submit(call) for call in islice(left, jobs - len(running))}
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in sorted(done, key=lambda future: future.exception() is not None):  # what succeeded first
                yield future.result()
    finally:
        if running:  # after an error, or if nobody waits for the results
            executor.shutdown(kill_workers=True)


def train_unit(number: int, unit: Unit, device: str, show: Callable[[list[training.Row]], bool] | None) -> UnitResult:
    """Train a unit in this process, until it is done or `show`, called after each epoch, says that it has to end."""
    task, checkpoint = unit.task, replace(unit.checkpoint)  # training must not change the plan's checkpoint

    def on_epoch(rows: list[training.Row]) -> None:
        checkpoint.is_last = bool(show and show(rows))

    try:
        prepare_process(device, checkpoint.threads)
        runs = training.train(task.experiment, unit.seeds, task.dataset, device, on_epoch, checkpoint)
        for run in runs:
            run.result |= describe_machine(device)
        return UnitResult(number, runs)
    except UnitEnded:
        return UnitResult(number)
    except Exception as error:  # any error stops only this unit, and is reported at the end
        where = traceback.extract_tb(error.__traceback__)[-1]
        says = str(error).partition("\n")[0]  # torch adds a traceback to its messages
        where_from = f"{Path(where.filename).name}, line {where.lineno}"
        return UnitResult(number, error=f"{type(error).__name__}: {says} ({where_from})")


def prepare_process(device: str, threads: int | None) -> None:
    """Configure this process for training: threads, memory allocation and, on a GPU, deterministic arithmetic.

    Args:
        threads: number of CPU threads; None keeps torch's setting.
    """
    if threads:
        torch.set_num_threads(threads)
    if platform.libc_ver()[0] == "glibc":  # else page faults for large tensors cost more than a layer's arithmetic
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX: allocate large tensors on the heap, not with mmap
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: keep freed memory in the process
    if device == "cuda":  # the same bits each time, where torch can, and no rounding to TF32
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at the first matrix product
        torch.use_deterministic_algorithms(True, warn_only=True)  # others only warn
        deterministic: Any = torch.utils.deterministic
        deterministic.fill_uninitialized_memory = False  # nothing here reads such memory
        torch.backends.cudnn.allow_tf32 = False


def _begin_process(parent: int) -> None:
    """Let this process print any character, and leave its end to its parent, also if that one is killed."""
    console.make_readable()
    for each in console.SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    process_executor._USE_PSUTIL = False  # or loky replaces processes that keep memory, as `prepare_process` lets them

    def watch() -> None:
        while os.getppid() == parent:  # on Windows this number never changes
            time.sleep(0.1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
