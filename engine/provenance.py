"""Which code a run was made with: the files of this toolkit, and their commit."""

import contextlib
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("studies", "sources", "engine", "analysis", "grading")


def code_files() -> dict[str, Path]:
    """Return every Python file of this toolkit, tests left out, {path below the toolkit's folder: file}."""
    files = [*ROOT.glob("*.py"), *(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))]
    return {file.relative_to(ROOT).as_posix(): file for file in sorted(files)}


def git_commit() -> str | None:
    """Return the commit of this code, with `-dirty` if it was changed since; None outside a repository."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    return None
