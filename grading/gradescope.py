"""Gradescope's results.json: what a submission scored, or why the grader failed, which costs no student a point.

with telling_failures(words):           # of the command line; leaves a results.json without a score ...
    ...
    write_results(path, tests, lines)   # ... unless it is replaced

Gradescope takes a file without scores for a failure of the autograder, and shows it to the teacher. Format:
https://gradescope-autograders.readthedocs.io/en/latest/specs/
"""

import argparse
import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from engine.files import write_answer
from experiments import UserError

MOST_CHARACTERS = 1_000  # of a line
MOST_LINES = 20  # of a text
GRADER_FAILED = "Not graded: the grader failed, which is no fault of this submission. For the teacher: "
STOPPED = "grade.py was stopped before it was done; perhaps it needs more memory or time"


@contextlib.contextmanager
def telling_failures(words: Sequence[str] | None) -> Iterator[None]:
    """Leave a results.json that says why a command failed, if `--gradescope` names one and nothing replaced it.

    The file is written before anything else, so that it is there even if the process is killed or the disk is full.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--gradescope", nargs="?", default="")
    path = Path(parser.parse_known_args(words)[0].gradescope or "")
    if path.suffix != ".json":  # as the command will say
        yield
        return
    _write_failure(path, STOPPED)
    try:
        yield
    except BaseException as error:
        is_refusal = isinstance(error, SystemExit)
        why = " ".join(getattr(error, "__notes__", [])) if is_refusal else f"{type(error).__name__}: {error}"
        with contextlib.suppress(OSError):
            if STOPPED in path.read_text(encoding="utf-8", errors="replace"):  # else there are results already
                _write_failure(path, why or STOPPED)
        raise


def _write_failure(path: Path, why: str) -> None:
    with contextlib.suppress(UserError):  # without any results.json, Gradescope also tells the teacher of a failure
        _write(path, dict(output=make_printable(f"{GRADER_FAILED}{why}")))


def write_results(path: Path, tests: list[dict[str, Any]], lines: list[str]) -> None:
    """Write a results.json with a test for each check, each with its score, and lines on the whole submission.

    Raises:
        UserError: the file cannot be written.
    """
    _write(path, dict(output=join_lines(lines), tests=tests))


def _write(path: Path, content: dict[str, Any]) -> None:
    write_answer(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def join_lines(lines: list[str]) -> str:
    """Join lines to a text of bounded length."""
    more = [f"and {len(lines) - MOST_LINES:,} more"] if len(lines) > MOST_LINES else []
    return "\n".join([*map(make_printable, lines[:MOST_LINES]), *more])


def make_printable(line: str) -> str:
    """Return a line of bounded length, in which characters that cannot be printed are written as in Python."""
    cut = f"{line[:MOST_CHARACTERS]}…" if len(line) > MOST_CHARACTERS else line
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in cut)
