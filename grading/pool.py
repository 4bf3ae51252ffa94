"""Many people's submissions as one folder of runs: the same experiments with other seeds are more seeds of one study.

pool = make_pool(paths, folder, GradeOptions(data_dir))     # folder/<group>/<title>/seed-0, as train.py writes them
pool.givers["fashion-mlp", "L1", 0]     # the person who gave the run
"""

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from analysis.findings import find_study, is_of
from analysis.pooling import Givers
from engine.records import Record
from engine.seeds import format_seeds
from experiments import Experiment
from grading.gradescope import make_printable
from grading.scores import Graded, name_copies, read_and_grade
from grading.submission import ARCHIVES, GradeOptions
from grading.untrusted import quote_formula


@dataclass
class Pool:
    """The people whose runs were pooled, and what was left out."""

    givers: Givers = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)  # a line for each submission, or part of one, with the reason
    settings: dict[tuple[str, str], tuple[Experiment, str]] = field(default_factory=dict)  # of each (group, title)
    diverged: set[tuple[str, str, int]] = field(default_factory=set)  # keys of givers whose run diverged

    def __str__(self) -> str:
        people = len(set(self.givers.values()))
        return f"{len(self.givers):,} runs of {people} {'person' if people == 1 else 'people'}"


def make_pool(paths: Iterable[Path], folder: Path, options: GradeOptions, study: str | None = None) -> Pool:
    """Check submissions as grade.py does, and copy the runs of those that pass into one folder of runs.

    Submissions count in the order in which they are given: of two that share a run, and of two runs with the same seed,
    the first is taken.

    Args:
        study: take the runs of this study only; None: all runs.
    """
    pool = Pool()
    passed: list[Graded] = []
    for person, path in _name_people(paths):
        with tempfile.TemporaryDirectory(prefix="pool-") as workshop:
            submission, graded = read_and_grade(path, Path(workshop), options, person)
            if submission is None or graded.cannot:  # such as a data set that is missing here, one person's own
                pool.left_out.append(f"{person}: cannot be checked: {graded.cannot}")
                continue
            if reasons := list(_find_reasons(graded, passed)):
                pool.left_out.append(f"{person}: {reasons[0]}")
                continue
            records = [record for record in submission.records if study in (None, record.study)]
            if not records:
                pool.left_out.append(f"{person}: has no run of {study}")
                continue
            passed.append(graded)
            pool.left_out += _add(records, person, pool, folder)
    return pool


def _name_people(paths: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    """Yield each submission once, with a person's name that no other has, and that is safe in the report's tables."""
    names = {path: _leave_out_ending(path.name) for path in dict.fromkeys(path.resolve() for path in paths)}
    counts, named = Counter(names.values()), Counter[str]()
    for path, name in names.items():
        if counts[name] > 1:  # submissions of one name lie in folders with their people's names
            name = f"{path.parent.name}/{name}"
        name = quote_formula(make_printable(name))
        named[name] += 1
        yield name if named[name] == 1 else f"{name} ({named[name]})", path


def _leave_out_ending(name: str) -> str:
    return next((name[: -len(ending)] for ending in ARCHIVES if name.lower().endswith(ending)), name)


def _find_reasons(graded: Graded, passed: list[Graded]) -> Iterator[str]:
    """Yield why a submission is left out: a check that it fails, or runs that it shares with one that passed."""
    for result in graded.results:
        for problem in result.problems:
            yield f"fails the check of {result.name}: {problem}"
    for other in passed:
        name_copies([graded, other])
        other.copies.clear()  # it was there first
        yield from graded.copies


def _add(records: Iterable[Record], person: str, pool: Pool, folder: Path) -> Iterator[str]:
    """Copy a person's runs into the pool, and yield a line for what is left out."""
    taken: dict[tuple[str, str], set[int]] = {}  # {(the other person, group): seeds}
    for record in records:
        experiment = record.group, record.title
        settings = record.experiment, record.dataset["checksum"]
        study = find_study(record)
        if (study and not is_of(study, record)) or pool.settings.setdefault(experiment, settings) != settings:
            yield f"{person}: {record.group}/{record.title}: other settings or other data than the others have"
            continue
        target = folder / record.group / record.title
        for seed in record.seeds:
            run, has_diverged = (*experiment, seed), seed in record.diverged
            if run in pool.givers:
                giver = pool.givers[run]
                if has_diverged or run not in pool.diverged:
                    taken.setdefault((giver, record.group), set()).add(seed)
                    continue
                yield f"{giver}: {record.group}/{record.title}, seed {seed}: diverged; that of {person} is taken"
                shutil.rmtree(target / f"seed-{seed}")
            pool.givers[run] = person
            (pool.diverged.add if has_diverged else pool.diverged.discard)(run)
            shutil.copytree(record.run_folder(seed), target / f"seed-{seed}")
        if not (target / "experiment.json").exists():
            shutil.copyfile(record.folder / "experiment.json", target / "experiment.json")
    for (giver, group), seeds in taken.items():
        yield f"{person}: {group}, {format_seeds(seeds)}: {giver} gave the same seeds"
