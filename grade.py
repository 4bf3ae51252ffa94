"""Check submissions that `report.py --bundle` made: one line a check, exit status 1 where one fails.

examples:
  python grade.py submission.zip                                        everything that can be checked in it
  python grade.py submission.zip --study fashion-mlp --seeds 0-4        and that this is what was handed in
  python grade.py submission.zip --retrain "fashion-mlp/L1"             and that five fresh seeds agree
  python grade.py submission.zip --gradescope results.json              the same for Gradescope
  python grade.py submissions/*.zip --csv grades.csv                    a whole class; copied runs are named

No code of a submission is run: its weights are evaluated by the code here.
"""

import argparse
import contextlib
import csv
import json
import sys
import tempfile
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import bundle
import experiments
import records
import sources
import studies
from train import parse_seeds

POINTS = dict(archive=10, predictions=20, weights=30, originality=10, report=20, completeness=10, retraining=10)
UNCHECKED = "not checked: the pictures, and the epochs before the chosen one, which only training again would show"


@dataclass
class Graded:
    """A submission with its checks."""

    name: str
    checks: list = field(default_factory=list)  # of checks.Check
    runs: dict[str, tuple] = field(default_factory=dict)  # digest of the weights: (run, seconds, seed and settings)
    copies: list[str] = field(default_factory=list)  # what it shares with other submissions

    @property
    def passed(self):
        return not self.copies and not any(check.problems for check in self.checks)


def main(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    try:
        args.seeds = parse_seeds(args.seeds) if args.seeds else None
    except ValueError as error:
        parser.error(str(error))
    if args.gradescope and len(args.submissions) > 1:
        parser.error(f"--gradescope {args.gradescope}: takes one submission, found {len(args.submissions)}")
    for name, path, suffix in (("csv", args.csv, ".csv"), ("gradescope", args.gradescope, ".json")):
        if path and path.suffix != suffix:  # `--csv *.zip` would write over the first submission
            parser.error(f"--{name} {path}: expected a name that ends in {suffix}")
    for path in args.submissions:
        if not path.exists():
            parser.error(f"{path}: not found; expected a submission.zip or its unpacked folder")
    graded = [grade(path, args) for path in args.submissions]
    name_copies(graded)
    for each in graded:
        show(each, alone=len(graded) == 1)
    try:
        if args.csv:
            write_csv(args.csv, graded)
        if args.gradescope:
            args.gradescope.write_text(json.dumps(gradescope(graded[0]), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        parser.error(f"{error.filename}: cannot be written ({error.strerror})")
    if not all(each.passed for each in graded):
        sys.exit(1)


def make_parser():
    description, examples = __doc__.split("\n\n", 1)
    parser = experiments.OneLineParser(
        prog="grade.py", description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("submissions", nargs="+", type=Path, metavar="SUBMISSION", help="archive, or unpacked folder")
    parser.add_argument(
        "--data-dir", default=sources.default_data_dir(), help="folder of data sets (default: $DATA_DIR, else data)"
    )
    parser.add_argument("--study", choices=studies.STUDIES, help="the study that was to be handed in, whole")
    parser.add_argument("--seeds", help="the seeds that were to be trained of every experiment: 0-4, 7 or 0,3,5-9")
    parser.add_argument("--retrain", metavar="TABLE/TITLE", help="train five fresh seeds of an experiment and compare")
    parser.add_argument("--gradescope", type=Path, metavar="FILE", help="write Gradescope's results.json")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write a line for each submission")
    return parser


def grade(path, args):
    """Everything that is checked in one submission, a `Graded`."""
    import checks  # torch, scikit-learn and matplotlib: seconds that a refusal need not wait

    graded = Graded(str(path))
    with tempfile.TemporaryDirectory(prefix="grade-") as workshop:
        folder = path if path.is_dir() else Path(workshop)
        try:
            if folder != path:
                bundle.unpack(path, folder)
            problems = bundle.check_manifest(folder)
            found, unreadable = records.read_all(folder / "runs")
        except bundle.SubmissionError as error:
            found, problems, unreadable = [], [str(error)], []
        graded.checks.append(
            checks.Check("archive", "every file is there, with its checksum in the manifest", problems)
        )
        of_records = dict(
            predictions=lambda: checks.predictions(found, args.data_dir),
            weights=lambda: checks.weights(found, args.data_dir),
            originality=lambda: checks.originality(found),
            report=lambda: checks.report_follows(folder, args.data_dir),
        )
        if args.study or args.seeds:
            of_records["completeness"] = lambda: checks.completeness(found, args.study, args.seeds)
        if args.retrain:
            of_records["retraining"] = lambda: checks.retraining(found, args.retrain, args.data_dir)
        for name, check in of_records.items():
            nothing = checks.Check(name, "", unreadable or ["there is no finished run"])
            graded.checks.append(check() if any(record.results for record in found) else nothing)
        for record, seed, name in checks.runs_of(found):
            with contextlib.suppress(records.RecordError):  # said where the weights are checked
                digest = checks.digest(record.folder / f"seed-{seed}")
                seconds, settings = record.results[seed]["seconds"], (seed, checks.as_trained(record.experiment))
                graded.runs[digest] = name, seconds, settings
    return graded


def name_copies(graded):
    """Tell every pair of submissions which runs they share.

    Training is deterministic, so equal weights of equal seeds are no proof; equal seconds are, and so are equal weights
    of other seeds or settings.
    """
    for one, other in combinations(graded, 2):
        shared = []
        for digest in one.runs.keys() & other.runs.keys():
            (name, *mine), (_, *theirs) = one.runs[digest], other.runs[digest]
            if mine[0] == theirs[0] or mine[1] != theirs[1]:
                shared.append(name)
        if shared:
            runs = (
                f"{len(shared)} run{'s' * (len(shared) > 1)} with equal weights, and equal seconds or another seed, "
                f"such as {min(shared)}"
            )
            one.copies.append(f"{runs}, shared with {other.name}")
            other.copies.append(f"{runs}, shared with {one.name}")


# ---------------------------------------------------------------------------------------------------------------------
# What was found, for people and for other programs


def show(graded, alone):
    """A line for each check of a submission that is alone, else a line for the submission."""
    if alone:
        print("\n".join(map(str, [*graded.checks, UNCHECKED])))
    said = [str(check) for check in graded.checks if check.problems] + [f"COPIED  {copy}" for copy in graded.copies]
    passed = sum(not check.problems for check in graded.checks)
    summary = f"{graded.name}: {passed} of {len(graded.checks)} checks passed, {points(graded)} points"
    print(summary if alone or not said else f"{summary}; {'; '.join(said)}")


def points(graded):
    """The points of the checks that are passed, and of all that were made: `80 of 90`."""
    own = sum(POINTS[check.name] for check in graded.checks if not check.problems)
    return f"{own} of {sum(POINTS[check.name] for check in graded.checks)}"


def write_csv(path, graded):
    names = list(POINTS)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["submission", "points", *names, "copies"])
        for each in graded:
            of_check = {check.name: "; ".join(check.problems) or "passed" for check in each.checks}
            row = [each.name, points(each), *(of_check.get(name, "") for name in names), "; ".join(each.copies)]
            writer.writerow(row)


def gradescope(graded):
    """The content of Gradescope's results.json: a test for each check."""
    return dict(
        output=UNCHECKED,
        tests=[
            dict(
                name=check.name,
                score=0 if check.problems else POINTS[check.name],
                max_score=POINTS[check.name],
                status="failed" if check.problems else "passed",
                output="\n".join(check.problems) or check.about,
            )
            for check in graded.checks
        ],
    )


if __name__ == "__main__":
    main()
