"""Copies: runs whose weights come from another run, also if somebody disguised them.

    traces = [trace_run(record, seed, name) for record, seed, name in submission.runs]
    for copy in find_copies(traces):
        print(copy)     # single/mlp1 seed 2 has the weights of single/mlp1 seed 1 (equal weights with different seeds)

Runs of different seeds start from different weights and see the images in different orders. They learn as much, but few
units (neurons, or channels of a convolution) of the one have a twin among the units of the other. In a copy, every unit
has a twin whose incoming weights point in the same direction: also after noise was added, units were put into another
order or rescaled, or training went on for an epoch. Predictions tell less: another epoch changes them nearly as much as
another seed does.

Runs of the same seed start from the same weights, so they may be alike although their settings differ, and equal if
their settings are the same. Among these, only equal weights, or equal training times, tell a copy.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from analysis.findings import build_network_of
from engine import run_files
from engine.files import reading
from engine.records import Record
from experiments import LARGEST, Experiment, default_of
from models import CNNS, MLP_WIDTHS
from training import Weights

LEAST = 0.7  # correlation that makes a copy; see docs/grading.md#copies
HONEST = 0.56  # the largest correlation found between runs of different seeds
FEWEST_UNITS = 8  # of the first layer; with fewer units, or without a hidden layer, all seeds may learn the same
TINY = torch.finfo(torch.float64).tiny  # instead of lengths that are 0
BATCH_NORM_EPS = nn.BatchNorm2d(1).eps  # added to its variance
MOST_NUMBERS = 2**24  # of the runs that a run is compared with at once
# Below these, augmentation may leave every pixel of an image where it is, or move black ones alone.
FAINT = dict(rotation=5.0, affine_degrees=5.0, affine_translate=0.02, affine_scale=0.08, elastic=0.3)
ENOUGH = 10_000  # weights that are compared, from the first layer on: a class may hand in thousands of runs


@dataclass(frozen=True)
class Trace:
    """What a run's weights tell about where they come from."""

    name: str
    seed: int
    experiment: Experiment  # simplified
    chosen_epoch: int  # whose weights these are
    seconds: float  # that training took
    layers: list[Tensor]  # directions of the units' incoming weights, each (units, inputs, pixels of a kernel)
    shares: list[Tensor]  # shares of the units in the sum of their lengths, each (units,)

    @property
    def steps(self) -> tuple[Experiment, int]:
        """What decides the weights, beside the seed."""
        return self.experiment, self.chosen_epoch

    @property
    def is_telling(self) -> bool:
        """Whether independent seeds have different weights."""
        return len(self.layers) > 1 and len(self.layers[0]) >= FEWEST_UNITS

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the layers; only runs of equal shapes can be copies."""
        return [tuple(layer.shape) for layer in self.layers]


class Copy(NamedTuple):
    """A run that is a copy of another, or the other of it."""

    name: str
    of: str
    why: str

    def __str__(self) -> str:
        return f"{self.name} has the weights of {self.of} ({self.why})"


def trace_run(record: Record, seed: int, name: str) -> Trace:
    """Read from a run's weights what is compared with other runs.

    Raises:
        RecordError: the weights cannot be read, or are not those of a network.
    """
    folder = record.run_folder(seed)
    weights = run_files.read_weights(folder)
    with reading(folder / "weights.pt"):
        in_order = build_network_of(record).state_dict()  # a file may hold them in another
        layers, shares = measure_units({name: weights[name] for name in in_order})
    epoch, seconds = (record.results[seed][key] for key in ("chosen_epoch", "seconds"))
    return Trace(name, seed, simplify(record.experiment), epoch, seconds, layers, shares)


def measure_units(weights: Weights) -> tuple[list[Tensor], list[Tensor]]:
    """Measure (directions, shares) of the units in a network's layers, as a `Trace` holds them.

    A layer's inputs count by the strengths of the units that they come from: the lengths of the weights to these units
    or, after a normalization layer, its scale; after batch normalization, the lengths too, divided by its standard
    deviation. So neither rescaled units nor units that a penalty has shrunk to nothing hide a copy. A unit whose
    normalization has a negative scale counts with opposite weights or, behind the activation, opposite strength: the
    network computes the same if both signs change.

    Args:
        weights: in the order of the network's layers.

    Raises:
        ValueError, RuntimeError: the weights are not those of a network.
    """
    layers: list[Tensor] = []
    shares: list[Tensor] = []
    strengths, lengths, next_place = torch.ones(1), torch.ones(1), ""
    for name, tensor in weights.items():
        *_, place, _ = name.split(".")
        if tensor.dim() in (2, 4):
            if len(layers) > 1 and sum(layer.numel() for layer in layers) >= ENOUGH:
                break
            layer = tensor.double().reshape(*tensor.shape[:2], -1)  # the squares of single precision may overflow
            if layers:
                layer = layer * strengths[:, None]
            elif tensor.dim() == 2:
                layer = layer[:, list_middle_pixels(layer.shape[1])]
            strengths = lengths = layer.norm(dim=(1, 2))
            shares.append(lengths / lengths.sum().clamp(min=TINY))
            layers.append(layer)
            next_place = str(int(place) + 1)
        elif name.endswith(".weight"):  # of a normalization layer
            strengths = tensor.double().reshape(len(tensor), -1).mean(1)
            if place == next_place:  # before the activation
                layers[-1] = layers[-1] * strengths.sign()[:, None, None]
                strengths = strengths.abs()
        elif name.endswith(".running_var"):
            strengths = strengths * lengths / (tensor.double() + BATCH_NORM_EPS).clamp(min=TINY).sqrt()
    if not layers:
        raise ValueError("it holds no layer")
    directions = [_scale_to_one(layer) for layer in layers]  # first, or the largest unit would be all units' mean
    directions = [_scale_to_one(layer - layer.mean(0)) for layer in directions]  # what all share tells nothing
    return [layer.float() for layer in directions], [share.float() for share in shares]


def _scale_to_one(layer: Tensor) -> Tensor:
    """Scale the weights to each unit to length 1; units without weights stay at 0."""
    return layer / layer.norm(dim=(1, 2), keepdim=True).clamp(min=TINY)


def list_middle_pixels(inputs: int) -> Tensor:
    """List the inputs of an MLP that are compared: the middle half of the images' rows and columns.

    Around them, MNIST has pixels that are black in every image, and whatever weights they have, a network computes the
    same.
    """
    channels = 3 if inputs % 3 == 0 else 1  # neither 28 nor 32 pixels a side are a multiple of 3
    side = math.isqrt(inputs // channels)
    middle = torch.arange(side // 4, side - side // 4)
    pixels = torch.cartesian_prod(torch.arange(channels), middle, middle)
    return pixels @ torch.tensor([side * side, side, 1])


def correlate(mine: Trace, others: Sequence[Trace], least: float = -1) -> dict[int, float]:
    """Compute the correlation of a run with each of several runs of equal shapes, in bounded memory.

    Returns:
        {index: correlation} of the others whose correlation is `least` at least.
    """
    of_each = max(max(layer.numel(), len(layer) ** 2) for layer in mine.layers)
    at_once = max(1, MOST_NUMBERS // of_each)
    found: dict[int, float] = {}
    for start in range(0, len(others), at_once):
        of_some = _correlate_at_once(mine, others[start : start + at_once], least)
        found |= {start + index: correlation for index, correlation in of_some.items()}
    return found


def _correlate_at_once(mine: Trace, others: Sequence[Trace], least: float) -> dict[int, float]:
    """Compute the correlation of a run with each of several runs: that of the layer with the lowest.

    The twin of a unit is the unit of the other run whose incoming weights are most similar. In the next layer, the
    inputs of the other run are put into the order of the twins. The correlation of a layer is the mean over its units
    of the similarity of twins, by the units' shares in one run or in the other; units that are not each other's twins
    count as 0.
    """
    found, twins = dict.fromkeys(range(len(others)), 1.0), torch.empty(0)
    for number, layer in enumerate(mine.layers):
        theirs = torch.stack([others[index].layers[number] for index in found])
        if number:
            theirs = theirs.gather(2, twins[:, None, :, None].expand(-1, theirs.shape[1], -1, theirs.shape[3]))
        units = theirs.shape[:2]
        similar = (theirs.flatten(0, 1).flatten(1) @ layer.flatten(1).T).view(*units, -1)  # last dimension: my units
        of_twins, twins = similar.max(1)
        of_twins *= similar.argmax(2).gather(1, twins) == torch.arange(len(layer))
        shares = torch.stack([others[index].shares[number] for index in found]).gather(1, twins)
        correlations = torch.maximum(of_twins @ mine.shares[number], (of_twins * shares).sum(1))
        twins = twins[correlations >= least]
        pairs = zip(found.items(), correlations.tolist(), strict=True)
        found = {index: min(before, now) for (index, before), now in pairs if now >= least}
        if not found:
            break
    return found


def find_copies(mine: Sequence[Trace], theirs: Sequence[Trace] | None = None) -> list[Copy]:
    """Find the runs that are copies of others.

    Args:
        theirs: the runs of another submission; None: compare the runs of one submission with each other.
    """
    found = []
    for number, trace in enumerate(mine):
        others = list(mine[:number] if theirs is None else theirs)
        if theirs is None:  # a student may keep the same run under two titles
            others = [other for other in others if (other.seed, other.steps) != (trace.seed, trace.steps)]
        others = [other for other in others if other.shapes == trace.shapes]
        for index, correlation in correlate(trace, others, LEAST).items() if others else ():
            if why := judge(trace, others[index], correlation):
                found.append(Copy(trace.name, others[index].name, why))
    return found


def judge(mine: Trace, theirs: Trace, correlation: float) -> str | None:
    """Say why one of two runs is a copy of the other; return None if honest training explains their correlation."""
    are_equal = all(map(torch.equal, mine.layers, theirs.layers))
    match mine.seed == theirs.seed, mine.steps == theirs.steps:
        case True, True:
            return "the same seed, settings and training time" if mine.seconds == theirs.seconds else None
        case True, False:
            return "equal weights with different settings" if are_equal else None
    if are_equal:
        return "equal weights with different seeds"
    if not mine.is_telling:
        return None
    return f"correlation {correlation:.2f}, which between independent seeds is at most {HONEST}"


def simplify(experiment: Experiment) -> Experiment:
    """Map experiments that may take the same training steps, and so have equal weights, to one representative.

    A limit of norms may never be reached, a faint augmentation may change no image, and data sets of two names may hold
    the same images.
    """
    early_stopping: dict[str, Any] = dict(
        patience=None, monitor="val_loss", min_delta=0.0, start_from_epoch=1, restore="best"
    )
    step_size = experiment.lr_step_size
    if step_size and (step_size >= experiment.epochs or experiment.patience is not None):  # none may ever be taken
        experiment = replace(experiment, lr_scheduler="constant", lr_step_size=None, lr_gamma=default_of("lr_gamma"))
    depends_on_epochs = experiment.lr_scheduler in ("one_cycle", "cosine")
    epochs = experiment.epochs if depends_on_epochs else 1 + (experiment.warmup or 0)  # with which any other fits
    experiment = replace(experiment, **early_stopping, epochs=epochs, max_norm=None, clip_norm=None, dataset=None)
    faint: dict[str, Any] = {name: 0.0 for name, least in FAINT.items() if getattr(experiment, name) < least}
    if "rotation" in faint:
        faint["rotation_fill"] = 0
    if faint.keys() >= FAINT.keys() - {"affine_translate"}:
        faint["interpolation"] = "nearest"
    experiment = replace(experiment, **faint)
    if experiment.optimizer == "adamw" and not experiment.weight_decay:
        experiment = replace(experiment, optimizer="adam")
    if experiment.l2 and experiment.l2_form == "square" and experiment.optimizer != "adamw":
        experiment = replace(experiment, l2=0.0, weight_decay=min(experiment.weight_decay + 2 * experiment.l2, LARGEST))
    if experiment.model in CNNS and experiment.norm == "none":  # it has no parameters but weights
        experiment = replace(experiment, penalize="weights")
    if hidden := MLP_WIDTHS.get(experiment.model):
        experiment = replace(experiment, model="mlp", hidden=hidden)
    widths, size = set(experiment.hidden or ()), experiment.group_size
    if size and len(widths) == 1 and (width := widths.pop()) % size == 0:
        experiment = replace(experiment, groups=width // size, group_size=None)
    if experiment.norm == "group" and experiment.groups == 1:
        experiment = replace(experiment, norm="layer", groups=None)
    if experiment.norm == "ghost" and experiment.ghost_splits == 1:
        experiment = replace(experiment, norm="batch", ghost_splits=None)
    return experiment
