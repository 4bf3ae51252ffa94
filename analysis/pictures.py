"""Which pictures the report shows of what was found: each function takes `findings.Findings` and adds to a document."""

from functools import partial

import numpy as np
from sklearn.metrics import confusion_matrix

from analysis import plots
from engine import records

AUGMENTED_ROWS = 3  # of the samples


def styles_of(findings):
    return plots.styles_of(findings.short.values())


def in_short(findings, of_titles):
    """{title as pictures have it: what is shown of it}."""
    return {findings.short[title]: shown for title, shown in of_titles.items()}


def forest(document, findings):
    """Every experiment's difference to its baseline."""
    if not findings.differences:
        return
    baselines = {findings.baselines[title] for title in findings.differences}
    baseline = findings.short[baselines.pop()] if len(baselines) == 1 else "its baseline"
    published = {title: findings.published(title).get("test_accuracy") for title in findings.trained}
    theirs = {
        title: published[title] - published[findings.baselines[title]]
        for title in findings.differences
        if published[title] and published[findings.baselines[title]]
    }
    document.picture(
        f"{findings.name}-forest",
        f"Differences in test accuracy from {baseline}, in points, with 95 % intervals",
        lambda: plots.forest(
            in_short(findings, findings.differences),
            baseline,
            findings.margin,
            in_short(findings, theirs),
            styles_of(findings),
        ),
    )


def curves_and_seeds(document, findings):
    def histories():
        return {
            title: [records.read_history(record.folder / f"seed-{seed}") for seed in record.results]
            for title, record in findings.trained.items()
        }

    accuracies = {title: findings.values(title, "test_accuracy") for title in findings.trained}
    published = {title: findings.published(title).get("test_accuracy") for title in findings.trained}
    published = {title: share for title, share in published.items() if share}
    styles = styles_of(findings)
    document.picture(
        f"{findings.name}-curves",
        "Loss and accuracy against the epoch, means over seeds with a band from the lowest to the highest; those of "
        "train images are running means during training, with dropout and augmentation. A dot where a run was stopped "
        "bears the number of runs that go on",
        lambda: plots.curves(in_short(findings, histories()), styles),
    )
    document.picture(
        f"{findings.name}-seeds",
        "Test accuracy of every seed, with their mean and 95 % interval",
        lambda: plots.seeds(in_short(findings, accuracies), in_short(findings, published), styles),
    )


def sweep(document, findings):
    """Accuracy and zeros against the setting that a study sweeps."""
    study, points = findings.study, {}
    for title, (line, place) in study.sweep.items() if study else ():
        if title in findings.titles:
            both = findings.values(title, "test_accuracy"), findings.values(title, "zeros")
            points.setdefault(line, {})[place] = both
    if points:
        outside = study.baseline in findings.titles and study.baseline not in study.sweep
        baseline = (study.baseline, findings.values(study.baseline, "test_accuracy")) if outside else None
        document.picture(
            f"{findings.name}-sweep",
            f"Test accuracy and weights that are exactly zero against {study.sweep_over}",
            lambda: plots.sweep(points, study.sweep_over, baseline),
        )


def classes(document, findings):
    """What each class is taken for, and how often it is found."""
    names, labels = findings.dataset.classes, findings.labels
    best = findings.by_validation[0]
    shown = [title for title in dict.fromkeys([findings.baselines[best], best]) if title in findings.trained]

    def shares(title):
        """(classes, classes), the mean over runs."""
        predicted = findings.log_probabilities(title).argmax(2)
        actual = np.tile(labels, len(predicted))
        return confusion_matrix(actual, predicted.flatten(), labels=range(len(names)), normalize="true")

    document.picture(
        f"{findings.name}-confusion",
        f"Confusion matrices of {' and '.join(shown)} on the test images, in percent of each class, means over seeds; "
        "less than 0.05 % is left blank",
        lambda: plots.confusion(in_short(findings, {title: shares(title) for title in shown}), names),
    )
    document.picture(
        f"{findings.name}-classes",
        "Test accuracy (%) of every class, mean over seeds",
        lambda: plots.by_class(
            in_short(findings, {title: shares(title).diagonal() for title in findings.trained}), names
        ),
    )


def mistakes(document, findings):
    """The most confident mistakes of the experiments that the study names."""
    study = findings.study
    count, columns = study.mistakes if study else (10, 5)
    titles = (study.mistakes_of or (study.baseline,)) if study else findings.by_validation[:1]
    for title in titles:
        if title in findings.titles:
            document.picture(
                f"{findings.name}-mistakes-{title}",
                f"Test images that {title} gets wrong: what it predicts and what they are, how many seeds agree and "
                "their mean probability; where most seeds agree comes first",
                partial(_mistakes, findings, title, count, columns),
            )


