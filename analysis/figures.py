"""The figures of the report: each function adds one or more figures of the findings to the document.

add_forest(document, findings)      # passes numbers from the findings to plots.py
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

from analysis import plots, style
from analysis.document import Document
from analysis.findings import Findings
from augmentation import Augmentation
from data import Dataset
from engine import run_files
from engine.records import Record
from experiments import Experiment, shorten
from regularizers import SMALL

AUGMENTED_ROWS = 3  # rows of augmented images in the figure of samples
COLUMNS = 10  # classes beside each other in that figure


def add_forest(document: Document, findings: Findings) -> None:
    """Add a figure of the difference in test accuracy between each experiment and its baseline."""
    if not findings.differences:
        return
    first, *others = {findings.baselines[title] for title in findings.differences}
    baseline = "each one's baseline" if others else findings.study.baseline or findings.labels_of[first]
    published, baselines = findings.published_accuracies, findings.baselines
    published_differences = {
        title: published[title] - published[baselines[title]]
        for title in findings.differences
        if title in published and baselines[title] in published
    }
    caption = f"Differences in test accuracy from {baseline}, in points"
    if any(comparison.seeds > 1 for comparison in findings.differences.values()):
        caption += ", with 95 % intervals"
        if any(judgement.look for judgement in findings.judgements):
            caption += "; verdicts have intervals of their own"
    if published_differences and findings.study.baseline not in (None, first):
        caption += f" (published: from {first}, which has the same settings)"
    document.add_figure(
        f"{findings.name}-forest",
        caption,
        lambda: plots.plot_forest(
            _relabel(findings, findings.differences),
            baseline,
            findings.margin,
            _relabel(findings, published_differences),
            _styles_of(findings),
        ),
    )


def _styles_of(findings: Findings) -> dict[str, dict[str, str]]:
    return style.assign_styles(findings.labels_of[title] for title in findings.trained)


def _relabel(findings: Findings, by_title: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping whose keys are changed from titles to the labels in figures."""
    return {findings.labels_of[title]: value for title, value in by_title.items()}


def add_samples(document: Document, findings: Findings, dataset: Dataset) -> None:
    """Add a figure of one train image for each class, plain and as augmented for the baseline."""
    train, names = dataset.train, dataset.classes
    first = next(iter(findings.trained))
    example = baseline if (baseline := findings.baselines[first]) in findings.trained else first
    augmentation = Augmentation.of(findings.trained[example].experiment)
    is_augmented = augmentation != Augmentation()
    places = [int((train.labels == label).nonzero()[0]) for label in range(len(names))]

    def draw() -> Figure:
        plain = train.images[places]
        rows, columns = [plain], min(len(names), COLUMNS)
        for row in range(AUGMENTED_ROWS if is_augmented else 0):
            drawn = augmentation.draw(len(plain), dataset.shape, torch.Generator().manual_seed(row))
            rows.append(augmentation(plain, drawn, dataset.mean).mul(255).round().byte())
        white = torch.full_like(plain[:1], 255).expand(-len(names) % columns, -1, -1, -1)
        of_classes = torch.stack([torch.cat([row, white]) for row in rows])
        images = of_classes.unflatten(1, (-1, columns)).transpose(0, 1).flatten(0, 2)  # ten classes, then the next ten
        shown, blank = [*names, *[""] * len(white)], [""] * columns * (len(rows) - 1)
        titles = [title for n in range(0, len(shown), columns) for title in (*shown[n : n + columns], *blank)]
        return plots.plot_gallery(images.numpy(), titles, columns)

    label = findings.labels_of[example]
    augmented = f", and three times as the training of {label} augments it" if is_augmented else ""
    document.add_figure(f"{findings.name}-samples", f"A train image of each class{augmented}", draw)


