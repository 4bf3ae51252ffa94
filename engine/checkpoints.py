"""Checkpoints of unfinished training, and the lock that keeps a second command out.

    runs/<group>/<experiment>/checkpoint-0-2.pt     seeds 0 to 2, side by side, at the end of an epoch
    runs/<group>/.<experiment>.lock                 which process trains the experiment

A run's bits depend on the seeds trained beside it and on the number of threads. So a unit's first checkpoint, written
before any training, records both. A command that was killed resumes the same units, and its results are bit-identical
to those of an uninterrupted command. A checkpoint takes precedence over finished runs of its seeds (the runs may be
older, or the command may have been killed while it wrote them), so the checkpoint is deleted last.

The file is the output of `torch.save`, followed by the SHA-256 (32 bytes) of experiment.json and this output. The
digest reveals flipped bits, which torch.load does not notice, and checkpoints of other experiments.
"""

import contextlib
import errno
import hashlib
import io
import math
import os
import pickle
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from engine import files, folder_names, records
from engine.files import RecordError
from engine.seeds import format_seeds, list_seeds
from experiments import UserError
from training import State

SECONDS_APART = 10  # least time between two checkpoints of a unit
WRITINGS_APART = 20  # least time, in multiples of the last write's duration: writing costs at most 5 % of the time
DIGEST = hashlib.sha256().digest_size
CONTENT = dict(seeds=[int], threads=int, units=[[int]], device=str, epoch=int)  # types in the file, except the state
MOST_THREADS = 1024
# How file systems answer that have no locks. EACCES is not among them: it also means that another process has the lock.
WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM, errno.EINVAL}


class UnitEnded(Exception):
    """Training was asked to end, and its checkpoint is written."""


class TrainedElsewhere(UserError):
    """Another command is training the experiment; the message names the command."""


@dataclass
class Checkpoint:
    """The saved progress of a unit of work.

    The file is replaced atomically, so it is never incomplete. Before the first epoch is saved, it may not exist.
    """

    folder: Path  # the experiment's folder
    seeds: list[int]  # trained side by side
    threads: int  # of the process that trains the seeds
    units: list[list[int]]  # the seeds of every unit in the plan; after a kill, some units may have no file
    device: str = "cpu"
    epoch: int = 0  # the last epoch in the file; 0 if none was saved
    choice: str = "unknown"  # where the number of seeds comes from: see `make_plan`; older files do not say
    is_last = False  # whether training ends with the next checkpoint
    has_failed = False  # whether the last writing failed, which was said

    @property
    def path(self) -> Path:
        """The checkpoint file, named after the unit's lowest and highest seed."""
        ends = sorted({min(self.seeds), max(self.seeds)})
        return self.folder / f"checkpoint-{'-'.join(map(str, ends))}.pt"

    def read(self) -> State | None:
        """Return the saved state, or None if no epoch was finished.

        This starts the clock of `write_if_due`. Without a first file, as in a benchmark, no checkpoint is ever due.
        """
        if not self.path.exists():
            self.due = math.inf
            return None
        self.due = time.monotonic() + SECONDS_APART
        content = _read(self.path)
        self.epoch = content["epoch"]
        return content["state"]

    def begin(self) -> None:
        """Write the unit's first checkpoint file, unless it exists.

        Raises:
            RecordError: the file cannot be written.
        """
        if not self.path.exists():
            try:
                self.write(0, None)
            except OSError as error:
                raise RecordError(f"{self.path}: cannot be written ({error.strerror})") from None

    def write(self, epoch: int, state: State | None) -> None:
        """Save this state in the file, replacing an older checkpoint.

        Raises:
            OSError: the file cannot be written; the older checkpoint is unchanged.
        """
        plan = dict(seeds=self.seeds, threads=self.threads, units=self.units, device=self.device, choice=self.choice)
        content = plan | dict(epoch=epoch, state=state)
        file = io.BytesIO()
        torch.save(content, file)
        files.write_whole(self.path, file.getvalue() + _digest(self.folder, file.getvalue()))
        self.epoch = epoch

    def write_if_due(self, epoch: int, make_state: Callable[[], State]) -> None:
        """Save what `make_state` returns, if enough time has passed; if writing fails, warn once and try again later.

        Raises:
            UnitEnded: this was the last checkpoint.
        """
        started = time.monotonic()
        if started < self.due and not self.is_last:
            return
        try:
            self.write(epoch, make_state())
        except OSError as error:
            self.due = started + SECONDS_APART
            lost = f"of {format_seeds(self.seeds)} loses the epochs after epoch {self.epoch}"
            says = f"{self.path}: cannot be written ({error.strerror})"
            if self.is_last:
                print(f"{says}; this end {lost}", file=sys.stderr)
            elif not self.has_failed:
                print(f"{says}, and is tried again; until then, an interruption {lost}", file=sys.stderr)
            self.has_failed = True
        else:
            self.has_failed = False
            ended = time.monotonic()
            self.due = ended + max(SECONDS_APART, WRITINGS_APART * (ended - started))
        if self.is_last:
            raise UnitEnded

    def delete(self) -> None:
        """Delete the file, after its runs were recorded or discarded.

        Raises:
            RecordError: the file cannot be deleted.
        """
        try:
            if os.name == "posix":  # a power failure must not undo the runs' renames but keep this deletion
                folder = os.open(self.folder, os.O_RDONLY)
                try:
                    with contextlib.suppress(OSError):  # some file systems cannot do this to a folder
                        os.fsync(folder)
                finally:
                    os.close(folder)
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise RecordError(f"{self.path}: cannot be deleted ({error.strerror})") from None


