"""A submission: report, records, weights and code in one zip archive, with a manifest of checksums.

pack(Path("submission.zip"), report=Path("report"), runs_dir=Path("runs"))
unpack(Path("submission.zip"), folder)         # SubmissionError where the archive is not to be trusted
problems = check_manifest(folder)
"""

import hashlib
import json
import os
import stat
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

import records
from document import CONTENTS, contents

MANIFEST = "manifest.json"
CODE = Path(__file__).resolve().parent
CODE_FILES = ("*.py", "templates/*", "requirements*.txt", "README.md")
MOST_FILES, MOST_BYTES = 50_000, 4 * 2**30  # of a submission, unpacked


class SubmissionError(Exception):
    """A submission cannot be made or used; the message is one line and says why."""


def pack(path, report, runs_dir, study=None):
    """Write the archive whole, or not at all; return how many files are in it.

    Args:
        report: folder that a `document.Document` was written to.
        study: whose records go into it; all of them if none is named.

    Raises:
        SubmissionError: the archive cannot be written.
    """
    files = {f"report/{name}": report / name for name in [*contents(report), CONTENTS]}
    kept = [
        file for file in runs_dir.glob("*/*/experiment.json") if records.is_of_study(file.parent.parent.name, study)
    ]
    kept += [file for each in kept for name in records.FILES for file in each.parent.glob(f"seed-*/{name}")]
    kept += runs_dir.glob("notes.md")
    files |= {f"runs/{file.relative_to(runs_dir).as_posix()}": file for file in kept if file.is_file()}
    for pattern in CODE_FILES:
        files |= {f"code/{file.relative_to(CODE).as_posix()}": file for file in CODE.glob(pattern) if file.is_file()}
    try:
        checksums = {name: _checksum(file) for name, file in sorted(files.items())}
        handle, workshop = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(MANIFEST, json.dumps(dict(format=records.FORMAT, files=checksums), indent=1))
                for name in checksums:
                    archive.write(files[name], name)
            os.chmod(workshop, 0o644)
            os.replace(workshop, path)
        finally:
            Path(workshop).unlink(missing_ok=True)
    except OSError as error:
        raise SubmissionError(f"{path}: cannot be written ({error.strerror}: {error.filename})") from None
    return len(checksums)


def unpack(path, folder):
    """Unpack an archive into an empty folder.

    Raises:
        SubmissionError: it is no zip archive or is damaged, or holds a path outside the folder, a link, a file twice,
            or more than a submission can.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > MOST_FILES or sum(member.file_size for member in members) > MOST_BYTES:
                raise SubmissionError(f"{path}: holds more than {MOST_FILES:,} files or {MOST_BYTES:,} bytes")
            seen = set()
            for member in members:
                name = member.filename
                if not _is_inside(name) or name.casefold() in seen:
                    raise SubmissionError(f"{path}: {name!r} is twice in it, or not a path inside it")
                if stat.S_ISLNK(member.external_attr >> 16):
                    raise SubmissionError(f"{path}: {name!r} is a link")
                seen.add(name.casefold())
                archive.extract(member, folder)  # stops where a member is longer than it says
    except SubmissionError:
        raise
    except (OSError, RuntimeError, ValueError, NotImplementedError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise SubmissionError(f"{path}: not a zip archive that can be unpacked ({error})") from None


def _is_inside(name):
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts and not set("\\:\0") & set(name)


def check_manifest(folder):
    """Lines on what is missing, altered or not in the manifest of an unpacked submission.

    Raises:
        SubmissionError: it holds a link: what is behind that is not the submission.
    """
    if link := next((file for file in folder.rglob("*") if file.is_symlink()), None):
        raise SubmissionError(f"{folder}: {link.relative_to(folder)} is a link")
    try:
        listed = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        listed = {str(name): str(checksum) for name, checksum in listed.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return [f"{MANIFEST} cannot be read ({error})"]
    there = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.is_file() and name != MANIFEST:
            there[name] = file
    problems = [f"{name} is missing" for name in listed.keys() - there.keys()]
    problems += [f"{name} is not in the manifest" for name in there.keys() - listed.keys()]
    problems += [
        f"{name} was altered" for name in listed.keys() & there.keys() if _checksum(there[name]) != listed[name]
    ]
    return sorted(problems)


def _checksum(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
