"""What every command does at its console: show all characters, end cleanly at a signal, and spare a notebook's kernel.

make_readable()          # where the console cannot show `→`, it shows `->`
with interrupting():     # SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does
    ...
"""

import codecs
import contextlib
import io
import os
import signal
import sys
import unicodedata
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
SPELLED = {
    **{"→": "->", "±": "+-", "−": "-", "–": "-", "×": "x", "÷": "/", "·": "*", "√": "sqrt", "Σ": "sum ", "λ": "lambda"},
    **{"‖": "||", "²": "^2", "³": "^3", "½": "1/2", "…": "...", "“": '"', "”": '"', "‘": "'", "’": "'"},
}


class CellEnd(Exception):
    """The end of a command in a notebook: IPython shows the message in place of a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def is_notebook() -> bool:
    """Tell whether this process is the kernel of a notebook, which goes on after a command."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None


# ---------------------------------------------------------------------------------------------------------------------
# Characters


def make_readable() -> None:
    """Let stdout and stderr spell the characters that their encoding lacks, and discard output if they are closed."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell, as with `>&-`
            setattr(sys, name, io.TextIOWrapper(io.FileIO(os.devnull, "w")))
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):  # a notebook's streams take every character
            stream.reconfigure(errors="spelled")


def spell(character: str) -> str:
    """Spell a character in ASCII: `->` for `→`, `lambda` for `λ`, `e` for `é`; without a spelling, give its code."""
    if character in SPELLED:
        return SPELLED[character]
    parts = unicodedata.normalize("NFKD", character)
    name = unicodedata.name(parts[0], "")
    if name.startswith("GREEK SMALL LETTER "):
        return name.rpartition(" ")[2].lower()
    plain = "".join(SPELLED.get(part, part) for part in parts if not unicodedata.combining(part))
    return plain if plain.isascii() else character.encode("ascii", "backslashreplace").decode()


def _spell_error(error: Any) -> tuple[str, int]:
    return "".join(map(spell, error.object[error.start : error.end])), error.end


codecs.register_error("spelled", _spell_error)


def discard_output() -> None:
    """Discard all further output, after the reader of stdout has gone or the disk is full."""
    if not is_notebook():
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# ---------------------------------------------------------------------------------------------------------------------
# Signals


def _end_in_one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write("\ninterrupted\n")
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _end_in_one_line  # a command's imports take a moment, before it can enter `interrupting`


def ignore_further() -> None:
    """Ignore the signals from here on, because they would disturb the end of the process."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)


def interrupt_once(number: int, _: object) -> None:
    """Raise KeyboardInterrupt with a signal's number, and ignore further signals."""
    ignore_further()
    raise KeyboardInterrupt(number)


@contextlib.contextmanager
def handling(handler: Any, is_replaced: Callable[[Any], bool]) -> Iterator[None]:
    """Handle the signals whose present handlers are to be replaced; put those back, unless the process ends."""
    before = {each: present for each in SIGNALS if is_replaced(present := signal.getsignal(each))}
    for each in before:
        signal.signal(each, handler)
    try:
        yield
    except SystemExit:  # signals would disturb the end
        before.clear()
        raise
    finally:
        for each, present in before.items():
            signal.signal(each, present)


@contextlib.contextmanager
def interrupting() -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and SIGHUP raise KeyboardInterrupt; what is ignored, as under `nohup`, stays ignored."""
    with handling(interrupt_once, lambda before: before in (signal.SIG_DFL, signal.default_int_handler)):
        yield


@contextlib.contextmanager
def warned_first(warn: Callable[[int], None]) -> Iterator[None]:
    """Let the first SIGTERM or SIGHUP only call `warn` with its number; Ctrl-C or a second signal interrupts."""

    def warn_once(number: int, _: object) -> None:
        restore()
        warn(number)

    def restore() -> None:
        for each in SIGNALS:
            if signal.getsignal(each) is warn_once:
                signal.signal(each, interrupt_once)

    for each in SIGNALS:
        if each != signal.SIGINT and signal.getsignal(each) is interrupt_once:
            signal.signal(each, warn_once)
    try:
        yield
    finally:
        restore()


def ignoring_signals() -> contextlib.AbstractContextManager[None]:
    """Ignore the signals; so do processes that are started meanwhile, which this process will end itself."""
    return handling(signal.SIG_IGN, lambda before: before is not None)
