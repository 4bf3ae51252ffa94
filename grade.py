"""Check submissions that `report.py --bundle` made: one line a check, exit status 1 where one fails.

examples:
  python grade.py submission.zip                                        everything that can be checked in it
  python grade.py submission.zip --study fashion-mlp --seeds 0-4        and that this is what was handed in
  python grade.py submission.zip --retrain "fashion-mlp/L1"             and that five fresh seeds agree
  python grade.py submission.zip --gradescope results.json              the same for Gradescope
  python grade.py submissions/*.zip --csv grades.csv                    a whole class; copied runs are named

No code of a submission is run: its weights are evaluated by the code here.
"""

import sys
from pathlib import Path

from experiments import UserError, flag_of
from studies import STUDIES, flags
from studies.study import SINGLE, Study


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, grade every submission, and print and write what was found."""
    parser = make_grade_parser()
    args = parser.parse(argv)
    try:
        seeds = flags.parse_seeds(args.seeds) if args.seeds else None
        if args.gradescope and len(args.submissions) > 1:
            found = len(args.submissions)
            raise UserError(f"--gradescope {args.gradescope}: takes one submission, found {found}")
        check_output("--csv", args.csv, ".csv")
        check_output("--gradescope", args.gradescope, ".json")
        study = read_study(args.study) if args.study else None
        if args.data_dir != Path(flags.default_data_dir()) and not args.data_dir.is_dir():
            why = "there is no such folder; name the one that holds the data sets"
            raise UserError(f"--data-dir {args.data_dir}: {why}")
        check_retrain(args.retrain)
        check_submissions(args.submissions)
        submissions = list({path.resolve(): path for path in args.submissions}.values())  # each once

        from grading import scores  # with torch, scikit-learn and matplotlib: seconds that a refusal need not wait
        from grading.submission import GradeOptions

        options = GradeOptions(args.data_dir, study, seeds, args.retrain)
        all_graded, is_interrupted = [], False
        try:
            for path in submissions:
                all_graded.append(scores.grade(path, options))
                scores.show(all_graded[-1], is_alone=len(submissions) == 1)
        except KeyboardInterrupt:
            is_interrupted = True
        scores.name_copies(all_graded)
        for graded in all_graded:
            for copy in graded.copies:
                print(f"SHARED  {graded.name}: {copy}")
        if args.csv:
            scores.write_csv(args.csv, all_graded)
        if args.gradescope and all_graded and not all_graded[0].cannot:
            scores.write_gradescope(args.gradescope, all_graded[0])
        if is_interrupted:
            parser.exit(130, f"\ninterrupted: {len(all_graded)} of {len(submissions)} submissions are graded\n")
        if reasons := {graded.cannot for graded in all_graded if graded.cannot}:
            not_graded = ", ".join(graded.name for graded in all_graded if graded.cannot)
            raise UserError(f"not graded: {not_graded}: {'; '.join(sorted(reasons))}")
    except UserError as error:
        parser.error(str(error))
    if not all(graded.has_passed for graded in all_graded):
        sys.exit(1)


def make_grade_parser() -> flags.OneLineParser:
    """Make the parser of grade.py's command line."""
    parser = flags.make_parser("grade.py", __doc__)
    parser.add_argument("submissions", nargs="+", type=Path, metavar="SUBMISSION", help="archive, or unpacked folder")
    flags.add_data_dir(parser)
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


# ---------------------------------------------------------------------------------------------------------------------
# The grader's own mistakes: they cost no student a point, nor the grader the time until a class is graded. Each of
# these functions raises a `UserError`.


def check_output(flag: str, path: Path | None, suffix: str) -> None:
    """Check that a file can be what a flag writes: `--csv *.zip` would write over the first submission."""
    if path and path.suffix != suffix:
        raise UserError(f"{flag} {path}: expected a name that ends in {suffix}")
    if path and not path.parent.is_dir():
        raise UserError(f"{flag} {path}: there is no folder {path.parent}; make it, or name another")


def read_study(words: str) -> Study:
    """Read a study with its overrides, as its folder is named: `mnist-norms,dataset=mnist_sample,epochs=3`."""
    name, *settings = words.split(",")
    if name not in STUDIES:
        raise UserError(f"--study {words}: expected one of {', '.join(STUDIES)}")
    parser = flags.OneLineParser(prog="grade.py", add_help=False, allow_abbrev=False)
    flags.add_settings(parser)
    pairs = [setting.removesuffix("=true").partition("=") for setting in settings]
    given = parser.parse([f"{flag_of(setting)}{equals}{value}" for setting, equals, value in pairs])
    try:
        study = STUDIES[name].with_overrides(flags.given_settings(given))
    except ValueError as error:
        raise UserError(f"--study {words}: {error}") from None
    if not study.experiments:
        raise UserError(f"--study {words}: {next(iter(study.left_out.values()))}")
    return study


def check_retrain(name: str | None) -> None:
    """Check that a study has the experiment that is to be trained again, or that it was typed by hand."""
    if name is None:
        return
    group, _, title = name.partition("/")
    study = STUDIES.get(group.partition(",")[0])
    if not title or (study is None and group != SINGLE):
        raise UserError(f'--retrain "{name}": expected STUDY/TITLE, with one of {", ".join([*STUDIES, SINGLE])}')
    if study and title not in study.experiments:
        known = ", ".join(f'"{known}"' for known in study.experiments)
        raise UserError(f'--retrain "{name}": {study.name} has no such experiment, but {known}')


def check_submissions(paths: list[Path]) -> None:
    """Check that every submission is there, and is not a folder of archives."""
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: not found; expected a submission.zip or its unpacked folder")
        if path.is_dir() and any(path.glob("*.zip")):
            raise UserError(f"{path}: holds archives; name them: {path / '*.zip'}")


if __name__ == "__main__":
    main()
