"""The format on disk: this module alone writes finished runs; `run_files` reads what is not JSON.

    runs/<group>/<experiment>/experiment.json      the settings and the data, shared by all seeds
    runs/<group>/<experiment>/seed-0/result.json   metrics of one finished run, and how it was trained
                                     history.csv   a row for each epoch
                                     weights.pt    state_dict of the textbook network
                                     predictions.npz  log-probabilities of the test images, (images, classes)

A run's folder is written under a temporary name and then renamed, so it is never incomplete.
"""

import contextlib
import csv
import io
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data import Dataset
from engine import folder_names
from engine.files import (
    UNFINISHED,
    RecordError,
    clean_up,
    delete_folder,
    find_difference,
    flush,
    put_in_place,
    read_json,
    write_json,
    write_whole,
)
from engine.run_files import HISTORY
from engine.seeds import format_seeds
from experiments import LONGEST_NAME, Experiment, Settings, join_settings, shorten
from sources.catalogue import SOURCES
from studies import STUDIES
from studies.study import LONGEST_GROUP, SINGLE, join_words
from training import Run

FORMAT = 3
FORMATS = (2, 3)  # the formats that can be read
FILES = ("result.json", "history.csv", "weights.pt", "predictions.npz")


class Misplaced(RecordError):
    """A file, or the run of another seed, stands where the folder of a run belongs."""


@dataclass
class Record:
    """One experiment and its runs, as read from disk."""

    folder: Path
    experiment: Experiment
    dataset: dict[str, Any]
    study: str | None = None  # the study's name; None if the experiment was typed by hand
    overrides: Settings = field(default_factory=dict)  # settings given beside the study
    results: dict[int, dict[str, Any]] = field(default_factory=dict)  # seed: content of result.json
    diverged: dict[int, str] = field(default_factory=dict)  # seed: why it diverged

    @property
    def group(self) -> str:
        """The name of the folder under runs/ that holds this experiment's folder, as it is cut today if too long."""
        name = self.folder.parent.name
        if self.study is not None and len(name) > LONGEST_GROUP:
            name = join_settings(self.study, self.overrides)
        return shorten(name, LONGEST_GROUP)

    @property
    def title(self) -> str:
        """The experiment's title in its study; if it was typed by hand, the name of its settings."""
        name = self.folder.name
        return name if self.study or len(name) <= LONGEST_NAME else self.experiment.name

    @property
    def seeds(self) -> list[int]:
        """The seeds of all finished runs, also of those that diverged."""
        return sorted((*self.results, *self.diverged))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images; of a data set of one's own, as recorded."""
        source = SOURCES.get(self.dataset["name"])
        channels, height, width = source.shape if source else self.dataset["shape"]
        return channels, height, width

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; of a data set of one's own, as recorded."""
        source = SOURCES.get(self.dataset["name"])
        return source.classes if source else tuple(self.dataset["classes"])

    def run_folder(self, seed: int) -> Path:
        """Return the folder of one run."""
        return self.folder / f"seed-{seed}"

    def command(self, *words: str) -> str:
        """Return the command that trains this experiment, and append `words`."""
        study = STUDIES.get(str(self.study))
        if study is None:
            return " ".join([self.experiment.command, *words])
        return replace(study, overrides=self.overrides).command("--only", self.title, *words)


# ---------------------------------------------------------------------------------------------------------------------
# Writing


def describe(
    experiment: Experiment, dataset: Dataset, title: str, study: str | None = None, overrides: Settings | None = None
) -> dict[str, Any]:
    """Return the content of experiment.json."""
    own = {} if dataset.name in SOURCES else dict(shape=list(dataset.shape), classes=list(dataset.classes))
    return dict(
        format=FORMAT,
        study=study,
        title=title,
        overrides=overrides or {},
        experiment=experiment.to_dict(),
        dataset=dict(
            name=dataset.name,
            checksum=dataset.checksum,
            train=len(dataset.train),
            validation=len(dataset.validation),
            test=len(dataset.test),
            mean=list(dataset.mean),
            std=list(dataset.std),
            **own,
        ),
    )


