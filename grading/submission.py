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
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from analysis.document import CONTENTS, contents
from engine import records
from engine.provenance import ROOT, code_files

MANIFEST = "manifest.json"
OTHER_CODE = ("analysis/templates/*", "requirements*.txt", "README.md")  # what goes with the Python files
MOST_FILES, MOST_BYTES = 50_000, 4 * 2**30  # of a submission, unpacked
LITTER = ("__MACOSX", ".DS_Store", "._*", "Thumbs.db", "desktop.ini")  # that computers leave in folders and archives


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
    kept = [*runs_dir.glob("*/*/experiment.json")]
    kept += [file for name in records.FILES for file in runs_dir.glob(f"*/*/seed-*/{name}")]
    kept = [file for file in kept if records.is_of_study(file.relative_to(runs_dir).parts[0], study)]
    kept += runs_dir.glob("notes.md")
    files |= {f"runs/{file.relative_to(runs_dir).as_posix()}": file for file in kept if file.is_file()}
    files |= {f"code/{name}": file for name, file in all_code().items()}
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


def all_code():
    """The files of this toolkit that go with a submission: {path below its folder: file}."""
    others = [file for pattern in OTHER_CODE for file in ROOT.glob(pattern) if file.is_file()]
    return code_files() | {file.relative_to(ROOT).as_posix(): file for file in others}


def unpack(path, folder):
    """Unpack an archive into an empty folder, without what computers add to archives.

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
                if not _is_inside(name):
                    raise SubmissionError(f"{path}: {name!r} is not a path inside it")
                if name.casefold() in seen:
                    raise SubmissionError(f"{path}: {name!r} is twice in it")
                if stat.S_ISLNK(member.external_attr >> 16):
                    raise SubmissionError(f"{path}: {name!r} is a link")
                seen.add(name.casefold())
                if not _is_litter(name):
                    archive.extract(member, folder)  # stops where a member is longer than it says
    except SubmissionError:
        raise
    except (OSError, RuntimeError, ValueError, NotImplementedError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise SubmissionError(f"{path}: empty, cut off, or not a zip archive ({error})") from None


def _is_inside(name):
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts and not set("\\:\0") & set(name)


def _is_litter(name):
    return any(fnmatch(part, pattern) for part in PurePosixPath(name).parts for pattern in LITTER)


def top_of(folder):
    """Where an unpacked submission lies: in a folder, or in the only folder there, as when one was packed again."""
    inside = [each for each in folder.iterdir() if not _is_litter(each.name)]
    is_there = len(inside) == 1 and not inside[0].is_symlink() and (inside[0] / MANIFEST).is_file()
    return inside[0] if is_there else folder


def check_manifest(folder):
    """Lines on what is missing, altered or not in the manifest of an unpacked submission.

    Raises:
        SubmissionError: it was made by another version, or holds a link: what is behind that is not the submission.
    """
    if link := next((file for file in folder.rglob("*") if file.is_symlink()), None):
        raise SubmissionError(f"{link.relative_to(folder)} is a link")
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        form, listed = manifest["format"], {str(name): str(digest) for name, digest in manifest["files"].items()}
    except FileNotFoundError:
        return [f"{MANIFEST} is missing: this is not what report.py --bundle made"]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return [f"{MANIFEST} cannot be read: this is not what report.py --bundle made"]
    if form != records.FORMAT:
        raise SubmissionError(f"another version of this toolkit made it: format {form!r}, expected {records.FORMAT}")
    there = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.is_file() and name != MANIFEST and not _is_litter(name):
            there[name] = file
    problems = [f"{name} is missing" for name in listed.keys() - there.keys()]
    problems += [f"{name} is not in the manifest" for name in there.keys() - listed.keys()]
    problems += [
        f"{name} was altered" for name in listed.keys() & there.keys() if _checksum(there[name]) != listed[name]
    ]
    return sorted(problems)


def differing_code(folder):
    """The files of a submission's code, if it has any, that are not as they are here, or missing there or here."""
    if not (folder / "code").is_dir():
        return []
    own = all_code()
    there = {file.relative_to(folder / "code").as_posix(): file for file in (folder / "code").rglob("*")}
    there = {name: file for name, file in there.items() if file.is_file() and not _is_litter(name)}
    same = {name for name in own.keys() & there.keys() if _checksum(own[name]) == _checksum(there[name])}
    return sorted((own.keys() | there.keys()) - same)


def _checksum(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
