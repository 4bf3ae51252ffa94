"""Every picture of the report, one function each, in one style; each takes plain numbers and returns a Figure.

save(forest(differences, "BN", margin=0.001, published={}), Path("report/figures/forest"))     # forest.png, forest.pdf
"""

import math
from functools import wraps
from itertools import cycle
from statistics import mean

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from compare import mean_interval

# Okabe and Ito's colours, which the colour-blind can tell apart; with more experiments than colours the dashes differ.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", ":")
GREY = "#808080"
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "savefig.dpi": 150,
    "pdf.fonttype": 42,  # text stays text
}


def in_style(draw):
    """The drawing function, with matplotlib's settings replaced by STYLE while it draws."""

    @wraps(draw)
    def drawn(*args, **settings):
        with rc_context(STYLE):
            return draw(*args, **settings)

    return drawn


def save(figure, path):
    """Write a figure as `path`.png and `path`.pdf, the same bytes each time; return the two paths."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = [path.with_name(f"{path.name}.{kind}") for kind in ("png", "pdf")]
    with rc_context(STYLE):
        figure.savefig(written[0], metadata={"Software": None})
        figure.savefig(written[1], metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return written


def lines(count):
    """Colour and dash for each of `count` lines."""
    styles = [dict(color=colour, linestyle=dash) for dash in DASHES for colour in COLOURS]
    return [style for style, _ in zip(cycle(styles), range(count), strict=False)]


# ---------------------------------------------------------------------------------------------------------------------


@in_style
def curves(histories):
    """Loss and accuracy of train and validation images against the epoch, all experiments in one picture.

    Args:
        histories: {title: [a run's history, rows of `records.HISTORY`]}.

    The line is the mean of the runs that still go on, the band reaches from the lowest to the highest of them; a dot
    marks the last epoch of each run that ended before the longest.
    """
    figure = Figure(figsize=(10, 7.5), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True)
    for row, measure in zip(panels, ("loss", "accuracy"), strict=True):
        for panel, images in zip(row, ("train", "val"), strict=True):
            scale = 100 if measure == "accuracy" else 1
            for (title, runs), style in zip(histories.items(), lines(len(histories)), strict=True):
                _curve(panel, [[scale * each[f"{images}_{measure}"] for each in run] for run in runs], title, style)
            which = "validation" if images == "val" else "train"
            during = ", during training" if images == "train" else ""
            panel.set_title(f"{which} {measure}{' (%)' if scale == 100 else ''}{during}")
    for panel in panels[0]:
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.yaxis.set_minor_formatter(NullFormatter())
    for panel in panels[1]:
        panel.set_xlabel("epoch")
        panel.xaxis.get_major_locator().set_params(integer=True)
    columns = max(1, min(4, 100 // max(map(len, histories))))
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=columns)
    return figure


def _curve(panel, runs, title, style):
    longest = max(map(len, runs))
    at_epoch = [[run[epoch] for run in runs if epoch < len(run)] for epoch in range(longest)]
    epochs = range(1, longest + 1)
    marker = "s" if longest == 1 else None  # a line needs two points
    panel.plot(epochs, [mean(values) for values in at_epoch], label=title, linewidth=1.3, marker=marker, **style)
    panel.fill_between(
        epochs, list(map(min, at_epoch)), list(map(max, at_epoch)), color=style["color"], alpha=0.12, lw=0
    )
    ended = [run for run in runs if len(run) < longest]
    panel.plot([len(run) for run in ended], [run[-1] for run in ended], "o", color=style["color"], markersize=4)


@in_style
def seeds(accuracies, published):
    """Test accuracy of every run as a dot, with the mean and its 95 % interval, and the published figure.

    Args:
        accuracies: {title: a share for each seed}.
        published: {title: share} of those titles that were published.
    """
    figure, panel = _one_row_each(accuracies)
    for place, (title, values) in enumerate(accuracies.items()):
        values = [100 * value for value in values]
        average, half_width = mean_interval(values)
        panel.plot(values, [place] * len(values), "o", color=COLOURS[5], markersize=5, alpha=0.7, zorder=2)
        if not math.isnan(half_width):
            panel.errorbar(average, place, xerr=half_width, fmt="|", color="black", capsize=4, markersize=12, zorder=3)
        if title in published:
            panel.plot(100 * published[title], place, "D", color=COLOURS[1], markersize=5, zorder=4)
    panel.set_xlabel("test accuracy (%)")
    _key(panel, ("a seed", dict(marker="o", color=COLOURS[5])), bool(published))
    return figure


@in_style
def forest(differences, baseline, margin, published):
    """Differences in test accuracy from the baseline with their intervals, in points.

    Args:
        differences: {title: compare.Comparison}.
        margin: differences within it make no practical difference; shaded.
        published: {title: the published difference}.
    """
    figure, panel = _one_row_each(differences)
    panel.axvspan(-100 * margin, 100 * margin, color=GREY, alpha=0.2, lw=0)
    panel.axvline(0, color=GREY, linewidth=1)
    for place, (title, comparison) in enumerate(differences.items()):
        low, high = comparison.interval()
        panel.plot(100 * comparison.difference, place, "o", color=COLOURS[0], markersize=6, zorder=3)
        if not math.isnan(low):
            panel.plot([100 * low, 100 * high], [place, place], color=COLOURS[0], linewidth=1.5, zorder=2)
        if title in published:
            panel.plot(100 * published[title], place, "D", color=COLOURS[1], markersize=5, zorder=4)
    panel.set_xlabel(f"test accuracy − that of {baseline} (points); shaded: no practical difference")
    _key(panel, ("ours, 95 % interval", dict(marker="o", color=COLOURS[0])), bool(published))
    return figure


def _one_row_each(titles):
    figure = Figure(figsize=(8, 1.2 + 0.34 * len(titles)), layout="constrained")
    panel = figure.subplots()
    panel.set_yticks(range(len(titles)), list(titles))
    panel.set_ylim(len(titles) - 0.5, -0.5)  # the first on top
    panel.grid(axis="y", visible=False)
    return figure, panel


def _key(panel, ours, with_published):
    label, style = ours
    panel.plot([], [], linestyle="none", label=label, **style)
    if with_published:
        panel.plot([], [], linestyle="none", marker="D", color=COLOURS[1], label="published")
    panel.figure.legend(loc="outside upper right", ncols=2)


@in_style
def sweep(series, over, baseline=None):
    """Test accuracy, and the share of weights that are exactly zero, against a setting on a logarithmic axis.

    Args:
        series: {name: {value of the setting: ([accuracies, a share a seed], [shares of zeros])}}.
        over: what the setting is called.
        baseline: (title, accuracies) of an experiment outside the sweep, drawn as a horizontal line.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = figure.subplots(1, 2)
    for (name, points), style in zip(series.items(), lines(len(series)), strict=True):
        for which, panel in enumerate(panels):
            places = sorted(points)
            found = [mean_interval([100 * value for value in points[place][which]]) for place in places]
            half_widths = [0 if math.isnan(half_width) else half_width for _, half_width in found]
            panel.errorbar(
                places, [average for average, _ in found], half_widths, label=name, marker="o", capsize=3, **style
            )
    if baseline:
        title, values = baseline
        panels[0].axhline(100 * mean(values), color=GREY, linestyle="--", label=title)
    for panel, label in zip(panels, ("test accuracy (%)", "weights exactly zero (%)"), strict=True):
        panel.set_xscale("log")
        panel.set_xlabel(over)
        panel.set_title(label)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure
