"""Files that are written completely or not at all, reading that fails in one line, and JSON with checked types."""

import contextlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments import UserError

UNFINISHED = ".unfinished-"  # prefix of files and folders that are still being written
LARGEST_RECORDED = 1e50  # largest number accepted: float32 training gives none that is larger, and its square is finite


class RecordError(UserError):
    """A record or checkpoint cannot be written or read."""


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file atomically: even if the process is killed, the file has the old or the new content.

    Raises:
        OSError: the file cannot be written.
    """
    workshop = path.with_name(f"{UNFINISHED}{path.name}-{os.getpid()}")
    try:
        workshop.write_bytes(content)
        flush(workshop)
        os.replace(workshop, path)
    finally:
        workshop.unlink(missing_ok=True)


def write_answer(path: Path, text: str) -> None:
    """Replace a text file that a flag names, completely or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        write_whole(path, text.encode())
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None


def flush(path: Path) -> None:
    """Write a file's content to the disk, not only to the system's cache."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def put_in_place(workshop: Path, target: Path) -> None:
    """Rename a folder to its target, and then delete the older folder that it replaces, if any."""
    old = workshop.with_name(f"{workshop.name}-old")
    is_replaced = target.exists()
    if is_replaced:
        os.rename(target, old)
    try:
        os.rename(workshop, target)
    except BaseException:
        if is_replaced:
            os.rename(old, target)
        raise
    with contextlib.suppress(OSError):  # the next command deletes what is left
        _delete(old)


def clean_up(folder: Path) -> None:
    """Delete what a killed command left unfinished in a folder; put back what `put_in_place` was replacing.

    Raises:
        OSError: something cannot be deleted.
    """
    for left in folder.glob(f"{UNFINISHED}*"):
        of_run = re.match(rf"{re.escape(UNFINISHED)}(seed-\d+)-.*-old$", left.name)
        if of_run and not (folder / of_run[1]).exists():
            left.rename(folder / of_run[1])
        else:
            _delete(left)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def delete_folder(folder: Path, last: Path) -> None:
    """Delete a folder, and a file of it, which says what the others are, last: a process may be killed in between.

    Of a link to a folder, the contents alone are deleted: the link is the user's choice of a place.
    """
    for path in folder.iterdir():
        if path != last:
            _delete(path)
    last.unlink()
    if not folder.is_symlink():
        folder.rmdir()


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, with null for numbers that are not finite, which JSON cannot represent.

    Raises:
        OSError: the file cannot be written.
    """
    text = json.dumps(_without_nan(content), indent=2, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _without_nan(value: Any) -> Any:
    match value:
        case dict():
            return {key: _without_nan(inner) for key, inner in value.items()}
        case list():
            return [_without_nan(inner) for inner in value]
        case float() if not math.isfinite(value):
            return None
    return value


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn any error while a file is read, such as a damaged one, into a `RecordError` of one line."""
    try:
        yield
    except Exception as error:  # a damaged file can make torch.load and np.load raise anything
        # The text of an OSError would name the path again, and an EOFError has none.
        says = getattr(error, "strerror", None) or str(error) or type(error).__name__
        first_sentence = says.partition("\n")[0].partition(". ")[0]  # torch goes on with advice
        raise RecordError(f"{path}: cannot be read ({first_sentence})") from None


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds a JSON object.

    Raises:
        RecordError: the file cannot be read, or does not hold a JSON object.
    """
    with reading(path):
        content = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(content, ensure_ascii=False).encode()  # a report cannot contain half a surrogate pair
    if not isinstance(content, dict):
        raise RecordError(f"{path}: expected a JSON object")
    return content


def find_difference(recorded: dict[str, Any], expected: dict[str, Any]) -> str | None:
    """Name the first value that differs between two contents of a JSON file; return None if they are equal."""
    flat, expected = _flatten(recorded), _flatten(expected)
    for name in [*expected, *flat]:
        if flat.get(name) != expected.get(name):
            return f"recorded with {name} {flat.get(name)}, now {expected.get(name)}"
    return None


def _flatten(content: dict[str, Any]) -> dict[str, Any]:
    """Flatten nested dictionaries into {"experiment l1": 0.001, ...}."""
    flat: dict[str, Any] = {}
    for name, value in content.items():
        flat |= {f"{name} {key}": inner for key, inner in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def check_types(value: Any, expected: Any, name: str = "") -> None:
    """Check the types of a value, such as one read from JSON.

    Args:
        expected: a type, `[type]` for a list, or `{key: type}` for a dictionary with at least these keys.
        name: what error messages call the value.

    Raises:
        ValueError: a value is missing, too large or of another type; the message names it.
    """
    kind = expected if isinstance(expected, type) else type(expected)
    fits = isinstance(value, kind) or (kind is float and type(value) is int)
    if isinstance(value, bool) and kind is not bool:
        fits = False
    if kind in (int, float) and fits:
        fits = abs(value) <= LARGEST_RECORDED
    if not fits:
        raise ValueError(f"{name or 'it'} is {str(value)[:40]!r}, expected {kind.__name__}")
    if kind is dict:
        for key, inner in expected.items():
            if key not in value:
                raise ValueError(f"{' '.join([name, key]).strip()} is missing")
            check_types(value[key], inner, f"{name} {key}".strip())
    if kind is list:
        for element in value:
            check_types(element, expected[0], name)
