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
    """Ctrl-C stopped training after the first checkpoint of every unit was written."""


@dataclass(frozen=True)
class UnitResult:
    """The result of training a unit: its runs, or an error."""

    number: int  # the unit's index in its plan
    runs: list[Run] = field(default_factory=list)
    error: str = ""  # one line; empty if the unit succeeded


TrainUnits = Callable[[Plan, str, Progress], Iterator[UnitResult]]


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

    Args:
        train_plan: `train_units` of this module, or of `cluster.py` with a client.

    Raises:
        Interrupted: Ctrl-C stopped training.
    """
    for unit in plan.units:
        unit.checkpoint.begin()
    shared = dict(command=options.command, commit=git_commit())
    failures = []
    try:
        with Progress(sum(unit.epochs for unit in plan.units)) as progress:
            for result in train_plan(plan, options.device, progress):
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


def train_units(plan: Plan, device: str, progress: Progress) -> Iterator[UnitResult]:
    """Train the units of a plan and yield each result when it arrives; a failed unit does not stop the others."""
    if len(plan.units) == 1 or (device != "cpu" and plan.jobs == 1):  # more processes on a GPU only use more memory
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
            for result in run_in_processes(calls, plan):
                left.remove(result.number)
                yield result
        except BrokenProcessPool:
            progress.say(
                "a training process died, perhaps for lack of memory: training continues with one process at a time"
            )
        for number in sorted(left):
            try:
                (result,) = run_in_processes([calls[number]], plan)
            except BrokenProcessPool:
                result = UnitResult(number, error="its process died, perhaps for lack of memory; try --runs-at-once 1")
            yield result


def run_in_processes(calls: list[Any], plan: Plan) -> Any:
    """Run joblib's delayed calls in as many processes as a plan has, and yield their results as they arrive.

    Raises:
        BrokenProcessPool: a process died.
    """
    warnings.filterwarnings("ignore", ".*tasks", module="joblib")  # joblib's advice when Ctrl-C stops the results
    with (
        joblib.parallel_config(backend="loky", inner_max_num_threads=max(plan.threads)),
        _without_ctrl_c(),
    ):
        # With one job, joblib would train in this process, which must survive if a unit's process dies.
        return joblib.Parallel(
            n_jobs=max(plan.jobs, 2),
            pre_dispatch=plan.jobs,
            return_as="generator_unordered",
            initializer=_end_with,
            initargs=(os.getpid(),),
        )(calls)


def train_unit(number: int, unit: Unit, device: str, show: Callable[[list[training.Row]], None] | None) -> UnitResult:
    """Train a unit in this process; `show` becomes the `on_epoch` of `training.train`."""
    task, checkpoint = unit.task, replace(unit.checkpoint)  # training must not change the plan's checkpoint
    try:
        prepare_process(device, checkpoint.threads)
        runs = training.train(task.experiment, unit.seeds, task.dataset, device, show, checkpoint)
        for run in runs:
            run.result |= describe_machine(device)
        return UnitResult(number, runs)
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


def _end_with(parent: int) -> None:
    """End this process when its parent is killed, so that it does not train on beside a restarted command."""

    def watch() -> None:
        while os.getppid() == parent:  # on Windows this number never changes
            time.sleep(0.1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Make new processes ignore Ctrl-C, so that this process ends them and they print no tracebacks."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
