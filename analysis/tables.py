"""The report's tables: the same rows as Markdown, as CSV with whole numbers, and as LaTeX (booktabs).

table = accuracies(findings)       # a Table
print(table.markdown())
table.write(Path("report/tables"))
"""

import contextlib
import csv
import math
import re
from dataclasses import dataclass, fields
from typing import NamedTuple

from tabulate import tabulate

import experiments
from analysis.compare import mean_interval
from analysis.findings import WITH_MARGIN

LATEX = {
    "±": r"$\pm$",
    "−": "$-$",
    "λ": r"$\lambda$",
    "·": r"$\cdot$",
    "Σ": r"$\Sigma$",
    "×": r"$\times$",
    "…": r"\ldots{}",
}
PLACES = dict(test_loss=4, train_loss=4, val_loss=4, epochs=1, zeros=1, small=1, l2_norm=1)  # decimals; others two
NO_SHARES = ("test_loss", "train_loss", "val_loss", "epochs", "l2_norm")  # figures that are not shown in percent


class Number(NamedTuple):
    """A number, with the half-width of its interval if it has one."""

    value: float
    half_width: float = math.nan
    places: int = 2
    signed: bool = False

    def __str__(self):
        text = f"{self.value:{'+' if self.signed else ''}.{self.places}f}".replace("-", "−")
        if 0 < self.value < 0.5 * 10**-self.places and math.isnan(self.half_width):
            return f"< {10**-self.places:g}"
        return text if math.isnan(self.half_width) else f"{text} ± {self.half_width:.{self.places}f}"


@dataclass(frozen=True)
class Table:
    name: str  # of its files
    header: tuple[str, ...]
    rows: list[tuple]  # of texts, integers and Numbers; "" where there is nothing to say
    bold: int | None = None  # the row set in bold

    def markdown(self):
        """As GitHub reads it, without the columns in which nothing stands."""
        cells = [[escaped(_text(cell)) for cell in row] for row in self._full()]
        if self.bold is not None:
            cells[self.bold][0] = f"**{cells[self.bold][0]}**"
        return self._laid_out(cells, "pipe")

    def latex(self):
        text = self._laid_out([[_text(cell) for cell in row] for row in self._full()], "latex_booktabs")
        for sign, command in LATEX.items():
            text = text.replace(sign, command)
        return text

    def _kept(self):
        return [column for column in range(len(self.header)) if any(row[column] != "" for row in self.rows)]

    def _full(self):
        return [[row[column] for column in self._kept()] for row in self.rows]

    def _laid_out(self, cells, form):
        kept = self._kept()
        numbers = [
            all(isinstance(row[column], Number | int) or row[column] == "" for row in self.rows) for column in kept
        ]
        align = ["right" if number else "left" for number in numbers]
        header = [self.header[column] for column in kept]
        return tabulate(cells, header, tablefmt=form, disable_numparse=True, colalign=align)

    def columns(self):
        """The columns of the CSV file: a Number's half-width has one of its own."""
        header, columns = [], []
        for name, cells in zip(self.header, zip(*self.rows, strict=True), strict=True):
            header.append(name)
            columns.append([cell.value if isinstance(cell, Number) else cell for cell in cells])
            if any(isinstance(cell, Number) and not math.isnan(cell.half_width) for cell in cells):
                header.append(f"{name} ±")
                widths = [cell.half_width if isinstance(cell, Number) else math.nan for cell in cells]
                columns.append(["" if math.isnan(width) else width for width in widths])
        return header, list(zip(*columns, strict=True))

    def write(self, folder):
        """Write `name`.csv and `name`.tex into a folder; return the two paths."""
        folder.mkdir(parents=True, exist_ok=True)
        written = [folder / f"{self.name}.csv", folder / f"{self.name}.tex"]
        with open(written[0], "w", newline="", encoding="utf-8") as file:
            header, rows = self.columns()
            csv.writer(file).writerows([header, *rows])
        written[1].write_text(f"% needs \\usepackage{{booktabs}}\n{self.latex()}\n", encoding="utf-8")
        return written


def _text(cell):
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def escaped(text):
    """Text that Markdown shows as it is."""
    return re.sub(r"([\\`*\[\]&<>|~]|(?<!\w)_|_(?!\w))", r"\\\1", text)


# ---------------------------------------------------------------------------------------------------------------------
# Experiments, a row each


def settings(findings):
    """What each experiment of a study is, beside the one that the others are described by."""
    reference, rows = findings.experiment(findings.reference), []
    for title, entry in findings.study.experiments.items():
        with contextlib.suppress(ValueError):  # one that does not go with the study's changes is not trained
            changes = _changes(findings.experiment(title), reference) or "the same"
            rows.append((title, entry.kind, changes, entry.note))
    header = ("experiment", "kind", f"settings that differ from those of {findings.reference}", "note")
    return Table(f"{findings.name}-experiments", header, rows)


def commands(findings):
    """What each experiment that was typed by hand is, its title perhaps being cut."""
    rows = [(title, record.experiment.command) for title, record in findings.trained.items()]
    return Table(f"{findings.name}-experiments", ("experiment", "command"), rows)


