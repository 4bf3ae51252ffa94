"""Limits and a schema for records of unknown origin, such as edited ones.

    found, problems = read_runs(Path("runs"))                  # leaves out and names runs that do not fit the schema
    found, problems = read_runs(Path("runs"), limits=LIMITS)   # also leaves out runs over the limits

Your own records only need the schema and files that hold what they declare. The limits stop forged files, such as a
small archive that fills the memory when it is unpacked. `grade.py` applies the limits before it reads the content of a
submission.
"""

import contextlib
import io
import math
import re
import zipfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import Tensor

from analysis.metrics import read_predictions
from engine import records, run_files
from engine.files import RecordError, check_types
from engine.records import Record
from experiments import UserError
from sources.catalogue import OWN_RULE, SOURCES, is_own
from sources.contents import BOUNDED
from sources.own import check_images

RESULT: dict[str, Any] = dict(  # keys of result.json that other modules use, and their types
    seed=int,
    diverged=bool,
    stop_reason=str,
    epochs=int,
    chosen_epoch=int,
    parameters=int,
    **{f"{split}_{metric}": float for split in ("train", "val", "test") for metric in ("loss", "accuracy")},
    sparsity=dict(zeros=float, small=float, l2_norm=float),
    layers=[dict(layer=str, weights=int, zeros=int, small=int)],
    seconds=float,
    threads=int,
    device=str,
    versions=dict(torch=str),
    command=str,
    finished=str,
)
DATASET = dict(checksum=str, name=str, train=int, validation=int, test=int)  # the same for experiment.json
OWN: dict[str, Any] = dict(shape=[int], classes=[str])  # beside these, of a data set of one's own
FORMULA = ("=", "+", "-", "@")  # with which a cell of a spreadsheet is a formula, such as a file's name, =1+1.py
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # characters that end a line or steer a terminal
LARGEST_READ = 2**24  # bytes that the list of an archive's files may make its reader hold at once
LONGEST_TEXT = 10_000  # characters of a text in result.json, such as the command


class SubmissionError(UserError):
    """A submission that cannot be packed or graded."""


class BoundedFile(io.FileIO):
    """A file of an archive whose reader cannot be made to hold gigabytes, as by a forged header or list of files."""

    most = LARGEST_READ

    def read(self, size: int | None = -1) -> bytes:
        """Read up to `size` bytes; without a size, up to the end.

        Raises:
            ValueError: these are too many bytes.
        """
        content = super().read(check_read(size, self.most) if size is not None and size >= 0 else self.most + 1)
        check_read(len(content), self.most)
        return content


def check_read(size: int, most: int) -> int:
    """Return a number of bytes to read at once.

    Raises:
        ValueError: it is too large, or negative.
    """
    if not 0 <= size <= most:
        raise ValueError(f"a header of {size} bytes")
    return size


def quote_formula(text: str) -> str:
    """Quote a text that a spreadsheet would compute as a formula; return any other as it is."""
    return f"'{text}" if text.startswith(FORMULA) else text


@dataclass(frozen=True)
class Limits:
    """Size limits for a submission."""

    files: int = 50_000
    bytes: int = 4 * 2**30  # of all files, unpacked
    file: int = 2**26  # bytes of one file, unpacked
    json: int = 2**20  # bytes of such a file: lists of lists take twenty times as many when they are read
    csv: int = 2**24  # the same, of more than a hundred thousand epochs
    manifest: int = 2**24  # bytes
    layers: int = 102  # of an MLP, with its input and its output
    predictions: int = 2**26  # bytes of a run's log-probabilities, unpacked

    def find_most(self, name: str) -> int:
        """Return how many bytes a file of this name may have, unpacked."""
        return {".json": self.json, ".csv": self.csv}.get(Path(name).suffix.lower(), self.file)


LIMITS = Limits()


# ---------------------------------------------------------------------------------------------------------------------
# Records


def read_runs(runs_dir: Path, study: str | None = None, limits: Limits | None = None) -> tuple[list[Record], list[str]]:
    """Read the records in a runs folder, and leave out runs that do not fit the schema or have a damaged file.

    Args:
        study: read the records of this study only; None: all records.
        limits: also leave out runs whose files exceed these limits.

    Returns:
        (records with at least one run, a line for each file that cannot be used).
    """
    found, problems = records.read_all(runs_dir, study)
    for record in found:
        try:
            _check_description(record, limits)
        except ValueError as error:
            path = record.folder / "experiment.json"
            problems.append(f"{path}: not an experiment of this version ({error})")
            record.results, record.diverged = {}, {}
        for seed in record.seeds:
            try:
                _read_files(record, seed, limits)
            except RecordError as error:
                problems.append(f"{error}; train it again: {record.command('--seeds', str(seed), '--force')}")
                record.results.pop(seed, None)
                record.diverged.pop(seed, None)
    return [record for record in found if record.results or record.diverged], problems


