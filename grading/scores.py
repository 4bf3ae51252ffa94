"""Scores of submissions: points, shared runs, and the results as text, CSV and Gradescope JSON.

graded = grade(Path("submission.zip"), GradeOptions())
show(graded, is_alone=True)
"""

import csv
import tempfile
import traceback
from dataclasses import dataclass, field, replace
from io import StringIO
from itertools import combinations
from pathlib import Path

from analysis.findings import load_recorded
from engine.files import write_answer
from engine.seeds import format_seeds
from engine.workers import prepare_process
from experiments import UserError
from grading import gradescope
from grading.checks import CHECKS, Result, run_checks
from grading.copies import Trace, find_copies
from grading.gradescope import join_lines, make_printable
from grading.submission import GradeOptions, Submission, list_names, read_submission
from grading.untrusted import quote_formula
from sources.finding import DataError

UNCHECKED = "not checked: the figures, and losses and accuracies during the epochs"


@dataclass
class Graded:
    """The grading results of a submission."""

    name: str
    results: list[Result] = field(default_factory=list)  # one for each check
    cannot: str = ""  # why the grader cannot grade it; never the submission's fault
    seeds: set[int] = field(default_factory=set)  # seeds of all runs, also of those that diverged
    other_code: list[str] = field(default_factory=list)  # code files that differ from the grader's
    traces: list[Trace] = field(default_factory=list)  # what is compared of its runs to find copies
    copies: list[str] = field(default_factory=list)  # a line for each submission that shares runs with it
    remarks: list[str] = field(default_factory=list)  # a line for each thing that was seen and costs nothing

    @property
    def has_passed(self) -> bool:
        """Whether every check passed and no run is shared with another submission."""
        return not self.copies and not any(result.problems for result in self.results)

    @property
    def points(self) -> int:
        """The points of the checks that passed."""
        return sum(result.points for result in self.results if not result.problems)

    @property
    def most_points(self) -> int:
        """The points if every check passed."""
        return sum(result.points for result in self.results)


def grade(path: Path, options: GradeOptions) -> Graded:
    """Grade a submission, given as an archive or as its unpacked folder."""
    with tempfile.TemporaryDirectory(prefix="grade-") as workshop:
        return read_and_grade(path, Path(workshop), options, str(path))[1]


def read_and_grade(path: Path, workshop: Path, options: GradeOptions, name: str) -> tuple[Submission | None, Graded]:
    """Read a submission into a workshop and grade it; the submission is None if this toolkit fails on it."""
    try:
        submission = read_submission(path, workshop, options)
        return submission, grade_submission(submission, name)
    except PermissionError as error:  # such as of a file in an unpacked folder
        why = f"{error.filename}: cannot be read ({error.strerror}); change its permissions"
        return None, Graded(name, cannot=make_printable(why))
    except (OSError, MemoryError, UserError):
        raise
    except Exception as error:  # a forged file may find a mistake of this toolkit, which must not cost the others
        traceback.print_exc()
        says = str(error).partition("\n")[0]
        return None, Graded(name, cannot=make_printable(f"grade.py failed on it ({type(error).__name__}: {says})"))


def grade_submission(submission: Submission, name: str) -> Graded:
    """Grade a submission that is read already."""
    prepare_process("cpu", threads=1)  # several threads would wait for each other after every small layer
    graded = Graded(name, other_code=[make_printable(file) for file in submission.other_code])
    graded.remarks = [make_printable(remark) for remark in submission.remarks]
    if graded.other_code:
        graded.remarks.append(
            f"code that differs from the grader's or is missing (not run): {list_names(graded.other_code)}"
        )
    diverged = [
        f"{record.group}/{record.title}, {format_seeds(record.diverged)}"
        for record in submission.records
        if record.diverged
    ]
    if diverged:
        named = make_printable(list_names(diverged, "experiments"))
        graded.remarks.append(f"diverged, so only the end of their histories is checked: {named}")
    try:
        for record, _, _ in submission.runs:
            load_recorded(record, submission.options.data_dir)
    except DataError as error:
        graded.cannot, graded.traces = str(error), submission.traces  # copies are found without the data
        return graded
    for result in run_checks(submission):  # file names of a stranger are among what they print
        problems, about = [make_printable(problem) for problem in result.problems], make_printable(result.about)
        graded.results.append(replace(result, problems=problems, about=about))
    graded.seeds = {seed for record in submission.records for seed in record.seeds}
    graded.traces = submission.traces
    return graded


