"""Findings from records: the metrics of experiments, their differences from baselines, and verdicts on claims.

all_findings, problems = gather(found, data_dir)
all_findings[0].differences["GN"]       # a compare.Comparison
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from statistics import mean

import numpy as np
from numpy.typing import NDArray
from torch import nn

import data
from analysis.claims import Judgement, judge_claims
from analysis.compare import Comparison
from analysis.looks import Look
from analysis.metrics import Published, compare_at_looks, compare_with_baseline, read_metric, read_predictions
from analysis.verdicts import Question, decide_at_looks
from data import Dataset
from engine import run_files
from engine.records import Record, RecordError
from experiments import Experiment, Settings
from sources.catalogue import is_own
from sources.finding import DataError
from studies import STUDIES
from studies.study import MARGIN, MARGINS, Study
from training import build_network


@dataclass
class Findings:
    """The findings from one group of records on one data set."""

    group: str
    study: Study  # with its overrides; for experiments typed by hand, a study made from the records
    dataset_name: str
    trained: dict[str, Record]  # {title: record with at least one finished run}, in the study's order
    dataset: Dataset | None = None  # None if it could not be read
    problem: str = ""  # why the data set could not be read
    left_out: list[str] = field(default_factory=list)  # titles of records whose settings differ from the study's
    other_data: list[str] = field(default_factory=list)  # titles of records on another content of the data set's file
    diverged: list[str] = field(default_factory=list)  # titles of experiments in which every run diverged
    split_seed: int = 0  # the seed that splits the images, for experiments typed by hand
    is_pooled: bool = False  # whether the runs are those of many people

    @property
    def name(self) -> str:
        """The prefix for the names of the figure and table files."""
        if not self.study.is_single:
            return self.group
        name = f"{self.group},{self.dataset_name}"
        return f"{name},split_seed={self.split_seed}" if self.split_seed else name

    @cached_property
    def titles(self) -> list[str]:
        """The titles to show: trained experiments, and experiments with the same settings as a trained experiment."""
        return [title for title, first in self.study.trained_as.items() if first in self.trained]

    @cached_property
    def labels_of(self) -> dict[str, str]:
        """{title: label in the report}; for experiments typed by hand, the label lists the settings that differ.

        Folders with a name of one's own, in a copy of their group, keep it as their label; labels are never equal.
        """
        titles = {title: title for title in [*self.titles, *self.trained]}
        if not self.study.is_single or len(self.trained) == 1:
            return titles
        settings = {title: record.experiment.whole_name.split(",") for title, record in self.trained.items()}
        labels = titles | {
            title: ",".join(setting for setting in settings[title] if setting not in self.shared_settings)
            for title, record in self.trained.items()
            if title == record.experiment.name
        }
        return labels if len(set(labels.values())) == len(labels) else titles

    @cached_property
    def shared_settings(self) -> list[str]:
        """The settings, such as `epochs=3`, that all of several experiments typed by hand have; defaults are none."""
        if not self.study.is_single or len(self.trained) == 1:
            return []
        first, *others = (record.experiment.whole_name.split(",")[1:] for record in self.trained.values())
        return [setting for setting in first if all(setting in other for other in others)]

    @property
    def reference(self) -> str:
        """The title whose settings the others are compared with: the baseline or, without it, the first trained."""
        return self.study.baseline if self.study.baseline in self.study.experiments else next(iter(self.trained))

    def record(self, title: str) -> Record:
        """Return the record for a title; experiments with the same settings share a record."""
        return self.trained[self.study.trained_as[title]]

    @cached_property
    def baselines(self) -> dict[str, str]:
        """{title: title of its baseline}; the baseline may be untrained."""
        return {title: self.study.baseline_of(title) for title in self.trained}

    @property
    def missing(self) -> list[str]:
        """Titles of the study that are not trained yet."""
        known = {*self.titles, *self.diverged, *self.left_out, *self.other_data}
        return [title for title, first in self.study.trained_as.items() if title == first and title not in known]

    @property
    def missing_baselines(self) -> list[Experiment]:
        """The baselines that are not trained yet, for experiments typed by hand."""
        if not self.study.is_single:
            return []
        baselines = {record.experiment.baseline() for record in self.trained.values()}
        baselines -= {record.experiment for record in self.trained.values()}
        return sorted((each for each in baselines if each.name not in self.diverged), key=lambda each: each.name)

    @cached_property
    def differences(self) -> dict[str, Comparison]:
        """{title: comparison of test accuracy with the baseline}; Holm's correction is made for each baseline."""
        found: dict[str, Comparison] = {}
        for baseline in dict.fromkeys(self.baselines.values()):
            if self.dataset and baseline in self.trained:
                others = [record for title, record in self.trained.items() if self.baselines[title] == baseline]
                found |= compare_with_baseline(self.trained[baseline], others, "test_accuracy", self.labels)
        return {title: found[title] for title in self.trained if title in found}

    @property
    def labels(self) -> NDArray[np.int64]:
        """The test images' classes, (images,)."""
        assert self.dataset, "labels need a data set that could be read"
        return self.dataset.test.labels.numpy()

    @cached_property
    def judgements(self) -> list[Judgement]:
        """The judged claims; empty if the study has overrides or the data set could not be read."""
        if self.study.overrides or not self.dataset:
            return []
        records = {title: self.record(title) for title in self.titles}
        return judge_claims(self.study, records, self.labels, self.margin)

    @cached_property
    def by_validation(self) -> list[str]:
        """The trained titles, sorted by mean validation accuracy, best first."""
        return sorted(self.trained, key=lambda title: -mean(self.values(title, "val_accuracy")))

    @cached_property
    def lead(self) -> str:
        """The verdict on whether the best title by validation beats the second; `alone` if there is only one.

        It is `equal` if both have the same mean, and `contradicted` only if the best is below the second in the seeds
        of a look.
        """
        if len(self.trained) < 2:
            return "alone"
        first_two = self.by_validation[:2]
        if len({mean(self.values(title, "val_accuracy")) for title in first_two}) == 1:
            return "equal"
        best, second = (self.trained[title] for title in first_two)
        at_looks = compare_at_looks(best, second, "val_accuracy", self.study.needed_seeds)
        if not at_looks:
            return "too few seeds"
        (answer,) = decide_at_looks([Question("higher", None, [[each] for each in at_looks])], tests=1)
        return answer.verdict

    @property
    def margin(self) -> float:
        """The margin within which differences in accuracy make no practical difference."""
        return MARGINS.get(self.dataset_name, MARGIN) if self.study.margin is None else self.study.margin

    def list_compared(self, judgement: Judgement) -> list[str]:
        """List the titles under which the experiments that a claim compares are trained."""
        return list(dict.fromkeys(self.study.trained_as[title] for title in judgement.claim.titles))

    def list_seeds(self) -> list[int]:
        """List the seeds that any of the experiments has, in order."""
        return sorted({seed for record in self.trained.values() for seed in record.seeds})

    def list_judged(self, judgement: Judgement) -> list[int]:
        """List the seeds that all experiments of a claim have, if it was judged at a look; else none."""
        if not judgement.look:
            return []
        return sorted(set.intersection(*(set(self.record(title).seeds) for title in self.list_compared(judgement))))

    def count_needed(self, judgement: Judgement, look: Look) -> int:
        """Count the seeds that a claim's experiments need for a look, with others in place of those that diverged."""
        diverged = {seed for title in self.list_compared(judgement) for seed in self.record(title).diverged}
        return look.seeds + len(diverged)

    def published(self, title: str) -> dict[str, float]:
        """Return the published metrics of an experiment; a study with overrides has none."""
        return self.study.experiments[title].published

    @property
    def published_accuracies(self) -> dict[str, float]:
        """{trained title: its published test accuracy} of the experiments that have one."""
        known = {title: self.published(title).get("test_accuracy") for title in self.trained}
        return {title: share for title, share in known.items() if share is not None}

    @cached_property
    def published_metrics(self) -> list[Published]:
        """The published metrics of all experiments, each with that of our runs."""
        return [
            Published(title, name, value, self.values(title, name))
            for title in self.titles
            for name, value in self.published(title).items()
        ]

    def predictions(self, title: str) -> NDArray[np.float32]:
        """Read the log-probabilities for the test images, (runs, images, classes); -inf where a submission has none."""
        record = self.record(title)
        return np.stack([read_predictions(record, seed, len(self.labels)) for seed in record.results])

    def values(self, title: str, name: str) -> list[float]:
        """Return the values of a metric in all runs of an experiment."""
        record = self.record(title)
        if name == "running_train_accuracy":
            last_rows = (run_files.read_history(record.run_folder(seed))[-1] for seed in record.results)
            return [row["train_accuracy"] for row in last_rows]
        return [read_metric(result, name) for result in record.results.values()]