def _check_description(record: Record, limits: Limits | None) -> None:
    check_types(record.dataset, DATASET, "dataset")
    name = record.dataset["name"]
    if is_own(name):
        check_types(record.dataset, OWN, "dataset")
        check_images(record.dataset["shape"], record.dataset["classes"])
    elif name not in SOURCES:
        raise ValueError(f"dataset name is {name[:40]!r}, expected one of {', '.join(SOURCES)}, {OWN_RULE}")
    widths = math.prod(record.shape), *(record.experiment.hidden or ()), len(record.classes)
    if limits and len(widths) > limits.layers:  # the network would be built before any check
        raise ValueError(f"hidden has {len(widths) - 2:,} widths, and grade.py takes at most {limits.layers - 2:,}")
    if limits and (weights := sum(map(math.prod, pairwise(widths)))) * 4 > limits.file:
        raise ValueError(f"hidden asks for {weights:,} weights, more than a file of {limits.file:,} bytes holds")
    for name, value in record.overrides.items():
        trained_with = getattr(record.experiment, name)
        if value != trained_with:
            raise ValueError(f"overrides {name} is {str(value)[:40]!r}, its settings have {trained_with}")


def _check_result(result: dict[str, Any]) -> None:
    check_types(result, RESULT)
    for name in RESULT:
        if name.endswith("_accuracy") and not 0 <= result[name] <= 1:
            raise ValueError(f"{name} is {result[name]}, expected 0 to 1")
    if min((layer["weights"] for layer in result["layers"]), default=0) < 1:
        raise ValueError("layers is empty, or a layer in it has no weights")
    for name, text in (result | result["versions"]).items():
        if isinstance(text, str):
            _check_text(name, text)


def _check_text(name: str, text: str) -> None:
    if CONTROL.search(text) or len(text) > LONGEST_TEXT or text.lstrip().startswith(FORMULA):
        expected = f"a line of at most {LONGEST_TEXT:,} characters that is no formula of a spreadsheet"
        raise ValueError(f"{name} is {text[:40]!r}, expected {expected}")


def _read_files(record: Record, seed: int, limits: Limits | None) -> None:
    """Read the files of a run once, to find damage; of a run that diverged, only the history is ever used.

    Raises:
        RecordError: a file cannot be read, does not fit the others, or exceeds the limits.
    """
    folder = record.run_folder(seed)
    try:
        if seed in record.diverged:
            _check_text("stop_reason", record.diverged[seed])
        else:
            _check_result(record.results[seed])
    except ValueError as error:
        raise RecordError(f"{folder / 'result.json'}: {error}") from None
    if seed in record.diverged:
        run_files.read_history(folder, has_diverged=True)
        return
    _check_size(folder, limits.predictions if limits else math.inf)
    run_files.read_history(folder)
    run_files.read_weights(folder, record.results[seed]["layers"])
    read_predictions(record, seed, record.dataset["test"])


def _check_size(folder: Path, most: float) -> None:
    """Check that a run's files do not need too much memory; unreadable files pass, and later checks report them.

    Args:
        most: bytes that the predictions may expand to.

    Raises:
        RecordError: predictions or weights would expand to more bytes than allowed.
    """
    predictions, weights = folder / "predictions.npz", folder / "weights.pt"
    if _measure_unpacked(predictions) > most:
        raise RecordError(f"{predictions}: cannot be read (expected at most {most:,} bytes)")
    if _measure_unpacked(weights) > weights.stat().st_size:
        raise RecordError(f"{weights}: cannot be read (expected weights that are not compressed)")
    tensors: list[Tensor] = []
    with contextlib.suppress(RecordError):
        tensors = list(run_files.read_weights(folder).values())
    if sum(tensor.numel() * tensor.itemsize for tensor in tensors) > weights.stat().st_size:
        raise RecordError(f"{weights}: cannot be read (its tensors have more numbers than the file holds)")


def _measure_unpacked(path: Path) -> int:
    """Return the unpacked size that an archive declares, in bytes; 0 if the file cannot be read as an archive.

    Raises:
        RecordError: the archive could only be listed or unpacked in unbounded memory.
    """
    try:
        with BoundedFile(path) as file, zipfile.ZipFile(file) as archive:
            if any(member.compress_type not in BOUNDED for member in archive.infolist()):
                raise ValueError("compressed in another way than by NumPy and torch")
            return sum(member.file_size for member in archive.infolist())
    except (OSError, NotImplementedError, zipfile.BadZipFile):  # the readers use zipfile, too, and refuse it
        return 0
    except ValueError as error:
        raise RecordError(f"{path}: cannot be read ({error})") from None
