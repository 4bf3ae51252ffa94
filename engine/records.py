"""The format on disk: the one file that writes finished runs and reads them back.

    runs/<table>/<experiment>/experiment.json      the settings and the data, shared by all seeds
    runs/<table>/<experiment>/seed-0/result.json   figures and circumstances of one finished run
                                     history.csv   a row an epoch
                                     weights.pt    state_dict of the textbook network
                                     predictions.npz  log-probabilities of the test images, (images, classes)

A run's folder is written under a temporary name and renamed: it is there and whole, or it is not there.
"""

import csv
import io
import json
import math
import os
import pickle
import shutil
import tempfile
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from experiments import DATA_SETS, Experiment

FORMAT = 2
SINGLE = "single"  # the table of experiments typed by hand
UNFINISHED = ".unfinished-"  # what the names of files and folders begin with that are being written
FILES = ("result.json", "history.csv", "weights.pt", "predictions.npz")
RESULT = dict(  # what others rely on in result.json, and of which type it is
    seed=int,
    diverged=bool,
    stop_reason=str,
    epochs=int,
    chosen_epoch=int,
    parameters=int,
    **{f"{split}_{figure}": float for split in ("train", "val", "test") for figure in ("loss", "accuracy")},
    sparsity=dict(zeros=float, small=float, l2_norm=float),
    layers=[dict(layer=str, weights=int, zeros=int, small=int)],
    seconds=float,
    threads=int,
    device=str,
    versions=dict(torch=str),
    command=str,
    finished=str,
)
MOST_PREDICTIONS = 2**26  # bytes of log-probabilities; a file that claims more would only fill the memory
MOST_DIGITS = 18  # of a whole number that is read; one of some hundreds is no float any more
LARGEST = 1e50  # of other numbers that are read: no training in float32 gives larger ones, and their squares are finite
DATASET = dict(checksum=str, name=str, train=int, validation=int, test=int)  # what others rely on in experiment.json
HISTORY = ("seed", "epoch", "lr", "train_loss", "train_accuracy", "penalty", "val_loss", "val_accuracy")


class RecordError(Exception):
    """Records cannot be written or read; the message is one line and says what to do."""


@dataclass
class Run:
    """One seed's finished training."""

    seed: int
    result: dict
    history: list[dict]  # keys: HISTORY
    weights: dict  # state_dict of the textbook network
    log_probabilities: np.ndarray  # float32 (test images, classes)


@dataclass
class Record:
    """What is on disk of one experiment."""

    folder: Path
    experiment: Experiment
    dataset: dict
    results: dict[int, dict] = field(default_factory=dict)  # seed -> result.json
    diverged: dict[int, str] = field(default_factory=dict)  # seed -> why there are no figures of it

    @property
    def table(self):
        return self.folder.parent.name

    @property
    def title(self):
        return self.folder.name


# ---------------------------------------------------------------------------------------------------------------------
# Writing


def describe(experiment, dataset):
    """What experiment.json holds; `dataset` is a `data.Dataset`."""
    return dict(
        format=FORMAT,
        experiment=experiment.to_dict(),
        dataset=dict(
            name=dataset.name,
            checksum=dataset.checksum,
            train=len(dataset.train),
            validation=len(dataset.validation),
            test=len(dataset.test),
            mean=list(dataset.mean),
            std=list(dataset.std),
        ),
    )


