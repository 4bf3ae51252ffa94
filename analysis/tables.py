"""The tables of the report: the same rows as Markdown, as CSV with unrounded numbers, and as LaTeX (booktabs).

table = make_accuracy_table(findings)
print(table.markdown())
table.write(Path("report/tables"))
"""

import csv
import math
import re
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from tabulate import tabulate

from analysis.compare import Comparison, compute_mean_interval
from analysis.findings import Findings
from analysis.metrics import METRICS
from data import Dataset, compute_channel_statistics
from engine.records import Record
from experiments import Experiment, flag_of

GREEK = dict(α="alpha", β="beta", γ="gamma", δ="delta", ε="varepsilon", λ="lambda", μ="mu", σ="sigma", Σ="Sigma")
LATEX = {
    "±": r"$\pm$",
    "−": "$-$",
    **{letter: rf"$\{name}$" for letter, name in GREEK.items()},
    "·": r"$\cdot$",
    "×": r"$\times$",
    "…": r"\ldots{}",
}


class Number(NamedTuple):
    """A number in a table, with the half-width of its interval if it has one."""

    value: float
    half_width: float = math.nan
    places: int = 2
    signed: bool = False

    def __str__(self) -> str:
        sign = "+" if self.signed else ""
        text = f"{self.value:{sign}z.{self.places}f}".replace("-", "−")
        if 0 < self.value < 0.5 * 10**-self.places and math.isnan(self.half_width) and not self.signed:
            return f"< {10**-self.places:g}"
        return text if math.isnan(self.half_width) else f"{text} ± {self.half_width:.{self.places}f}"


@dataclass(frozen=True)
class Table:
    """A header and rows, to be written as Markdown, CSV or LaTeX."""

    name: str  # the name of its files, without the extension
    header: tuple[str, ...]
    rows: list[tuple]  # cells are texts, integers or Numbers; "" is an empty cell
    bold: int | None = None  # the index of the row whose first cell is bold

    def markdown(self) -> str:
        """Return the table in GitHub's Markdown, without empty columns."""
        cells = [[escaped(_text(cell)) for cell in row] for row in self._full()]
        if self.bold is not None:
            cells[self.bold][0] = f"**{cells[self.bold][0]}**"
        return self._laid_out(cells, "pipe")

    def latex(self) -> str:
        """Return the table in LaTeX, without empty columns."""
        text = self._laid_out([[_text(cell) for cell in row] for row in self._full()], "latex_booktabs")
        for sign, command in LATEX.items():
            text = text.replace(sign, command)
        return text

    def _kept(self) -> list[int]:
        return [column for column in range(len(self.header)) if any(row[column] != "" for row in self.rows)]

    def _full(self) -> list[list]:
        return [[row[column] for column in self._kept()] for row in self.rows]

    def _laid_out(self, cells: list[list[str]], form: str) -> str:
        kept = self._kept()
        numbers = [
            all(isinstance(row[column], Number | int) or row[column] == "" for row in self.rows) for column in kept
        ]
        align = ["right" if number else "left" for number in numbers]
        header = [self.header[column] for column in kept]
        return tabulate(cells, header, tablefmt=form, disable_numparse=True, colalign=align)

    def columns(self) -> tuple[list[str], list[tuple]]:
        """Return the header and rows of the CSV file, with half-widths in separate columns."""
        header: list[str] = []
        columns: list[list] = []
        for name, cells in zip(self.header, zip(*self.rows, strict=True), strict=True):
            header.append(name)
            columns.append([cell.value if isinstance(cell, Number) else cell for cell in cells])
            if any(isinstance(cell, Number) and not math.isnan(cell.half_width) for cell in cells):
                header.append(f"{name} ±")
                widths = [cell.half_width if isinstance(cell, Number) else math.nan for cell in cells]
                columns.append(["" if math.isnan(width) else width for width in widths])
        return header, list(zip(*columns, strict=True))

    def write(self, folder: Path) -> list[Path]:
        """Write `name`.csv and `name`.tex into a folder; return the two paths."""
        folder.mkdir(parents=True, exist_ok=True)
        written = [folder / f"{self.name}.csv", folder / f"{self.name}.tex"]
        with open(written[0], "w", newline="", encoding="utf-8") as file:
            header, rows = self.columns()
            csv.writer(file).writerows([header, *rows])
        written[1].write_text(f"% needs \\usepackage{{booktabs}}\n{self.latex()}\n", encoding="utf-8")
        return written


