"""The metrics of runs: their names, how they are shown, and how they are compared between experiments."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis import compare
from analysis.compare import Comparison
from analysis.looks import plan_looks
from engine import run_files
from engine.files import RecordError
from engine.records import Record


@dataclass(frozen=True)
class Metric:
    """How a metric is shown and compared."""

    name: str  # in sentences
    is_share: bool = True  # shown in percent, with differences in points
    places: int = 2  # decimals
    has_margin: bool = False  # whether a difference can be too small to matter
    of_images: str | None = None  # metric of single test images, to estimate the error over test images

    @property
    def scale(self) -> int:
        """The factor with which values are shown."""
        return 100 if self.is_share else 1


METRICS = dict(
    test_accuracy=Metric("test accuracy", has_margin=True, of_images="test_accuracy"),
    test_loss=Metric("test loss", is_share=False, places=4, of_images="test_loss"),
    train_accuracy=Metric("train accuracy", has_margin=True),
    running_train_accuracy=Metric("train accuracy during the last epoch"),
    train_loss=Metric("train loss", is_share=False, places=4),
    val_accuracy=Metric("validation accuracy"),
    val_loss=Metric("validation loss", is_share=False, places=4),
    gap=Metric("the gap between train and test accuracy", has_margin=True, of_images="test_accuracy"),
    epochs=Metric("the number of epochs", is_share=False, places=1),
    zeros=Metric("the share of weights that are exactly zero", places=1, has_margin=True),
    small=Metric("the share of weights that are nearly zero", places=1),
    l2_norm=Metric("the norm of the weights", is_share=False, places=1),
)


@dataclass(frozen=True)
class Published:
    """A published metric, of one run, and the same metric of our runs."""

    title: str  # of the experiment
    name: str  # one of METRICS
    value: float
    ours: list[float]  # a value for each run

    @property
    def interval(self) -> tuple[float, float]:
        """The interval in which one more run of ours lies in 95 % of cases; NaN for one run."""
        return compare.compute_prediction_interval(self.ours) if len(self.ours) > 1 else (math.nan, math.nan)

    @property
    def place(self) -> str:
        """Whether the published value is inside, below or above the interval; an empty text without one."""
        low, high = self.interval
        if math.isnan(low):
            return ""
        return "below" if self.value < low else "above" if self.value > high else "inside"


def read_metric(result: dict[str, Any], name: str) -> float:
    """Return one metric from a run's result.json."""
    match name:
        case "gap":
            return result["train_accuracy"] - result["test_accuracy"]
        case "zeros" | "small" | "l2_norm":
            return result["sparsity"][name]
        case _:
            return result[name]


def name_other(other: str | float, name: str) -> str:
    """Name what a metric is compared with: an experiment by its title, a share as a percentage, `88.46 %`."""
    if isinstance(other, str):
        return other
    return f"{100 * other:g} %" if METRICS[name].is_share else f"{other:g}"


def list_common_seeds(subject: Record, other: Record | float) -> list[int]:
    """List the seeds that two records share, in order; beside a constant, all seeds of the record."""
    return sorted(subject.results.keys() & other.results.keys() if isinstance(other, Record) else subject.results)


def compare_records(
    subject: Record,
    other: Record | float,
    name: str,
    labels: NDArray[np.int64] | None = None,
    seeds: Sequence[int] | None = None,
) -> Comparison | None:
    """Compare a metric between two records, or between a record and a constant.

    Args:
        labels: the classes of the test images, (images,). If they are given, the standard error of a metric on test
            images includes the variation over images.
        seeds: the seeds to use; None: all that the two share.

    Returns:
        The comparison, or None if there is no seed.
    """
    seeds = list_common_seeds(subject, other) if seeds is None else seeds
    if not seeds:
        return None
    values = [read_metric(subject.results[seed], name) for seed in seeds]
    others = [read_metric(other.results[seed], name) if isinstance(other, Record) else other for seed in seeds]
    of_images, by_image = METRICS[name].of_images, None
    if of_images and labels is not None:
        by_image = [
            measure_images(subject, seed, of_images, labels)
            - (measure_images(other, seed, of_images, labels) if isinstance(other, Record) else other)
            for seed in seeds
        ]
    return compare.compare_paired(values, others, by_image)


def compare_at_looks(subject: Record, other: Record, name: str, planned: int) -> list[Comparison]:
    """Compare a metric between two records at each planned look that the seeds in common reach."""
    seeds = list_common_seeds(subject, other)
    looks = [look for look in plan_looks(planned) if look.seeds <= len(seeds)]
    compared = [(look, compare_records(subject, other, name, None, seeds[: look.seeds])) for look in looks]
    return [replace(comparison, look=look) for look, comparison in compared if comparison]


def compare_with_baseline(
    baseline: Record, records: Iterable[Record], name: str, labels: NDArray[np.int64]
) -> dict[str, Comparison]:
    """Compare a metric of each record with the baseline: {title: comparison}, with Holm's correction."""
    found = {}
    for record in records:
        if record is not baseline and (comparison := compare_records(record, baseline, name, labels)):
            found[record.title] = comparison
    return dict(zip(found, compare.correct_holm(list(found.values())), strict=True))


def measure_images(record: Record, seed: int, name: str, labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return a run's accuracy (0 or 1) or loss on each test image, (images,).

    Raises:
        RecordError: the predictions cannot be read, or lack an image's label.
    """
    log_probabilities = read_predictions(record, seed, len(labels))
    if name == "test_accuracy":
        return (log_probabilities.argmax(1) == labels).astype(np.float64)
    losses = -log_probabilities[np.arange(len(labels)), labels].astype(np.float64)
    if not np.isfinite(losses).all():
        path = record.run_folder(seed) / "predictions.npz"
        raise RecordError(f"{path}: cannot be read (it lacks the log-probability of an image's label)")
    return losses


def read_predictions(record: Record, seed: int, images: int) -> NDArray[np.float32]:
    """Read a run's log-probabilities for the test images, (images, classes); -inf where a submission holds none.

    Raises:
        RecordError: the file cannot be read, or has the wrong number of images or classes.
    """
    return run_files.read_log_probabilities(record.run_folder(seed), (images, len(record.classes)))