def add_sweep(document: Document, findings: Findings) -> None:
    """Add a figure of two metrics against the setting that a study sweeps.

    They are the test accuracy and the share of weights that are exactly zero; the train accuracy if no weight is.
    """
    study = findings.study
    swept = {title: place for title, place in study.sweep.items() if title in findings.titles}
    if not swept:
        return
    has_zeros = any(any(findings.values(title, "zeros")) for title in swept)
    second = ("weights exactly zero", "zeros") if has_zeros else ("train accuracy", "train_accuracy")
    panels: dict[str, dict[str, dict[float, list[float]]]] = {}
    for name, metric in (("test accuracy", "test_accuracy"), second):
        for title, (line, value) in swept.items():
            panels.setdefault(name, {}).setdefault(line, {})[value] = findings.values(title, metric)
    baseline = None
    if study.baseline in findings.titles and study.baseline not in study.sweep:
        baseline = (study.baseline, findings.values(study.baseline, "test_accuracy"))
    caption = f"Test accuracy and {second[0]} against {study.sweep_over}"
    if any(len(findings.record(title).results) > 1 for title in swept):
        caption += ", means and 95 % intervals over seeds"
    if baseline:
        caption += "; dashed: the baseline's mean"
    document.add_figure(
        f"{findings.name}-sweep",
        caption,
        lambda: plots.plot_sweep(panels, study.sweep_over, baseline),
    )


def add_curves_and_seeds(document: Document, findings: Findings) -> None:
    """Add a figure of the training curves and a figure of each seed's test accuracy."""

    def draw_curves() -> Figure:
        histories = {
            title: [run_files.read_history(record.run_folder(seed)) for seed in record.results]
            for title, record in findings.trained.items()
        }
        return plots.plot_curves(_relabel(findings, histories), styles)

    accuracies = {title: findings.values(title, "test_accuracy") for title in findings.trained}
    published = findings.published_accuracies
    styles = _styles_of(findings)
    caption = (
        "Loss and accuracy against the epoch, means over seeds with a band from the lowest to the highest; those of "
        "train images are running means during training, with any dropout and augmentation; the axes of accuracy show "
        "the range after a quarter of the epochs"
    )
    if any(len(set(findings.values(title, "epochs"))) > 1 for title in findings.trained):
        caption += ". A dot where a run was stopped bears the number of runs that go on"
    document.add_figure(f"{findings.name}-curves", caption, draw_curves)
    document.add_figure(
        f"{findings.name}-seeds",
        "Test accuracy of every seed, with their mean and 95 % interval",
        lambda: plots.plot_seeds(_relabel(findings, accuracies), _relabel(findings, published), styles),
    )


def add_weights(document: Document, findings: Findings) -> None:
    """Add figures of the size and the sparsity of the weights, for penalized experiments and their baselines."""
    experiments = {title: record.experiment for title, record in findings.trained.items()}
    penalized = [title for title, each in experiments.items() if each.l1 or each.l2 or each.weight_decay]
    if not penalized:
        return
    baselines = {findings.baselines[title] for title in penalized}
    shown = [title for title in experiments if title in penalized or title in baselines]
    styles = _styles_of(findings)
    caption = (
        "How large the weights are, with and without penalties: on logarithmic axes, with exact zeros as a bar of "
        "their own (hatched) and everything below 10⁻⁸ in the leftmost of the others"
    )
    if any(experiments[title].l1 for title in shown):
        caption += ". The subgradient of L1 leaves small weights, its proximal step zeros"

    def is_plain_mlp(experiment: Experiment) -> bool:
        return experiment.model.startswith("mlp") and not experiment.standardize

    has_dead_inputs = findings.dataset and (findings.dataset.train.images.amax(0) == 0).any()
    if has_dead_inputs and any(is_plain_mlp(experiments[title]) for title in shown):
        caption += (
            ". A penalty drives weights of pixels that are always black towards zero, which changes no prediction"
        )
    document.add_figure(
        f"{findings.name}-weights",
        caption,
        lambda: plots.plot_weights(
            _relabel(findings, {title: _read_magnitudes(findings.trained[title]) for title in shown}), SMALL, styles
        ),
    )
    document.add_figure(
        f"{findings.name}-sparsity",
        "Weights that are zero, and nearly zero, in each layer of penalized experiments and their baselines",
        lambda: plots.plot_sparsity(
            _relabel(findings, {title: _share_by_layer(findings.trained[title]) for title in shown}), styles
        ),
    )


def _read_magnitudes(record: Record) -> NDArray[np.float32]:
    """Read the absolute values |w| of all weights in all runs, (weights,)."""
    parts = []
    for seed, result in record.results.items():
        state = run_files.read_weights(record.run_folder(seed), result["layers"])
        parts += [state[f"{layer['layer']}.weight"].abs().flatten() for layer in result["layers"]]
    return np.concatenate(parts)