def open_folder(folder: Path, description: dict[str, Any], replace: bool = False) -> None:
    """Create an experiment's folder, or check that it holds this experiment; the caller must hold its lock.

    Args:
        replace: if the folder holds another experiment, delete it with its runs.

    Raises:
        RecordError: the folder holds another experiment or other data, or cannot be read or written.
    """
    path = folder / "experiment.json"
    try:
        if path.exists():
            lost = _list_runs(folder)
            try:
                recorded = read_json(path)
            except RecordError as error:
                raise RecordError(f"{error}; move it away, and this command writes it anew and keeps {lost}") from None
            difference = _compare_descriptions(recorded, json.loads(json.dumps(description)))
            if difference and replace:
                print(f"{folder.name}: {difference}; discarded by --force: {lost}")
                delete_folder(folder, last=path)
            elif difference:
                only = ["--only", description["title"]] if description["study"] else []
                force = join_words(*only, "--force")
                way_out = f"name another --runs-dir, or replace it with {force}, which discards {lost}"
                raise RecordError(f"{path}: {difference}; {way_out}")
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, (json.dumps(description, indent=2) + "\n").encode())
        clean_up(folder)
        for _, result in _read_results(folder):
            if isinstance(result, Misplaced):  # a run of this seed would replace it
                raise result
        with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=folder):
            pass  # a folder that cannot be written is refused before training, not after
    except OSError as error:
        raise RecordError(f"{folder}: cannot be written ({error.strerror or error}); name another --runs-dir") from None


def _compare_descriptions(recorded: dict[str, Any], description: dict[str, Any]) -> str | None:
    """Describe how a recorded description differs from another; return None if they are equal."""
    if recorded.get("format") == 2:  # only the folders' names have the study, title and overrides
        description = dict(format=2, experiment=description["experiment"], dataset=description["dataset"])
    if isinstance(settings := recorded.get("experiment"), dict):  # an earlier version had fewer settings
        recorded["experiment"] = {setting.name: setting.default for setting in fields(Experiment)} | settings
    return find_difference(recorded, description)


def _list_runs(folder: Path) -> str:
    """Name the finished seeds and the checkpoints of an experiment: `seeds 0-4, checkpoint-5-9.pt`."""
    found = [path.name for path in sorted(folder.glob("checkpoint-*.pt"))]
    if seeds := finished_seeds(folder):
        found.insert(0, format_seeds(seeds))
    return ", ".join(found) or "no finished run"


