"""Write the report on all finished runs: a document to hand in, with a verdict on every claim of the studies.

examples:
  python report.py                          report/report.md, report/report.html, figures and tables
  python report.py --open                   the same, then show it in the browser
  python report.py --study mnist-norms      a report on this study only
  python report.py --bundle submission.zip  report, records, weights and code in one archive
  python report.py --runs-dir other --out other-report
  python report.py --against other          and the verdicts of the runs in the folder other beside these
  python report.py --pool submissions/*.zip --out class    one report on the runs of many people
  python report.py --study mnist-norms --slim --out docs/results/mnist-norms    to publish in a repository
"""

import argparse
import gc
import os
import sys
import tempfile
import webbrowser
from pathlib import Path
from typing import NoReturn

from engine import console, flags
from experiments import UserError
from studies import STUDIES


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, read the records, and write the report and the bundle."""
    parser = make_report_parser()
    args = parser.parse(argv)
    study, out, bundle = args.study, args.out, args.bundle
    warnings = []
    kept = "not everything is written; the same command starts again"
    with flags.answer_in_one_line(parser, lambda _: kept):
        check_flags(args)
        if args.pool:
            args.pool = flags.find_submissions(args.pool, are_of_a_class=True)
        else:
            check_runs(args, args.runs_dir)
        if args.against:
            check_runs(args, args.against, "--against")

        with flags.importing():  # late, because importing torch takes seconds
            from analysis.sections import make_report
            from engine import checkpoints
            from grading import packing, untrusted
            from grading.pool import Pool, make_pool
            from grading.submission import GradeOptions

        with tempfile.TemporaryDirectory(prefix="pool-") as workshop:
            runs_dir, pool = args.runs_dir, Pool()
            if args.pool:
                runs_dir = Path(workshop)
                pool = make_pool(args.pool, runs_dir, GradeOptions(args.data_dir), study)
            found, problems = untrusted.read_runs(runs_dir, study)
            problems = [*pool.left_out, *problems]
            if not any(record.results for record in found):
                if args.pool:
                    left_out = "; ".join(problems) or f"none has a run of {study}"
                    raise UserError(f"--pool: no run of any submission can be taken ({left_out})")
                reasons = [f"{record.folder}: {why}" for record in found for why in record.diverged.values()]
                refuse_without_runs(args, runs_dir, [*problems, *dict.fromkeys(reasons)])
            if args.pool:
                print(f"pooled {pool}", flush=True)
            against = None
            if args.against:
                others, damaged = untrusted.read_runs(args.against, study)
                against, problems = (str(args.against), others), [*problems, *damaged]
            notes = args.runs_dir / "notes.md"
            document = make_report(found, problems, runs_dir, args.data_dir, notes, pool.givers, against)
            try:
                document.write(out, is_slim=args.slim)
            except OSError as error:
                why = error.strerror or error
                raise UserError(f"--out {out}: cannot be written ({why}); name another folder") from None
        if bundle:
            labels = packing.read_labels(found, args.data_dir)
            packed = packing.pack(bundle, out, args.runs_dir, study, labels)
            whole = [record.title for record in found if record.folder not in labels]
            if whole:
                print(f"packed with all log-probabilities, as the data are not here: {', '.join(whole)}", flush=True)
                lacking = f"WARNING: the data of {', '.join(whole)} are not in {args.data_dir}, so nothing is compared"
                mend = "and grade.py fails the report; name their folder with --data-dir and pack again"
                warnings.append(f"{lacking}, {mend}")
            if problems:
                warnings.append("WARNING: grade.py may fail what was left out, see above; mend it and pack again")
        begun = [checkpoints.describe_begun(folder) for folder in checkpoints.find_begun(runs_dir, study)]
        page = out / ("report.md" if args.slim else "report.html")
        kept = f"everything is written to {out}{f' and {bundle}' if bundle else ''}"
        try:
            print(flags.name_folders(document.summary, args.runs_dir, args.data_dir))
            print(f"\nwritten to {out / 'report.md'}{'' if args.slim else f' and {page}'}", flush=True)
            for line in begun:
                unfinished = flags.name_folders(line, args.runs_dir, args.data_dir)
                print(f"unfinished, not in the report: {unfinished}", flush=True)
            if bundle:
                print(f"packed {packed:,} files into {bundle}", flush=True)
                print("".join(f"{warning}\n" for warning in warnings), end="", file=sys.stderr)
        except BrokenPipeError:  # the output's reader has gone, as with `| head`
            console.discard_output()
        if args.open and not webbrowser.open(page.resolve().as_uri()):
            print(f"--open: no browser was found; open {page.resolve()}", file=sys.stderr)


def make_report_parser() -> flags.OneLineParser:
    """Make the parser for report.py's command line."""
    parser = flags.make_parser("report.py", __doc__)
    parser.add_argument(
        "--study", choices=STUDIES, help="report on this study only, including its runs with other settings"
    )
    flags.add_data_dir(parser)
    flags.add_runs_dir(parser)
    about = "folder for the report (default: %(default)s)"
    parser.add_argument("--out", type=flags.read_folder, default=Path("report"), help=about)
    about = "report on the runs of many people: their submissions, archives or unpacked folders, are checked first"
    parser.add_argument("--pool", nargs="+", type=flags.read_path, metavar="SUBMISSION", help=about)
    about = "show the verdicts of another folder of runs beside these"
    parser.add_argument("--against", type=flags.read_folder, metavar="OTHER_RUNS", help=about)
    about = "write report.md, figures as PNG and tables as CSV alone, to publish them in a repository"
    parser.add_argument("--slim", action="store_true", help=about)
    about = "pack the report, records, weights and code into an archive to hand in"
    parser.add_argument("--bundle", type=flags.read_path, metavar="FILE.zip", help=about)
    parser.add_argument("--open", action="store_true", help="show the page in the browser")
    return parser


