"""What submissions score: their points, what they share with each other, and all of this for people and programs.

graded = grade(Path("submission.zip"), GradeOptions())
show(graded, is_alone=True)
"""

import contextlib
import csv
import json
import tempfile
from dataclasses import dataclass, field
from io import StringIO
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import data
from engine.files import RecordError
from engine.workers import prepare_process
from experiments import Experiment, UserError
from grading.checks import CHECKS, Result, hash_weights, make_checks, simplify
from grading.submission import GradeOptions, read_submission
from sources.finding import DataError
from studies.flags import format_seeds

UNCHECKED = "not checked: the pictures, and the epochs before the chosen one, which only training again would show"
MOST_SHOWN = 5  # files of code that differ


class Trained(NamedTuple):
    """How some weights were trained."""

    name: str  # of the run
    seconds: float
    seed: int
    experiment: Experiment  # simplified


@dataclass
class Graded:
    """What a submission scores."""

    name: str
    results: list[Result] = field(default_factory=list)  # of its checks
    cannot: str = ""  # why it is not graded, which is not the submission's fault
    seeds: set[int] = field(default_factory=set)  # of all its runs
    other_code: list[str] = field(default_factory=list)  # files that are not as they are here
    weights: dict[str, Trained] = field(default_factory=dict)  # by their SHA-256
    copies: list[str] = field(default_factory=list)  # what it shares with other submissions

    @property
    def has_passed(self) -> bool:
        """Whether every check that was made passed, and nothing is shared with another submission."""
        return not self.copies and not any(result.problems for result in self.results)

    @property
    def points(self) -> int:
        """The points of the checks that passed."""
        return sum(result.points for result in self.results if not result.problems)

    @property
    def most_points(self) -> int:
        """The points of all its checks."""
        return sum(result.points for result in self.results)


def grade(path: Path, options: GradeOptions) -> Graded:
    """Make every check of one submission, an archive or its unpacked folder."""
    prepare_process("cpu", threads=1)  # threads that wait for each other after every small layer would be slow
    with tempfile.TemporaryDirectory(prefix="grade-") as workshop:
        submission = read_submission(path, Path(workshop), options)
        graded = Graded(str(path), other_code=submission.other_code)
        try:
            for record, _, _ in submission.runs:
                data.load(record.dataset["name"], options.data_dir, record.experiment.split_seed)
        except DataError as error:
            graded.cannot = str(error)
            return graded
        graded.results = make_checks(submission)
        for record, seed, name in submission.runs:
            graded.seeds.add(seed)
            with contextlib.suppress(RecordError):  # the check of the weights says why they cannot be read
                digest, seconds = hash_weights(record.run_folder(seed)), record.results[seed]["seconds"]
                graded.weights[digest] = Trained(name, seconds, seed, simplify(record.experiment))
    return graded


def name_copies(all_graded: list[Graded]) -> None:
    """Tell every pair of submissions how many runs they share.

    Training is deterministic, so equal weights of equal seeds are no proof; equal seconds are, and so are equal weights
    of other seeds or settings.
    """
    for first, second in combinations(all_graded, 2):
        shared = []
        for digest in first.weights.keys() & second.weights.keys():
            mine, theirs = first.weights[digest], second.weights[digest]
            if mine.seconds == theirs.seconds or mine[2:] != theirs[2:]:
                shared.append(mine.name)
        if shared:
            runs = f"{len(shared)} run{'s' if len(shared) > 1 else ''}, such as {min(shared)},"
            why = "equal weights and equal seconds, or equal weights under another seed"
            first.copies.append(f"{runs} shared with {second.name} ({why})")
            second.copies.append(f"{runs} shared with {first.name} ({why})")


# ---------------------------------------------------------------------------------------------------------------------
# For people and for other programs


def show(graded: Graded, is_alone: bool) -> None:
    """Print a line for each check of a submission that is alone, else a line for the submission."""
    if graded.cannot:
        print(f"{graded.name}: not graded")
        return
    if is_alone:
        print("\n".join(map(str, [*graded.results, UNCHECKED])))
    if graded.other_code:
        more = len(graded.other_code) - MOST_SHOWN
        and_more = f" and {more} files more" if more > 0 else ""
        print(
            f"its code, which is not run, is not as it is here: {', '.join(graded.other_code[:MOST_SHOWN])}{and_more}"
        )
    failed = [str(result) for result in graded.results if result.problems and result.is_made]
    passed = sum(not result.problems for result in graded.results)
    summary = f"{graded.name}: {passed} of {len(graded.results)} checks passed, {graded.points} of "
    summary += f"{graded.most_points} points"
    print(summary if is_alone or not failed else f"{summary}; {'; '.join(failed)}", flush=True)


def write_csv(path: Path, all_graded: list[Graded]) -> None:
    """Write a line for each submission.

    Raises:
        UserError: the file cannot be written.
    """
    table = StringIO()
    writer = csv.writer(table)
    writer.writerow(["submission", "points", "of", "seeds", *CHECKS, "problems", "copies", "code that differs"])
    for graded in all_graded:
        outcomes = {result.name: "FAILED" if result.problems else "passed" for result in graded.results}
        made = [result for result in graded.results if result.is_made]
        problems = "; ".join(f"{result.name}: {problem}" for result in made for problem in result.problems)
        writer.writerow(
            [
                graded.name,
                *(["", ""] if graded.cannot else [graded.points, graded.most_points]),
                format_seeds(graded.seeds) if graded.seeds else "",
                *(outcomes.get(name, "") for name in CHECKS),
                f"not graded: {graded.cannot}" if graded.cannot else problems,
                "; ".join(graded.copies),
                " ".join(graded.other_code),
            ]
        )
    _write(path, table.getvalue())


def write_gradescope(path: Path, graded: Graded) -> None:
    """Write Gradescope's results.json, a test for each check.

    Raises:
        UserError: the file cannot be written.
    """
    tests = []
    for result in graded.results:
        has_passed = not result.problems
        test: dict[str, Any] = dict(name=result.name, score=result.points if has_passed else 0)
        test |= dict(max_score=result.points, status="passed" if has_passed else "failed")
        tests.append(test | dict(output="\n".join(result.problems) or result.about))
    _write(path, json.dumps(dict(output=UNCHECKED, tests=tests), indent=2) + "\n")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
