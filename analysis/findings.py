"""What the records say: each experiment's figures, differences between experiments, and verdicts on a study's claims.

Figures are those of `study.FIGURES` and of a run's result; the runs of two experiments are compared seed by seed, over
the seeds both have.
"""

import math
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import groupby
from statistics import mean

import numpy as np

import experiments
import studies
from analysis import compare
from engine import records
from sources import catalogue, finding
from studies.study import MARGIN, MARGINS, Study

IMAGES = dict(test_accuracy="test_accuracy", test_loss="test_loss", gap="test_accuracy")  # the part of test images
WITH_MARGIN = ("test_accuracy", "train_accuracy", "gap")  # figures of which a difference can be too small to matter


@dataclass
class Findings:
    """What is found in one table of records on one data set: a study's, or experiments that were typed by hand."""

    table: str
    dataset_name: str
    trained: dict[str, records.Record]  # title: record with a run at least, in the order of the study
    dataset: object = None  # data.Dataset; None where it could not be read
    problem: str = ""  # why it could not
    study_name: str | None = None
    changes: dict[str, object] = field(default_factory=dict)  # the settings that the study was given beside its own
    same: dict[str, str] = field(default_factory=dict)  # title: the title that the same settings were trained under
    left_out: list[str] = field(default_factory=list)  # titles that hold other settings than the study's
    diverged: list[str] = field(default_factory=list)  # titles of which every run diverged
    split_seed: int = 0

    @property
    def name(self):
        """Of its files."""
        split = f",split_seed={self.split_seed}" * bool(self.split_seed)
        return self.table if self.study_name else f"{self.table},{self.dataset_name}{split}"

    @property
    def study(self):
        return studies.STUDIES[self.study_name] if self.study_name else None

    @cached_property
    def titles(self):
        """Of all rows: what was trained, and what has the same settings as something trained."""
        order = self.study.experiments if self.study else self.trained
        return [title for title in order if self.same.get(title, title) in self.trained]

    def experiment(self, title):
        """One of the study's, with what was changed.

        Raises:
            ValueError: it does not go with the changes.
        """
        return self.study.experiment(title, self.changes)

    @cached_property
    def short(self):
        """{title: all of its settings but those that all experiments which were typed by hand have in common}."""
        if self.study or len(self.trained) == 1:
            return {title: title for title in self.trained}
        settings = {title: record.experiment.whole_name.split(",") for title, record in self.trained.items()}
        shared = set.intersection(*map(set, settings.values()))
        return {
            title: ",".join([model, *(each for each in others if each not in shared)])
            for title, (model, *others) in settings.items()
        }

    @property
    def reference(self):
        """The title that a study's others are described by: its baseline, or the first that goes with the changes."""
        return self.study.baseline if self.study.baseline in self.same else next(iter(self.trained))

    def record(self, title):
        return self.trained[self.same.get(title, title)]

    @cached_property
    def baselines(self):
        """{title: its baseline's title}: the study's, or the name of the same experiment without regularization."""
        if self.study:
            return dict.fromkeys(self.trained, self.same.get(self.study.baseline, self.study.baseline))
        titles = {record.experiment: title for title, record in self.trained.items()}
        plain = {title: record.experiment.baseline() for title, record in self.trained.items()}
        return {title: titles.get(baseline, baseline.name) for title, baseline in plain.items()}

    @property
    def missing(self):
        """Titles of the study that are not trained."""
        order = self.study.experiments if self.study else ()
        there = {*self.titles, *self.diverged, *self.left_out}
        return [title for title in order if title not in there and self.same.get(title) == title]

    @property
    def missing_baselines(self):
        """Experiments that were typed by hand lack these."""
        if self.study:
            return []
        missing = {record.experiment.baseline() for record in self.trained.values()}
        missing -= {record.experiment for record in self.trained.values()}
        missing = {baseline for baseline in missing if baseline.name not in self.diverged}
        return sorted(missing, key=lambda each: each.name)

    @cached_property
    def differences(self):
        """{title: comparison of its test accuracy with its baseline's}, corrected for each baseline (Holm)."""
        found = {}
        for baseline in dict.fromkeys(self.baselines.values()):
            if self.dataset and baseline in self.trained:
                others = [record for title, record in self.trained.items() if self.baselines[title] == baseline]
                found |= differences_to(self.trained[baseline], others, "test_accuracy", self.labels)
        return {title: found[title] for title in self.trained if title in found}

    @property
    def labels(self):
        return self.dataset.test.labels.numpy()

    @cached_property
    def judgements(self):
        """The study's claims, judged where it was trained with its own settings."""
        if not self.study or self.changes or not self.dataset:
            return []
        return judge(self.study, {title: self.record(title) for title in self.titles}, self.labels, self.margin)

    def published(self, title):
        """The published figures of an experiment, where what was trained is the original's data and training."""
        return self.study.experiments[title].published if self.study and not self.changes else {}

    @cached_property
    def by_validation(self):
        """The titles, the best mean validation accuracy first."""
        return sorted(self.trained, key=lambda title: -mean(self.values(title, "val_accuracy")))

    @cached_property
    def lead(self):
        """Whether the best by validation differs from the second, paired by seed: the verdict, or `alone`."""
        if len(self.trained) < 2:
            return "alone"
        comparison = difference(*(self.trained[title] for title in self.by_validation[:2]), "val_accuracy")
        return compare.verdict(comparison, "higher") if comparison else "too few seeds"

    @property
    def margin(self):
        own = self.study.margin if self.study else None
        return MARGINS.get(self.dataset_name, MARGIN) if own is None else own

    def log_probabilities(self, title):
        """Of the test images, (runs, images, classes)."""
        record = self.record(title)
        return np.stack([read_log_probabilities(record, seed, len(self.labels)) for seed in record.results])

    def values(self, title, name):
        """A figure of each of its runs."""
        return [figure(result, name) for result in self.record(title).results.values()]