def _mistakes(findings, title, count, columns):
    log_probabilities, names = findings.log_probabilities(title), findings.dataset.classes
    places, *found = most_confident_mistakes(log_probabilities, findings.labels, count)
    runs = len(log_probabilities)
    titles = [
        f"predicted {names[predicted]}\nactual {names[actual]}\n{votes} of {runs}, {100 * confidence:.0f} %"
        for actual, predicted, votes, confidence in zip(findings.labels[places], *found, strict=True)
    ]
    return plots.gallery(findings.dataset.test.images[places].numpy(), titles, columns)


def most_confident_mistakes(log_probabilities, labels, count):
    """The images that most runs take for the same wrong class, those of equal votes by their mean probability.

    Args:
        log_probabilities: (runs, images, classes).

    Returns:
        Four arrays, of `count` elements at most: the images' places, the class they are taken for by the mean of the
        runs' probabilities, how many runs take them for it, and that mean probability.
    """
    probabilities = np.exp(log_probabilities.astype(np.float64)).mean(0)
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    votes = (log_probabilities.argmax(2) == predicted).sum(0)
    wrong = np.flatnonzero(predicted != labels)
    chosen = wrong[np.lexsort((-confidence[wrong], -votes[wrong]))][:count]
    return chosen, predicted[chosen], votes[chosen], confidence[chosen]


def samples(document, findings):
    """An image of each class as it is, and as the baseline's training augments it."""
    import torch

    from augmentation import Augmentation

    train, names = findings.dataset.train, findings.dataset.classes
    first = next(iter(findings.trained))
    augmentation = Augmentation.of(findings.trained.get(findings.baselines[first], findings.trained[first]).experiment)
    places = [int((train.labels == label).nonzero()[0]) for label in range(len(names))]

    def draw():
        plain = train.images[places]
        rows = [plain]
        if augmentation != Augmentation():
            for row in range(AUGMENTED_ROWS):
                drawn = augmentation.draw(len(plain), plain.shape[1:], torch.Generator().manual_seed(row))
                rows.append(augmentation(plain, drawn).mul(255).round().byte())
        titles = [*names, *[""] * (len(rows) - 1) * len(names)]
        return plots.gallery(torch.cat(rows).numpy(), titles, columns=len(names))

    augmented = "" if augmentation == Augmentation() else ", and three times as the training augments it"
    document.picture(f"{findings.name}-samples", f"A train image of each class{augmented}", draw)


def weights(document, findings):
    """How large and how sparse the weights of the baseline and of penalized experiments are."""
    from regularizers import SMALL

    penalized = [
        title
        for title, record in findings.trained.items()
        if record.experiment.l1 or record.experiment.l2 or record.experiment.weight_decay
    ]
    if not penalized:
        return
    shown = [title for title in findings.trained if title in penalized or title in findings.baselines.values()]
    styles = styles_of(findings)

    settings = [findings.trained[title].experiment for title in shown]
    subgradient = "The subgradient of L1 leaves small weights, its proximal step zeros. "
    black = "A penalty drives weights of pixels that are always black towards zero, which changes no prediction. "
    of_pixels = any(each.model.startswith("mlp") and not each.standardize for each in settings)
    about = subgradient * any(each.l1 for each in settings) + black * of_pixels

    def magnitudes(title):
        record = findings.trained[title]
        parts = []
        for seed, result in record.results.items():
            state = records.read_weights(record.folder / f"seed-{seed}", result["layers"])
            parts += [state[f"{layer['layer']}.weight"].abs().flatten() for layer in result["layers"]]
        return np.concatenate(parts)

    def by_layer(title):
        results = findings.trained[title].results.values()
        shares = [
            [(layer["zeros"], layer["small"]) / np.float64(layer["weights"]) for layer in result["layers"]]
            for result in results
        ]
        return np.mean(shares, 0)

    document.picture(
        f"{findings.name}-weights",
        "How large the weights are, with and without penalties: on logarithmic axes, with exact zeros as a bar of "
        f"their own (hatched) and everything below 10⁻⁸ in the leftmost of the others. {about}".rstrip(". "),
        lambda: plots.weights(in_short(findings, {title: magnitudes(title) for title in shown}), SMALL, styles),
    )
    document.picture(
        f"{findings.name}-sparsity",
        "Weights that are zero, and nearly zero, in each layer",
        lambda: plots.sparsity(in_short(findings, {title: by_layer(title) for title in shown}), styles),
    )