def _text(cell: object) -> str:
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def escaped(text: str) -> str:
    """Escape a text so that Markdown shows it unchanged."""
    return re.sub(r"([\\`*\[\]&<>|~]|(?<!\w)_|_(?!\w))", r"\\\1", text)


# ---------------------------------------------------------------------------------------------------------------------
# Tables with a row for each experiment


def make_settings_table(findings: Findings) -> Table:
    """Tabulate how the settings of each experiment in a study differ from those of `findings.reference`."""
    study, reference = findings.study, findings.study.experiments[findings.reference].experiment
    rows = [
        (title, entry.kind, _describe_changes(entry.experiment, reference) or "the same", entry.note)
        for title, entry in study.experiments.items()
    ]
    header = ("experiment", "kind", f"settings that differ from those of {findings.reference}", "note")
    return Table(f"{findings.name}-experiments", header, rows)


def make_commands_table(findings: Findings) -> Table:
    """Tabulate the commands of experiments typed by hand, because their labels lack what all have in common."""
    rows = [(findings.labels_of[title], record.experiment.command) for title, record in findings.trained.items()]
    return Table(f"{findings.name}-experiments", ("experiment", "command"), rows)


def _describe_changes(experiment: Experiment, reference: Experiment) -> str:
    values = ((setting.name, getattr(experiment, setting.name)) for setting in fields(experiment))
    changed = {name: value for name, value in values if value != getattr(reference, name)}
    return " ".join(_describe_setting(flag_of(name), value) for name, value in changed.items())


def _describe_setting(flag: str, value: object) -> str:
    match value:
        case bool():
            return flag if value else f"no {flag}"
        case None:
            return f"{flag} none"
        case tuple():
            return " ".join([flag, *map(str, value)])
        case float():
            return f"{flag} {value:g}"
    return f"{flag} {value}"


def make_accuracy_table(findings: Findings) -> Table:
    """Tabulate the accuracy of each experiment and its difference from the baseline."""
    rows = []
    for title in findings.titles:
        comparison = findings.differences.get(title)
        rows.append(
            (
                _label(findings, title),
                _count_seeds(findings.record(title)),
                _describe_epochs(findings.values(title, "epochs")),
                *(_mean(findings, title, name) for name in ("train_accuracy", "val_accuracy", "test_accuracy")),
                show_difference(comparison, "test_accuracy") if comparison else "",
                Number(comparison.holm_p, places=3) if comparison and comparison.seeds > 1 else "",
                comparison.seeds if comparison else "",
                _mean(findings, title, "gap"),
            )
        )
    of_runs = ("experiment", "seeds", "epochs", "train %", "validation %", "test %")
    header = (*of_runs, "test − baseline", "p", "n", "train − test")
    bold = findings.titles.index(findings.by_validation[0]) if findings.lead == "supported" else None
    return Table(f"{findings.name}-accuracy", header, rows, bold)


def _count_seeds(record: Record) -> int | str:
    """Count the seeds behind an experiment's means: `5`, or `4 of 5` if one diverged."""
    return f"{len(record.results)} of {len(record.seeds)}" if record.diverged else len(record.results)


def make_loss_table(findings: Findings) -> Table:
    """Tabulate the loss, the weights and the training time of each experiment."""
    rows = [
        (
            _label(findings, title),
            next(iter(findings.record(title).results.values()))["parameters"],
            *(_mean(findings, title, name) for name in ("train_loss", "val_loss", "test_loss")),
            *(_mean(findings, title, name) for name in ("zeros", "small", "l2_norm")),
            Number(mean(findings.values(title, "seconds")), places=1),
        )
        for title in findings.titles
    ]
    of_losses = ("experiment", "parameters", "train loss", "validation loss", "test loss")
    header = (*of_losses, "zeros %", "small %", "‖w‖", "seconds a run")
    return Table(f"{findings.name}-loss", header, rows)


