"""Files that are written completely or not at all, and JSON with checked types."""

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

from experiments import UserError

UNFINISHED = ".unfinished-"  # prefix of files and folders that are still being written
LARGEST = 1e50  # largest number accepted: float32 training gives none that is larger, and its square is finite


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
    shutil.rmtree(old, ignore_errors=True)


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


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds a JSON object.

    Raises:
        RecordError: the file cannot be read, or does not hold a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(content, ensure_ascii=False).encode()  # a report cannot contain half a surrogate pair
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"{path}: cannot be read ({error})") from None
    if not isinstance(content, dict):
        raise RecordError(f"{path}: expected a JSON object")
    return content


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
        fits = abs(value) <= LARGEST
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
