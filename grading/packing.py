"""Pack a submission: report, records, weights and code in one zip archive, with a manifest of checksums.

pack(Path("submission.zip"), report=Path("report"), runs_dir=Path("runs"))
"""

import contextlib
import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analysis.document import CONTENTS, read_contents
from analysis.findings import load_test_set
from engine import folder_names, records, run_files
from engine.files import RecordError
from engine.provenance import ROOT, code_files
from engine.records import Record
from grading.archives import find_litter
from grading.untrusted import LIMITS, SubmissionError

MANIFEST = "manifest.json"
Labels = NDArray[np.int64]  # classes of test images, (images,)
OTHER_CODE = ("analysis/templates/*", "requirements*.txt", "README.md")  # packed beside the Python files


def pack(
    path: Path, report: Path, runs_dir: Path, study: str | None = None, labels: Mapping[Path, Labels] | None = None
) -> int:
    """Write a submission's archive, completely or not at all, and return the number of packed files.

    Damaged and diverged runs are packed, too.

    Args:
        report: folder of a report that `Document.write` wrote.
        study: pack the records of this study only; None: all records.
        labels: from `read_labels`, to pack predictions without what the weights give again.

    Raises:
        SubmissionError: the archive cannot be written, or grade.py would not take it.
    """
    files = {f"report/{name}": report / name for name in [*read_contents(report), CONTENTS]}
    kept = [runs_dir / "notes.md"]
    for folder in _find_experiments(runs_dir, study):
        kept.append(folder / "experiment.json")
        kept += [file for name in records.FILES for file in folder.glob(f"seed-*/{name}")]
    files |= {f"runs/{file.relative_to(runs_dir).as_posix()}": file for file in kept if file.is_file()}
    files |= {f"code/{name}": file for name, file in all_code().items()}
    checksums, total = {}, 0
    try:
        handle, workshop = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, file in sorted(files.items()):
                    content = _read_to_pack(file, (labels or {}).get(file.parent.parent))
                    total += len(content)
                    if excess := _describe_excess(file, len(content), total, len(files) + 1):  # with the manifest
                        raise SubmissionError(f"{path}: not written: {excess}")
                    checksums[name] = hashlib.sha256(content).hexdigest()
                    entry = zipfile.ZipInfo.from_file(file, name, strict_timestamps=False)  # zip's time begins in 1980
                    archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
                archive.writestr(MANIFEST, json.dumps(dict(format=records.FORMAT, files=checksums), indent=1))
            os.chmod(workshop, 0o644)
            os.replace(workshop, path)
        finally:
            Path(workshop).unlink(missing_ok=True)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        raise SubmissionError(f"{path}: cannot be written ({error.strerror or error}{where})") from None
    return len(checksums)


def _describe_excess(file: Path, size: int, total: int, files: int) -> str:
    """Describe what exceeds the limits of a submission; the text is empty if nothing does."""
    if size > (most := LIMITS.find_most(file.name)):
        return f"{file} has {size:,} bytes, and such a file of a submission at most {most:,}"
    way_out = "pack one study of several alone, with --study"
    if files > LIMITS.files:
        return f"{files:,} files, and a submission has at most {LIMITS.files:,}; {way_out}"
    return f"a submission has at most {LIMITS.bytes:,} bytes, unpacked; {way_out}" if total > LIMITS.bytes else ""


def read_labels(found: Iterable[Record], data_dir: Path) -> dict[Path, Labels]:
    """Read the labels of each experiment's test images, {the experiment's folder: labels}, where they can be read."""
    labels, missing = {}, set()
    for record in found:
        content = record.dataset["name"], record.dataset["checksum"]
        dataset = None if content in missing else load_test_set(record, data_dir)[0]
        if dataset:
            labels[record.folder] = dataset.test.labels.numpy()
        else:
            missing.add(content)  # or each experiment would try to download it
    return labels


def _find_experiments(runs_dir: Path, study: str | None) -> Iterator[Path]:
    """Yield the folders of a study's experiments, or of all experiments if `study` is None.

    If an experiment.json cannot be read, the name of the folder above tells the study.
    """
    for folder in folder_names.find_folders(runs_dir):
        try:
            name = records.read_description(folder / "experiment.json").study
        except RecordError:
            name = folder.parent.name.partition(",")[0]
        if study in (None, name):
            yield folder


def _read_to_pack(file: Path, labels: Labels | None) -> bytes:
    """Read a file, and shrink it if it holds predictions of images whose labels are known."""
    if labels is not None and file.name == "predictions.npz":
        with contextlib.suppress(RecordError):  # a damaged file is packed as it is
            return run_files.shrink_predictions(file.parent, labels)
    return file.read_bytes()


def all_code() -> dict[str, Path]:
    """Return the files of this toolkit to pack into a submission, {path relative to the toolkit: file}."""
    others = [file for pattern in OTHER_CODE for file in ROOT.glob(pattern) if file.is_file()]
    named = {file.relative_to(ROOT).as_posix(): file for file in others}
    return code_files() | {name: file for name, file in named.items() if not find_litter(name)}
