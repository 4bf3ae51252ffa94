"""What a run's settings, weights and history determine, computed again and compared with what it records.

for problem in compare_run(record, seed, dataset):
    print(problem)      # test accuracy is 0.9000, the weights give 0.8812
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

import data
import models
import regularizers
import training
from analysis.findings import build_network_of
from analysis.metrics import read_predictions
from data import Dataset
from early_stopping import EarlyStopping
from engine import records, run_files
from engine.records import Record
from experiments import LARGEST, Experiment
from grading.differences import EXACT
from regularizers import NORM_LAYERS, Penalty, select_penalized
from training import Row

RELATIVE = 1e-3  # how far rounding on another machine may change a loss, a norm or a penalty, relative to it
LOG_PROBABILITY = 1e-3  # how far rounding on another machine may change a log-probability
ACCURACY = 2e-4  # how far it may change an accuracy: two images in ten thousand; see `_tolerance`
ABSOLUTE = 1e-6  # how far it may change a loss or a penalty near 0, besides `RELATIVE`


def compare_run(record: Record, seed: int, dataset: Dataset) -> Iterator[str]:
    """Compare what a run records with what its settings, weights and history determine; yield a line for each problem.

    Raises:
        RecordError: a file of the run cannot be read.
    """
    result, experiment = record.results[seed], record.experiment
    described = records.describe(experiment, dataset, record.title)["dataset"]
    names = {**described, **record.dataset}
    if other := [name for name in names if not is_alike(record.dataset.get(name), described.get(name))]:
        yield f"its experiment.json describes another {dataset.name} than is here: {', '.join(other)}"
    network = build_network_of(record)
    try:
        network.load_state_dict(run_files.read_weights(record.run_folder(seed)))
    except RuntimeError:
        yield f"the weights do not fit {experiment.model}"
        return
    yield from _compare_with_weights(record, seed, network, dataset)
    history = run_files.read_history(record.run_folder(seed))
    yield from _compare_with_history(experiment, result, history, len(dataset.validation))
    if 1 <= result["chosen_epoch"] <= len(history):
        yield from _compare_with_settings(experiment, result, history, network, len(dataset.train))


def _compare_with_weights(record: Record, seed: int, network: nn.Sequential, dataset: Dataset) -> Iterator[str]:
    result = record.results[seed]
    as_seen = replace(dataset, is_standardized=record.experiment.standardize)
    predicted = {name: training.predict(network, as_seen, split, runs=1) for name, split in dataset.splits.items()}
    for split, log_probabilities in predicted.items():
        (loss,), (accuracy,) = training.measure(log_probabilities, dataset.splits[split].labels).values()
        if not abs(accuracy - result[f"{split}_accuracy"]) <= _tolerance(len(dataset.splits[split])):
            yield f"{split} accuracy is {result[f'{split}_accuracy']:.4f}, the weights give {accuracy:.4f}"
        if not _is_close(result[f"{split}_loss"], loss):
            yield f"{split} loss is {result[f'{split}_loss']:.4g}, the weights give {loss:.4g}"
    if not _is_predicted(read_predictions(record, seed, len(dataset.test)), predicted["test"].squeeze(1).numpy()):
        yield "the stored predictions are not those of the weights"
    if result["parameters"] != models.count_parameters(network):
        yield f"{result['parameters']:,} parameters, the network has {models.count_parameters(network):,}"
    layers = regularizers.measure_layers(network)
    sparsity = regularizers.summarize_layers(layers)
    if not is_alike(result["layers"], layers) or not is_alike(result["sparsity"], sparsity):
        yield "sparsity and norms are not those of the weights"


def is_alike(recorded: Any, expected: Any) -> bool:
    """Tell whether a JSON value equals the expected value, with floats compared up to rounding."""
    match expected:
        case list():
            has_same_length = isinstance(recorded, list) and len(recorded) == len(expected)
            return has_same_length and all(map(is_alike, recorded, expected))
        case dict():
            has_same_keys = isinstance(recorded, dict) and recorded.keys() == expected.keys()
            return has_same_keys and all(is_alike(recorded[name], expected[name]) for name in expected)
        case float():
            is_number = isinstance(recorded, float | int) and abs(recorded) <= LARGEST  # some integers are no floats
            return is_number and math.isclose(recorded, expected, rel_tol=RELATIVE)
    return recorded == expected


def _tolerance(images: int) -> float:
    return max(ACCURACY, 1.5 / images)  # on few images, one of which may change its class, 0.0002 is none


def _is_close(recorded: float, expected: float) -> bool:
    return math.isclose(recorded, expected, rel_tol=RELATIVE, abs_tol=ABSOLUTE)


def _is_predicted(stored: NDArray[np.float32], expected: NDArray[np.float32]) -> bool:
    """Tell whether log-probabilities (images, classes), -inf where none is stored, are those that are expected."""
    differences = np.where(np.isfinite(stored), np.abs(expected - stored), 0)
    of_predicted = np.abs(expected.max(1) - stored.max(1))  # or a class could be left out that is more probable
    return bool(max(differences.max(), of_predicted.max()) <= LOG_PROBABILITY)


# ---------------------------------------------------------------------------------------------------------------------
# Settings and history


def _compare_with_history(experiment: Experiment, result: Row, history: list[Row], images: int) -> Iterator[str]:
    stopping = EarlyStopping.of(experiment, runs=1)
    for row in history:
        stopping.step({name: [row[name]] for name in ("val_loss", "val_accuracy")})
    epochs = stopping.stopped_epoch[0] or experiment.epochs
    chosen = (stopping.best_epoch[0] or 1) if stopping.restores_best else epochs
    if (result["epochs"], result["chosen_epoch"], len(history)) != (epochs, chosen, epochs):
        yield (
            f"{result['epochs']} epochs, epoch {result['chosen_epoch']} chosen, {len(history)} rows of history; "
            f"settings and history give {epochs} epochs and choose epoch {chosen}"
        )
        return
    row = history[chosen - 1]
    if not abs(row["val_accuracy"] - result["val_accuracy"]) <= _tolerance(images):
        yield f"validation accuracy of epoch {chosen} differs between history.csv and result.json"
    if not _is_close(row["val_loss"], result["val_loss"]):
        yield f"validation loss of epoch {chosen} differs between history.csv and result.json"


def _compare_with_settings(
    experiment: Experiment, result: Row, history: list[Row], network: nn.Module, images: int
) -> Iterator[str]:
    """Compare rates and penalty, the count of batches, scales that are frozen, and norms that are limited."""
    chosen, steps = result["chosen_epoch"], len(data.list_batches(images, experiment.batch_size))
    if {row["seed"] for row in history} != {result["seed"]}:
        yield f"history.csv is not of seed {result['seed']}"
    rates = list_learning_rates(experiment, min(len(history), experiment.epochs), steps)
    for row, rate in zip(history, rates, strict=False):
        if not math.isclose(row["lr"], rate, rel_tol=EXACT):
            yield f"the learning rate of epoch {row['epoch']} is {row['lr']:g}, the settings give {rate:g}"
            break
    penalty = Penalty.of(experiment, network, runs=1).value().item()
    if not _is_close(recorded := history[chosen - 1]["penalty"], penalty):
        yield f"the penalty of epoch {chosen} is {recorded:.4g}, weights and settings give {penalty:.4g}"
    for name, tensor in network.state_dict().items():
        if name.endswith(".num_batches_tracked") and tensor != chosen * steps:
            yield f"{name} is {tensor:,}, the settings give {chosen * steps:,} batches in {chosen} epochs"
            break
    scales = [layer.weight for layer in network.modules() if isinstance(layer, NORM_LAYERS)]
    if experiment.freeze_gamma and any((scale != 1).any() for scale in scales):
        yield "the scale of a normalization is not 1, but --freeze-gamma was given"
    if largest := experiment.max_norm:
        norms = [weight.flatten(1).norm(dim=1).max().item() for weight in select_penalized(network).values()]
        if max(norms) > largest * (1 + RELATIVE):
            yield f"the weights of a unit have the norm {max(norms):.4g}, above --max-norm {largest:g}"


def list_learning_rates(experiment: Experiment, epochs: int, steps: int) -> list[float]:
    """List the learning rate with which each of an experiment's first epochs begins.

    Args:
        steps: the number of batches in an epoch.
    """
    optimizer = training.make_optimizer(experiment, nn.Linear(1, 1))
    scheduler = training.make_scheduler(experiment, optimizer, steps)
    optimizer.step()  # without gradients it changes nothing, but torch expects it before the scheduler's
    rates = [experiment.lr] * epochs
    for epoch in range(epochs if scheduler else 0):
        if epoch:
            if experiment.lr_scheduler != "step":
                scheduler.last_epoch = epoch * steps - 1  # the rate depends on the number of steps alone
            scheduler.step()
        rates[epoch] = optimizer.param_groups[0]["lr"]
    return rates