def open_folder(runs_dir, table, title, description, replace=False):
    """The folder of an experiment, which no other command writes to; made if it is not there, checked if it is.

    Args:
        replace: a folder that holds another experiment goes, with its runs.

    Raises:
        RecordError: it holds another experiment or other data, cannot be read, or cannot be written.
    """
    folder = Path(runs_dir) / table / title
    path = folder / "experiment.json"
    try:
        if path.exists():
            try:
                difference = _difference(path, json.loads(json.dumps(description)))
            except RecordError as error:
                difference = str(error).removeprefix(f"{path}: ")
            if difference and replace:
                shutil.rmtree(folder)
            elif difference:
                raise RecordError(f"{path}: {difference}; name another --runs-dir, or let --force replace it")
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, (json.dumps(description, indent=2) + "\n").encode())
        for left in folder.glob(f"{UNFINISHED}*"):  # by a command that was killed
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=folder):
            pass  # better refused now than after the training
    except OSError as error:
        raise RecordError(f"{folder}: cannot be written ({error.strerror}); name another --runs-dir") from None
    return folder


def _difference(path, description):
    """What a recorded description says otherwise, in words; None if nothing."""
    found, expected = _flat(_read_json(path)), _flat(description)
    for name in [*expected, *found]:
        if found.get(name) != expected.get(name):
            return f"recorded with {name} {found.get(name)}, now {expected.get(name)}"
    return None