def gather(found, data_dir):
    """(the `Findings` of some records, for each table and data set, a line for each table of which nothing is used)."""

    def key(record):
        return (
            record.table,
            record.dataset["name"],
            0 if studies.name_of(record.table) else record.experiment.split_seed,
        )

    all_findings, problems = [], []
    for (table, name, split_seed), group in groupby(sorted(found, key=lambda each: (key(each), each.title)), key):
        group = {record.title: record for record in group}
        diverged = [title for title, record in group.items() if not record.results]
        trained = {title: record for title, record in group.items() if record.results}
        of_study = dict(left_out=[])
        if study_name := studies.name_of(next(iter(group.values())).table):
            study = studies.STUDIES[study_name]
            changes = _changes(study_name, table, group)
            same = study.all_trained_as(changes)
            left_out = [title for title, record in group.items() if not is_of(study, record, changes)]
            of_study = dict(study_name=study_name, changes=changes, same=same, left_out=left_out)
            kept = [title for title in study.experiments if title in trained and title not in left_out]
            trained = {title: trained[title] for title in kept}
        if trained:
            dataset, problem = test_set(next(iter(trained.values())), data_dir)
            split = dict(diverged=diverged, split_seed=split_seed)
            all_findings.append(Findings(table, name, trained, dataset, problem, **of_study, **split))
        elif titles := of_study["left_out"]:
            problems.append(f"{table}: {', '.join(titles)}: trained with other settings than the study has")
    return all_findings, problems


def _changes(study_name, table, group):
    """{name: value} of the settings that a study was given beside its own, from its records, {title: record}.

    They are named in the table's name, and if that was cut, or given by hand, they are what differs.
    """
    first = next(iter(group.values())).experiment
    names = [change.partition("=")[0] for change in table.split(",")[1:]]
    changes = {setting.name: getattr(first, setting.name) for setting in fields(first) if setting.name in names}
    if experiments.folder_name(study_name, {name: changes[name] for name in names if name in changes}) == table:
        return changes
    changes = {}
    for title, entry in studies.STUDIES[study_name].experiments.items():
        if title in group:
            own, given = as_recorded(entry.experiment), group[title].experiment
            values = {setting.name: getattr(given, setting.name) for setting in fields(given)}
            changes |= {name: value for name, value in values.items() if value not in (None, getattr(own, name))}
    return changes


def as_recorded(experiment):
    """An experiment with the data set that it is trained on."""
    return replace(experiment, dataset=experiment.dataset or experiment.default_dataset)


def is_of(study: Study, record, changes=None):
    """Whether a record's settings are those that the study, with some changes, has under its title."""
    try:
        return record.experiment == as_recorded(study.experiment(record.title, changes or {}))
    except (KeyError, ValueError):
        return False


def test_set(record, data_dir):
    """(the `data.Dataset` that a record's runs were tested on, ""), or (None, why it is not to be had)."""
    import data

    try:
        dataset = data.load(record.dataset["name"], data_dir, record.experiment.split_seed)
    except finding.DataError as error:
        return None, str(error)
    if dataset.checksum != record.dataset["checksum"]:
        return None, f"{record.dataset['name']} in {dataset.found_in} is not what {record.title} was trained on"
    return dataset, ""


def network_of(record):
    """The textbook network of a record's experiment.

    Raises:
        records.RecordError: its settings, which were edited, are of none.
    """
    import training

    try:
        return training.textbook_network(record.experiment, catalogue.SOURCES[record.dataset["name"]], seed=0)
    except ValueError as error:
        raise records.RecordError(f"{record.folder / 'experiment.json'}: {error}; train it anew with --force") from None


def figure(result, name):
    """One figure of a run's result.json."""
    match name:
        case "gap":
            return result["train_accuracy"] - result["test_accuracy"]
        case "zeros" | "small" | "l2_norm":
            return result["sparsity"][name]
        case _:
            return result[name]


