"""Compare everything trained so far, and judge the studies' claims.

examples:
  python report.py                          in the terminal, report/report.md and report/report.html
  python report.py --study mnist-norms      one study
  python report.py --runs-dir other --out other-report
"""

import argparse
import math
import os
import shlex
import sys
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from urllib.parse import quote

import experiments
import figures
import findings
import records
import sources
import studies
from compare import mean_interval
from page import page

HEADER = (
    "experiment", "parameters", "seeds", "epochs", "train %", "validation %", "test %", "published test %",
    "test − baseline", "p", "train − test", "zeros %", "< 0.001 %", "seconds a run",
)  # fmt: skip
EXPLANATION = """\
Accuracies are percentages, mean ± half-width of the 95 % Student-t interval over seeds; one seed has no interval. They
are measured in evaluation mode on plain images, at the epoch that the run hands in. Zeros and < 0.001 are the shares
of weights that are exactly zero, and smaller than that. Seconds are a process's, divided by the runs side
by side in it. In the curves, train loss and accuracy are running means during training, with dropout and augmentation,
and the band reaches from the lowest seed to the highest.

Differences are paired by seed and counted in points; their 95 % intervals count the chance of the seeds and that of
the test images. Intervals and p are corrected for the number of comparisons (Holm): a table's with its baseline, a
study's over all its claims. A claim is supported or contradicted where its interval leaves out zero, and makes no
practical difference where the 90 % interval lies within the study's margin; under five seeds there is no verdict."""
PLACES = dict(test_loss=4, epochs=1)  # decimals of a figure's difference; the others are shares, shown in points


