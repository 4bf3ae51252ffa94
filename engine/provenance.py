"""Provenance of a run: this toolkit's files and commit, the machine, and the versions of libraries."""

import contextlib
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("studies", "sources", "engine", "analysis", "grading")


def code_files() -> dict[str, Path]:
    """Return the Python files of this toolkit, without its tests: {path below the toolkit's folder: file}.

    Hidden files and folders, such as Jupyter's copies of files, are left out.
    """
    files = [*ROOT.glob("*.py"), *(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))]
    named = {file.relative_to(ROOT).as_posix(): file for file in sorted(files)}
    return {name: file for name, file in named.items() if not any(part.startswith(".") for part in name.split("/"))}


def git_commit() -> str | None:
    """Return the commit of this code, with `-dirty` if code was changed or added since; None outside a repository."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        commit, changes = (
            subprocess.run(["git", *words], cwd=ROOT, capture_output=True, encoding="utf-8", check=True).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--", ":(glob)*.py", *FOLDERS])
        )
        return f"{commit}-dirty" if changes else commit
    return None


def describe_machine(device: str) -> dict[str, Any]:
    """Return this process's device, threads, platform and library versions, in the form of result.json."""
    return dict(
        device=torch.cuda.get_device_name() if device == "cuda" else f"{device} ({platform.machine()})",
        threads=torch.get_num_threads(),
        versions=dict(python=platform.python_version(), torch=torch.__version__, numpy=np.__version__),
        platform=platform.platform(),
    )


def read_cpu_name() -> str:
    """Return the name of this machine's CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