def difference(one, other, name, labels=None):
    """The `compare.Comparison` of a figure of two records, or of a record and a constant; None without a common seed.

    Args:
        labels: of the test images, (images,); the figures that are means over test images, or contain one, count
            their chance too.
    """
    if not isinstance(other, records.Record):
        values = [figure(result, name) for result in one.results.values()]
        return compare.paired(values, [float(other)] * len(values))
    seeds = sorted(one.results.keys() & other.results.keys())
    if not seeds:
        return None
    by_image = None
    if figure_of_images := IMAGES.get(name):
        by_image = [
            by_test_image(one, seed, figure_of_images, labels) - by_test_image(other, seed, figure_of_images, labels)
            for seed in seeds
        ]
    values = ([figure(record.results[seed], name) for seed in seeds] for record in (one, other))
    return compare.paired(*values, by_image)


def by_test_image(record, seed, name, labels):
    """What each test image adds to a run's accuracy (0 or 1) or loss, (images,)."""
    log_probabilities = read_log_probabilities(record, seed, len(labels))
    if name == "test_accuracy":
        return (log_probabilities.argmax(1) == labels).astype(np.float64)
    return -log_probabilities[np.arange(len(labels)), labels].astype(np.float64)


def read_log_probabilities(record, seed, images):
    """A run's log-probabilities of the test images, (images, classes).

    Raises:
        records.RecordError: what is stored cannot be read, or is of another number of images or classes.
    """
    log_probabilities = records.read_log_probabilities(record.folder / f"seed-{seed}")
    classes = len(catalogue.SOURCES[record.dataset["name"]].classes)
    if log_probabilities.shape != (images, classes):
        raise records.RecordError(
            f"{record.folder}/seed-{seed}: predictions of {log_probabilities.shape} images and classes, expected "
            f"{(images, classes)}; train it anew with --seeds {seed} --force"
        )
    return log_probabilities


def differences_to(baseline, others, name, labels):
    """{title: comparison with the baseline} of the records that share seeds with it, corrected by Holm's procedure."""
    found = {record.title: difference(record, baseline, name, labels) for record in others if record is not baseline}
    found = {title: comparison for title, comparison in found.items() if comparison}
    return dict(zip(found, compare.holm(list(found.values())), strict=True))


@dataclass(frozen=True)
class Judgement:
    """A claim with what was found: the comparison with each of the others, and the verdict or why there is none."""

    claim: object  # study.Claim
    one: str  # the title that was compared
    comparisons: dict[str, compare.Comparison]
    verdict: str


def judge(study, trained, labels, margin):
    """A `Judgement` of each claim of a study; the intervals are corrected over all comparisons of the claims.

    Args:
        trained: {title: record} of what was trained, with the study's own settings.
        margin: differences in accuracy within it make no practical difference.
    """
    judgements = []
    for claim in study.claims:
        one = _the_one(claim, trained)
        others = claim.others if isinstance(claim.others, tuple) else (str(claim.others),)
        missing = [title for title in (one, *others) if title in study.experiments and title not in trained]
        same = [title for title in others if study.experiments.get(title) and _same_settings(study, one, title)]
        comparisons, why = {}, ""
        if missing:
            why = f"no finished run: {', '.join(missing)}"
        elif same:
            why = f"not compared: {one} and {same[0]} have the same settings"
        else:
            found = {
                title: difference(trained[one], trained.get(title, claim.others), claim.figure, labels)
                for title in others
            }
            comparisons, why = (found, "") if all(found.values()) else ({}, "no seed in common")
        judgements.append(Judgement(claim, one, comparisons, why))

    corrected = iter(compare.holm([each for judgement in judgements for each in judgement.comparisons.values()]))
    return [_with_verdict(judgement, margin, corrected) for judgement in judgements]


def _the_one(claim, trained):
    if isinstance(claim.one, str):
        return claim.one
    if missing := [title for title in claim.one if title not in trained]:
        return missing[0]  # without it the best is not known

    def validation(title):
        return mean(result["val_accuracy"] for result in trained[title].results.values())

    return max(claim.one, key=validation)


def _same_settings(study, one, other):
    return study.trained_as(one) == study.trained_as(other)


def _with_verdict(judgement, margin, corrected):
    if judgement.verdict:
        return judgement
    claim = judgement.claim
    comparisons = {title: next(corrected) for title in judgement.comparisons}
    margin = margin if claim.figure in WITH_MARGIN else None
    verdicts = [compare.verdict(comparison, claim.direction, margin) for comparison in comparisons.values()]
    verdict = compare.joint_verdict(verdicts)
    if verdict == "undecided":
        undecided = [each for each, own in zip(comparisons.values(), verdicts, strict=True) if own == "undecided"]
        verdict = f"undecided ({_what_would_decide(undecided, claim.direction, margin)})"
    return replace(judgement, comparisons=comparisons, verdict=verdict)


def _what_would_decide(undecided, direction, margin):
    def seeds(comparison):
        return compare.seeds_to_decide(comparison, direction, margin) or math.inf

    if (needed := max(map(seeds, undecided))) < math.inf:
        return f"about {needed} seeds would decide"
    if max(seeds(replace(comparison, deviation=0.0)) for comparison in undecided) == math.inf:
        return "the test set is too small to tell"
    return f"more than {compare.MOST_SEEDS:,} seeds would be needed"
