"""Comparison of a submitted report with the one that its records give."""

import contextlib
import csv
import math
import tempfile
from pathlib import Path

from analysis.document import Document, is_closed, render_page
from analysis.sections import LONGEST_NOTES
from engine.files import reading
from experiments import UserError

EXACT = 1e-9  # relative tolerance if only the order of a sum can differ


def compare_report(folder: Path, document: Document) -> list[str]:
    """Return a line for report.md, report.html and each table if it is not as expected.

    report.md and the tables must equal the recomputed ones, but for rounding in CSV files. report.html must follow from
    the submitted report.md. Figures are not recomputed.

    Raises:
        OSError, UnicodeDecodeError, StopIteration: a file cannot be read, or report.md has no heading.
        UserError: this machine cannot write the recomputed tables.
    """
    text = (folder / "report.md").read_text(encoding="utf-8")
    html = (folder / "report.html").read_text(encoding="utf-8")
    if len(text) > len(document.text) + LONGEST_NOTES:  # rendering it might take all memory
        return ["report.md is longer than records and notes can make it"]
    expected = document.text
    if not (folder.parent / "runs" / "notes.md").exists():  # they may be lost, but not what they put around the report
        recomputed = "\n\n".join(document.paragraphs[1:-1])  # without the first and the last, which are for the notes
        start = max(text.find(recomputed.partition("\n")[0]), 0)
        if not is_closed(text[:start]):
            return ["report.md begins with a code block, comment or HTML element that is not closed and hides the rest"]
        expected = text[:start] + recomputed + text[start + len(recomputed) :]
    problems = _compare_lines("report.md", text, expected)
    try:
        follows = html == render_page(text, folder, longest=len(html))
    except ValueError:
        follows = False
    if not follows:
        problems.append("report.html was not made from report.md")
    with contextlib.ExitStack() as stack:
        try:
            workshop = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="grade-")))
            tables = [path for table in document.tables for path in table.write(workshop)]
        except OSError as error:
            why = f"{error.filename or tempfile.gettempdir()}: cannot be written ({error.strerror})"
            raise UserError(f"{why}, so no report can be checked") from None
        for path in tables:
            problems += _compare_tables(folder / "tables" / path.name, path)
    return problems


def _compare_lines(name: str, handed_in: str, expected: str) -> list[str]:
    pairs = zip(handed_in.splitlines(), expected.splitlines(), strict=False)
    for number, (line, expected_line) in enumerate(pairs, 1):
        if line != expected_line:
            letters = enumerate(zip(line, expected_line, strict=False))
            shorter = min(len(line), len(expected_line))
            start = next((place for place, (one, other) in letters if one != other), shorter)
            found, expected_there = _quote(line, start), _quote(expected_line, start)
            return [f"{name}, line {number} is {found}, the records give {expected_there}"]
    return [] if handed_in == expected else [f"{name} is not as long as records and notes.md make it"]


def _quote(line: str, start: int) -> str:
    """Quote a line or, of a long one, what is around `start`, where it begins to differ."""
    before = max(0, start - 30) if len(line) > 100 else 0
    there = line[before : before + 100]
    return repr(f"{'…' if before else ''}{there}{'…' if before + len(there) < len(line) else ''}")


def _compare_tables(path: Path, expected: Path) -> list[str]:
    if path.suffix != ".csv":
        return _compare_lines(path.name, path.read_text(encoding="utf-8"), expected.read_text(encoding="utf-8"))
    rows, expected_rows = _read_table(path), _read_table(expected)
    if [len(row) for row in rows] != [len(row) for row in expected_rows]:
        return [f"{path.name} has a different number of rows or columns than the records give"]
    for number, (row, expected_row) in enumerate(zip(rows, expected_rows, strict=True), 1):
        for column, cell, expected_cell in zip(expected_rows[0], row, expected_row, strict=True):
            if not _is_same_cell(cell, expected_cell):
                return [f"{path.name}, line {number}, {column}: {cell}, the records give {expected_cell}"]
    return []


def _read_table(path: Path) -> list[list[str]]:
    with reading(path), open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def _is_same_cell(cell: str, expected: str) -> bool:
    try:
        return cell == expected or math.isclose(float(cell), float(expected), rel_tol=EXACT)
    except ValueError:
        return False