def _flat(description):
    """{"experiment l1": 0.001, ...} of nested dictionaries."""
    flat = {}
    for name, value in description.items():
        flat |= {f"{name} {key}": inner for key, inner in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def finished_seeds(folder):
    """The seeds whose folders are there with all their files and a result that can be read."""
    return sorted(seed for seed, result in _runs_in(folder) if isinstance(result, dict))


def _runs_in(folder):
    """Yield (seed, its result.json, or in its place the RecordError that says why it cannot be used)."""
    for path in sorted(folder.glob("seed-*")):
        seed = path.name.removeprefix("seed-")
        if not seed.isdecimal() or seed != str(int(seed)):
            yield seed, RecordError(f"{path}: expected a folder named after its seed, such as seed-0; move it away")
            continue
        try:
            missing = [file for file in FILES if not (path / file).is_file()]
            if missing:
                raise RecordError(f"{path}: {', '.join(missing)} missing")
            yield int(seed), _read_result(path / "result.json")
        except RecordError as error:
            yield int(seed), RecordError(f"{error}; the command that trained it trains it anew")


def write_run(folder, run):
    """Write one run's folder, in place of an older run of that seed if there is one; return its path."""
    import torch

    target = folder / f"seed-{run.seed}"
    if target.exists() and not target.is_dir():
        raise RecordError(f"{target}: is a file, expected the run's folder or nothing; move it away")
    try:
        workshop = Path(tempfile.mkdtemp(prefix=f"{UNFINISHED}seed-{run.seed}-", dir=folder))
    except OSError as error:
        raise RecordError(f"{target}: cannot be written ({error.strerror})") from None
    try:
        text = json.dumps(_finite(run.result), indent=2, allow_nan=False)
        (workshop / "result.json").write_text(text + "\n", encoding="utf-8")
        with open(workshop / "history.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, HISTORY)
            writer.writeheader()
            writer.writerows(run.history)
        weights = io.BytesIO()  # as torch's own files answer a full disk with what is no OSError
        torch.save(run.weights, weights)
        (workshop / "weights.pt").write_bytes(weights.getvalue())
        np.savez_compressed(workshop / "predictions.npz", log_probabilities=run.log_probabilities)
        for path in workshop.iterdir():
            _flush(path)
        workshop.chmod(0o755)  # mkdtemp makes private folders; records are to be shared
        if target.exists():
            old = workshop.with_name(f"{workshop.name}-old")
            os.rename(target, old)
            try:
                os.rename(workshop, target)
            except BaseException:
                os.rename(old, target)
                raise
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(workshop, target)
    except OSError as error:
        raise RecordError(f"{target}: cannot be written ({error.strerror}); the other runs are unharmed") from None
    except (TypeError, ValueError, AttributeError) as error:  # a checkpoint that was tampered with
        raise RecordError(f"{target}: cannot be written ({error}); --force trains it anew") from None
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
    return target


def _finite(value):
    """A result with null in place of figures that are no number, which JSON does not have."""
    match value:
        case dict():
            return {key: _finite(inner) for key, inner in value.items()}
        case list():
            return [_finite(inner) for inner in value]
        case float() if not math.isfinite(value):
            return None
    return value


def write_whole(path, content):
    """Write a file of some bytes, or leave it as it was; killed meanwhile, too.

    Raises:
        OSError: it cannot be written.
    """
    workshop = path.with_name(f"{UNFINISHED}{path.name}-{os.getpid()}")
    try:
        workshop.write_bytes(content)
        _flush(workshop)
        os.replace(workshop, path)
    finally:
        workshop.unlink(missing_ok=True)


def _flush(path):
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def is_of_study(table, study):
    """Whether a table holds a study's records, whatever settings it was given; all do where none is named."""
    return study is None or table.partition(",")[0] == study


def read_all(runs_dir, study=None):
    """Every experiment under a runs folder, or of one study there, in the order of the folders' names.

    Returns:
        (records, problems): a list of `Record`, those without a run left out, and one line for each file that could
        not be read.
    """
    records, problems = [], []
    try:
        runs = Path(runs_dir).glob("*/*/seed-*")
        paths = sorted({*Path(runs_dir).glob("*/*/experiment.json"), *(run.parent / "experiment.json" for run in runs)})
    except OSError as error:
        return [], [f"{runs_dir}: cannot be read ({error.strerror})"]
    for path in paths:
        if not is_of_study(path.parent.parent.name, study):
            continue
        try:
            record = _read_record(path)
        except RecordError as error:
            problems.append(str(error))
            continue
        for seed, result in _runs_in(record.folder):
            if isinstance(result, RecordError):
                problems.append(str(result))
            elif result["diverged"]:
                record.diverged[seed] = result["stop_reason"]
            else:
                record.results[seed] = result
        if record.results or record.diverged:
            records.append(record)
    return records, problems


def _read_record(path):
    if not path.exists():
        raise RecordError(f"{path}: missing; the command that trained its runs writes it anew")
    description = _read_json(path)
    if description.get("format") != FORMAT:
        raise RecordError(f"{path}: format {description.get('format')}, expected {FORMAT}; another version wrote it")
    try:
        record = Record(path.parent, Experiment(**description["experiment"]), dict(description["dataset"]))
        check(record.dataset, DATASET, "dataset")
        if record.dataset["name"] not in DATA_SETS:
            raise ValueError(f"dataset name is {record.dataset['name'][:40]!r}, expected one of {', '.join(DATA_SETS)}")
        if record.experiment.dataset not in (None, record.dataset["name"]):
            raise ValueError(f"of {record.experiment.dataset}, trained on {record.dataset['name']}")
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(f"{path}: not an experiment of this version ({error})") from None
    if record.table == SINGLE and record.experiment.name != path.parent.name:
        raise RecordError(f"{path}: holds {record.experiment.name}; its settings or its folder's name were changed")
    return record


def _read_result(path):
    result = _read_json(path)
    figures = {} if result.get("diverged") is True else RESULT  # of a diverged run none is used
    try:
        check(result, dict(diverged=bool, stop_reason=str) | figures)
        for name in figures:
            if name.endswith("_accuracy") and not 0 <= result[name] <= 1:
                raise ValueError(f"{name} is {result[name]}, expected 0 to 1")
        if figures and min((layer["weights"] for layer in result["layers"]), default=0) < 1:
            raise ValueError("layers has none with weights, or one without")
    except ValueError as error:
        raise RecordError(f"{path}: {error}") from None
    return result


def check(value, expected, name=""):
    """Whether a value, as of JSON, is what is expected: a type, or a list or dictionary of what is expected in it.

    Raises:
        ValueError: it is not; the message names it.
    """
    kind = expected if isinstance(expected, type) else type(expected)
    fits = isinstance(value, kind) or (kind is float and type(value) is int)
    if not fits or (isinstance(value, bool) and kind is not bool) or (kind is float and not abs(value) <= LARGEST):
        raise ValueError(f"{name or 'it'} is {str(value)[:40]!r}, expected {kind.__name__}")
    if kind is dict:
        for key, inner in expected.items():
            if key not in value:
                raise ValueError(f"{' '.join([name, key]).strip()} is missing")
            check(value[key], inner, f"{name} {key}".strip())
    if kind is list:
        for each in value:
            check(each, expected[0], name)


def _read_json(path):
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_int=_whole_number)
        json.dumps(content, ensure_ascii=False).encode()  # half a surrogate pair could not be written into a report
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"{path}: cannot be read ({error})") from None
    if not isinstance(content, dict):
        raise RecordError(f"{path}: expected a JSON object")
    return content