def write_run(folder: Path, run: Run) -> Path:
    """Write a run's folder, replacing an older run with the same seed, and return the folder's path.

    Raises:
        RecordError: the folder cannot be written; the other runs are unchanged.
    """
    target = folder / f"seed-{run.seed}"
    try:
        workshop = Path(tempfile.mkdtemp(prefix=f"{UNFINISHED}seed-{run.seed}-", dir=folder))
    except OSError as error:
        raise RecordError(f"{target}: cannot be written ({error.strerror})") from None
    try:
        write_json(workshop / "result.json", run.result)
        with open(workshop / "history.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, HISTORY)
            writer.writeheader()
            writer.writerows(run.history)
        weights = io.BytesIO()  # if the disk is full, torch's own file writer does not raise an OSError
        torch.save(run.weights, weights)
        (workshop / "weights.pt").write_bytes(weights.getvalue())
        np.savez_compressed(workshop / "predictions.npz", log_probabilities=run.log_probabilities)
        for path in workshop.iterdir():
            flush(path)
        with contextlib.suppress(OSError):  # mkdtemp makes private folders, but records are meant to be shared
            workshop.chmod(0o755)
        put_in_place(workshop, target)
    except OSError as error:
        raise RecordError(f"{target}: cannot be written ({error.strerror}); the other runs are unharmed") from None
    except (TypeError, ValueError, AttributeError) as error:  # the checkpoint was tampered with
        raise RecordError(f"{target}: cannot be written ({error}); --force trains it again") from None
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
    return target


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def finished_seeds(folder: Path) -> list[int]:
    """Return the seeds whose folders have all files and a readable result.json."""
    return sorted(int(seed) for seed, result in _read_results(folder) if isinstance(result, dict))


def _read_results(folder: Path) -> Iterator[tuple[str, dict[str, Any] | RecordError]]:
    """Yield each seed with its result.json, or with the reason why its run cannot be used."""
    for path in sorted(folder.glob("seed-*")):
        seed = path.name.removeprefix("seed-")
        if not seed.isdecimal() or seed != str(int(seed)):
            yield seed, RecordError(f"{path}: expected a folder named after its seed, such as seed-0; move it away")
            continue
        if not path.is_dir():
            yield seed, Misplaced(f"{path}: is a file, expected the run's folder or nothing; move it away")
            continue
        try:
            if not any(path.iterdir()):  # it would be lost in an archive
                continue
            if missing := [file for file in FILES if not (path / file).is_file()]:
                raise RecordError(f"{path}: {', '.join(missing)} missing")
            result = read_json(path / "result.json")
        except RecordError as error:
            yield seed, RecordError(f"{error}; repeat the command that trained it")
            continue
        if (trained := result.get("seed", int(seed))) != int(seed):
            found = f"result.json is of seed {str(trained)[:20]}; the folder was renamed or copied"
            yield seed, Misplaced(f"{path}: {found}: name it after its seed, or move it away")
        else:
            yield seed, result


def read_all(runs_dir: Path, study: str | None = None) -> tuple[list[Record], list[str]]:
    """Read the records of all studies in a runs folder, or of one study, in the order of the folders' names.

    Returns:
        (records with at least one run, a line for each file that cannot be read).
    """
    records, problems = [], []
    folders: dict[tuple[str, str], Path] = {}  # of each group and title
    try:
        paths = [folder / "experiment.json" for folder in folder_names.find_folders(runs_dir)]
    except OSError as error:
        return [], [f"{runs_dir}: cannot be read ({error.strerror})"]
    for path in paths:
        try:
            record = read_description(path)
        except RecordError as error:
            if study is None or path.parent.parent.name.partition(",")[0] == study:
                problems.append(str(error))
            continue
        if study not in (None, record.study):
            continue
        if (other := folders.setdefault((record.group, record.title), record.folder)) != record.folder:
            problems.append(f"{record.folder}: the same experiment as {other}; move its runs there")
            continue
        for seed, result in _read_results(record.folder):
            if isinstance(result, RecordError):
                problems.append(str(result))
            elif result.get("diverged") is True:
                record.diverged[int(seed)] = str(result.get("stop_reason"))
            else:
                record.results[int(seed)] = result
        if record.results or record.diverged:
            records.append(record)
    return records, list(dict.fromkeys(problems))


def read_description(path: Path) -> Record:
    """Read an experiment.json of format 2 or 3 into a record without runs.

    Raises:
        RecordError: the file is missing or damaged, has another format, or was altered, or its folder was renamed.
    """
    if not path.exists():
        raise RecordError(f"{path}: missing; the command that trained its runs writes it again")
    description, name, group = read_json(path), path.parent.name, path.parents[1].name
    if not f"{group}{name}".isprintable() or "$" in f"{group}{name}":
        shown = ascii(f"{group}/{name}")
        raise RecordError(f"{shown}: a name that cannot stand in a report; rename the folder")
    if description.get("format") not in FORMATS:
        expected = " or ".join(map(str, FORMATS))
        raise RecordError(f"{path}: format {description.get('format')}, expected {expected}; another version wrote it")
    try:
        experiment = Experiment(**description["experiment"])
        record = Record(path.parent, experiment, dict(description["dataset"]))
        if description["format"] == 2:
            record.study, record.overrides = folder_names.read_folder_names(group, name, experiment)
            title = name
        else:
            record.study, title = description["study"], description["title"]
            record.overrides = dict(description["overrides"])
        if not isinstance(title, str) or not isinstance(record.study, str | None):
            raise ValueError(f"study {record.study!r} and title {title!r}, expected words")
        if unknown := record.overrides.keys() - {setting.name for setting in fields(Experiment)[2:]}:
            raise ValueError(f"overrides of {min(unknown)}, which a study does not take")
        if experiment.dataset not in (None, record.dataset["name"]):
            raise ValueError(f"of {experiment.dataset}, trained on {record.dataset['name']}")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise RecordError(f"{path}: not an experiment of this version ({error})") from None
    names = [title]
    if record.study is None:  # in a copy of the group, it may have any name
        names = folder_names.cut(experiment.whole_name, LONGEST_NAME) if group == SINGLE else [name]
    if name not in names:
        changed = f"holds {names[0]}; its settings or its folder's name were changed"
        raise RecordError(f"{path}: {changed}: if only the name, name it {names[0]}, else move it away")
    used = {setting: getattr(experiment, setting) for setting in record.overrides}
    if record.study is None and group.partition(",")[0] in STUDIES:
        raise RecordError(f"{path}: of no study, in a folder of {group.partition(',')[0]}; move it to {SINGLE}")
    if record.study is not None and description["format"] != 2 and record.overrides == used:
        groups = folder_names.cut(join_settings(record.study, record.overrides), LONGEST_GROUP)
        if group not in groups:
            found = f"{path.parents[1]}: holds records of {groups[0]}; the folder was renamed or copied"
            raise RecordError(f"{found}: name it {groups[0]}, or move it away")
    return record
