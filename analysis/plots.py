"""Every picture of the report, one function each, in one style; each takes plain numbers and returns a Figure.

save(forest(differences, "BN", margin=0.001, published={}), Path("report/figures/forest"))     # forest.png, forest.pdf
"""

import math
import re
from functools import wraps
from itertools import cycle
from statistics import mean

import numpy as np
from matplotlib import rc_context
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from analysis.compare import mean_interval

# Okabe and Ito's colours, which the colour-blind can tell apart; with more experiments than colours the dashes differ.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", ":")
GREY = "#808080"
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.titley": 1.0,  # else every drawing measures all ticks again, to see whether some are in a title's way
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "figure.dpi": 150,
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
        figure.get_layout_engine().execute(figure)
        figure.set_layout_engine(None)  # or each file would be laid out, and drawn in vain, once more
        figure.savefig(written[0], metadata={"Software": None})
        figure.savefig(written[1], metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return written


def wrapped(title, width=36):
    """A title in lines of about `width` characters, broken after commas."""
    lines = [""]
    for part in re.findall(",?[^,]+,?|,", title):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.strip() for line in lines)


def _legend_below(figure, panel):
    """Of what a panel shows, in as many columns as the figure is wide enough for."""
    handles, labels = panel.get_legend_handles_labels()
    longest = max(len(line) for label in labels for line in label.splitlines())
    figure.legend(handles, labels, loc="outside lower center", ncols=max(1, min(4, 100 // longest)))


def styles_of(titles):
    """{title: colour and dash}, so that an experiment looks the same in every picture."""
    looks = [dict(color=colour, linestyle=dash) for dash in DASHES for colour in COLOURS]
    return dict(zip(titles, cycle(looks), strict=False))


# ---------------------------------------------------------------------------------------------------------------------


@in_style
def curves(histories, styles):
    """Loss and accuracy of train and validation images against the epoch, all experiments in one picture.

    Args:
        histories: {title: [a run's history, rows of `records.HISTORY`]}.

    The line is the mean of the runs that still go on, the band reaches from the lowest to the highest of them; a dot
    marks the last epoch of each run that ended before the longest, with the number of those that go on.
    """
    figure = Figure(figsize=(10, 7.5), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True)
    for row, measure in zip(panels, ("loss", "accuracy"), strict=True):
        for panel, images in zip(row, ("train", "val"), strict=True):
            scale = 100 if measure == "accuracy" else 1
            for title, runs in histories.items():
                values = [[scale * each[f"{images}_{measure}"] for each in run] for run in runs]
                _curve(panel, values, title, styles[title])
            which = "validation" if images == "val" else "train"
            during = ", during training" if images == "train" else ""
            panel.set_title(f"{which} {measure}{' (%)' if scale == 100 else ''}{during}")
    for panel in panels[0]:
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.yaxis.set_minor_locator(NullLocator())
    for panel in panels[1]:
        panel.set_xlabel("epoch")
        panel.set_xlim(left=0.5)  # there is no epoch 0
        panel.xaxis.get_major_locator().set_params(integer=True)
    _legend_below(figure, panels[0, 0])
    return figure


def _curve(panel, runs, title, style):
    longest = max(map(len, runs))
    at_epoch = [[run[epoch] for run in runs if epoch < len(run)] for epoch in range(longest)]
    epochs = range(1, longest + 1)
    marker = "s" if longest == 1 else None  # a line needs two points
    panel.plot(
        epochs, [mean(values) for values in at_epoch], label=wrapped(title), linewidth=1.3, marker=marker, **style
    )
    panel.fill_between(
        epochs, list(map(min, at_epoch)), list(map(max, at_epoch)), color=style["color"], alpha=0.12, lw=0
    )
    ended = [run for run in runs if len(run) < longest]
    panel.plot([len(run) for run in ended], [run[-1] for run in ended], "o", color=style["color"], markersize=4)
    for last in sorted({len(run) for run in ended}):
        left, highest = sum(len(run) > last for run in runs), max(run[-1] for run in ended if len(run) == last)
        panel.annotate(str(left), (last, highest), (3, 3), textcoords="offset points", fontsize=7)


@in_style
def seeds(accuracies, published, styles):
    """Test accuracy of every run as a dot, with the mean and its 95 % interval, and the published figure.

    Args:
        accuracies: {title: a share for each seed}.
        published: {title: share} of those titles that were published.
    """
    figure, panel = _one_row_each(accuracies)
    for place, (title, values) in enumerate(accuracies.items()):
        values = [100 * value for value in values]
        average, half_width = mean_interval(values)
        panel.plot(values, [place] * len(values), "o", color=styles[title]["color"], markersize=5, alpha=0.6, zorder=2)
        if not math.isnan(half_width):
            panel.errorbar(average, place, xerr=half_width, fmt="|", color="black", capsize=4, markersize=12, zorder=3)
        if title in published:
            _published(panel, published[title], place)
    panel.set_xlabel("test accuracy (%)")
    _key(panel, "a seed; bar: mean and 95 % interval", bool(published))
    return figure


@in_style
def forest(differences, baseline, margin, published, styles):
    """Differences in test accuracy from the baseline with their intervals, in points.

    Args:
        differences: {title: compare.Comparison}.
        margin: differences within it make no practical difference; shaded.
        published: {title: the published difference}.
    """
    figure, panel = _one_row_each(differences)
    panel.axvspan(-100 * margin, 100 * margin, color=GREY, alpha=0.2, lw=0, label="no practical difference")
    panel.axvline(0, color=GREY, linewidth=1)
    for place, (title, comparison) in enumerate(differences.items()):
        low, high = comparison.interval()
        panel.plot(100 * comparison.difference, place, "o", color=styles[title]["color"], markersize=6, zorder=3)
        if not math.isnan(low):
            panel.plot([100 * low, 100 * high], [place, place], color=styles[title]["color"], linewidth=1.5, zorder=2)
        if title in published:
            _published(panel, published[title], place)
    panel.set_xlabel(wrapped(f"test accuracy − that of {baseline} (points)", width=72))
    _key(panel, "difference and 95 % interval", bool(published))
    return figure


def _one_row_each(titles, height=0.34):
    """A figure with one panel, which has a row, this many inches high or more, for each title."""
    labels = [wrapped(title) for title in titles]
    lines = max(label.count("\n") + 1 for label in labels)
    figure = Figure(figsize=(8, 1.2 + max(height, 0.17 * lines) * len(labels)), layout="constrained")
    panel = figure.subplots()
    panel.set_yticks(range(len(labels)), labels)
    panel.set_ylim(len(titles) - 0.5, -0.5)  # the first on top
    panel.grid(axis="y", visible=False)
    return figure, panel


def _published(panel, share, place):
    panel.plot(100 * share, place, "D", markerfacecolor="white", markeredgecolor="black", markersize=5, zorder=4)


def _key(panel, ours, with_published):
    panel.plot([], [], "o", color=GREY, label=ours)
    if with_published:
        panel.plot([], [], "D", markerfacecolor="white", markeredgecolor="black", label="published")
    panel.figure.legend(loc="outside upper right", ncols=3)


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
    looks = styles_of(series)
    for name, points in series.items():
        for which, panel in enumerate(panels):
            places = sorted(points)
            found = [mean_interval([100 * value for value in points[place][which]]) for place in places]
            half_widths = [0 if math.isnan(half_width) else half_width for _, half_width in found]
            panel.errorbar(
                places, [average for average, _ in found], half_widths, label=name, marker="o", capsize=3, **looks[name]
            )
    if baseline:
        title, values = baseline
        panels[0].axhline(100 * mean(values), color=GREY, linestyle="--", label=title)
    for panel, label in zip(panels, ("test accuracy (%)", "weights exactly zero (%)"), strict=True):
        panel.set_xscale("log")
        panel.set_xlabel(over)
        panel.set_title(label)
    _legend_below(figure, panels[0])
    return figure


# ---------------------------------------------------------------------------------------------------------------------
# Weights


@in_style
def weights(values, small, styles):
    """How large the weights are: a histogram of each experiment's |w|, with its exact zeros as a bar of their own.

    Args:
        values: {title: |w| of all runs' weights, (weights,)}.
        small: what counts as nearly zero, marked by a line.
    """
    powers = np.linspace(-8, 1, 46)
    columns = min(3, len(values))
    figure, panels = _grid(len(values), columns, width=3.3, height=2)
    for panel, (title, magnitudes) in zip(panels, values.items(), strict=False):
        zeros = np.count_nonzero(magnitudes == 0)
        logarithms = np.log10(magnitudes[magnitudes > 0]).clip(powers[0], powers[-1])
        shares = 100 * np.histogram(logarithms, powers)[0] / len(magnitudes)
        panel.stairs(shares, powers, fill=True, color=styles[title]["color"])
        panel.bar(powers[0] - 1, 100 * zeros / len(magnitudes), 0.6, color=styles[title]["color"], hatch="///")
        panel.set_title(wrapped(title), fontsize=8)
        panel.set_yscale("log")
        panel.set_ylim(0.01, 100)
        panel.yaxis.set_minor_locator(NullLocator())  # ticks take most of the time of drawing
        panel.set_xticks([powers[0] - 1, -6, -3, 0], ["0", "10⁻⁶", "10⁻³", "1"])
        panel.tick_params(labelbottom=True)
        panel.axvline(math.log10(small), color=GREY, linewidth=1, linestyle=":")
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    figure.supxlabel(f"|w|; hatched: exactly zero; dotted line: {small:g}", fontsize=9)
    figure.supylabel("weights (%)", fontsize=9)
    return figure


@in_style
def sparsity(layers, styles):
    """The share of weights that are exactly zero, and nearly zero, in each layer from the input on.

    Args:
        layers: {title: [(share of zeros, share of small weights) of each layer]}.
    """
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for which, panel in enumerate(panels):
        for title, shares in layers.items():
            places = range(1, len(shares) + 1)
            panel.plot(
                places, [100 * share[which] for share in shares], label=wrapped(title), marker="o", **styles[title]
            )
        panel.set_xlabel("layer, from the input on")
        panel.xaxis.get_major_locator().set_params(integer=True)
    panels[0].set_title("weights exactly zero (%)")
    panels[1].set_title("weights nearly zero, |w| < 0.001 (%)")
    _legend_below(figure, panels[0])
    return figure


# ---------------------------------------------------------------------------------------------------------------------
# Classes and images


@in_style
def confusion(matrices, classes):
    """Confusion matrices side by side: of the images of each class, the share (%) that was taken for each class.

    Args:
        matrices: {title: shares (classes, classes), a row for each actual class}.
    """
    figure = Figure(figsize=(5.2 * len(matrices), 5), layout="constrained")
    panels = figure.subplots(1, len(matrices), squeeze=False)[0]
    for panel, (title, shares) in zip(panels, matrices.items(), strict=True):
        panel.imshow(shares, cmap="Blues", norm=PowerNorm(0.4, vmin=0, vmax=1))  # so that small shares show
        _write_cells(panel, shares, lambda share: f"{100 * share:.1f}" if share >= 0.0005 else "", dark=0.25)
        panel.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
        panel.set_yticks(range(len(classes)), classes)
        panel.set_xlabel("predicted")
        panel.set_title(wrapped(title))
    panels[0].set_ylabel("actual")
    return figure


@in_style
def by_class(accuracies, classes):
    """The test accuracy (%) of each class, a row for each experiment.

    Args:
        accuracies: {title: shares (classes,), means over runs}.
    """
    shares = np.array(list(accuracies.values()))
    figure, panel = _one_row_each(accuracies, height=0.3)
    panel.imshow(shares, cmap="Blues", aspect="auto")
    dark = (shares.min() + 2 * shares.max()) / 3
    _write_cells(panel, shares, lambda share: f"{100 * share:.1f}", dark=dark)
    panel.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    return figure


def _write_cells(panel, shares, text, dark):
    panel.grid(visible=False)
    for (row, column), share in np.ndenumerate(shares):
        if words := text(share):
            colour = "white" if share > dark else "black"
            panel.text(column, row, words, ha="center", va="center", fontsize=6.5, color=colour, in_layout=False)


@in_style
def gallery(images, titles, columns):
    """Images in rows of `columns`, each under its title.

    Args:
        images: uint8 (n, channels, height, width), grey or red, green, blue.
    """
    figure, panels = _grid(len(images), columns, width=max(0.9, 9 / columns), height=max(1.1, 9 / columns), share=False)
    for panel, image, title in zip(panels, images, titles, strict=False):
        panel.imshow(image[0] if len(image) == 1 else np.moveaxis(image, 0, -1), cmap="gray", vmin=0, vmax=255)
        panel.set_title(title, fontsize=7)
        panel.axis("off")
    return figure


def _grid(count, columns, width, height, share=True):
    """A figure with `count` panels in rows of `columns`; the last row may have fewer."""
    rows = max(1, math.ceil(count / columns))  # a network without mistakes has an empty gallery
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share).flatten()
    for panel in panels[count:]:
        panel.set_visible(False)
    return figure, panels[:count]
