"""Make the report of everything trained so far: a document to hand in, with every claim of the studies judged.

examples:
  python report.py                          report/report.md, report/report.html, figures and tables
  python report.py --open                   and show the page
  python report.py --study mnist-norms      one study
  python report.py --bundle submission.zip  report, records, weights and code in one archive
  python report.py --runs-dir other --out other-report
"""

import argparse
import gc
import os
import sys
import webbrowser
from pathlib import Path

import experiments
import studies
from engine import records
from grading import submission


def main(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.bundle and args.bundle.suffix != ".zip":
        parser.error(f"--bundle {args.bundle}: expected a name that ends in .zip")
    if args.out.resolve() == args.runs_dir.resolve():
        parser.error(f"--out {args.out}: is the folder of records; name another")
    if args.bundle and not args.bundle.parent.is_dir():
        parser.error(f"--bundle {args.bundle}: there is no folder {args.bundle.parent}; make it, or name another")
    try:
        document = make_document(args.runs_dir, args.data_dir, args.study)
        document.write(args.out)
        if args.bundle:
            count = submission.pack(args.bundle, args.out, args.runs_dir, args.study)
    except (records.RecordError, submission.SubmissionError) as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"--out {args.out}: cannot be written ({error.strerror}); name another folder")
    page = (args.out / "report.html").resolve()
    try:
        print(f"{document.summary}\n\nwritten to {args.out / 'report.md'} and {args.out / 'report.html'}", flush=True)
        for folder in unfinished(args.runs_dir, args.study):
            print(f"begun, and not in the report: {folder}; its command, typed again, goes on", flush=True)
        if args.bundle:
            print(f"packed {count:,} files into {args.bundle}", flush=True)
    except BrokenPipeError:  # nobody reads on, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if args.open and not webbrowser.open(page.as_uri()):
        print(f"--open: no browser was found; open {page}", file=sys.stderr)


def make_parser():
    description, examples = __doc__.split("\n\n", 1)
    parser = experiments.OneLineParser(
        prog="report.py", description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--study", choices=studies.STUDIES, help="this study alone, whatever settings it was given")
    parser.add_argument(
        "--data-dir", default=experiments.default_data_dir(), help="folder of data sets (default: $DATA_DIR, else data)"
    )
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="folder of records (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("report"), help="folder of the report (default: %(default)s)")
    parser.add_argument(
        "--bundle", type=Path, metavar="FILE.zip", help="pack report, records, weights and code to hand in"
    )
    parser.add_argument("--open", action="store_true", help="show the page in the browser")
    return parser


def make_document(runs_dir, data_dir, study=None):
    """The report of a folder of records, a `document.Document`.

    Raises:
        records.RecordError: no finished run is there, or a file of one cannot be read.
    """
    found, problems = records.read_all(runs_dir, study)
    problems += [
        f"{record.folder / f'seed-{seed}'}: {reason}; it is part of no mean"
        for record in found
        for seed, reason in record.diverged.items()
    ]
    problems = [each.replace(f"{runs_dir}{os.sep}", "") for each in problems]
    if not any(record.results for record in found):
        left_out = f" ({'; '.join(problems)})" if problems else ""
        command = f"python train.py --study {study}" if study else "python train.py --model mlp3"
        command += f" --runs-dir {runs_dir}" * (runs_dir != Path("runs"))
        which = f" of {study}" if study else ""
        there = f"no finished run{which}{left_out}" if runs_dir.is_dir() else "there is no such folder"
        raise records.RecordError(f"{runs_dir}: {there}; train one: {command}, or name another --runs-dir")
    opening, closing = notes(runs_dir / "notes.md")

    import torch  # with it, matplotlib and scikit-learn: seconds that a refusal need not wait

    from analysis import sections
    from analysis.findings import gather

    torch.set_num_threads(1)  # for layers as small as these; on a busy machine, threads would wait for each other
    all_findings, unused = gather(found, data_dir)
    if not all_findings:
        raise records.RecordError(f"{runs_dir}: {'; '.join(unused)}; --force trains anew")
    return sections.write(all_findings, [*unused, *problems], opening, closing)


def unfinished(runs_dir, study=None):
    """The folders of experiments of which some seeds were begun and not finished."""
    folders = {checkpoint.parent for checkpoint in runs_dir.glob("*/*/checkpoint-*.pt")}
    return sorted(folder for folder in folders if records.is_of_study(folder.parent.name, study))


def notes(path):
    """The student's own words, two lists of Markdown: what opens the report and what closes it.

    A line of `---` parts them. Without the file, the report says how to write it.
    """
    try:
        opening, _, closing = path.read_text(encoding="utf-8").partition("\n---\n")
    except FileNotFoundError:
        return ["# Report"], [
            "(Title, author and conclusions of your own: write `notes.md` beside the runs, in two "
            "parts divided by a line of `---`.)"
        ]
    except (OSError, UnicodeDecodeError) as error:
        raise records.RecordError(f"{path}: cannot be read ({error}); expected Markdown in UTF-8") from None
    opening = opening.strip()
    heading = [] if opening.startswith("# ") else ["# Report"]
    return [*heading, *[opening] * bool(opening)], [closing.strip()] * bool(closing.strip())


if __name__ == "__main__":
    gc.disable()  # what a report makes it keeps to its end; to look for garbage in it took an eighth of the time
    main()