def check_flags(args: argparse.Namespace) -> None:
    """Refuse flags that cannot go together, and files that could not be written.

    Raises:
        UserError: of the first of them.
    """
    out, bundle = args.out, args.bundle
    for flag in ("pool", "against", "slim"):
        if bundle and getattr(args, flag):
            raise UserError(f"--bundle {bundle}: packs the report on runs of your own; leave out --{flag}")
    flags.check_output("--bundle", bundle, ".zip")
    for flag, folder in (("--runs-dir", args.runs_dir), ("--against", args.against)):
        if folder and out.resolve() == folder.resolve():
            raise UserError(f"--out {out}: is the folder of records given by {flag}; name another")
    if any(out.glob("*.py")):
        raise UserError(f"--out {out}: is a folder of code; name one for the report alone, such as report")
    if args.against and not args.pool and args.against.resolve() == args.runs_dir.resolve():
        raise UserError(f"--against {args.against}: is --runs-dir itself; name another folder of runs")


def check_runs(args: argparse.Namespace, runs_dir: Path, flag: str = "--runs-dir") -> None:
    """Check that a run exists, before slow modules are imported; if none does, raise a `UserError`."""
    if not runs_dir.is_dir() or not any(runs_dir.glob("[!.]*/[!.]*/seed-*")):
        refuse_without_runs(args, runs_dir, [], flag)


def refuse_without_runs(
    args: argparse.Namespace, runs_dir: Path, problems: list[str], flag: str = "--runs-dir"
) -> NoReturn:
    """Raise an error that says that no run was found and how to train one.

    Raises:
        UserError: always.
    """
    study = args.study
    command = f"python train.py --study {study}" if study else "python train.py --model mlp3"
    found = "there is no such folder"
    if runs_dir.is_dir():
        found = f"no finished run of {study}" if study else "no finished run"
        if problems:
            found += f" ({'; '.join(problems)})".replace(f"{runs_dir}{os.sep}", "")
    if flag != "--runs-dir":
        raise UserError(f"{flag} {runs_dir}: {found}; name a folder of runs")
    advice = f"train one: {command}"
    if any(runs_dir.glob("[!.]*/[!.]*/checkpoint-*.pt")):
        advice = "type the command that was interrupted once more; it resumes"
    commands = flags.name_folders(f"{found}; {advice}", runs_dir, args.data_dir)
    raise UserError(f"{runs_dir}: {commands}, or name another --runs-dir")


if __name__ == "__main__":
    gc.disable()  # a report keeps its objects until the end; searching them for garbage took an eighth of the time
    main()
