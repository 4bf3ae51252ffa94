"""What lies in an experiment's folder while it is trained: a checkpoint for each unit of work; and beside it, a lock.

    runs/<table>/<experiment>/checkpoint-0-2.pt     seeds 0 to 2, side by side, as they were at the end of an epoch
    runs/<table>/.<experiment>.lock                 who trains it

A unit's first checkpoint comes before any training and says only which seeds belong together, as a run's bits depend on
the seeds beside it and on the threads. So a command that was killed goes on with the same units, and its results are
bit-identical to those of one that was not. What a checkpoint holds outranks finished runs of its seeds (they may be
older, or the command may have been killed while writing them), so it is deleted last.

The file is what `torch.save` writes, then 32 bytes: SHA-256 of experiment.json and all before. torch.load, which finds
no flipped bit, sees nothing of another experiment's checkpoint or a damaged one.
"""

import contextlib
import hashlib
import io
import math
import os
import pickle
import socket
import sys
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from engine import records
from engine.progress import seed_list

# torch and filelock take their time to import: the functions that need them do.

SECONDS_APART = 10  # at least, of two checkpoints of a unit
WRITINGS_APART = 20  # and this many times what writing the last one took, so that no more than 5 % of the time is spent
DIGEST = hashlib.sha256().digest_size
CONTENT = dict(seeds=[int], threads=int, units=[[int]], device=str, epoch=int)  # of the file, beside the state
MOST_THREADS = 1024


class TrainedElsewhere(Exception):
    """Another command trains the experiment; the message says who."""


@dataclass
class Checkpoint:
    """Where a unit of work stands: a file that is whole at any moment, or none."""

    folder: Path  # of the experiment
    seeds: list[int]  # side by side
    threads: int  # of the process
    units: list[list[int]]  # the seeds of this unit and of those planned with it, of which a kill may leave no file
    device: str = "cpu"
    epoch: int = 0  # that the file is of; 0 if nothing is trained

    @property
    def path(self):
        ends = sorted({min(self.seeds), max(self.seeds)})
        return self.folder / f"checkpoint-{'-'.join(map(str, ends))}.pt"

    def read(self):
        """The state that training goes on from, as `write` was given it; None if nothing is trained.

        The clock starts, too; without a first file, as in a benchmark, no other will be due.
        """
        if not self.path.exists():
            self.due = math.inf
            return None
        self.due = time.monotonic() + SECONDS_APART
        content = _read(self.path)
        self.epoch = content["epoch"]
        return content["state"]

    def begin(self):
        """Write the first file, unless there is one.

        Raises:
            records.RecordError: it cannot be written.
        """
        if not self.path.exists():
            try:
                self.write(0, None)
            except OSError as error:
                raise records.RecordError(f"{self.path}: cannot be written ({error.strerror})") from None

    def write(self, epoch, state):
        """Put a state, made of tensors, numbers, strings, lists and dicts, in place of the one before.

        Raises:
            OSError: it cannot be written; the one before is as it was.
        """
        import torch

        plan = dict(seeds=self.seeds, threads=self.threads, units=self.units, device=self.device)
        content = plan | dict(epoch=epoch, state=state)
        file = io.BytesIO()
        torch.save(content, file)
        records.write_whole(self.path, file.getvalue() + _digest(self.folder, file.getvalue()))
        self.epoch = epoch

    def write_if_due(self, epoch, make_state):
        """Write what `make_state()` returns, unless the last one is young; a training goes on also if it cannot be."""
        started = time.monotonic()
        if started < self.due:
            return
        try:
            self.write(epoch, make_state())
        except OSError as error:
            self.due = math.inf
            print(
                f"{self.path}: cannot be written ({error.strerror}); {seed_list(self.seeds)}: trained on without "
                f"checkpoints, and if interrupted, from epoch {self.epoch + 1} again",
                file=sys.stderr,
            )
        else:
            ended = time.monotonic()
            self.due = ended + max(SECONDS_APART, WRITINGS_APART * (ended - started))

    def delete(self):
        """Delete the file, now that its runs are recorded, or not wanted.

        Raises:
            records.RecordError: it cannot be deleted.
        """
        try:
            if os.name == "posix":  # power that fails must not undo the runs' renames and leave this deletion
                folder = os.open(self.folder, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise records.RecordError(f"{self.path}: cannot be deleted ({error.strerror})") from None


def unfinished(folder):
    """The checkpoints of an experiment's unfinished units; those that cannot be read are set aside, which is said.

    Raises:
        records.RecordError: one that cannot be read cannot be renamed either.
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
        except Exception as error:  # whatever is wrong with it, training starts anew
            says = str(error).partition("\n")[0]
            aside = path.with_name(f"{path.name}.unreadable")
            try:
                os.replace(path, aside)
            except OSError as problem:
                raise records.RecordError(f"{path}: cannot be read, nor renamed ({problem.strerror})") from None
            print(f"{path}: cannot be read ({says}); set aside as {aside.name}, its seeds start anew", file=sys.stderr)
    taken = {seed for checkpoint in found for seed in checkpoint.seeds} | set(records.finished_seeds(folder))
    for checkpoint in tuple(found):
        for seeds in checkpoint.units:
            if taken.isdisjoint(seeds):
                found.append(replace(checkpoint, seeds=seeds, epoch=0))
                taken |= set(seeds)
    return found


def _read(path):
    import torch

    content = path.read_bytes()
    if content[-DIGEST:] != _digest(path.parent, content[:-DIGEST]):
        raise ValueError("it is damaged or another experiment's")
    try:
        content = torch.load(io.BytesIO(content[:-DIGEST]), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError("it holds what is no state of a training") from None
    records.check(content, CONTENT)
    if not 1 <= content["threads"] <= MOST_THREADS:
        raise ValueError(f"threads is {content['threads']}, expected 1 to {MOST_THREADS}")
    return content


def _digest(folder, content):
    return hashlib.sha256((folder / "experiment.json").read_bytes() + content).digest()


@contextlib.contextmanager
def lock(folder):
    """Keep an experiment's folder, which need not exist yet, from other commands; death of this one opens it, too.

    Raises:
        TrainedElsewhere: another command has it.
        records.RecordError: the lock cannot be written.
    """
    from filelock import FileLock, Timeout

    path = folder.with_name(f".{folder.name}.lock")
    lock = FileLock(path)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        raise TrainedElsewhere(_holder(path)) from None
    except OSError as error:
        raise records.RecordError(f"{path}: cannot be written ({error.strerror}); name another --runs-dir") from None
    try:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with contextlib.suppress(OSError):  # a full disk: whoever finds it locked is not told by whom
            path.write_text(f"process {os.getpid()} on {socket.gethostname()} since {now}", encoding="utf-8")
        yield
    finally:
        with contextlib.suppress(OSError):  # of Windows, where it stays
            path.unlink()
        lock.release()


def _holder(path):
    with contextlib.suppress(OSError):  # of Windows, which lets no other process read it
        if holder := path.read_text(encoding="utf-8", errors="replace"):
            return holder
    return "another command"
