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
from grading.untrusted import LIMITS, Limits, SubmissionError, check_zip, find_files, is_litter, read_runs
from studies.study import Study

MANIFEST = "manifest.json"
OTHER_CODE = ("analysis/templates/*", "requirements*.txt", "README.md")  # packed beside the Python files


def pack(path: Path, report: Path, runs_dir: Path, study: str | None = None) -> int:
    """Write a submission's archive, completely or not at all, and return the number of packed files.

    Damaged and diverged runs are packed, too.

    Args:
        report: folder of a report that `Document.write` wrote.
        study: pack the records of this study only; None: all records.

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
        where = f": {error.filename}" if error.filename else ""
        raise SubmissionError(f"{path}: cannot be written ({error.strerror or error}{where})") from None
    return len(checksums)


def _find_experiments(runs_dir: Path, study: str | None) -> Iterator[Path]:
    """Yield the folders of a study's experiments, or of all experiments if `study` is None.

    If an experiment.json cannot be read, the name of the folder above tells the study.
    """
    for folder in {path.parent for name in ("experiment.json", "seed-*") for path in runs_dir.glob(f"*/*/{name}")}:
        try:
            name = records.read_description(folder / "experiment.json").study
        except RecordError:
            name = folder.parent.name.partition(",")[0]
        if study in (None, name):
            yield folder


def all_code() -> dict[str, Path]:
    """Return the files of this toolkit to pack into a submission, {path relative to the toolkit: file}."""
    others = [file for pattern in OTHER_CODE for file in ROOT.glob(pattern) if file.is_file()]
    return code_files() | {file.relative_to(ROOT).as_posix(): file for file in others}


def unpack(path: Path, folder: Path, limits: Limits = LIMITS) -> None:
    """Unpack an archive into an empty folder, except files that an operating system added.

    Raises:
        SubmissionError: the file is not a zip archive, is damaged, or does not pass `check_zip`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            check_zip(archive, limits)
            for member in archive.infolist():
                if not is_litter(member.filename):
                    archive.extract(member, folder)  # never writes more than the checked size
    except (OSError, RuntimeError, ValueError, NotImplementedError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise SubmissionError(f"{path}: empty, cut off, or not a zip archive ({error})") from None


@dataclass(frozen=True)
class GradeOptions:
    """The grader's options."""

    data_dir: Path = Path("data")
    study: Study | None = None  # requested study with its overrides; None: any
    seeds: list[int] | None = None  # requested for every experiment; None: any five
    retrain: str | None = None  # STUDY/TITLE of the experiment to train again


@dataclass(frozen=True)
class Submission:
    """A submission to grade: its folder, its records, and what is wrong with its files."""

    folder: Path
    options: GradeOptions
    records: list[Record] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)  # a line for each file that differs from the manifest
    unreadable: list[str] = field(default_factory=list)  # a line for each file in runs/ that cannot be used
    other_code: list[str] = field(default_factory=list)  # code files that differ from the grader's

    @cached_property
    def runs(self) -> list[tuple[Record, int, str]]:
        """The runs that did not diverge: [(record, seed, name for messages)]."""
        return [
            (record, seed, f"{record.group}/{record.title} seed {seed}")
            for record in self.records
            for seed in record.results
        ]

    @property
    def holds_what_was_asked(self) -> bool:
        """Whether the submission contains a run of the requested study, or any run if none was requested."""
        study = self.options.study
        return any(study is None or record.group == study.group for record, _, _ in self.runs)


def read_submission(path: Path, workshop: Path, options: GradeOptions) -> Submission:
    """Read a submission from an archive or from its unpacked folder.

    Args:
        workshop: an empty folder to unpack an archive into.
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
    """Return the folder of an unpacked submission: `folder`, or its only subfolder if it was packed again."""
    inside = [path for path in folder.iterdir() if not is_litter(path.name)]
    if len(inside) == 1 and not inside[0].is_symlink() and (inside[0] / MANIFEST).is_file():
        return inside[0]
    return folder


def check_manifest(folder: Path) -> list[str]:
    """Return a line for each file of an unpacked submission that is missing, altered or not in the manifest.

    Raises:
        SubmissionError: another version of this toolkit made the submission, or it contains a link.
    """
    files = dict(find_files(folder))
    if files.pop(MANIFEST, None) is None:
        return [f"{MANIFEST} is missing: expected a submission made by report.py --bundle"]
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        form, listed = manifest["format"], {str(name): str(digest) for name, digest in manifest["files"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return [f"{MANIFEST} cannot be read: expected a submission made by report.py --bundle"]
    if form not in records.FORMATS:
        expected = " or ".join(map(str, records.FORMATS))
        raise SubmissionError(f"made by another version of this toolkit: format {form!r}, expected {expected}")
    problems = [f"{name} is missing" for name in listed.keys() - files.keys()]
    problems += [f"{name} is not in the manifest" for name in files.keys() - listed.keys()]
    problems += [
        f"{name} was altered" for name in listed.keys() & files.keys() if _hash_file(files[name]) != listed[name]
    ]
    return sorted(problems)


def find_differing_code(folder: Path) -> list[str]:
    """List code files that differ from the grader's or exist on one side only; none if no code was submitted."""
    if not (folder / "code").is_dir():
        return []
    ours, theirs = all_code(), dict(find_files(folder / "code"))
    same = {name for name in ours.keys() & theirs.keys() if _hash_file(ours[name]) == _hash_file(theirs[name])}
    return sorted((ours.keys() | theirs.keys()) - same)


def _hash_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
