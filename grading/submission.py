"""Read a submission, however it was packed again, and only what its manifest lists.

submission = read_submission(Path("submission.zip"), workshop, GradeOptions())
"""

import contextlib
import hashlib
import json
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from engine import records
from engine.files import RecordError
from engine.records import Record
from grading.archives import Contents, Entry, copy_file, normalize_name, open_files
from grading.copies import Trace, trace_run
from grading.packing import MANIFEST, all_code
from grading.untrusted import LIMITS, Limits, SubmissionError, read_runs
from studies.study import Study

NOTES = "runs/notes.md"
EXPECTED = "expected a submission made by report.py --bundle"
ARCHIVES = (".zip", ".tar.gz", ".tgz", ".tar")
MOST_NESTED = 3  # archives in archives
MOST_SHOWN = 5  # names of files to print


@dataclass(frozen=True)
class GradeOptions:
    """The grader's options."""

    data_dir: Path = Path("data")
    study: Study | None = None  # requested study with its overrides; None: any
    seeds: list[int] | None = None  # requested for every experiment; None: as many as the study plans, or five
    retrain: str | None = None  # STUDY/TITLE of the experiment to train again


@dataclass(frozen=True)
class Submission:
    """A submission to grade: its folder, its records, and what is wrong with its files."""

    folder: Path
    options: GradeOptions
    records: list[Record] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)  # a line for each file that is not as the manifest lists it
    unreadable: list[str] = field(default_factory=list)  # a line for each file in runs/ that cannot be used
    other_code: list[str] = field(default_factory=list)  # code files that differ from the grader's
    remarks: list[str] = field(default_factory=list)  # a line for what was added, mended or ignored: it costs nothing

    @cached_property
    def runs(self) -> list[tuple[Record, int, str]]:
        """The runs that did not diverge: [(record, seed, name for messages)]."""
        return [
            (record, seed, f"{record.group}/{record.title} seed {seed}")
            for record in self.records
            for seed in record.results
        ]

    @cached_property
    def traces(self) -> list[Trace]:
        """What is compared of the runs to find copies; the weights check reports weights that cannot be read."""
        traces = []
        for record, seed, name in self.runs:
            with contextlib.suppress(RecordError):
                traces.append(trace_run(record, seed, name))
        return traces

    @property
    def holds_what_was_asked(self) -> bool:
        """Whether the submission contains a run of the requested study, or any run if none was requested."""
        study = self.options.study
        return any(study is None or record.group == study.group for record, _, _ in self.runs)


# ---------------------------------------------------------------------------------------------------------------------
# Reading. Only the files that the manifest lists are copied from a submission, so nothing else can count as a run, get
# into the report or do harm.


def read_submission(path: Path, workshop: Path, options: GradeOptions, limits: Limits = LIMITS) -> Submission:
    """Read a submission from an archive or from its unpacked folder, which stays as it is.

    Args:
        workshop: an empty or missing folder, to which the files of the submission are copied.

    Raises:
        OSError: this machine cannot read or write a file, as on a full disk, which is not the submission's fault.
    """
    folder = workshop / "submission"
    folder.mkdir(parents=True)
    try:
        with _open_submission(path, workshop, limits) as (contents, beside):
            damage, remarks = take_files(contents, folder, limits)
            if beside:
                remarks.append(f"beside the archive, so not looked at: {list_names(sorted(beside))}")
    except SubmissionError as error:
        return Submission(folder, options, damage=[str(error)])
    if not (folder / "code").is_dir():
        remarks.append("holds no code")
    found, unreadable = read_runs(folder / "runs", limits=limits)
    return Submission(folder, options, found, damage, unreadable, find_differing_code(folder), remarks)


@contextmanager
def _open_submission(path: Path, workshop: Path, limits: Limits) -> Iterator[tuple[Contents, list[str]]]:
    """Open a submission, also if it was packed again, or lies as an archive in a folder of a person's files.

    Yields:
        (its files, the names of the files beside it if it is an archive in a folder or in another archive).
    """
    beside: list[str] = []
    with ExitStack() as stack:
        for number in range(MOST_NESTED):
            contents = stack.enter_context(open_files(path, limits))
            archives = [name for name in contents.files if name.lower().endswith(ARCHIVES)]
            if not archives or _list_tops(contents.files):
                yield contents, beside
                return
            if len(archives) > 1:
                raise SubmissionError(f"holds {len(archives)} archives, expected one: {list_names(archives)}")
            beside += [name for name in contents.files if name not in archives]
            path = workshop / f"archive-{number}" / Path(archives[0]).name
            entry = contents.files[archives[0]]
            _check_limits([entry], limits)
            copy_file(entry, path)
        raise SubmissionError(f"an archive in an archive, {MOST_NESTED} times")


