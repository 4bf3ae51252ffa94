"""Progress bar over the epochs of all runs in all processes; without a terminal, a line for each epoch."""

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from functools import partial
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Listener
from typing import Any

from tqdm import tqdm

from engine import console
from engine.seeds import format_seeds
from training import Row


class Progress:
    """Progress bar for training; leaving the context closes the bar."""

    ended_by = 0  # the signal at which each unit ends after its epoch
    error: OSError | None = None  # after which each unit ends, too: the output's reader has gone, or the disk is full

    def __init__(self, epochs: int) -> None:
        has_bar = sys.stderr.isatty() or console.is_notebook()
        tqdm.monitor_interval = 0  # its thread would hang with the lock below
        tqdm.set_lock(threading.RLock())  # a new one: tqdm does not release its lock if Ctrl-C comes while it draws
        self.bar = tqdm(total=epochs, unit="epoch", disable=not has_bar, dynamic_ncols=True, miniters=1)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def end(self, number: int) -> None:
        """Ask each unit to end after its epoch, because of a signal."""
        self.ended_by = number

    @property
    def is_ending(self) -> bool:
        """Whether each unit ends after its epoch, and no other begins."""
        return bool(self.ended_by or self.error)

    def show(self, label: str, epochs: int, rows: list[Row]) -> bool:
        """Show the mean metrics of an epoch that the runs of a unit have just finished.

        Args:
            epochs: the experiment's largest number of epochs.
            rows: the history row of each run for this epoch.

        Returns:
            Whether the unit has to end now.
        """
        means = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
        line = (
            f"train loss {means['train_loss']:.4f} accuracy {100 * means['train_accuracy']:.2f} %, "
            f"validation loss {means['val_loss']:.4f} accuracy {100 * means['val_accuracy']:.2f} %"
        )
        if means["penalty"]:
            line += f", penalty {means['penalty']:.4f}"
        if self.ended_by:
            line += f"; ends here: {signal.Signals(self.ended_by).name}"
        with self._surviving():
            if self.bar.disable:
                name = f"{label}, " if label else ""
                seeds = format_seeds(row["seed"] for row in rows)
                print(f"{name}epoch {rows[0]['epoch']}/{epochs}, {seeds}: {line}", flush=True)
            else:
                self.bar.set_postfix_str(f"validation {100 * means['val_accuracy']:.2f} %", refresh=False)
                self.bar.update(len(rows))
        return self.is_ending

    def count(self, epochs: int) -> None:
        """Advance the bar by epochs that were not shown one by one."""
        self.bar.update(epochs)

    def spare(self, epochs: int) -> None:
        """Shorten the bar by epochs that early stopping saved."""
        self.bar.total -= epochs
        self.bar.refresh()

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        with self._surviving():
            self.bar.write(line)

    @contextlib.contextmanager
    def _surviving(self) -> Iterator[None]:
        """Let training end in order if its output cannot be written, and go on if its terminal was closed."""
        try:
            yield
        except OSError as error:
            console.discard_output()
            if error.errno != errno.EIO:
                self.error = self.error or error

    @contextlib.contextmanager
    def receive_from_processes(self) -> Iterator[Any]:
        """Yield a picklable `show` for worker processes, which asks this process over a short connection."""
        key = os.urandom(32)

        def answer() -> None:
            is_open = True
            while is_open:
                with (
                    contextlib.suppress(OSError, EOFError, AuthenticationError),  # the caller was killed meanwhile
                    listener.accept() as connection,
                ):
                    shown = connection.recv()
                    is_open = bool(shown)
                    connection.send(is_open and self.show(*shown))

        try:
            listening = Listener(authkey=key)
        except OSError:  # the path of TMPDIR is too long for a socket's
            listening = Listener(("localhost", 0), authkey=key)
        with listening as listener:
            thread = threading.Thread(target=answer, daemon=True)
            thread.start()
            try:
                yield partial(ask, listener.address, key)
            finally:
                if thread.is_alive():
                    ask(listener.address, key)  # arrives last, so every earlier call has been shown
                thread.join()


def ask(address: Any, key: bytes, *shown: Any) -> bool:
    """Call `Progress.show` in the process that shows the progress; if this fails, training continues.

    Without anything to show, that process stops listening.
    """
    with contextlib.suppress(OSError, EOFError), Client(address, authkey=key) as connection:
        connection.send(shown)
        return connection.recv()
    return False
