"""What can be checked of a submission: each function returns a `Check`, which is passed where it found no problem.

found, problems = records.read_all(folder / "runs")
print(originality(found))        # passed  originality: no two runs of different seeds or settings share weights
"""

import csv
import hashlib
import math
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

import models
import regularizers
import report
import studies
import training
from analysis import findings
from analysis.compare import FEWEST_SEEDS, prediction_interval
from analysis.page import page
from engine import records
from engine.progress import seed_list

FRESH_SEEDS = 5
EXACT = 1e-9  # where nothing but the order of a sum may differ
LOG_PROBABILITY = 1e-3  # what rounding on another machine may change in a log-probability,
ACCURACY = 2e-4  # in an accuracy: two images in ten thousand,
RELATIVE = 1e-3  # and in a loss, a norm or a penalty, as a share of it


@dataclass(frozen=True)
class Check:
    name: str
    about: str  # what is so where it is passed
    problems: list[str]

    def __str__(self):
        if not self.problems:
            return f"passed  {self.name}: {self.about}"
        more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
        return f"FAILED  {self.name}: {self.problems[0]}{more}"


def runs_of(found):
    """Yield (record, seed, what the run is called)."""
    for record in found:
        for seed in record.results:
            yield record, seed, f"{record.table}/{record.title} seed {seed}"


def predictions(found, data_dir):
    """The test figures are those of the stored predictions, exactly."""
    problems = []
    for record, seed, name in runs_of(found):
        dataset, problem = findings.test_set(record, data_dir)
        if problem:
            problems.append(f"{name} cannot be checked: {problem}")
            continue
        try:
            stored = torch.from_numpy(findings.read_log_probabilities(record, seed, len(dataset.test)))
        except records.RecordError as error:
            problems.append(str(error))
            continue
        if not torch.allclose(stored.exp().sum(1), torch.ones(len(stored)), atol=1e-3):
            problems.append(f"{name}: the predictions are no log-probabilities")
        for figure, (value,) in training.scores(stored.unsqueeze(1), dataset.test.labels).items():
            recorded = record.results[seed][f"test_{figure}"]
            if not math.isclose(recorded, value, rel_tol=EXACT):
                problems.append(f"{name}: test {figure} is {recorded!r}, its predictions give {value!r}")
    return Check("predictions", "the test figures follow from the stored predictions", problems)


def weights(found, data_dir):
    """The predictions, the train and validation figures and the sparsity are those of the stored weights."""
    torch.set_num_threads(1)  # threads that wait for each other after every small layer are slow on a busy machine
    problems = []
    for record, seed, name in runs_of(found):
        dataset, problem = findings.test_set(record, data_dir)
        try:
            problems += [f"{name}: {each}" for each in ([problem] if problem else _of_weights(record, seed, dataset))]
        except records.RecordError as error:
            problems.append(str(error))
    return Check("weights", "predictions, train and validation figures and sparsity follow from the weights", problems)


def _of_weights(record, seed, dataset):
    result, experiment, folder = record.results[seed], record.experiment, record.folder / f"seed-{seed}"
    if result["seed"] != seed:
        yield f"its result is that of seed {result['seed']}"
    if not _alike(record.dataset, records.describe(experiment, dataset)["dataset"]):
        yield f"the data set is not described as {dataset.name} is"
    network = findings.network_of(record).to(memory_format=torch.channels_last)
    try:
        network.load_state_dict(records.read_weights(folder))
    except RuntimeError:
        yield f"the weights do not fit {experiment.model}"
        return
    standardization = (dataset.mean, dataset.std) if experiment.standardize else ()
    for split, part in (("train", dataset.train), ("val", dataset.validation), ("test", dataset.test)):
        log_probabilities = training.log_probabilities(network, part.images, 1, standardization)
        (loss,), (accuracy,) = training.scores(log_probabilities, part.labels).values()
        if not abs(accuracy - result[f"{split}_accuracy"]) <= ACCURACY:
            yield f"{split} accuracy is {result[f'{split}_accuracy']:.4f}, the weights give {accuracy:.4f}"
        if not math.isclose(loss, result[f"{split}_loss"], rel_tol=RELATIVE):
            yield f"{split} loss is {result[f'{split}_loss']:.4f}, the weights give {loss:.4f}"
    stored = findings.read_log_probabilities(record, seed, len(dataset.test))
    if not np.abs(log_probabilities.squeeze(1).numpy() - stored).max() <= LOG_PROBABILITY:
        yield "the stored predictions are not those of the weights"
    if result["parameters"] != models.parameter_count(network):
        yield f"{result['parameters']:,} parameters, the network has {models.parameter_count(network):,}"
    layers = regularizers.weight_statistics(network)
    if not _alike(result["layers"], layers) or not _alike(result["sparsity"], regularizers.overall(layers)):
        yield "sparsity and norms are not those of the weights"
    yield from _of_history(experiment, result, records.read_history(folder))