def _whole_number(text):
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a whole number of {len(text)} digits, expected {MOST_DIGITS} at most")
    return int(text)


def read_weights(folder, layers=()):
    """The state_dict of a run's textbook network.

    Args:
        layers: those that its result tells of, whose weights it must have.

    Raises:
        RecordError: it cannot be read, or is no dictionary of such tensors as networks have.
    """
    import torch

    path = folder / "weights.pt"
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
        if not all(_is_of_network(name, tensor) for name, tensor in weights.items()):
            raise ValueError("expected named plain tensors of float32, or of int64, alone")
        for layer in layers:
            if weights[f"{layer['layer']}.weight"].numel() != layer["weights"]:
                raise ValueError(f"layer {layer['layer']} has not the {layer['weights']} weights of result.json")
    except Exception as error:  # torch.load raises what the damage leads to
        says = str(error).partition("\n")[0]
        if isinstance(error, pickle.UnpicklingError):  # of which torch says how to load it all the same
            says = "it holds what are no weights"
        raise RecordError(f"{path}: cannot be read ({says}); train it anew with --force") from None
    return weights


def _is_of_network(name, tensor):
    import torch

    return (
        isinstance(name, str)
        and name.isascii()
        and type(tensor) is torch.Tensor
        and tensor.dtype in (torch.float32, torch.int64)
        and tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and tensor.numel() * tensor.itemsize <= tensor.untyped_storage().nbytes()  # not one number expanded to many
    )


def read_log_probabilities(folder):
    """A run's log-probabilities of the test images, float32 (images, classes)."""
    path = folder / "predictions.npz"
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo("log_probabilities.npy").file_size > MOST_PREDICTIONS:
                raise ValueError(f"expected at most {MOST_PREDICTIONS:,} bytes")
        with np.load(path, allow_pickle=False) as arrays:
            log_probabilities = arrays["log_probabilities"]
        if log_probabilities.ndim != 2 or log_probabilities.dtype != np.float32:
            raise ValueError(f"{log_probabilities.dtype} {log_probabilities.shape}, expected float32 (images, classes)")
        if not np.isfinite(log_probabilities).all():
            raise ValueError("a log-probability is not finite")
        return log_probabilities
    except (OSError, ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise RecordError(f"{path}: cannot be read ({error}); train it anew with --force") from None


def read_history(folder):
    """A run's history: a list with one dict of numbers for each epoch."""
    path = folder / "history.csv"
    try:
        with open(path, newline="", encoding="utf-8") as file:
            history = [
                {name: (_whole_number if name in ("seed", "epoch") else float)(row[name]) for name in HISTORY}
                for row in csv.DictReader(file)
            ]
        if not history:
            raise ValueError("it holds no epoch")
        if [row["epoch"] for row in history] != list(range(1, len(history) + 1)):
            raise ValueError("its epochs do not count from 1")
        if not all(abs(value) <= LARGEST for row in history for name, value in row.items() if name != "penalty"):
            raise ValueError("a figure is not finite")
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise RecordError(f"{path}: cannot be read ({error}); train it anew with --force") from None
    return history