def _share_by_layer(record: Record) -> NDArray[np.float64]:
    """Average the shares of zero weights and of small weights in each layer over runs, (layers, 2)."""
    shares = [
        [np.array([layer["zeros"], layer["small"]]) / layer["weights"] for layer in result["layers"]]
        for result in record.results.values()
    ]
    return np.mean(shares, 0)


def add_classes(document: Document, findings: Findings, dataset: Dataset) -> None:
    """Add figures of the confusion matrices and of the test accuracy for each class."""
    names, labels = dataset.classes, findings.labels
    best = findings.by_validation[0]
    shown = [title for title in dict.fromkeys([findings.baselines[best], best]) if title in findings.trained]

    def share_predictions(title: str) -> NDArray[np.float64]:
        """Compute the confusion matrix over all runs, (actual, predicted), as shares of each actual class."""
        predicted = findings.predictions(title).argmax(2)
        actual = np.tile(labels, len(predicted))
        return confusion_matrix(actual, predicted.flatten(), labels=range(len(names)), normalize="true")

    labels_of_shown = " and ".join(findings.labels_of[title] for title in shown)
    document.add_figure(
        f"{findings.name}-confusion",
        f"Confusion {'matrices' if len(shown) > 1 else 'matrix'} of {labels_of_shown} on the test images, in "
        "percent of each class, means over seeds; less than 0.05 % is left blank",
        lambda: plots.plot_confusion(_relabel(findings, {title: share_predictions(title) for title in shown}), names),
    )
    document.add_figure(
        f"{findings.name}-classes",
        "Test accuracy (%) of every class, mean over seeds",
        lambda: plots.plot_by_class(
            _relabel(findings, {title: share_predictions(title).diagonal() for title in findings.trained}), names
        ),
    )


def add_mistakes(document: Document, findings: Findings, dataset: Dataset) -> None:
    """Add figures of the most confident mistakes, for the experiments in `mistakes_of` or else the baseline."""
    study = findings.study
    example = study.baseline if study.baseline in findings.titles else findings.by_validation[0]
    for title in study.mistakes_of or (example,):
        if title in findings.titles:
            document.add_figure(
                shorten(f"{findings.name}-mistakes-{title}"),
                f"Test images that {findings.labels_of[title]} gets wrong: what it predicts and what they are, how "
                "many seeds agree and their mean probability; where most seeds agree comes first",
                partial(_draw_mistakes, findings, dataset, title),
            )


def _draw_mistakes(findings: Findings, dataset: Dataset, title: str) -> Figure:
    count, columns = findings.study.mistakes
    log_probabilities, names = findings.predictions(title), dataset.classes
    places, *found = find_confident_mistakes(log_probabilities, findings.labels, count)
    runs = len(log_probabilities)
    titles = [
        f"predicted {names[predicted]}\nactual {names[actual]}\n{votes} of {runs}, {100 * confidence:.0f} %"
        for actual, predicted, votes, confidence in zip(findings.labels[places], *found, strict=True)
    ]
    return plots.plot_gallery(dataset.test.images[places].numpy(), titles, columns)


def find_confident_mistakes(
    log_probabilities: NDArray[np.float32], labels: NDArray[np.int64], count: int
) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Find misclassified images, sorted by how many runs agree on the wrong class, then by mean probability.

    Each run votes for the class that it predicts, with the probability of this class as the vote's weight.

    Args:
        log_probabilities: (runs, images, classes).

    Returns:
        Four arrays of at most `count` elements: the indices of the images, the class with the largest sum of votes, the
        number of runs that predict this class, and the mean probability that these runs give it.
    """
    by_class = np.arange(log_probabilities.shape[2])
    is_predicted = log_probabilities.argmax(2)[:, :, None] == by_class  # (runs, images, classes)
    confidences = np.exp(log_probabilities.max(2).astype(np.float64))  # (runs, images)
    sums = (is_predicted * confidences[:, :, None]).sum(0)
    predicted = sums.argmax(1)
    votes = np.take_along_axis(is_predicted.sum(0), predicted[:, None], 1)[:, 0]
    confidence = sums.max(1) / votes
    wrong = np.flatnonzero(predicted != labels)
    chosen = wrong[np.lexsort((-confidence[wrong], -votes[wrong]))][:count]
    return chosen, predicted[chosen], votes[chosen], confidence[chosen]