def name_copies(all_graded: list[Graded]) -> None:
    """Record how many runs a submission shares with another, with an example and why it is a copy, and with whom else.

    A run that a whole class copied would fill a page with a line for each pair.
    """
    for first, second in combinations(all_graded, 2):
        found = sorted(find_copies(first.traces, second.traces))
        turned = sorted(copy._replace(name=copy.of, of=copy.name) for copy in found)
        for mine, theirs, copies in ((first, second, found), (second, first, turned)):
            if copies:
                shared, (name, of, why) = len({copy.name for copy in copies}), copies[0]
                runs = f"{shared} run{'s' if shared > 1 else ''}, such as {name},"
                if not mine.copies:
                    mine.copies = [f"{runs} shared with {theirs.name}, whose {of} has the same weights ({why})"]
                else:
                    mine.copies.append(f"{shared} with {theirs.name}")
    for graded in all_graded:
        if others := graded.copies[1:]:
            graded.copies = [graded.copies[0], f"others shared: {', '.join(others)}"]


# ---------------------------------------------------------------------------------------------------------------------
# Results as text, CSV and JSON


def show(graded: Graded, is_alone: bool) -> None:
    """Print a submission's points; if it is the only submission, also print a line for each check."""
    if graded.cannot:
        print(f"{graded.name}: not graded")
        return
    if is_alone:
        print("\n".join(map(str, [*graded.results, UNCHECKED, *graded.remarks])))
    failed = [str(result) for result in graded.results if result.problems and result.is_made]
    passed = sum(not result.problems for result in graded.results)
    summary = f"{graded.name}: {passed} of {len(graded.results)} checks passed, {graded.points} of "
    summary += f"{graded.most_points} points"
    print(summary if is_alone or not failed else f"{summary}; {'; '.join(failed)}", flush=True)
    for remark in graded.remarks if not is_alone else ():  # under the name that they belong to
        print(f"  {remark}", flush=True)


def show_copies(all_graded: list[Graded]) -> None:
    """Print a line for each submission's copies."""
    for graded in all_graded:
        for copy in graded.copies:
            print(f"SHARED  {graded.name}: {copy}")


def write_csv(path: Path, all_graded: list[Graded]) -> None:
    """Write a CSV file with a row for each submission.

    Raises:
        UserError: the file cannot be written.
    """
    table = StringIO()
    writer = csv.writer(table)
    writer.writerow(
        ["submission", "points", "of", "seeds", *CHECKS, "problems", "copies", "code that differs", "remarks"]
    )
    for graded in all_graded:
        outcomes = {result.name: "FAILED" if result.problems else "passed" for result in graded.results}
        made = [result for result in graded.results if result.is_made]
        problems = "; ".join(f"{result.name}: {problem}" for result in made for problem in result.problems)
        texts = [
            graded.name,
            format_seeds(graded.seeds) if graded.seeds else "",
            *(outcomes.get(name, "") for name in CHECKS),
            f"not graded: {graded.cannot}" if graded.cannot else problems,
            "; ".join(graded.copies),
            " ".join(graded.other_code),
            "; ".join(graded.remarks),
        ]
        points = ["", ""] if graded.cannot else [graded.points, graded.most_points]
        name, *others = map(quote_formula, texts)
        writer.writerow([name, *points, *others])
    write_answer(path, table.getvalue())


def write_gradescope(path: Path, graded: Graded) -> None:
    """Write results.json for Gradescope, with a test for each check.

    Raises:
        UserError: the file cannot be written.
    """
    tests = []
    for result in graded.results:
        score, status = (0, "failed") if result.problems else (result.points, "passed")
        output = join_lines(result.problems or [result.about])
        tests.append(dict(name=result.name, score=score, max_score=result.points, status=status, output=output))
    gradescope.write_results(path, tests, [*graded.remarks, UNCHECKED])
