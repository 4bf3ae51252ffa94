"""The checks of submissions, each declared once with its points, its function and the sentence for passing it.

for result in run_checks(submission):
    print(result)               # passed  originality: no two runs of different seeds or settings share weights
"""

# ruff: noqa: D401 - the docstring of a check is a sentence that is printed

import math
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

import training
from analysis.compare import compute_prediction_interval
from analysis.findings import build_network_of, find_study, is_of, load_test_set
from analysis.metrics import read_predictions
from analysis.sections import make_report
from engine.files import RecordError
from engine.plan import measured_for
from engine.records import Record
from engine.seeds import format_seeds
from grading.copies import find_copies
from grading.differences import EXACT, compare_report
from grading.recomputing import compare_run
from grading.submission import Submission
from studies import STUDIES
from studies.study import FEWEST_SEEDS

FRESH_SEEDS = 5
SUM = 1e-3  # how far rounding may carry a sum of probabilities from 1

FindProblems = Callable[[Submission], Iterator[str] | Generator[str, None, str | None]]


@dataclass(frozen=True)
class Result:
    """The result of a check on a submission."""

    name: str
    points: int  # if it passes
    about: str  # sentence printed if it passes
    problems: list[str]
    is_made: bool = True  # False if there was nothing to check; the check then fails

    def __str__(self) -> str:
        if not self.problems:
            return f"passed  {self.name}: {self.about}"
        more = f" (and {len(self.problems) - 1} more; --csv lists all)" if len(self.problems) > 1 else ""
        return f"FAILED  {self.name}, −{self.points} points: {self.problems[0]}{more}"


@dataclass(frozen=True)
class Check:
    """A check that can be applied to any submission."""

    name: str
    points: int
    about: str  # sentence printed if it passes
    find_problems: FindProblems

    def run(self, submission: Submission) -> Result:
        """Apply the check to a submission; a sentence that `find_problems` returns replaces `about`."""
        iterator, problems = self.find_problems(submission), []
        folder = f"{submission.folder}{os.sep}"  # means nothing to the submission's author
        while True:
            try:
                problems.append(next(iterator).replace(folder, ""))
            except StopIteration as end:
                return Result(self.name, self.points, end.value or self.about, problems)


CHECKS: dict[str, Check] = {}  # in the order in which they are applied


def check(name: str, points: int) -> Callable[[FindProblems], FindProblems]:
    """Make a check of a function that yields problems; its docstring's first line is printed if the check passes."""

    def declare(find_problems: FindProblems) -> FindProblems:
        sentence = (find_problems.__doc__ or "").partition("\n")[0].rstrip(".")
        CHECKS[name] = Check(name, points, sentence[:1].lower() + sentence[1:], find_problems)
        return find_problems

    return declare


def run_checks(submission: Submission) -> list[Result]:
    """Apply the requested checks; without any run of the requested study, most of them fail."""
    options = submission.options
    is_asked = dict(completeness=options.study or options.seeds, retraining=options.retrain)
    can_be_made = dict(archive=True, completeness=bool(submission.runs))
    asked = " of what was requested" if options.study else ""
    why_not = f"not checked, because no finished run{asked} is in the submission"
    results = []
    for name, declared in CHECKS.items():
        if not is_asked.get(name, True):
            continue
        if can_be_made.get(name, submission.holds_what_was_asked):
            results.append(declared.run(submission))
        else:
            results.append(Result(name, declared.points, "", [why_not], is_made=False))
    return results


# ---------------------------------------------------------------------------------------------------------------------
# Archive, predictions, weights


@check("archive", points=10)
def check_archive(submission: Submission) -> Iterator[str]:
    """Every file of the manifest is there with its checksum, and every record can be read."""
    problems = submission.damage + submission.unreadable
    if not problems and not submission.runs:
        problems = ["the submission contains no finished run"]
    yield from problems


@check("predictions", points=20)
def check_predictions(submission: Submission) -> Iterator[str]:
    """The test metrics follow from the stored predictions."""
    yield from _find_lacking(submission, "predictions.npz")
    for record, seed, name in submission.runs:
        dataset, problem = load_test_set(record, submission.options.data_dir)
        if dataset is None:
            yield f"{name} cannot be checked: {problem}"
            continue
        try:
            stored = torch.from_numpy(read_predictions(record, seed, len(dataset.test)))
        except RecordError as error:
            yield str(error)
            continue
        sums, is_whole = stored.exp().sum(1), stored.isfinite().all(1)
        if (sums > 1 + SUM).any() or (sums[is_whole] < 1 - SUM).any():
            yield f"{name}: the predictions are not log-probabilities"
        for metric, (value,) in training.measure(stored.unsqueeze(1), dataset.test.labels).items():
            recorded = record.results[seed][f"test_{metric}"]
            if not math.isclose(recorded, value, rel_tol=EXACT):
                yield f"{name}: test {metric} is {recorded!r}, the stored predictions give {value!r}"


@check("weights", points=30)
def check_weights(submission: Submission) -> Iterator[str]:
    """Weights, settings and history fit each other, and the predictions and metrics follow from them."""
    yield from _find_lacking(submission, "weights.pt")
    for record, seed, name in submission.runs:
        dataset, problem = load_test_set(record, submission.options.data_dir)
        if dataset is None:
            yield f"{name}: {problem}"
            continue
        try:
            yield from (f"{name}: {problem}" for problem in compare_run(record, seed, dataset))
        except RecordError as error:
            yield str(error)