def find_unfinished(folder: Path) -> list[Checkpoint]:
    """Read the checkpoints of an experiment's unfinished units; rename unreadable files, with a warning.

    Raises:
        RecordError: an unreadable file cannot be renamed.
    """
    found = []
    for path in sorted(folder.glob("checkpoint-*.pt")):
        try:
            content = _read(path)
            del content["state"]
            checkpoint = Checkpoint(folder, **content)
            if checkpoint.path != path or not all(seeds and min(seeds) >= 0 for seeds in checkpoint.units):
                raise ValueError("it is named after other seeds than it holds")
            found.append(checkpoint)
        except MemoryError:
            raise
        except FileNotFoundError:  # the command that trains these seeds has just finished them
            continue
        except OSError as error:  # it may be readable the next time
            raise RecordError(f"{path}: cannot be read ({error.strerror or error})") from None
        except Exception as error:  # whatever is wrong with the file, its seeds can be trained again
            says = str(error).partition("\n")[0]
            aside = path.with_name(f"{path.name}.unreadable")
            try:
                os.replace(path, aside)
            except OSError as problem:
                raise RecordError(f"{path}: cannot be read or renamed ({problem.strerror})") from None
            print(f"{path}: cannot be read ({says}); set aside as {aside.name}, its seeds start again", file=sys.stderr)
    taken = {seed for checkpoint in found for seed in checkpoint.seeds} | set(records.finished_seeds(folder))
    for checkpoint in tuple(found):
        for seeds in checkpoint.units:
            if taken.isdisjoint(seeds):
                found.append(replace(checkpoint, seeds=seeds, epoch=0))
                taken |= set(seeds)
    return found


def find_seeds(group: Path) -> tuple[set[int], set[int]]:
    """Find the seeds of finished and begun runs in a group's folder, which need not exist.

    Returns:
        (seeds of any experiment, seeds that all experiments with runs share).
    """
    of_folders = []
    for folder in group.glob("[!.]*/"):
        found = set(records.finished_seeds(folder))
        if (folder / "experiment.json").exists():  # without it, no checkpoint can be read; training writes it again
            found.update(seed for checkpoint in find_unfinished(folder) for seed in checkpoint.seeds)
        if found:
            of_folders.append(found)
    return set().union(*of_folders), set.intersection(*of_folders) if of_folders else set()


def find_begun(runs_dir: Path, study: str | None = None) -> list[Path]:
    """Find the folders of experiments with unfinished training, in all studies or in one."""
    folders = folder_names.find_folders(runs_dir, "checkpoint-*.pt")
    if study is None:
        return folders
    found = []
    for folder in folders:
        with contextlib.suppress(RecordError):  # the report names the unreadable file
            if records.read_description(folder / "experiment.json").study == study:
                found.append(folder)
    return found


def describe_begun(folder: Path) -> str:
    """Name an experiment's folder with unfinished training, and the command that resumes it; change nothing."""
    seeds: set[int] = set()
    try:
        record = records.read_description(folder / "experiment.json")
        for path in folder.glob("checkpoint-*.pt"):
            with files.reading(path):
                content = _read(path)
            planned = {seed for unit in content["units"] for seed in unit}  # a kill may come before a unit's file
            seeds |= planned - set(records.finished_seeds(folder)) | set(content["seeds"])
    except RecordError as error:
        return str(error)
    return f"{folder}, {format_seeds(seeds)}; resume all of it: {record.command('--seeds', list_seeds(seeds))}"


def _read(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    if content[-DIGEST:] != _digest(path.parent, content[:-DIGEST]):
        raise ValueError("it is damaged or belongs to another experiment")
    try:
        content = torch.load(io.BytesIO(content[:-DIGEST]), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError("it does not hold a training state") from None
    files.check_types(content, CONTENT)
    if not 1 <= content["threads"] <= MOST_THREADS:
        raise ValueError(f"threads is {content['threads']}, expected 1 to {MOST_THREADS}")
    return content


def _digest(folder: Path, content: bytes) -> bytes:
    return hashlib.sha256((folder / "experiment.json").read_bytes() + content).digest()


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Lock an experiment's folder, which need not exist yet; the lock is released even if this process is killed.

    On a file system without locks, warn once and go on.

    Raises:
        TrainedElsewhere: another command holds the lock.
        RecordError: the lock cannot be written.
    """
    path = folder.with_name(f".{folder.name}.lock")
    lock = FileLock(path, fallback_to_soft=False)  # a soft lock would outlive a process that is killed
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        raise TrainedElsewhere(_holder(path)) from None
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise RecordError(f"{path}: cannot be written ({error.strerror}); name another --runs-dir") from None
        _warn_without_locks(folder.parents[1], error.strerror)
    try:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with contextlib.suppress(OSError):  # on a full disk, the lock works but does not name this process
            path.write_text(f"process {os.getpid()} on {socket.gethostname()} since {now}", encoding="utf-8")
        yield
    finally:
        with contextlib.suppress(OSError):  # on Windows, the locked file cannot be deleted
            path.unlink()
        lock.release()


@cache  # so that it is said once, not for each experiment
def _warn_without_locks(runs_dir: Path, why: str) -> None:
    advice = "do not train the same experiment with two commands at the same time"
    print(f"WARNING: {runs_dir}: its file system has no locks ({why}); {advice}", file=sys.stderr)


def _holder(path: Path) -> str:
    with contextlib.suppress(OSError):  # on Windows, no other process can read a locked file
        if holder := path.read_text(encoding="utf-8", errors="replace"):
            return holder
    return "another command"
