"""A submission: report, records, weights and code in one zip archive, with a manifest of checksums.

pack(Path("submission.zip"), report=Path("report"), runs_dir=Path("runs"))
submission = read_submission(Path("submission.zip"), workshop, GradeOptions())
"""

import hashlib
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from analysis.document import CONTENTS, read_contents
from engine import records
from engine.files import RecordError
from engine.provenance import ROOT, code_files
from engine.records import Record
from grading.untrusted import LIMITS, Limits, SubmissionError, check_archive, find_files, is_litter, read_runs
from studies.study import Study

MANIFEST = "manifest.json"
OTHER_CODE = ("analysis/templates/*", "requirements*.txt", "README.md")  # what goes with the Python files


def pack(path: Path, report: Path, runs_dir: Path, study: str | None = None) -> int:
    """Write the archive whole, or not at all; return how many files are in it.

    Runs that are damaged or have diverged go into it, too.

    Args:
        report: folder that a `document.Document` was written to.
        study: pack this study's records; None: all.

    Raises:
        SubmissionError: the archive cannot be written.
    """
    files = {f"report/{name}": report / name for name in [*read_contents(report), CONTENTS]}
    kept = [runs_dir / "notes.md"]
    for folder in _find_experiments(runs_dir, study):
        kept.append(folder / "experiment.json")
        kept += [file for name in records.FILES for file in folder.glob(f"seed-*/{name}")]
    files |= {f"runs/{file.relative_to(runs_dir).as_posix()}": file for file in kept if file.is_file()}
    files |= {f"code/{name}": file for name, file in all_code().items()}
    try:
        checksums = {name: _hash_file(file) for name, file in sorted(files.items())}
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


def _find_experiments(runs_dir: Path, study: str | None) -> Iterator[Path]:
    """Yield the folders of a study's experiments, or of all; the same whose records or problems a report names."""
    for folder in {path.parent for name in ("experiment.json", "seed-*") for path in runs_dir.glob(f"*/*/{name}")}:
        try:
            name = records.read_description(folder / "experiment.json").study
        except RecordError:
            name = folder.parent.name.partition(",")[0]
        if study in (None, name):
            yield folder


def all_code() -> dict[str, Path]:
    """Return the files of this toolkit that go with a submission, {path below the toolkit's folder: file}."""
    others = [file for pattern in OTHER_CODE for file in ROOT.glob(pattern) if file.is_file()]
    return code_files() | {file.relative_to(ROOT).as_posix(): file for file in others}


def unpack(path: Path, folder: Path, limits: Limits = LIMITS) -> None:
    """Unpack an archive into an empty folder, without what computers add to archives.

    Raises:
        SubmissionError: it is no zip archive, is damaged, or is not to be trusted; then nothing is unpacked.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            check_archive(archive, limits)
            for member in archive.infolist():
                if not is_litter(member.filename):
                    archive.extract(member, folder)  # stops where a member is longer than it says
    except (OSError, RuntimeError, ValueError, NotImplementedError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise SubmissionError(f"{path}: empty, cut off, or not a zip archive ({error})") from None


@dataclass(frozen=True)
class GradeOptions:
    """What the grader asks for."""

    data_dir: Path = Path("data")
    study: Study | None = None  # that was to be handed in, with its overrides; None: whatever there is
    seeds: list[int] | None = None  # that were to be trained of every experiment; None: any five
    retrain: str | None = None  # STUDY/TITLE


@dataclass(frozen=True)
class Submission:
    """What is graded: the folder of a submission, its records, and all that cannot be read."""

    folder: Path
    options: GradeOptions
    records: list[Record] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)  # a line for each file that is not as its manifest has it
    unreadable: list[str] = field(default_factory=list)  # a line for each file of its records that cannot be used
    other_code: list[str] = field(default_factory=list)  # files that are not as they are here

    @cached_property
    def runs(self) -> list[tuple[Record, int, str]]:
        """Every run that did not diverge: its record, its seed and what it is called."""
        return [
            (record, seed, f"{record.group}/{record.title} seed {seed}")
            for record in self.records
            for seed in record.results
        ]

    @property
    def holds_what_was_asked(self) -> bool:
        """Whether it has a run of the study that was to be handed in."""
        study = self.options.study
        return any(study is None or record.group == study.group for record, _, _ in self.runs)


def read_submission(path: Path, workshop: Path, options: GradeOptions) -> Submission:
    """Read a submission, an archive or its unpacked folder.

    Args:
        workshop: an empty folder that an archive is unpacked to.
    """
    folder = path if path.is_dir() else workshop
    try:
        if folder != path:
            unpack(path, folder)
        folder = find_top(folder)
        damage, other_code = check_manifest(folder), find_differing_code(folder)
        found, unreadable = read_runs(folder / "runs", limits=LIMITS)
    except SubmissionError as error:
        return Submission(folder, options, damage=[str(error)])
    return Submission(folder, options, found, damage, unreadable, other_code)


def find_top(folder: Path) -> Path:
    """Find the submission in an unpacked folder: the folder, or the only one in it, as when it was packed again."""
    inside = [path for path in folder.iterdir() if not is_litter(path.name)]
    if len(inside) == 1 and not inside[0].is_symlink() and (inside[0] / MANIFEST).is_file():
        return inside[0]
    return folder


def check_manifest(folder: Path) -> list[str]:
    """Return a line for each file of an unpacked submission that is missing, altered or not in the manifest.

    Raises:
        SubmissionError: another version of this toolkit made it, or it holds a link.
    """
    files = dict(find_files(folder))
    if files.pop(MANIFEST, None) is None:
        return [f"{MANIFEST} is missing: this is not what report.py --bundle made"]
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        form, listed = manifest["format"], {str(name): str(digest) for name, digest in manifest["files"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return [f"{MANIFEST} cannot be read: this is not what report.py --bundle made"]
    if form not in records.FORMATS:
        expected = " or ".join(map(str, records.FORMATS))
        raise SubmissionError(f"another version of this toolkit made it: format {form!r}, expected {expected}")
    problems = [f"{name} is missing" for name in listed.keys() - files.keys()]
    problems += [f"{name} is not in the manifest" for name in files.keys() - listed.keys()]
    problems += [
        f"{name} was altered" for name in listed.keys() & files.keys() if _hash_file(files[name]) != listed[name]
    ]
    return sorted(problems)


def find_differing_code(folder: Path) -> list[str]:
    """List the files of a submission's code, if it has any, that are altered, missing there or missing here."""
    if not (folder / "code").is_dir():
        return []
    ours, theirs = all_code(), dict(find_files(folder / "code"))
    same = {name for name in ours.keys() & theirs.keys() if _hash_file(ours[name]) == _hash_file(theirs[name])}
    return sorted((ours.keys() | theirs.keys()) - same)


def _hash_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