def _of_history(experiment, result, history):
    stopping = training.make_stopping(experiment, runs=1)
    for row in history:
        stopping.step({name: [row[name]] for name in ("val_loss", "val_accuracy")})
    epochs = stopping.stopped_epoch[0] or experiment.epochs
    chosen = (stopping.best_epoch[0] or 1) if training.restores_best(experiment) else epochs
    if (result["epochs"], result["chosen_epoch"], len(history)) != (epochs, chosen, epochs):
        yield (
            f"{result['epochs']} epochs, {result['chosen_epoch']} chosen, and a history of {len(history)}: by its "
            f"settings and its history it ends after {epochs} and chooses {chosen}"
        )
        return
    row = history[chosen - 1]
    if not abs(row["val_accuracy"] - result["val_accuracy"]) <= ACCURACY:
        yield f"validation accuracy in epoch {chosen} of the history is not the result's"
    if not math.isclose(row["val_loss"], result["val_loss"], rel_tol=RELATIVE):
        yield f"validation loss in epoch {chosen} of the history is not the result's"


def _alike(recorded, found):
    """Whether what JSON holds is what was found, numbers up to rounding."""
    if isinstance(found, list):
        return isinstance(recorded, list) and len(recorded) == len(found) and all(map(_alike, recorded, found))
    if isinstance(found, dict):
        alike = isinstance(recorded, dict) and recorded.keys() == found.keys()
        return alike and all(_alike(recorded[name], found[name]) for name in found)
    if isinstance(found, float):
        return isinstance(recorded, float | int) and math.isclose(recorded, found, rel_tol=RELATIVE)
    return recorded == found


def originality(found):
    """No run has the weights of a run of another seed or other settings."""
    owners, problems = {}, []
    for record, seed, name in runs_of(found):
        try:
            key = digest(record.folder / f"seed-{seed}")
        except records.RecordError:
            continue  # said where the weights are checked
        training_of_it, first = owners.setdefault(key, ((seed, as_trained(record.experiment)), name))
        if training_of_it != (seed, as_trained(record.experiment)):
            problems.append(f"{name} has the weights of {first}")
    return Check("originality", "no two runs of different seeds or settings share weights", problems)