def gather(found: Iterable[Record], data_dir: Path) -> tuple[list[Findings], list[str]]:
    """Group records by study and data set.

    Returns:
        (findings, problems); a problem is one line about a group in which no record has the study's settings, or about
        a record that was trained on other data than the others.
    """
    all_findings, problems = [], []

    def key(record: Record) -> tuple[str, str, int]:
        return record.group, record.dataset["name"], 0 if record.study in STUDIES else record.experiment.split_seed

    for (group, name, split_seed), members in groupby(sorted(found, key=lambda each: (key(each), each.title)), key):
        records = {record.title: record for record in members}
        study = _study_of(records)
        left_out = [title for title, record in records.items() if not is_of(study, record)]
        trained = {
            title: records[title]
            for title in study.experiments
            if title in records and title not in left_out and records[title].results
        }
        data_of = {title: _describe_data(record) for title, record in trained.items()}
        content, dataset, problem = _choose_content(trained, data_of, data_dir)
        other_data = [title for title in trained if data_of[title] != content]
        removed = [trained.pop(title) for title in other_data]
        problems += [f"{record.folder}: trained on another {name} than {next(iter(trained))}" for record in removed]
        for title in [title for title in trained if study.trained_as[title] not in trained]:
            says = f"has the settings of {study.trained_as[title]}, whose runs are not there; move it away"
            problems.append(f"{trained.pop(title).folder}: {says}")
        if trained:
            diverged = [title for title, record in records.items() if not record.results and title not in left_out]
            all_findings.append(
                Findings(group, study, name, trained, dataset, problem, left_out, other_data, diverged, split_seed)
            )
        elif left_out:
            problems.append(f"{group}: {', '.join(left_out)}: trained with other settings than the study has")
    return all_findings, problems


