"""Loading the studies that the files of this folder define, and naming what is wrong with a file.

studies = load_studies(Path("studies"))     # {name: study}
"""

import difflib
import importlib
import re
import traceback
from dataclasses import fields
from pathlib import Path

from experiments import Experiment, UserError
from studies.study import SINGLE, Claim, Entry, Study


def load_studies(folder: Path) -> dict[str, Study]:
    """Load every study that a file in the package's folder defines: {name: study}.

    Files whose names begin with an underscore are skipped: they hold code that several studies share. Hidden files are
    skipped, too.

    Raises:
        UserError: a file has a mistake or defines no study, or a study's name is taken; the message names the file.
    """
    studies: dict[str, Study] = {}
    files = {SINGLE: "experiments typed by hand"}
    for path in sorted(folder.glob("[!_.]*.py")):
        if path.stem == "study":
            continue
        if "." in path.stem:
            raise UserError(f"{folder.name}/{path.name}: cannot be imported; rename it, without a dot before .py")
        try:
            module = importlib.import_module(f"{folder.name}.{path.stem}")
        except Exception as error:  # a mistake in the file can raise anything
            says = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).splitlines())
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            place = f"{folder.name}/{path.name}{_line_in(path, error)}"
            raise UserError(f"{place}: {kind}{says}{_suggest_keyword(says)}") from None
        defined = [value for value in vars(module).values() if isinstance(value, Study)]
        if not defined:
            raise UserError(f"{folder.name}/{path.name}: defines no Study; write NAME = Study(...), or move it away")
        for study in defined:
            if study.name == SINGLE or studies.setdefault(study.name, study) is not study:
                taken = f"the name {study.name!r} is taken by {files[study.name]}"
                raise UserError(f"{folder.name}/{path.name}: {taken}; use another name")
            files[study.name] = f"{folder.name}/{path.name}"
    return studies


def _line_in(path: Path, error: Exception) -> str:
    """Return `, line N` for the line of a file where an error arose, or an empty text if it is unknown."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""


def _suggest_keyword(says: str) -> str:
    """Return `; did you mean …?` for an error about a mistyped keyword of one of the classes that a study file uses."""
    words = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'$", says)
    known = {kind.__name__: kind for kind in (Experiment, Entry, Claim, Study)}
    if not words or words[1] not in known:
        return ""
    nearest = difflib.get_close_matches(words[2], [each.name for each in fields(known[words[1]])], n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""