def digest(run_folder):
    """SHA-256 of a run's weights."""
    sha = hashlib.sha256()
    for name, tensor in records.read_weights(run_folder).items():
        sha.update(name.encode() + tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def as_trained(experiment):
    """One experiment for all whose training may take the same steps, so that it may end with the same weights."""
    early_stopping = dict(patience=None, monitor="val_loss", min_delta=0.0, start_from_epoch=1, restore="best")
    epochs = experiment.epochs if experiment.lr_scheduler == "one_cycle" else 1  # the others do not look ahead
    experiment = replace(experiment, **early_stopping, epochs=epochs)
    if experiment.l2 and experiment.l2_form == "square" and experiment.optimizer != "adamw":
        experiment = replace(experiment, l2=0.0, weight_decay=experiment.weight_decay + 2 * experiment.l2)
    if experiment.norm == "ghost" and experiment.ghost_splits == 1:
        experiment = replace(experiment, norm="batch", ghost_splits=None)
    return experiment


def report_follows(found, folder, data_dir):
    """The report's text, page and tables are what the records give."""
    about = "report.md, report.html and the tables follow from the records"
    tables = sorted({record.table for record in found if record.table != records.SINGLE})
    if unknown := [table for table in tables if not studies.name_of(table)]:
        return Check(
            "report", about, [f"{', '.join(unknown)}: no study in studies.py here, so none to compare it with"]
        )
    try:
        document = report.make_document(folder / "runs", data_dir)
        text = (folder / "report" / "report.md").read_text(encoding="utf-8")
        html = (folder / "report" / "report.html").read_text(encoding="utf-8")
        problems = _differing_line("report.md", text, document.text)
        if html != page(text, folder / "report"):
            problems.append("report.html is not the page of report.md")
        with tempfile.TemporaryDirectory(prefix="grade-") as workshop:
            for table in document.tables:
                for path in table.write(Path(workshop)):
                    problems += _differing_table(folder / "report" / "tables" / path.name, path)
    except records.RecordError as error:
        problems = [str(error)]
    except FileNotFoundError as error:
        problems = [f"{Path(error.filename).name} is missing"]
    except (OSError, UnicodeDecodeError, StopIteration) as error:
        problems = [f"the report cannot be read ({error})"]
    return Check("report", about, problems)


def _differing_line(name, handed_in, expected):
    pairs = zip(handed_in.splitlines(), expected.splitlines(), strict=False)
    for number, (line, own) in enumerate(pairs, 1):
        if line != own:
            return [f"{name}, line {number} is {_short(line)}, the records give {_short(own)}"]
    return [] if handed_in == expected else [f"{name} is longer or shorter than records and notes.md make it now"]


def _short(line):
    return repr(line if len(line) <= 100 else f"{line[:99]}…")


def _differing_table(path, expected):
    if path.suffix != ".csv":
        return _differing_line(path.name, path.read_text(encoding="utf-8"), expected.read_text(encoding="utf-8"))
    with open(path, newline="", encoding="utf-8") as file, open(expected, newline="", encoding="utf-8") as own_file:
        rows, own_rows = list(csv.reader(file)), list(csv.reader(own_file))
    if [len(row) for row in rows] != [len(row) for row in own_rows]:
        return [f"{path.name} has other rows than the records give"]
    cells = (
        (cell, own) for row, own_row in zip(rows, own_rows, strict=True) for cell, own in zip(row, own_row, strict=True)
    )
    return [f"{path.name}: {cell}, the records give {own}" for cell, own in cells if not _same_cell(cell, own)][:1]


def _same_cell(cell, own):
    try:
        return cell == own or math.isclose(float(cell), float(own), rel_tol=EXACT)
    except ValueError:
        return False


def completeness(found, table, changes, seeds):
    """Every experiment of a study is there with its settings, and each with the seeds that were asked for, or five.

    Args:
        table: the study's folder, named after it and the changes; None for whatever experiments there are.
        changes: {name: value} of the settings that it was to be given beside its own.
        seeds: None for any five at least.
    """
    problems = []
    if table:
        study = studies.STUDIES[studies.name_of(table)]
        own = {record.title: record for record in found if record.table == table}
        if not own:
            there = ", ".join(sorted({record.table for record in found}))
            return Check("completeness", "", [f"{table} is not in it; there is {there}"])
        asked = [title for title, trained_as in study.all_trained_as(changes).items() if trained_as == title]
        problems += [f"{table}/{title} is missing" for title in asked if title not in own]
        found = [own[title] for title in asked if title in own]
        problems += [
            f"{table}/{record.title} has other settings than the study"
            for record in found
            if not findings.is_of(study, record, changes)
        ]
    for record in found:
        there = record.results.keys() | record.diverged.keys()
        if missing := [seed for seed in seeds or () if seed not in there]:
            problems.append(f"{record.table}/{record.title}: {seed_list(missing)} missing")
        elif seeds is None and len(there) < FEWEST_SEEDS:
            problems.append(
                f"{record.table}/{record.title}: {seed_list(there)}, expected {FEWEST_SEEDS} seeds at least"
            )
    asked = [f"every experiment of {table}"] * bool(table)
    asked.append(seed_list(seeds) if seeds else f"{FEWEST_SEEDS} seeds at least")
    return Check("completeness", f"{', '.join(asked)}: all there", problems)


def retraining(found, name, data_dir):
    """The recorded test accuracies lie where those of fresh seeds say that they should."""
    about = f"{name}: the recorded test accuracies lie in the prediction interval of {FRESH_SEEDS} fresh seeds"
    there = {f"{record.table}/{record.title}": record for record in found if record.results}
    if not (record := there.get(name)):
        there = ", ".join(f'"{each}"' for each in there)
        return Check("retraining", about, [f'"{name}" is not in it; there is {there}'])
    dataset, problem = findings.test_set(record, data_dir)
    try:
        findings.network_of(record)
    except records.RecordError as error:
        problem = str(error)
    if problem:
        return Check("retraining", about, [problem])
    fresh = [seed for seed in range(len(record.results) + FRESH_SEEDS) if seed not in record.results][:FRESH_SEEDS]
    at_once, accuracies = models.RUNS_AT_ONCE[record.experiment.model], []
    for start in range(0, len(fresh), at_once):
        runs = training.train(record.experiment, fresh[start : start + at_once], dataset)
        accuracies += [run.result["test_accuracy"] for run in runs]
    low, high = prediction_interval(accuracies, others=len(record.results))
    problems = [
        f"{name} seed {seed}: test accuracy {result['test_accuracy']:.2%}, fresh seeds predict {low:.2%} to {high:.2%} "
        "(where one honest experiment in twenty does not lie)"
        for seed, result in record.results.items()
        if not low <= result["test_accuracy"] <= high
    ]
    return Check("retraining", f"{about}, {low:.2%} to {high:.2%}", problems)