def _study_of(records: dict[str, Record]) -> Study:
    """Return the study of a group of records, with its overrides; experiments typed by hand become a study."""
    first = next(iter(records.values()))
    if first.study not in STUDIES:
        return Study.typed_by_hand({title: record.experiment for title, record in records.items()})
    overrides: Settings = {}
    for record in records.values():  # a record of format 2 may lack some overrides
        overrides |= record.overrides
    return STUDIES[first.study].with_overrides(overrides)


def _describe_data(record: Record) -> tuple:
    return record.dataset["checksum"], record.shape, record.classes


def _choose_content(
    trained: dict[str, Record], data_of: dict[str, tuple], data_dir: Path
) -> tuple[tuple | None, Dataset | None, str]:
    """Choose which content of a data set's file findings are on: what is in `data_dir`, else that of the most runs.

    Returns:
        (content, data set, ""), or (content, None, why it cannot be used).
    """
    runs = Counter(dict.fromkeys(data_of.values(), 0))
    for title, record in trained.items():
        runs[data_of[title]] += len(record.results)
    tried = []
    for content, _ in runs.most_common():
        first = next(record for title, record in trained.items() if data_of[title] == content)
        tried.append((content, *load_test_set(first, data_dir)))
        if tried[-1][1]:
            return tried[-1]
    return tried[0] if tried else (None, None, "")


def find_study(record: Record) -> Study | None:
    """Return the study of a record, with the record's overrides; None for a study that is unknown here, or for none."""
    return STUDIES[record.study].with_overrides(record.overrides) if record.study in STUDIES else None


def is_of(study: Study, record: Record) -> bool:
    """Tell whether a record has the settings of the study's experiment with the same title."""
    if study.is_single:
        return True
    entry = study.experiments.get(record.title)
    if entry is None:
        return False
    return record.experiment == replace(entry.experiment, dataset=entry.experiment.dataset_name)


def load_recorded(record: Record, data_dir: Path) -> Dataset:
    """Load the data set that a record was trained on; one of one's own is found by its content.

    Raises:
        sources.finding.DataError: it is not found, or its files are damaged.
    """
    name, checksum = record.dataset["name"], record.dataset["checksum"]
    return data.load(name, data_dir, record.experiment.split_seed, checksum if is_own(name) else None)


def load_test_set(record: Record, data_dir: Path) -> tuple[Dataset | None, str]:
    """Load the data set that a record was tested on: (data set, ""), or (None, why it cannot be used)."""
    try:
        dataset = load_recorded(record, data_dir)
    except DataError as error:
        return None, str(error)
    if dataset.checksum != record.dataset["checksum"]:
        return None, f"{record.dataset['name']} in {dataset.found_in} is not what {record.title} was trained on"
    if (dataset.shape, len(dataset.classes)) != (record.shape, len(record.classes)):
        return None, f"{record.title} was recorded with another shape or number of classes than {dataset.found_in} has"
    return dataset, ""


def build_network_of(record: Record) -> nn.Sequential:
    """Build the network of a record's experiment, for one run.

    Raises:
        RecordError: the settings in the file were edited, and no network can be built from them.
    """
    try:
        return build_network(record.experiment, record.shape, len(record.classes), seed=0)
    except ValueError as error:
        raise RecordError(f"{record.folder / 'experiment.json'}: {error}; train it again with --force") from None