def main(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    found, problems = records.read_all(args.runs_dir)
    if args.study:
        found = [record for record in found if study_of(record.table)[0] == args.study]
    if not found:
        left_out = f" ({'; '.join(problems)})" if problems else ""
        command = f"python train.py --study {args.study}" if args.study else "python train.py --model mlp3"
        of_study = f" of {args.study}" if args.study else ""
        parser.error(f"--runs-dir {args.runs_dir}: no finished run{of_study}{left_out}; train one: {command}")
    path = args.out / "report.md"
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        opening, closing = notes(args.runs_dir / "notes.md")
        parts = [*opening, *sections(found, args), EXPLANATION, *[f"Left out: {each}" for each in problems], *closing]
        text = "\n\n".join(parts) + "\n"
        path.write_text(text, encoding="utf-8")
        path.with_suffix(".html").write_text(page(text, args.out), encoding="utf-8")
    except records.RecordError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"--out {args.out}: cannot be written ({error.strerror}); name another folder")
    try:
        print(f"{text}\nwritten to {path} and {path.with_suffix('.html')}", flush=True)
    except BrokenPipeError:  # nobody reads on, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def make_parser():
    description, examples = __doc__.split("\n\n", 1)
    parser = experiments.OneLineParser(
        prog="report.py", description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--study", choices=studies.STUDIES, help="this study alone, whatever settings it was given")
    parser.add_argument(
        "--data-dir", default=sources.default_data_dir(), help="folder of data sets (default: $DATA_DIR, else data)"
    )
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="folder of records (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("report"), help="folder of the report (default: %(default)s)")
    return parser


def notes(path):
    """The student's own words, two lists of Markdown: what opens the report and what closes it.

    A line of `---` parts them. Without the file, the report says how to write it.
    """
    try:
        opening, _, closing = path.read_text(encoding="utf-8").partition("\n---\n")
    except FileNotFoundError:
        return ["# Report"], [
            f"(Title, author and conclusions of your own: write `{path}`, its parts divided by `---`.)"
        ]
    except (OSError, UnicodeDecodeError) as error:
        raise records.RecordError(f"{path}: cannot be read ({error}); expected Markdown in UTF-8") from None
    opening = opening.strip()
    heading = [] if opening.startswith("# ") else ["# Report"]
    return [*heading, *[opening] * bool(opening)], [closing.strip()] * bool(closing.strip())


def study_of(table):
    """The name of a table's study, and the settings it was given beside its own; (None, "") of what has no study."""
    name, _, changes = table.partition(",")
    return (name, changes) if name in studies.STUDIES else (None, "")


# ---------------------------------------------------------------------------------------------------------------------
# Sections


def sections(found, args):
    """A section of Markdown for each table of records and data set, its figures written beside it."""

    def key(record):
        return record.table, record.dataset["name"]

    for (table, name), group in groupby(sorted(found, key=lambda record: (key(record), record.title)), key):
        group = list(group)
        dataset = group[0].dataset
        counts = f"{dataset['train']:,} train, {dataset['validation']:,} validation, {dataset['test']:,} test images."
        if name.endswith("_sample"):
            counts += f" **An embedded sample: its figures are not those of the full {name.removesuffix('_sample')}.**"
        labels, problem = test_labels(group[0], args.data_dir)
        notes = [f"The test images could not be read, so nothing is compared: {problem}"] if problem else []
        study_name, changes = study_of(table)
        by_title = {record.title: record for record in group}
        if study_name:
            parts = study_section(study_name, changes, by_title, labels, args.out / "figures" / table)
        else:
            parts = single_section(by_title, labels, args.out / "figures" / f"{table},{name}")
        yield "\n\n".join([f"## {table}: {name}", counts, *notes, *parts])


def test_labels(record, data_dir):
    """(the labels of the test images that a record's runs were tested on, None), or (None, why they are not known)."""
    import data

    try:
        dataset = data.load(record.dataset["name"], data_dir, record.experiment.split_seed)
    except sources.DataError as error:
        return None, str(error)
    if dataset.checksum != record.dataset["checksum"]:
        return None, f"{record.dataset['name']} in {dataset.found_in} is not what {record.title} was trained on"
    return dataset.test.labels.numpy(), None


def single_section(by_title, labels, path):
    """Experiments typed by hand: each is compared with itself without regularization, where that was trained."""
    members = {}
    for record in by_title.values():
        members.setdefault(record.experiment.baseline(), []).append(record)
    differences, missing = {}, []
    for baseline, others in members.items():
        if baseline.name not in by_title:
            missing.append(baseline)
        elif labels is not None:
            differences |= findings.differences_to(by_title[baseline.name], others, "test_accuracy", labels)
    rows = [row(record.title, record, differences.get(record.title)) for record in by_title.values()]
    yield table(rows)
    for baseline in missing:
        yield f"`{baseline.name}`, the baseline of some of them, is not trained yet: `{baseline.command}`"
    yield from pictures(path, by_title)


def study_section(name, changes, by_title, labels, path):
    """A study: what it asks, its experiments in its own order, and its claims."""
    study = studies.STUDIES[name]
    trained_as = {title: study.trained_as(title) for title in study.experiments}
    others = [title for title, record in by_title.items() if not (changes or is_of(study, record))]
    trained = {
        title: by_title[first] for title, first in trained_as.items() if first in by_title and first not in others
    }
    differences = {}
    if labels is not None and study.baseline in trained:
        differences = findings.differences_to(trained[study.baseline], trained.values(), "test_accuracy", labels)
    published = {title: study.experiments[title].published.get("test_accuracy") for title in trained}
    if changes:
        published = dict.fromkeys(published)  # of other data, or another training
    yield study.asks
    if differences:
        of_baseline = published[study.baseline]
        theirs = {title: published[title] - of_baseline for title in differences if published[title] and of_baseline}
        forest = figures.forest(differences, study.baseline, study.margin, theirs)
        yield picture(forest, f"{path}-forest", f"Differences in test accuracy from {study.baseline}, with intervals")
    rows = []
    for title, record in trained.items():
        label = title if trained_as[title] == title else f"{title} (same settings as {trained_as[title]})"
        rows.append(row(label, record, differences.get(record.title), published[title]))
    yield table(rows)
    yield f"The baseline is {study.baseline}."
    if others:
        yield f"Left out: {', '.join(others)}, trained with other settings than the study has; `--force` trains anew."
    missing = [title for title in study.experiments if title not in trained and trained_as[title] == title]
    if missing:
        words = ["--study", name, "--only", *missing]
        for setting, _, value in (change.partition("=") for change in changes.split(",") if change):
            words += [experiments.flag_of(setting), *[value] * (value != "true")]
        yield f"Not trained yet: `python train.py {shlex.join(words)}`"
    if changes:
        yield f"The claims are not judged: the study was trained with other settings than its own ({changes})."
    elif study.claims and labels is not None:
        judged = [claim_row(judgement) for judgement in findings.judge(study, trained, labels)]
        yield markdown(judged, ("claim", "", "figure", "difference", "verdict"), numbers=())
    own = {title: record for title, record in trained.items() if trained_as[title] == title}
    yield from pictures(path, own, {title: value for title, value in published.items() if value and title in own})
    if points := sweep_points(study, trained):
        outside = study.baseline in trained and study.baseline not in study.sweep
        baseline = (study.baseline, values(trained, study.baseline)) if outside else None
        sweep = figures.sweep(points, study.sweep_over, baseline)
        yield picture(
            sweep, f"{path}-sweep", f"Test accuracy and weights that are exactly zero against {study.sweep_over}"
        )
    if not changes:
        yield "\n".join(f"- {deviation}" for deviation in study.deviations)


def is_of(study, record):
    """Whether a record's settings are those that the study has under its title."""
    if record.title not in study.experiments:
        return False
    own = study.experiments[record.title].experiment
    return record.experiment == replace(own, dataset=own.dataset or own.default_dataset)


# ---------------------------------------------------------------------------------------------------------------------
# Pictures


def picture(figure, path, alt):
    """Write a figure beside the report; its Markdown."""
    png, _ = figures.save(figure, Path(path))
    return f"![{alt}](figures/{quote(png.name)})"


def pictures(path, trained, published=()):
    """The curves and the seeds of experiments, {title: record}."""
    histories = {
        title: [records.read_history(record.folder / f"seed-{seed}") for seed in record.results]
        for title, record in trained.items()
    }
    yield picture(figures.curves(histories), f"{path}-curves", "Loss and accuracy against the epoch")
    accuracies = {title: values(trained, title) for title in trained}
    yield picture(figures.seeds(accuracies, dict(published)), f"{path}-seeds", "Test accuracy of every seed")


def values(trained, title, figure="test_accuracy"):
    return [findings.figure(result, figure) for result in trained[title].results.values()]


def sweep_points(study, trained):
    """{line: {place: (test accuracies, shares of zeros)}} of a study that sweeps a setting."""
    points = {}
    for title, (line, place) in study.sweep.items():
        if title in trained:
            points.setdefault(line, {})[place] = values(trained, title), values(trained, title, "zeros")
    return points


# ---------------------------------------------------------------------------------------------------------------------
# Rows


def table(rows):
    """A table of experiments without the columns in which nothing stands."""
    keep = [index for index in range(len(HEADER)) if any(cells[index] != "" for cells in rows)]
    rows = [[cells[index] for index in keep] for cells in rows]
    return markdown(rows, [HEADER[index] for index in keep], numbers=range(1, len(keep)))


def markdown(rows, header, numbers):
    """A table as GitHub reads it; `numbers` are the columns aligned to the right."""
    from tabulate import tabulate

    align = ["right" if column in numbers else "left" for column in range(len(header))]
    return tabulate(rows, header, tablefmt="pipe", disable_numparse=True, colalign=align)


def row(label, record, comparison, published=None):
    results = list(record.results.values())

    def percent(figure, digits=2):
        average, half_width = mean_interval([100 * figure(result) for result in results])
        return f"{average:.{digits}f}" if math.isnan(half_width) else f"{average:.{digits}f} ± {half_width:.{digits}f}"

    return (
        label,
        f"{results[0]['parameters']:,}",
        len(results),
        epochs_run([result["epochs"] for result in results]),
        percent(lambda result: result["train_accuracy"]),
        percent(lambda result: result["val_accuracy"]),
        percent(lambda result: result["test_accuracy"]),
        f"{100 * published:.2f}" if published else "",
        in_words(comparison, "test_accuracy") if comparison else "",
        f"{min(1, comparison.p * comparison.tests):.3f}" if comparison and comparison.seeds > 1 else "",
        percent(lambda result: findings.figure(result, "gap")),
        percent(lambda result: findings.figure(result, "zeros"), 1),
        percent(lambda result: result["sparsity"]["small"], 1),
        f"{sum(result['seconds'] for result in results) / len(results):.1f}",
    )


def claim_row(judgement):
    claim = judgement.claim
    sides = [
        f"{judgement.one} − {title}: {in_words(comparison, claim.figure)}"
        for title, comparison in judgement.comparisons.items()
    ]
    return (
        claim.says,
        claim.kind,
        f"{claim.figure} {claim.direction}".replace("_", " "),
        "; ".join(sides),
        judgement.verdict,
    )


def in_words(comparison, figure):
    """`+0.12 [−0.05, +0.29], n 5`."""
    places = PLACES.get(figure, 2)
    scale = 1 if figure in PLACES else 100

    def number(value):
        return f"{scale * value:+.{places}f}".replace("-", "−")

    low, high = comparison.interval()
    interval = "" if math.isnan(low) else f" [{number(low)}, {number(high)}]"
    return f"{number(comparison.difference)}{interval}, n {comparison.seeds}"


def epochs_run(epochs):
    if min(epochs) == max(epochs):
        return str(epochs[0])
    return f"{sum(epochs) / len(epochs):.1f} ({min(epochs)}–{max(epochs)})"


if __name__ == "__main__":
    main()