def _find_lacking(submission: Submission, name: str) -> Iterator[str]:
    """Yield the lines about files of a name that could not be taken; what was altered is looked at itself."""
    yield from (line for line in submission.damage if f"/{name} " in line and not line.endswith(" was altered"))


# ---------------------------------------------------------------------------------------------------------------------
# Originality


@check("originality", points=10)
def check_originality(submission: Submission) -> Iterator[str]:
    """No two runs of different seeds or settings share weights."""
    yield from map(str, find_copies(submission.traces))


# ---------------------------------------------------------------------------------------------------------------------
# Report


@check("report", points=20)
def check_report(submission: Submission) -> Iterator[str]:
    """report.md, report.html and the tables follow from the records."""
    groups = {record.group for record in submission.records if record.study and record.study not in STUDIES}
    if groups:
        missing = f"{', '.join(sorted(groups))}: studies/ has no such study here, so the report cannot be checked"
        yield f"{missing}; read the submission's code/studies/, and copy its file to studies/"
        return
    runs_dir, data_dir = submission.folder / "runs", submission.options.data_dir
    try:
        document = make_report(submission.records, submission.unreadable, runs_dir, data_dir)
        problems = compare_report(submission.folder / "report", document)
    except RecordError as error:
        problems = [str(error)]
    except FileNotFoundError as error:
        problems = [f"{Path(error.filename).name} is missing"]
    except (OSError, UnicodeDecodeError, StopIteration) as error:
        problems = [f"the report cannot be read ({error})"]
    yield from problems


# ---------------------------------------------------------------------------------------------------------------------
# Completeness and retraining


@check("completeness", points=10)
def check_completeness(submission: Submission) -> Generator[str, None, str | None]:
    """Every experiment that was asked for is there with its settings and seeds."""
    checked, study, seeds = submission.records, submission.options.study, submission.options.seeds
    fewest = study.needed_seeds if study else FEWEST_SEEDS
    asked = format_seeds(seeds) if seeds else f"at least {fewest} seeds"
    if study:
        asked = f"every experiment of {study.group}, {asked}"
        of_study = {record.title: record for record in checked if record.group == study.group}
        if not of_study:
            groups = sorted({record.group for record in checked})
            yield f"the submission has no {study.group}, only {', '.join(groups)}"
            return None
        titles = [title for title, first in study.trained_as.items() if title == first]
        yield from (f"{study.group}/{title} is missing" for title in titles if title not in of_study)
        checked = [of_study[title] for title in titles if title in of_study]
        for record in checked:
            if not is_of(study, record):
                yield f"{record.group}/{record.title} has other settings than the study"
    for record in checked:
        name, trained = f"{record.group}/{record.title}", record.seeds
        if missing := [seed for seed in seeds or () if seed not in trained]:
            yield f"{name}: {format_seeds(missing)} missing"
        elif seeds is None and len(trained) < fewest:
            yield f"{name}: {format_seeds(trained)}, expected at least {fewest} seeds"
    runs, diverged = sum(len(record.seeds) for record in checked), sum(len(record.diverged) for record in checked)
    if 2 * diverged > runs:  # to claim that a run diverged takes no training
        yield f"{diverged} of {runs} runs diverged, expected at most half"
    return f"{asked}: all there"


def find_recorded(asked: str, found: Iterable[Record]) -> str:
    """Find STUDY/TITLE that an experiment is recorded under, which may be another title with the same settings."""
    group, _, title = asked.partition("/")
    for record in found:
        if record.group == group and (study := find_study(record)):
            return f"{group}/{study.trained_as.get(title, title)}"
    return asked


@check("retraining", points=10)
def check_retraining(submission: Submission) -> Generator[str, None, str | None]:
    """The recorded test accuracies lie in the prediction interval of fresh seeds."""
    asked = submission.options.retrain or ""
    trained = {f"{record.group}/{record.title}": record for record in submission.records if record.results}
    name = find_recorded(asked, submission.records)
    if name not in trained:
        known = ", ".join(f'"{title}"' for title in trained)
        yield f'the submission has no "{asked}", only {known}'
        return None
    record = trained[name]
    study = find_study(record)
    if study and not is_of(study, record):  # with which training may take any time
        yield f"{name} has other settings than the study"
        return None
    dataset, problem = load_test_set(record, submission.options.data_dir)
    try:
        build_network_of(record)
    except RecordError as error:
        problem = str(error)
    if dataset is None or problem:
        yield problem
        return None
    fresh = [seed for seed in range(len(record.seeds) + FRESH_SEEDS) if seed not in record.seeds][:FRESH_SEEDS]
    at_once, _ = measured_for(record.experiment.model)
    accuracies = []
    for start in range(0, len(fresh), at_once):
        runs = training.train(record.experiment, fresh[start : start + at_once], dataset)
        accuracies += [run.result["test_accuracy"] for run in runs if not run.result["diverged"]]
    if len(accuracies) < 2:
        yield f"{name} cannot be compared: of {FRESH_SEEDS} fresh seeds {len(accuracies)} did not diverge"
        return None
    low, high = compute_prediction_interval(accuracies, draws=len(record.results))
    for seed, result in record.results.items():
        if not low <= result["test_accuracy"] <= high:
            yield (
                f"{name} seed {seed}: test accuracy {result['test_accuracy']:.2%}, fresh seeds predict {low:.2%} to "
                f"{high:.2%} (one honest experiment in twenty lies outside)"
            )
    interval = f"the prediction interval of {FRESH_SEEDS} fresh seeds, {low:.2%} to {high:.2%}"
    return f"{name}: the recorded test accuracies lie in {interval}"