def _changes(experiment, baseline):
    names = [setting.name for setting in fields(experiment)]
    changed = [name for name in names if getattr(experiment, name) != getattr(baseline, name)]
    return " ".join(f"{experiments.flag_of(name)} {_value(getattr(experiment, name))}" for name in changed)


def _value(value):
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return {None: "none", True: "yes", False: "no"}.get(value, f"{value:g}" if isinstance(value, float) else value)


def accuracies(findings):
    """Accuracy of every experiment, and its difference to the baseline's."""
    rows = []
    for title in findings.titles:
        comparison = findings.differences.get(title)
        rows.append(
            (
                _label(findings, title),
                len(findings.record(title).results),
                _epochs(findings.values(title, "epochs")),
                *(_mean(findings, title, name) for name in ("train_accuracy", "val_accuracy", "test_accuracy")),
                _published(findings, title, "test_accuracy"),
                shown(comparison, "test_accuracy") if comparison else "",
                Number(comparison.holm_p, places=3) if comparison and comparison.seeds > 1 else "",
                comparison.seeds if comparison else "",
                _mean(findings, title, "gap"),
            )
        )
    header = ("experiment", "seeds", "epochs", "train %", "validation %", "test %", "published test %")
    header += ("test − baseline", "p", "n", "train − test")
    bold = findings.titles.index(findings.by_validation[0]) if findings.lead == "supported" else None
    return Table(f"{findings.name}-accuracy", header, rows, bold)


def losses_and_weights(findings):
    """Loss, weights and cost of every experiment."""
    rows = [
        (
            _label(findings, title),
            next(iter(findings.record(title).results.values()))["parameters"],
            *(_mean(findings, title, name) for name in ("train_loss", "val_loss", "test_loss")),
            _published(findings, title, "test_loss"),
            *(_mean(findings, title, name) for name in ("zeros", "small", "l2_norm")),
            Number(sum(findings.values(title, "seconds")) / len(findings.record(title).results), places=1),
        )
        for title in findings.titles
    ]
    header = ("experiment", "parameters", "train loss", "validation loss", "test loss", "published test loss")
    header += ("zeros %", "< 0.001 %", "‖w‖", "seconds a run")
    return Table(f"{findings.name}-loss", header, rows)


def _label(findings, title):
    first = findings.same.get(title, title)
    return title if first == title else f"{title} (same settings as {first})"


def _mean(findings, title, name):
    values = [_scale(name) * value for value in findings.values(title, name)]
    return Number(*mean_interval(values), places=PLACES.get(name, 2))


def _published(findings, title, name):
    value = findings.published(title).get(name)
    return Number(_scale(name) * value, places=PLACES.get(name, 2)) if value else ""


def _scale(name):
    return 1 if name in NO_SHARES else 100


def _epochs(epochs):
    if min(epochs) == max(epochs):
        return epochs[0]
    return f"{sum(epochs) / len(epochs):.1f} ({min(epochs)}–{max(epochs)})"


def shown(comparison, name):
    """A comparison of a figure as a signed Number, in points where the figure is a share."""
    low, high = comparison.interval()
    scale = _scale(name)
    return Number(scale * comparison.difference, scale * (high - low) / 2, PLACES.get(name, 2), signed=True)


# ---------------------------------------------------------------------------------------------------------------------


def claims(findings):
    """Each claim of a study with what was found, a row for each comparison it takes."""
    rows = []
    for judgement in findings.judgements:
        claim = judgement.claim
        words = claim.says, claim.kind, f"{claim.figure} {claim.direction}".replace("_", " ")
        for title, comparison in judgement.comparisons.items():
            rows.append(
                (
                    *words,
                    f"{judgement.one} − {title}",
                    shown(comparison, claim.figure),
                    _for_margin(comparison, claim.figure),
                    comparison.seeds,
                    judgement.verdict,
                )
            )
            words = "", "", ""
        if not judgement.comparisons:
            rows.append((*words, "", "", "", "", judgement.verdict))
    header = ("claim", "kind", "figure", "compared", "difference", "90 % ±", "n", "verdict")
    return Table(f"{findings.name}-claims", header, rows)


def _for_margin(comparison, name):
    """Half the width of the interval that the margin is compared with, where there is one."""
    if name not in WITH_MARGIN or comparison.seeds < 2:
        return ""
    low, high = comparison.interval_for_margin()
    return Number(_scale(name) * (high - low) / 2)


def data_statistics(findings):
    """Images, and minimum, maximum, mean and deviation of each channel, of every split."""
    from data import channel_statistics

    rows, dataset = [], findings.dataset
    for name in ("train", "validation", "test"):
        split = getattr(dataset, name)
        for channel, (mean, deviation) in enumerate(zip(*channel_statistics(split.images), strict=True)):
            values = split.images[:, channel]
            ends = (Number(end.item() / 255, places=4) for end in (values.min(), values.max()))
            statistics = Number(mean, places=4), Number(deviation, places=4)
            rows.append((name, len(split), channel if dataset.shape[0] > 1 else "", *ends, *statistics))
    header = ("split", "images", "channel", "minimum", "maximum", "mean", "standard deviation")
    return Table(f"{findings.name}-data", header, rows)