def take_files(contents: Contents, folder: Path, limits: Limits = LIMITS) -> tuple[list[str], list[str]]:
    """Copy the files that a submission's manifest lists to a folder, or all files if the manifest cannot be read.

    Returns:
        (a line for each file that is missing or altered, a line for what was added, mended or ignored)

    Raises:
        SubmissionError: there are several manifests, another version made the submission, or it exceeds the limits.
    """
    if not contents.files:
        raise SubmissionError(f"holds no files, {EXPECTED}")
    top = find_top(contents.files)
    files = {name.removeprefix(top): entry for name, entry in contents.files.items() if name.startswith(top)}
    damage: list[str] = []
    remarks: list[str] = []
    mended: list[str] = []
    manifest = files.pop(MANIFEST, None)
    listed = _read_manifest(manifest, folder / MANIFEST, limits)
    if listed is None:
        damage.append(f"{MANIFEST} {'cannot be read' if manifest else 'is missing'}: {EXPECTED}")
        listed = dict.fromkeys(files)
    _check_limits([files[name] for name in listed if name in files], limits)
    damaged = {name: "is missing" for name in listed if name not in files}
    for name in [name for name in files if name in listed]:  # in the archive's order: a tar.gz is slow to go back
        digest = listed[name]
        if files[name].size > (most := limits.find_most(name)):
            damaged[name] = f"has more than {most:,} bytes"
            continue
        target = folder / name
        try:
            copy_file(files[name], target)
        except SubmissionError as error:
            damaged[name] = f"is {error}"
            target.unlink(missing_ok=True)
            continue
        if digest in (None, _hash_file(target)):  # without a manifest, there is none
            continue
        if _mend_line_endings(target, digest):
            mended.append(name)
        elif name == NOTES:
            remarks.append(f"{NOTES} was changed after the report was made, which has the earlier text")
            target.unlink()
        else:
            damaged[name] = "was altered"
    damage += [f"{name} {damaged[name]}" for name in sorted(damaged)]
    outside = [name for name in contents.files if not name.startswith(top)]
    if added := sorted([*(files.keys() - listed.keys()), *outside]):
        remarks.append(f"not in the manifest, so not looked at: {list_names(added)}")
    if mended:
        remarks.append(f"taken with the line endings with which they were packed: {list_names(sorted(mended))}")
    if contents.ignored:
        remarks.append(f"ignored, as systems and tools keep them: {list_names(sorted(contents.ignored))}")
    return damage, remarks


def find_top(files: dict[str, Entry]) -> str:
    """Return the path of the folder, with a slash at its end, that holds a submission; the text is empty at the top.

    Raises:
        SubmissionError: there are several submissions.
    """
    tops = _list_tops(files) or [name.removesuffix(MANIFEST) for name in files if _is_manifest(name)]
    if len(tops) > 1:
        found = list_names([f"{top}{MANIFEST}" for top in sorted(tops)])
        raise SubmissionError(f"holds {len(tops)} submissions, expected one: {found}")
    return tops[0] if tops else ""


def _list_tops(files: dict[str, Entry]) -> list[str]:
    """List the folders that hold a manifest and runs; other programs have files of the manifest's name, too."""
    in_order = sorted(files)

    def holds_runs(top: str) -> bool:
        first = bisect_left(in_order, f"{top}runs/")
        return first < len(in_order) and in_order[first].startswith(f"{top}runs/")

    return [top for name in files if _is_manifest(name) and holds_runs(top := name.removesuffix(MANIFEST))]


def _is_manifest(name: str) -> bool:
    return name.rpartition("/")[2] == MANIFEST


def _read_manifest(manifest: Entry | None, target: Path, limits: Limits) -> dict[str, str | None] | None:
    """Read {path: SHA-256} from a manifest, copied to a target; None if it is missing or cannot be read."""
    if manifest is None or manifest.size > limits.manifest:
        return None
    try:
        copy_file(manifest, target)
        content = json.loads(target.read_text(encoding="utf-8-sig"))
        form = content["format"]
        listed: dict[str, str | None] = {normalize_name(name): str(its) for name, its in content["files"].items()}
    except (SubmissionError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    if form not in records.FORMATS:
        expected = " or ".join(map(str, records.FORMATS))
        raise SubmissionError(f"made by another version of this toolkit: format {form!r}, expected {expected}")
    return listed


def _check_limits(entries: list[Entry], limits: Limits) -> None:
    if sum(entry.size for entry in entries) > limits.bytes:
        raise SubmissionError(f"holds more than {limits.bytes:,} bytes")


def _mend_line_endings(path: Path, digest: str) -> bool:
    """Give a file the line endings with which it was packed, and tell whether it then has its checksum.

    Git, editors and file transfers change line endings, in either direction: history.csv has those of Windows.
    """
    lines = path.read_bytes().replace(b"\r\n", b"\n")
    for content in (lines, lines.replace(b"\n", b"\r\n")):
        if hashlib.sha256(content).hexdigest() == digest:
            path.write_bytes(content)
            return True
    return False


def find_differing_code(folder: Path) -> list[str]:
    """List code files that differ from the grader's or exist on one side only; none if no code was submitted.

    Line endings do not count.
    """
    code = folder / "code"
    if not code.is_dir():
        return []
    ours = all_code()
    theirs = {path.relative_to(code).as_posix(): path for path in code.rglob("*") if path.is_file()}
    same = {name for name in ours.keys() & theirs.keys() if _has_same_lines(ours[name], theirs[name])}
    return sorted((ours.keys() | theirs.keys()) - same)


def _has_same_lines(first: Path, second: Path) -> bool:
    first_lines, second_lines = (path.read_bytes().replace(b"\r\n", b"\n") for path in (first, second))
    return first_lines == second_lines


def list_names(names: list[str], kind: str = "files") -> str:
    """Return the first names of a list, and how many more of this kind there are."""
    more = len(names) - MOST_SHOWN
    return f"{', '.join(names[:MOST_SHOWN])}{f' and {more} more {kind}' if more > 0 else ''}"


def _hash_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
