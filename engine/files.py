"""Files that are there whole or not at all, and JSON whose contents are of known types."""

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

from experiments import UserError

UNFINISHED = ".unfinished-"  # what the names of files and folders begin with while they are written
LARGEST = 1e50  # number that is read: no training in float32 gives a larger one, and its square is finite


class RecordError(UserError):
    """Records or checkpoints cannot be written or read."""


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file's content, or leave it as it was, even if the process is killed meanwhile.

    Raises:
        OSError: it cannot be written.
    """
    workshop = path.with_name(f"{UNFINISHED}{path.name}-{os.getpid()}")
    try:
        workshop.write_bytes(content)
        flush(workshop)
        os.replace(workshop, path)
    finally:
        workshop.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Have a file's content written to the disk, not only to the system's cache."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def put_in_place(workshop: Path, target: Path) -> None:
    """Rename a folder to its target; an older folder there is deleted once the new one is in place."""
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
    """Write a JSON file, with null for each number that is not finite, since JSON has no such number.

    Raises:
        OSError: it cannot be written.
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
    """Read a JSON object.

    Raises:
        RecordError: it cannot be read, or is something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(content, ensure_ascii=False).encode()  # half a surrogate pair could not be written into a report
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"{path}: cannot be read ({error})") from None
    if not isinstance(content, dict):
        raise RecordError(f"{path}: expected a JSON object")
    return content


def check_types(value: Any, expected: Any, name: str = "") -> None:
    """Check that a value, as of JSON, is of a type, or a list or dictionary whose contents are.

    Raises:
        ValueError: it is not; the message names it.
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
