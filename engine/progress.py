"""What a training shows while it goes on, whichever process trains."""

import contextlib
import os
import sys
import threading
from functools import partial
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Listener


class Progress:
    """One bar over the epochs of all runs, whoever trains them; a line an epoch where there is no terminal."""

    def __init__(self, epochs):
        from tqdm import tqdm

        self.bar = tqdm(total=epochs, unit="epoch", disable=not sys.stderr.isatty(), dynamic_ncols=True)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.bar.close()

    def show(self, title, epochs, rows):
        """Take the history rows of the runs of a unit that have just ended an epoch, one of `epochs` at most."""
        means = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
        line = (
            f"train loss {means['train_loss']:.4f} accuracy {100 * means['train_accuracy']:.2f} %, "
            f"validation loss {means['val_loss']:.4f} accuracy {100 * means['val_accuracy']:.2f} %"
        )
        if means["penalty"]:
            line += f", penalty {means['penalty']:.4f}"
        if self.bar.disable:
            seeds = seed_list([row["seed"] for row in rows])
            print(f"{title and f'{title}, '}epoch {rows[0]['epoch']}/{epochs}, {seeds}: {line}", flush=True)
        else:
            self.bar.set_postfix_str(f"validation {100 * means['val_accuracy']:.2f} %", refresh=False)
            self.bar.update(len(rows))

    def count(self, epochs):
        """Take epochs that nobody has shown."""
        self.bar.update(epochs)

    def spare(self, epochs):
        """Count off epochs that will not be trained."""
        self.bar.total -= epochs
        self.bar.refresh()

    def say(self, line):
        self.bar.write(line)

    @contextlib.contextmanager
    def shown_from_afar(self):
        """What other processes call in place of `show`: each call is one short connection to a thread of this one."""
        key = os.urandom(32)

        def answer():
            shown = ()
            while shown is not None:
                with contextlib.suppress(OSError, EOFError, AuthenticationError):  # whoever called was killed meanwhile
                    with listener.accept() as connection:
                        shown = connection.recv()
                    if shown:
                        self.show(*shown)

        with Listener(authkey=key) as listener:
            thread = threading.Thread(target=answer, daemon=True)
            thread.start()
            try:
                yield partial(send, listener.address, key)
            finally:
                if thread.is_alive():
                    _send(listener.address, key, None)  # comes last, so every call before it has been shown
                thread.join()


def send(address, key, *shown):
    """What `shown_from_afar` hands out: `show` from another process; a training goes on also if nobody looks."""
    _send(address, key, shown)


def _send(address, key, message):
    with contextlib.suppress(OSError, EOFError), Client(address, authkey=key) as connection:
        connection.send(message)


def seed_list(seeds):
    """`[0, 1, 2, 5]` as `seeds 0-2,5`, in the form `--seeds` takes."""
    ranges = []
    for seed in sorted(seeds):
        if ranges and seed == ranges[-1][1] + 1:
            ranges[-1][1] = seed
        else:
            ranges.append([seed, seed])
    text = ",".join(f"{low}-{high}" if high > low else str(low) for low, high in ranges)
    return f"seed{'s' * (len(seeds) > 1)} {text}"
