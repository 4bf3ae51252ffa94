"""Compare everything trained so far.

examples:
  python report.py                          the table in the terminal and in report/report.md
  python report.py --runs-dir other --out other-report
"""

import argparse
import math
from itertools import groupby
from pathlib import Path

import records
from compare import mean_interval
from experiments import OneLineParser

HEADER = (
    "experiment", "parameters", "seeds", "epochs", "train %", "validation %", "test %", "train − test", "zeros %",
    "< 0.001 %", "seconds a run",
)  # fmt: skip
EXPLANATION = """\
Accuracies are percentages, mean ± half-width of the 95 % Student-t interval over seeds; one seed has no interval. They
are measured in evaluation mode on plain images, at the epoch that the run hands in. Zeros and < 0.001 are the shares
of weights that are exactly zero, and smaller than that. Seconds are a process's, divided by the runs side
by side in it."""


def main(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    found, problems = records.read_all(args.runs_dir)
    if not found:
        left_out = f" ({'; '.join(problems)})" if problems else ""
        parser.error(f"--runs-dir {args.runs_dir}: no finished run{left_out}; train one: python train.py --model mlp3")
    text = (
        "\n\n".join(["# Report", *tables(found), EXPLANATION, *[f"Left out: {problem}" for problem in problems]]) + "\n"
    )
    path = args.out / "report.md"
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        parser.error(f"--out {args.out}: cannot be written ({error.strerror}); name another folder")
    print(f"{text}\nwritten to {path}")


def make_parser():
    description, examples = __doc__.split("\n\n", 1)
    parser = OneLineParser(
        prog="report.py", description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="folder of records (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("report"), help="folder of the report (default: %(default)s)")
    return parser


def tables(found):
    """A heading and a Markdown table for each table of records and data set."""
    from tabulate import tabulate

    def key(record):
        return record.table, record.dataset["name"]

    for (table, name), group in groupby(sorted(found, key=lambda record: (key(record), record.title)), key):
        group = list(group)
        dataset = group[0].dataset
        counts = f"{dataset['train']:,} train, {dataset['validation']:,} validation, {dataset['test']:,} test images."
        heading = f"## {table}: {name}\n\n{counts}"
        if name.endswith("_sample"):
            heading += f" **An embedded sample: its figures are not those of the full {name.removesuffix('_sample')}.**"
        rows = [row(record) for record in group]
        align = ("left", *["right"] * (len(HEADER) - 1))
        yield f"{heading}\n\n{tabulate(rows, HEADER, tablefmt='github', disable_numparse=True, colalign=align)}"


def row(record):
    results = list(record.results.values())

    def percent(figure, digits=2):
        average, half_width = mean_interval([100 * figure(result) for result in results])
        return f"{average:.{digits}f}" if math.isnan(half_width) else f"{average:.{digits}f} ± {half_width:.{digits}f}"

    return (
        record.title,
        f"{results[0]['parameters']:,}",
        len(results),
        epochs_run([result["epochs"] for result in results]),
        percent(lambda result: result["train_accuracy"]),
        percent(lambda result: result["val_accuracy"]),
        percent(lambda result: result["test_accuracy"]),
        percent(lambda result: result["train_accuracy"] - result["test_accuracy"]),
        percent(lambda result: result["sparsity"]["zeros"], 1),
        percent(lambda result: result["sparsity"]["small"], 1),
        f"{sum(result['seconds'] for result in results) / len(results):.1f}",
    )


def epochs_run(epochs):
    if min(epochs) == max(epochs):
        return str(epochs[0])
    return f"{sum(epochs) / len(epochs):.1f} ({min(epochs)}–{max(epochs)})"


if __name__ == "__main__":
    main()
