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
import os
import sys
import tempfile
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path

import experiments
import studies
from engine import records
from engine.progress import seed_list
from grading import submission
from sources import finding
from train import parse_seeds

POINTS = dict(archive=10, predictions=20, weights=30, originality=10, report=20, completeness=10, retraining=10)
NOT_CHECKED = ["not checked"]  # the problem of a check that nothing was there for
UNCHECKED = "not checked: the pictures, and the epochs before the chosen one, which only training again would show"


@dataclass
class Graded:
    """A submission with its checks."""

    name: str
    checks: list = field(default_factory=list)  # of checks.Check
    cannot: str = ""  # why it is not graded, which is not the submission's fault
    seeds: set[int] = field(default_factory=set)  # of all its runs
    other_code: list[str] = field(default_factory=list)  # files that are not as they are here
    runs: dict[str, tuple] = field(default_factory=dict)  # digest of the weights: (run, seconds, seed and settings)
    copies: list[str] = field(default_factory=list)  # what it shares with other submissions

    @property
    def passed(self):
        return not self.copies and not any(check.problems for check in self.checks)

    @property
    def points(self):
        """Of the checks that are passed."""
        return sum(POINTS[check.name] for check in self.checks if not check.problems)

    @property
    def most_points(self):
        """Of all the checks that were made."""
        return sum(POINTS[check.name] for check in self.checks)


