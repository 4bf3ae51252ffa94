"""Check submissions made by `report.py --bundle`: a line for each check, exit status 1 if any check fails.

examples:
  python grade.py submission.zip                                        all checks that need no other flag
  python grade.py submission.zip --study fashion-mlp --seeds 0-4        and that it holds this study with these seeds
  python grade.py submission.zip --retrain "fashion-mlp/L1"             and that five newly trained seeds agree
  python grade.py submission.zip --gradescope results.json              and write the results for Gradescope
  python grade.py submissions/*.zip --csv grades.csv                    a whole class; copied runs are reported

No code from a submission is run; this toolkit's code evaluates the submission's weights.
"""

import argparse
import contextlib
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from engine import flags
from engine.seeds import parse_seeds
from experiments import Experiment, UserError, flag_of
from grading.gradescope import telling_failures
from studies import STUDIES
from studies.study import SINGLE, Study


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, grade every submission, and print and write the results."""
    parser = make_grade_parser()
    submissions: list[Path] = []
    all_graded: list[Any] = []

    def describe_kept(_: BaseException) -> str:
        return f"{len(all_graded)} of {len(submissions)} submissions are graded"

    with telling_failures(argv), flags.answer_in_one_line(parser, describe_kept):
        args = parser.parse(argv)
        submissions = args.submissions
        seeds = None if args.seeds is None else parse_seeds(args.seeds)
        flags.check_output("--csv", args.csv, ".csv")
        flags.check_output("--gradescope", args.gradescope, ".json")
        study = None if args.study is None else read_study(args.study)
        if args.data_dir != Path(flags.default_data_dir()) and not args.data_dir.is_dir():
            why = "there is no such folder; name the folder that holds the data sets"
            raise UserError(f"--data-dir {args.data_dir}: {why}")
        retrain = None if args.retrain is None else read_retrain(args.retrain)
        found = flags.find_submissions(submissions, are_of_a_class=not args.gradescope)
        if args.gradescope and len(found) > 1:
            raise UserError(f"--gradescope {args.gradescope}: takes one submission, found {len(found)}")
        submissions = list({path.resolve(): path for path in found}.values())  # without repeated paths

        with flags.importing():  # late, because importing torch takes seconds
            from grading import scores
            from grading.submission import GradeOptions

        options = GradeOptions(args.data_dir, study, seeds, retrain)
        try:
            for path in submissions:
                all_graded.append(scores.grade(path, options))
                with contextlib.ExitStack() as at_last:  # shown although the table cannot be written, and the reverse
                    at_last.callback(scores.show, all_graded[-1], is_alone=len(submissions) == 1)
                    if args.csv:  # now, too, in case the system ends this process
                        scores.write_csv(args.csv, all_graded)
        finally:  # what is graded before Ctrl-C is written, too
            scores.name_copies(all_graded)
            with contextlib.ExitStack() as at_last:  # each of these is tried although another fails
                at_last.callback(scores.show_copies, all_graded)
                if args.gradescope and all_graded and not all_graded[0].cannot:
                    at_last.callback(scores.write_gradescope, args.gradescope, all_graded[0])
                if args.csv:
                    at_last.callback(scores.write_csv, args.csv, all_graded)
        reasons = sorted({graded.cannot for graded in all_graded if graded.cannot})
        if reasons:
            not_graded = ", ".join(graded.name for graded in all_graded if graded.cannot)
            raise UserError(f"not graded: {not_graded}: {'; '.join(reasons)}")
    if not all(graded.has_passed for graded in all_graded):
        sys.exit(1)


def make_grade_parser() -> flags.OneLineParser:
    """Make the parser for grade.py's command line."""
    parser = flags.make_parser("grade.py", __doc__)
    parser.add_argument(
        "submissions", nargs="+", type=flags.read_path, metavar="SUBMISSION", help="archive or unpacked folder"
    )
    flags.add_data_dir(parser)
    parser.add_argument(
        "--study",
        help="the assigned study: all its experiments are required, each with as many seeds as it plans; for a study "
        "with overrides, each with five, append them: mnist-norms,dataset=mnist_sample,epochs=3",
    )
    parser.add_argument("--seeds", help="the seeds required for every experiment: 0-4, 7 or 0,3,5-9")
    parser.add_argument(
        "--retrain",
        metavar="STUDY/TITLE",
        help="train an experiment with five new seeds and check that the recorded test accuracies agree",
    )
    parser.add_argument("--gradescope", type=flags.read_path, metavar="FILE", help="write Gradescope's results.json")
    parser.add_argument(
        "--csv", type=flags.read_path, metavar="FILE", help="write a CSV file with a line for each submission"
    )
    return parser


# ---------------------------------------------------------------------------------------------------------------------
# Mistakes in the command line. They are found before grading, so that they cost no student a point and the grader no
# time. Each of these functions raises a `UserError`.


def read_study(words: str, flag: str = "--study") -> Study:
    """Read the name of a study's folder, `mnist-norms,epochs=3`, and return the study with these overrides."""
    name, *settings = words.split(",")
    if name not in STUDIES:
        raise UserError(f"{flag} {words}: expected one of {', '.join(STUDIES)}{flags.suggest(name, STUDIES)}")
    known = [setting.name for setting in fields(Experiment)]
    pairs = [setting.removesuffix("=true").partition("=") for setting in settings]
    for setting, _, _ in pairs:
        if setting.replace("-", "_") not in known:
            raise UserError(f"{flag} {words}: {setting!r} is not a setting{flags.suggest(setting, known)}")
    parser = flags.OneLineParser(prog="grade.py", add_help=False, exit_on_error=False)
    flags.add_settings(parser)
    try:
        given = parser.parse([f"{flag_of(setting)}{equals}{value}" for setting, equals, value in pairs])
        study = STUDIES[name].with_overrides(flags.given_settings(given))
    except (argparse.ArgumentError, ValueError) as error:
        raise UserError(f"{flag} {words}: {error}") from None
    if not study.experiments:
        raise UserError(f"{flag} {words}: {next(iter(study.left_out.values()))}")
    return study


def read_retrain(words: str) -> str:
    """Read STUDY/TITLE, of a study or typed by hand, and return it with the name that the study's folder has."""
    group, _, title = words.partition("/")
    if title and group == SINGLE:
        return words
    if not title or group.partition(",")[0] not in STUDIES:
        raise UserError(
            f'--retrain "{words}": expected STUDY/TITLE, where STUDY is one of {", ".join([*STUDIES, SINGLE])}'
        )
    study = read_study(group, "--retrain")
    if title not in study.experiments:
        known = ", ".join(f'"{known}"' for known in study.experiments)
        raise UserError(f'--retrain "{words}": expected an experiment of {study.group}: {known}')
    return f"{study.group}/{title}"


if __name__ == "__main__":
    main()