def make_published_table(findings: Findings) -> Table:
    """Tabulate each published metric beside ours, and tell where it lies: a row for each experiment and metric."""
    rows = []
    for published in findings.published_metrics:
        name, metric = published.name, METRICS[published.name]
        rows.append(
            (
                _label(findings, published.title),
                f"{metric.name.removeprefix('the ')}{' %' if metric.is_share else ''}",
                len(published.ours),
                _mean(findings, published.title, name),
                show_metric(published.value, name),
                *(show_metric(end, name) if published.place else "" for end in published.interval),
                published.place,
            )
        )
    header = ("experiment", "metric", "seeds", "ours", "published", "from", "to", "published is")
    return Table(f"{findings.name}-published", header, rows)


def _label(findings: Findings, title: str) -> str:
    first, label = findings.study.trained_as[title], findings.labels_of[title]
    return label if first == title else f"{label} (same settings as {findings.labels_of[first]})"


def _mean(findings: Findings, title: str, name: str) -> Number:
    values = [METRICS[name].scale * value for value in findings.values(title, name)]
    return Number(*compute_mean_interval(values), places=METRICS[name].places)


def show_metric(value: float, name: str) -> Number:
    """Return a value of a metric as a Number, in percent if the metric is a share."""
    return Number(METRICS[name].scale * value, places=METRICS[name].places)


def _describe_epochs(epochs: list) -> int | str:
    if min(epochs) == max(epochs):
        return epochs[0]
    return f"{sum(epochs) / len(epochs):.1f} ({min(epochs)}–{max(epochs)})"


def show_difference(comparison: Comparison, name: str) -> Number:
    """Return a difference in a metric as a signed Number, in points if the metric is a share."""
    low, high = comparison.interval()
    scale = METRICS[name].scale
    return Number(scale * comparison.difference, scale * (high - low) / 2, METRICS[name].places, signed=True)


# ---------------------------------------------------------------------------------------------------------------------
# Tables of claims and of images


def make_claims_table(findings: Findings) -> Table:
    """Tabulate the claims of a study: a row for each comparison, or one without any; the first one has the verdict."""
    rows: list[tuple] = []
    for judgement in findings.judgements:
        claim = judgement.claim
        words = claim.says, claim.kind, f"{claim.metric} {claim.direction}".replace("_", " ")
        verdict = judgement.explained
        for title, comparison in judgement.comparisons.items():
            rows.append(
                (
                    *words,
                    f"{judgement.subject} − {title}",
                    show_difference(comparison, claim.metric),
                    _show_interval_for_margin(comparison, claim.metric),
                    comparison.seeds,
                    comparison.look.number + 1 if comparison.look else "",
                    verdict,
                )
            )
            words, verdict = ("", "", ""), ""
        if not judgement.comparisons:
            rows.append((*words, "", "", "", "", "", verdict))
    header = ("claim", "kind", "metric", "compared", "difference", "margin ±", "n", "look", "verdict")
    return Table(f"{findings.name}-claims", header, rows)


def _show_interval_for_margin(comparison: Comparison, name: str) -> Number | str:
    """Return the half-width of the interval that is compared with the margin; empty without one."""
    if not METRICS[name].has_margin or comparison.seeds < 2:
        return ""
    low, high = comparison.interval_for_margin()
    return Number(METRICS[name].scale * (high - low) / 2, places=METRICS[name].places)


def make_data_table(findings: Findings, dataset: Dataset) -> Table:
    """Tabulate the number of images in each split, and the statistics of each channel's values."""
    rows = []
    for name in ("train", "validation", "test"):
        split = getattr(dataset, name)
        for channel, (average, deviation) in enumerate(zip(*compute_channel_statistics(split.images), strict=True)):
            values = split.images[:, channel]
            ends = (Number(end.item() / 255, places=4) for end in (values.min(), values.max()))
            statistics = Number(average, places=4), Number(deviation, places=4)
            rows.append((name, len(split), channel if dataset.shape[0] > 1 else "", *ends, *statistics))
    header = ("split", "images", "channel", "minimum", "maximum", "mean", "standard deviation")
    return Table(f"{findings.name}-data", header, rows)
