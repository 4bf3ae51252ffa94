"""Write the report on all finished runs: a document to hand in, with a verdict on every claim of the studies.

examples:
  python report.py                          report/report.md, report/report.html, figures and tables
  python report.py --open                   the same, then show it in the browser
  python report.py --study mnist-norms      a report on this study only
  python report.py --bundle submission.zip  report, records, weights and code in one archive
  python report.py --runs-dir other --out other-report
"""

import gc
import os
import sys
import webbrowser
from pathlib import Path

from engine import flags
from experiments import UserError
from studies import STUDIES


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, read the records, and write the report and the bundle."""
    parser = make_report_parser()
    args = parser.parse(argv)
    runs_dir, study, out, bundle = args.runs_dir, args.study, args.out, args.bundle
    if bundle and bundle.suffix != ".zip":
        parser.error(f"--bundle {bundle}: expected a name that ends in .zip")
    if out.resolve() == runs_dir.resolve():
        parser.error(f"--out {out}: is the folder of records; name another")
    if bundle and not bundle.parent.is_dir():
        parser.error(f"--bundle {bundle}: there is no folder {bundle.parent}; make it, or name another")
    try:
        check_runs(runs_dir, study)

        from analysis.sections import make_report  # late, because importing torch takes seconds
        from engine.checkpoints import find_begun
        from grading import submission, untrusted

        found, problems = untrusted.read_runs(runs_dir, study)
        if not any(record.results for record in found):
            refuse_without_runs(runs_dir, study, problems)
        document = make_report(found, problems, runs_dir, args.data_dir)
        document.write(out)
        packed = submission.pack(bundle, out, runs_dir, study) if bundle else 0
    except UserError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"--out {out}: cannot be written ({error.strerror}); name another folder")
    page = (out / "report.html").resolve()
    try:
        print(f"{document.summary}\n\nwritten to {out / 'report.md'} and {out / 'report.html'}", flush=True)
        for folder in find_begun(runs_dir, study):
            print(f"unfinished, not in the report: {folder}; repeat its command to resume it", flush=True)
        if bundle:
            print(f"packed {packed:,} files into {bundle}", flush=True)
    except BrokenPipeError:  # the output's reader has gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if args.open and not webbrowser.open(page.as_uri()):
        print(f"--open: no browser was found; open {page}", file=sys.stderr)


def make_report_parser() -> flags.OneLineParser:
    """Make the parser for report.py's command line."""
    parser = flags.make_parser("report.py", __doc__)
    parser.add_argument("--study", choices=STUDIES, help="report on this study only, with and without overrides")
    flags.add_data_dir(parser)
    flags.add_runs_dir(parser)
    parser.add_argument("--out", type=Path, default=Path("report"), help="folder for the report (default: %(default)s)")
    about = "pack the report, records, weights and code into an archive to hand in"
    parser.add_argument("--bundle", type=Path, metavar="FILE.zip", help=about)
    parser.add_argument("--open", action="store_true", help="show the page in the browser")
    return parser


def check_runs(runs_dir: Path, study: str | None) -> None:
    """Check that a run exists, before slow modules are imported."""
    if not runs_dir.is_dir() or not any(runs_dir.glob("*/*/seed-*")):
        refuse_without_runs(runs_dir, study, problems=[])


def refuse_without_runs(runs_dir: Path, study: str | None, problems: list[str]) -> None:
    """Raise an error that says that no run was found and how to train one.

    Raises:
        UserError: always.
    """
    command = f"python train.py --study {study}" if study else "python train.py --model mlp3"
    if runs_dir != Path("runs"):
        command += f" --runs-dir {runs_dir}"
    found = "there is no such folder"
    if runs_dir.is_dir():
        found = f"no finished run of {study}" if study else "no finished run"
        if problems:
            found += f" ({'; '.join(problems)})".replace(f"{runs_dir}{os.sep}", "")
    raise UserError(f"{runs_dir}: {found}; train one: {command}, or name another --runs-dir")


if __name__ == "__main__":
    gc.disable()  # a report keeps its objects until the end; searching them for garbage took an eighth of the time
    main()