def main(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    try:
        args.seeds = parse_seeds(args.seeds) if args.seeds else None
    except ValueError as error:
        parser.error(str(error))
    refuse_what_cannot_be(args, parser)
    args.study, args.changes = study_asked(args.study, parser) if args.study else (None, {})
    args.submissions = list({path.resolve(): path for path in args.submissions}.values())  # each once
    graded, interrupted = [], False
    try:
        for path in args.submissions:
            graded.append(grade(path, args))
            show(graded[-1], alone=len(args.submissions) == 1)
    except KeyboardInterrupt:
        interrupted = True
    name_copies(graded)
    for each in graded:
        for copy in each.copies:
            print(f"SHARED  {each.name}: {copy}")
    try:
        if args.csv:
            write_csv(args.csv, graded)
        if args.gradescope and graded and not graded[0].cannot:
            args.gradescope.write_text(json.dumps(gradescope(graded[0]), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        parser.error(f"{error.filename}: cannot be written ({error.strerror})")
    if interrupted:
        parser.exit(130, f"\ninterrupted: {len(graded)} of {len(args.submissions)} submissions are graded\n")
    if reasons := {each.cannot for each in graded if each.cannot}:
        not_graded = ", ".join(each.name for each in graded if each.cannot)
        parser.error(f"not graded: {not_graded}: {'; '.join(sorted(reasons))}")
    if not all(each.passed for each in graded):
        sys.exit(1)


def make_parser():
    description, examples = __doc__.split("\n\n", 1)
    parser = experiments.OneLineParser(
        prog="grade.py", description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("submissions", nargs="+", type=Path, metavar="SUBMISSION", help="archive, or unpacked folder")
    parser.add_argument(
        "--data-dir", default=experiments.default_data_dir(), help="folder of data sets (default: $DATA_DIR, else data)"
    )
    parser.add_argument(
        "--study",
        help="the study that was to be handed in, whole, each experiment with five seeds at least; trained with other "
        "settings than its own, named as its folder is: mnist-norms,dataset=mnist_sample,epochs=3",
    )
    parser.add_argument("--seeds", help="the seeds that were to be trained of every experiment: 0-4, 7 or 0,3,5-9")
    parser.add_argument("--retrain", metavar="STUDY/TITLE", help="train five fresh seeds of an experiment and compare")
    parser.add_argument("--gradescope", type=Path, metavar="FILE", help="write Gradescope's results.json")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write a line for each submission")
    return parser


def refuse_what_cannot_be(args, parser):
    """The teacher's own mistakes cost no student a point, nor the teacher the time until a class is graded."""
    if args.gradescope and len(args.submissions) > 1:
        parser.error(f"--gradescope {args.gradescope}: takes one submission, found {len(args.submissions)}")
    for name, path, suffix in (("csv", args.csv, ".csv"), ("gradescope", args.gradescope, ".json")):
        if path and path.suffix != suffix:  # `--csv *.zip` would write over the first submission
            parser.error(f"--{name} {path}: expected a name that ends in {suffix}")
        if path and not path.parent.is_dir():
            parser.error(f"--{name} {path}: there is no folder {path.parent}; make it, or name another")
    if args.study and not studies.name_of(args.study):
        parser.error(f"--study {args.study}: expected one of {', '.join(studies.STUDIES)}")
    if args.data_dir != experiments.default_data_dir() and not Path(args.data_dir).is_dir():
        parser.error(f"--data-dir {args.data_dir}: there is no such folder; name the one that holds the data sets")
    if args.retrain:
        table, _, title = args.retrain.partition("/")
        name = studies.name_of(table)
        if not title or (not name and table != records.SINGLE):
            known = ", ".join([*studies.STUDIES, records.SINGLE])
            parser.error(f'--retrain "{args.retrain}": expected STUDY/TITLE, with one of {known}')
        if name and title not in studies.STUDIES[name].experiments:
            known = ", ".join(f'"{known}"' for known in studies.STUDIES[name].experiments)
            parser.error(f'--retrain "{args.retrain}": {name} has no such experiment, but {known}')
    for path in args.submissions:
        if not path.exists():
            parser.error(f"{path}: not found; expected a submission.zip or its unpacked folder")
        if path.is_dir() and any(path.glob("*.zip")):
            parser.error(f"{path}: holds archives; name them: {path / '*.zip'}")


def study_asked(words, parser):
    """(the folder's name, {name: value} of the changes) of `mnist-norms,dataset=mnist_sample,epochs=3`."""
    name, *settings = words.split(",")
    flags = experiments.OneLineParser(prog="grade.py", add_help=False, allow_abbrev=False)
    experiments.add_flags(flags)
    settings = [setting.removesuffix("=true").partition("=") for setting in settings]
    given = flags.parse_args([f"{experiments.flag_of(setting)}{equals}{value}" for setting, equals, value in settings])
    study = studies.STUDIES[name]
    try:
        changes = study.changes(experiments.given_settings(given))
        if not study.all_trained_as(changes):  # none of the experiments goes with them, and the baseline says why
            study.experiment(study.baseline, changes)
    except ValueError as error:
        parser.error(f"--study {words}: {error}")
    return experiments.folder_name(name, changes), changes


def grade(path, args):
    """Everything that is checked in one submission, a `Graded`."""
    import data
    from grading import checks  # torch, scikit-learn and matplotlib: seconds that a refusal need not wait

    graded = Graded(str(path))
    with tempfile.TemporaryDirectory(prefix="grade-") as workshop:
        folder = path if path.is_dir() else Path(workshop)
        try:
            if folder != path:
                submission.unpack(path, folder)
            folder = submission.top_of(folder)
            problems = submission.check_manifest(folder)
            found, unreadable = records.read_all(folder / "runs")
            graded.other_code = submission.differing_code(folder)
        except submission.SubmissionError as error:
            found, problems, unreadable = [], [str(error)], []
        runs = list(checks.runs_of(found))
        try:
            for record, _, _ in runs:
                data.load(record.dataset["name"], args.data_dir, record.experiment.split_seed)
        except finding.DataError as error:
            graded.cannot = str(error)
            return graded
        problems += unreadable or ["no finished run is in it"] * (not runs and not problems)
        about = "every file is there, with its checksum in the manifest, and every record can be read"
        graded.checks.append(checks.Check("archive", about, problems))
        of_records = dict(
            predictions=lambda: checks.predictions(found, args.data_dir),
            weights=lambda: checks.weights(found, args.data_dir),
            originality=lambda: checks.originality(found),
            report=lambda: checks.report_follows(found, folder, args.data_dir),
        )
        if args.study or args.seeds:
            of_records["completeness"] = lambda: checks.completeness(found, args.study, args.changes, args.seeds)
        if args.retrain:
            of_records["retraining"] = lambda: checks.retraining(found, args.retrain, args.data_dir)
        asked_for = any(args.study in (None, record.table) for record, _, _ in runs)
        for name, check in of_records.items():  # for something else than was asked for there are no points
            made = asked_for or (runs and name == "completeness")
            graded.checks.append(check() if made else checks.Check(name, "", NOT_CHECKED))
        for record, seed, name in runs:
            graded.seeds.add(seed)
            with contextlib.suppress(records.RecordError):  # said where the weights are checked
                digest = checks.digest(record.folder / f"seed-{seed}")
                seconds, settings = record.results[seed]["seconds"], (seed, checks.as_trained(record.experiment))
                graded.runs[digest] = name, seconds, settings
        here = f"{folder}{os.sep}"  # which tells the submission's author nothing
        graded.checks = [
            replace(check, problems=[each.replace(here, "") for each in check.problems]) for check in graded.checks
        ]
    return graded


def name_copies(graded):
    """Tell every pair of submissions how many runs they share.

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
            runs = f"{len(shared)} run{'s' * (len(shared) > 1)}, such as {min(shared)},"
            why = "equal weights and equal seconds, or equal weights under another seed"
            one.copies.append(f"{runs} shared with {other.name} ({why})")
            other.copies.append(f"{runs} shared with {one.name} ({why})")


# ---------------------------------------------------------------------------------------------------------------------
# What was found, for people and for other programs


def show(graded, alone):
    """A line for each check of a submission that is alone, else a line for the submission."""
    if graded.cannot:
        print(f"{graded.name}: not graded")
        return
    if alone:
        print("\n".join(map(str, [*graded.checks, UNCHECKED])))
    if graded.other_code:
        first, more = graded.other_code[:5], len(graded.other_code) - 5
        more = f" and {more} files more" if more > 0 else ""
        print(f"its code, which is not run, is not as it is here: {', '.join(first)}{more}")
    failed = [str(check) for check in graded.checks if check.problems not in ([], NOT_CHECKED)]
    passed = sum(not check.problems for check in graded.checks)
    summary = f"{graded.name}: {passed} of {len(graded.checks)} checks passed, {graded.points} of "
    summary += f"{graded.most_points} points"
    print(summary if alone or not failed else f"{summary}; {'; '.join(failed)}", flush=True)


def write_csv(path, graded):
    names = list(POINTS)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["submission", "points", "of", "seeds", *names, "problems", "copies", "code that differs"])
        for each in graded:
            outcomes = {check.name: "FAILED" if check.problems else "passed" for check in each.checks}
            made = [check for check in each.checks if check.problems != NOT_CHECKED]
            problems = [f"{check.name}: {problem}" for check in made for problem in check.problems]
            writer.writerow(
                [
                    each.name,
                    *(["", ""] if each.cannot else [each.points, each.most_points]),
                    seed_list(each.seeds) if each.seeds else "",
                    *(outcomes.get(name, "") for name in names),
                    f"not graded: {each.cannot}" if each.cannot else "; ".join(problems),
                    "; ".join(each.copies),
                    " ".join(each.other_code),
                ]
            )


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
