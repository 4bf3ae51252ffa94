"""Figures of the report: each function takes plain numbers and returns a matplotlib Figure.

figure = plot_forest(differences, "BN", margin=0.001, published={}, styles=assign_styles(differences))
"""

import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from statistics import mean
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, PercentFormatter
from numpy.typing import NDArray

from analysis.compare import Comparison, compute_mean_interval
from analysis.style import GREY, Styles, assign_styles, in_style, wrap_title

Shares = list[float]  # a share for each seed
Interval = tuple[float, float, int]  # its ends, and the number of seeds behind it

MOST_IN_A_LINE = 20  # seeds; more dots are spread in height, or they would hide each other
MANY, INCHES = 20, (0.42, 0.13)  # classes with numbers in their cells; the width of such a class, and of one of more
MOST_TICKS = 8  # values of a setting that fit beside each other under a panel


def _add_legend(figure: Figure, panel: Axes) -> None:
    """Add a panel's legend below the figure, in as many columns as fit."""
    handles, labels = panel.get_legend_handles_labels()
    longest = max(len(line) for label in labels for line in label.splitlines())
    figure.legend(handles, labels, loc="outside lower center", ncols=max(1, min(4, 100 // longest)))


@in_style
def plot_curves(histories: dict[str, list[list[dict[str, float]]]], styles: Styles) -> Figure:
    """Plot the train and validation loss and accuracy of all experiments against the epoch.

    The line is the mean over the runs that are still training, and the band spans their values. A dot marks the last
    epoch of each run that ended before the longest run; the number beside it counts the runs that are still training.
    The axes of accuracy show the range after a quarter of the epochs, because the first ones would hide the rest.

    Args:
        histories: {title: [history of each run, rows with the columns `run_files.HISTORY`]}.
    """
    figure = Figure(figsize=(10, 7.5), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True)
    for row, measure, scale, unit in zip(panels, ("loss", "accuracy"), (1, 100), ("", " (%)"), strict=True):
        for panel, images in zip(row, ("train", "val"), strict=True):
            for title, runs in histories.items():
                values = [[scale * epoch[f"{images}_{measure}"] for epoch in run] for run in runs]
                _plot_curve(panel, values, title, styles[title])
        row[0].set_title(f"train {measure}{unit}, during training")
        row[1].set_title(f"validation {measure}{unit}")
    for panel in panels[0]:
        panel.set_yscale("log")
        low, high = panel.get_ylim()
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high > 10 * low else range(1, 10)))
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.yaxis.set_minor_locator(NullLocator())
    longest = max(len(run) for runs in histories.values() for run in runs)
    for panel, images in zip(panels[1], ("train", "val"), strict=True):
        later = [
            100 * row[f"{images}_accuracy"]
            for runs in histories.values()
            for run in runs
            for row in run[longest // 4 :] or run[-1:]
        ]
        margin = 0.05 * (max(later) - min(later)) or 1
        panel.set_ylim(min(later) - margin, max(later) + margin)
        panel.set_xlabel("epoch")
        panel.set_xlim(left=0.5)  # there is no epoch 0
        panel.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    _add_legend(figure, panels[0, 0])
    return figure


def _plot_curve(panel: Axes, runs: list[list[float]], title: str, style: dict[str, Any]) -> None:
    longest = max(map(len, runs))
    at_epoch = [[run[epoch] for run in runs if epoch < len(run)] for epoch in range(longest)]
    epochs = range(1, longest + 1)
    marker = "s" if longest == 1 else None  # a line needs two points
    panel.plot(epochs, list(map(mean, at_epoch)), label=wrap_title(title), linewidth=1.3, marker=marker, **style)
    lowest, highest = list(map(min, at_epoch)), list(map(max, at_epoch))
    panel.fill_between(epochs, lowest, highest, color=style["color"], alpha=0.12, lw=0)
    ended = [run for run in runs if len(run) < longest]
    panel.plot([len(run) for run in ended], [run[-1] for run in ended], "o", color=style["color"], markersize=4)
    for last in sorted({len(run) for run in ended}):
        remaining, top = sum(len(run) > last for run in runs), max(run[-1] for run in ended if len(run) == last)
        panel.annotate(str(remaining), (last, top), (3, 3), textcoords="offset points", fontsize=7)


@in_style
def plot_seeds(accuracies: dict[str, Shares], published: dict[str, float], styles: Styles) -> Figure:
    """Plot the test accuracy of every run as a dot, with the mean, its 95 % interval and the published accuracy.

    Args:
        published: {title: share} for the titles with a published accuracy.
    """
    figure, panel = _make_rows(accuracies)
    intervals = []
    for place, (title, values) in enumerate(accuracies.items()):
        values = [100 * value for value in values]
        average, half_width = compute_mean_interval(values)
        intervals.append((average - half_width, average + half_width, len(values)))
        spread = 0.5 if len(values) > MOST_IN_A_LINE else 0
        heights = [place + spread * (number * 0.618 % 1 - 0.5) for number in range(len(values))]
        panel.plot(values, heights, "o", color=styles[title]["color"], markersize=5, alpha=0.6, zorder=2)
        if not math.isnan(half_width):
            panel.errorbar(average, place, xerr=half_width, fmt="|", color="black", capsize=4, markersize=12, zorder=3)
        if title in published:
            _plot_published(panel, published[title], place)
    points = [*chain.from_iterable(accuracies.values()), *published.values()]
    set_range(panel, [100 * share for share in points], intervals)
    panel.set_xlabel("test accuracy (%)")
    _add_key(figure, panel, "a seed; bar: mean and 95 % interval", bool(published))
    return figure


@in_style
def plot_forest(
    differences: dict[str, Comparison], baseline: str, margin: float, published: dict[str, float], styles: Styles
) -> Figure:
    """Plot differences in test accuracy from the baseline with their intervals, in points.

    Args:
        margin: differences within this margin make no practical difference; this range is shaded.
        published: {title: the published difference}.
    """
    figure, panel = _make_rows(differences)
    panel.axvspan(-100 * margin, 100 * margin, color=GREY, alpha=0.2, lw=0, label="no practical difference")
    panel.axvline(0, color=GREY, linewidth=1)
    intervals = []
    for place, (title, comparison) in enumerate(differences.items()):
        low, high = comparison.interval()
        intervals.append((100 * low, 100 * high, comparison.seeds))
        panel.plot(100 * comparison.difference, place, "o", color=styles[title]["color"], markersize=6, zorder=3)
        if not math.isnan(low):
            panel.plot([100 * low, 100 * high], [place, place], color=styles[title]["color"], linewidth=1.5, zorder=2)
        if title in published:
            _plot_published(panel, published[title], place)
    points = [-margin, margin, *(each.difference for each in differences.values()), *published.values()]
    set_range(panel, [100 * share for share in points], intervals)
    panel.set_xlabel(wrap_title(f"test accuracy − that of {baseline} (points)", width=72))
    _add_key(figure, panel, "difference and 95 % interval", bool(published))
    return figure


def _make_rows(titles: Iterable[str], height: float = 0.34, width: float = 8) -> tuple[Figure, Axes]:
    """Make a figure with one panel and a row for each title; a row is at least `height` inches high."""
    labels = [wrap_title(title) for title in titles]
    lines = max(label.count("\n") + 1 for label in labels)
    figure = Figure(figsize=(width, 1.2 + max(height, 0.17 * lines) * len(labels)), layout="constrained")
    panel = figure.subplots()
    panel.set_yticks(range(len(labels)), labels)
    panel.set_ylim(len(labels) - 0.5, -0.5)  # the first title on top
    panel.grid(axis="y", visible=False)
    return figure, panel


def set_range(panel: Axes, points: list[float], intervals: list[Interval]) -> None:
    """Set the range of a panel of rows; an arrow marks where the interval of a row goes on."""
    left, right = _find_range(points, intervals)
    panel.set_xlim(left, right)
    for place, (low, high, _) in enumerate(intervals):
        for edge, marker, goes_on in ((left, "<", low < left), (right, ">", high > right)):
            if goes_on:
                panel.plot(edge, place, marker, color="black", markersize=5, clip_on=False, zorder=4)


def _find_range(points: list[float], intervals: list[Interval]) -> tuple[float, float]:
    """Find a range that holds all points and intervals.

    An interval over two seeds is 13 standard errors long to each side. It would hide the others, so it sets no range.
    """
    held = [*points, *(end for *ends, seeds in intervals if seeds > 2 for end in ends)]
    border = 0.05 * (max(held) - min(held)) or 1
    return min(held) - border, max(held) + border


def _plot_published(panel: Axes, share: float, place: int) -> None:
    panel.plot(100 * share, place, "D", markerfacecolor="white", markeredgecolor="black", markersize=5, zorder=4)


def _add_key(figure: Figure, panel: Axes, dot: str, with_published: bool) -> None:
    panel.plot([], [], "o", color=GREY, label=dot)
    if with_published:
        panel.plot([], [], "D", markerfacecolor="white", markeredgecolor="black", label="published")
    figure.legend(loc="outside upper right", ncols=3)


@in_style
def plot_sweep(
    panels: dict[str, dict[str, dict[float, Shares]]], setting: str, baseline: tuple[str, Shares] | None = None
) -> Figure:
    """Plot two metrics against a setting on a logarithmic axis, each in a panel of its own.

    Args:
        panels: {metric: {line: {value of the setting: shares}}}.
        baseline: (title, shares of the first metric) of an experiment outside the sweep, drawn as a horizontal line.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots(1, len(panels))
    for panel, (metric, lines) in zip(axes, panels.items(), strict=True):
        styles = assign_styles(lines)
        points: list[float] = []
        intervals: list[Interval] = []
        for name, shares in lines.items():
            values = sorted(shares)
            found = [compute_mean_interval([100 * share for share in shares[value]]) for value in values]
            means, half_widths = zip(*found, strict=True)
            panel.errorbar(values, means, np.nan_to_num(half_widths), label=name, marker="o", capsize=3, **styles[name])
            points += means
            intervals += [(at - by, at + by, len(shares[value])) for (at, by), value in zip(found, values, strict=True)]
        if baseline and panel is axes[0]:
            points.append(100 * mean(baseline[1]))
            panel.axhline(points[-1], color=GREY, linestyle="--", label=baseline[0])
        panel.set_ylim(np.clip(_find_range(points, intervals), -2, 102))  # an interval may pass the ends of a share
        panel.set_xscale("log")
        panel.set(xlabel=setting, title=f"{metric} (%)")
        if len(ticks := sorted(set().union(*lines.values()))) <= MOST_TICKS:
            panel.set_xticks(ticks, [f"{value:g}" for value in ticks])
            panel.xaxis.set_minor_locator(NullLocator())
    _add_legend(figure, axes[0])
    return figure


@in_style
def plot_weights(weights: dict[str, NDArray[np.floating]], small: float, styles: Styles) -> Figure:
    """Plot a histogram of each experiment's |w|, with exact zeros as a separate bar.

    Args:
        weights: {title: |w| of all weights in all runs, (weights,)}.
        small: the limit below which a weight counts as nearly zero, marked by a line.
    """
    powers = np.linspace(-8, 1, 46)
    figure, panels = _make_grid(len(weights), columns=min(3, len(weights)), width=3.3, height=2)
    for panel, (title, magnitudes) in zip(panels, weights.items(), strict=True):
        zeros = np.count_nonzero(magnitudes == 0)
        logarithms = np.log10(magnitudes[magnitudes > 0]).clip(powers[0], powers[-1])
        shares = 100 * np.histogram(logarithms, powers)[0] / len(magnitudes)
        panel.stairs(shares, powers, fill=True, color=styles[title]["color"])
        panel.bar(powers[0] - 1, 100 * zeros / len(magnitudes), 0.6, color=styles[title]["color"], hatch="///")
        panel.set_title(wrap_title(title), fontsize=8)
        panel.set_yscale("log")
        panel.set_ylim(0.01, 100)
        panel.yaxis.set_minor_locator(NullLocator())  # drawing ticks takes most of the time
        panel.set_xticks([powers[0] - 1, -6, -3, 0], ["0", "10⁻⁶", "10⁻³", "1"])
        panel.tick_params(labelbottom=True)
        panel.axvline(math.log10(small), color=GREY, linewidth=1, linestyle=":")
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    figure.supxlabel(f"|w|; hatched: exactly zero; dotted line: {small:g}", fontsize=9)
    figure.supylabel("weights (%)", fontsize=9)
    return figure


@in_style
def plot_sparsity(layers: dict[str, Sequence[Sequence[float]]], styles: Styles) -> Figure:
    """Plot the shares of weights that are exactly zero and nearly zero in each layer, from input to output.

    Args:
        layers: {title: [(share of zeros, share of small weights) for each layer]}.
    """
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for which, panel in enumerate(panels):
        for title, shares in layers.items():
            percent = [100 * share[which] for share in shares]
            panel.plot(range(1, len(shares) + 1), percent, label=wrap_title(title), marker="o", **styles[title])
        panel.set_xlabel("layer, from the input on")
        panel.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    panels[0].set_title("weights exactly zero (%)")
    panels[1].set_title("weights nearly zero, |w| < 0.001 (%)")
    _add_legend(figure, panels[0])
    return figure


@in_style
def plot_confusion(matrices: dict[str, NDArray[np.floating]], classes: Sequence[str]) -> Figure:
    """Plot confusion matrices side by side, in percent of the images in each actual class.

    Args:
        matrices: {title: shares (classes, classes), a row for each actual class}.
    """
    side = max(5, INCHES[len(classes) > MANY] * len(classes))
    figure = Figure(figsize=((side + 0.2) * len(matrices), side), layout="constrained")
    panels = figure.subplots(1, len(matrices), squeeze=False)[0]
    for panel, (title, shares) in zip(panels, matrices.items(), strict=True):
        panel.imshow(shares, cmap="Blues", norm=PowerNorm(0.4, vmin=0, vmax=1))  # makes small shares visible
        _write_cells(panel, shares, lambda share: f"{100 * share:.1f}" if share >= 0.0005 else "", dark=0.25)
        panel.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
        panel.set_yticks(range(len(classes)), classes)
        panel.set_xlabel("predicted")
        panel.set_title(wrap_title(title))
    panels[0].set_ylabel("actual")
    return figure


@in_style
def plot_by_class(accuracies: dict[str, NDArray[np.floating]], classes: Sequence[str]) -> Figure:
    """Plot the test accuracy (%) of each class, with a row for each experiment.

    Args:
        accuracies: {title: shares (classes,), means over runs}.
    """
    shares = np.array(list(accuracies.values()))
    figure, panel = _make_rows(accuracies, 0.3, max(8, INCHES[len(classes) > MANY] * len(classes)))
    panel.imshow(shares, cmap="Blues", aspect="auto")
    _write_cells(panel, shares, lambda share: f"{100 * share:.1f}", dark=(shares.min() + 2 * shares.max()) / 3)
    panel.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    return figure


def _write_cells(panel: Axes, shares: NDArray[np.floating], to_text: Callable[[float], str], dark: float) -> None:
    panel.grid(visible=False)
    if shares.shape[1] > MANY:
        panel.tick_params(labelsize=6)
        panel.figure.colorbar(panel.images[0], format=PercentFormatter(1))
        return
    for (row, column), share in np.ndenumerate(shares):
        if words := to_text(share):
            colour = "white" if share > dark else "black"
            panel.text(column, row, words, ha="center", va="center", fontsize=6.5, color=colour, in_layout=False)


@in_style
def plot_gallery(images: NDArray[np.uint8], titles: Sequence[str], columns: int) -> Figure:
    """Plot images, uint8 (n, channels, height, width), in rows of `columns`, each under its title."""
    width = max(0.9, 9 / columns)
    titles = ["\n".join(textwrap.fill(line, int(16 * width)) for line in title.splitlines()) for title in titles]
    lines = max((title.count("\n") + 1 for title in titles), default=0)
    figure, panels = _make_grid(len(images), columns, width, max(1.1, width) + 0.12 * max(0, lines - 3), share=False)
    for panel, image, title in zip(panels, images, titles, strict=False):
        panel.imshow(image[0] if len(image) == 1 else np.moveaxis(image, 0, -1), cmap="gray", vmin=0, vmax=255)
        panel.set_title(title, fontsize=7)
        panel.axis("off")
    return figure


def _make_grid(count: int, columns: int, width: float, height: float, share: bool = True) -> tuple[Figure, list[Axes]]:
    """Make a figure of `count` panels in rows of `columns`; the size of a panel is in inches."""
    rows = max(1, math.ceil(count / columns))  # a network without mistakes has an empty gallery
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share).flatten()
    for panel in panels[count:]:
        panel.set_visible(False)
    return figure, list(panels[:count])
