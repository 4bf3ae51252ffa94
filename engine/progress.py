"""Progress bar over the epochs of all runs in all processes; without a terminal, a line for each epoch."""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from functools import partial
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Listener
from typing import Any

from tqdm import tqdm

from engine.flags import format_seeds
from training import Row


class Progress:
    """Progress bar for training; leaving the context closes the bar."""

    def __init__(self, epochs: int) -> None:
        self.bar = tqdm(total=epochs, unit="epoch", disable=not sys.stderr.isatty(), dynamic_ncols=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def show(self, label: str, epochs: int, rows: list[Row]) -> None:
        """Show the mean metrics of an epoch that the runs of a unit have just finished.

        Args:
            epochs: the experiment's largest number of epochs.
            rows: the history row of each run for this epoch.
        """
        means = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
        line = (
            f"train loss {means['train_loss']:.4f} accuracy {100 * means['train_accuracy']:.2f} %, "
            f"validation loss {means['val_loss']:.4f} accuracy {100 * means['val_accuracy']:.2f} %"
        )
        if means["penalty"]:
            line += f", penalty {means['penalty']:.4f}"
        if self.bar.disable:
            name = f"{label}, " if label else ""
            seeds = format_seeds(row["seed"] for row in rows)
            print(f"{name}epoch {rows[0]['epoch']}/{epochs}, {seeds}: {line}", flush=True)
        else:
            self.bar.set_postfix_str(f"validation {100 * means['val_accuracy']:.2f} %", refresh=False)
            self.bar.update(len(rows))

    def count(self, epochs: int) -> None:
        """Advance the bar by epochs that were not shown one by one."""
        self.bar.update(epochs)

    def spare(self, epochs: int) -> None:
        """Shorten the bar by epochs that early stopping saved."""
        self.bar.total -= epochs
        self.bar.refresh()

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self.bar.write(line)

    @contextlib.contextmanager
    def receive_from_processes(self) -> Iterator[Any]:
        """Yield a picklable `show` for worker processes; each call opens a short connection to this process."""
        key = os.urandom(32)

        def answer() -> None:
            message: tuple | None = ()
            while message is not None:
                with contextlib.suppress(OSError, EOFError, AuthenticationError):  # the caller was killed meanwhile
                    with listener.accept() as connection:
                        message = connection.recv()
                    if message:
                        self.show(*message)

        with Listener(authkey=key) as listener:
            thread = threading.Thread(target=answer, daemon=True)
            thread.start()
            try:
                yield partial(send, listener.address, key)
            finally:
                if thread.is_alive():
                    _send(listener.address, key, None)  # arrives last, so every earlier call has been shown
                thread.join()


def send(address: Any, key: bytes, *shown: Any) -> None:
    """Send the arguments of `Progress.show` to the process that shows them; if this fails, training continues."""
    _send(address, key, shown)


def _send(address: Any, key: bytes, message: tuple | None) -> None:
    with contextlib.suppress(OSError, EOFError), Client(address, authkey=key) as connection:
        connection.send(message)
