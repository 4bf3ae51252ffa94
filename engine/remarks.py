"""Remarks on an experiment before it trains: what its penalties act on, and which settings cannot have an effect.

list_idle(experiment, dataset)      # ["--patience 5 ends no run before --epochs 4"]
"""

import torch
from torch import nn

import models
import regularizers
from augmentation import Augmentation
from data import Dataset, list_batches
from experiments import Experiment, flag_of
from models import count_equal_parts

TURNS = (("rotation",), ("affine_degrees", "affine_translate", "affine_scale", "elastic"))  # settings of one resampling
DRAWS = 256  # random turns that are tried for an effect
SHORTEST_CYCLE = 4  # steps in which the learning rate of one_cycle rises and falls


def describe_penalties(experiment: Experiment, network: nn.Module) -> list[str]:
    """Describe the penalized parameters in a list of one line; without a penalty, return an empty list."""
    if not (experiment.l1 or experiment.l2 or experiment.weight_decay):
        return []
    chosen = regularizers.select_penalized(network, experiment.penalize)
    count, total = sum(parameter.numel() for parameter in chosen.values()), models.count_parameters(network)
    return [
        f"penalized: {count:,} of {total:,} parameters a run, in {len(chosen)} of "
        f"{len(list(network.parameters()))} tensors (--penalize {experiment.penalize})"
    ]


def list_idle(experiment: Experiment, dataset: Dataset) -> list[str]:
    """List the settings that cannot have their full effect, each with the reason."""
    epochs, patience, step_size = experiment.epochs, experiment.patience, experiment.lr_step_size
    sizes = [end - start for start, end in list_batches(len(dataset.train), experiment.batch_size)]
    idle = []
    if step_size and step_size >= epochs:
        idle.append(f"--lr-step-size {step_size} is not reached in --epochs {epochs}")
    if patience and experiment.start_from_epoch + patience >= epochs:
        idle.append(f"--patience {patience} ends no run before --epochs {epochs}")
    if experiment.lr_scheduler == "one_cycle" and (steps := epochs * len(sizes)) < SHORTEST_CYCLE:
        idle.append(f"--lr-scheduler one_cycle cannot rise and fall in {steps} steps")
    if splits := experiment.ghost_splits:
        parts = {size: count_equal_parts(size, splits) for size in sizes}
        idle += [
            f"--ghost-splits {splits} makes {count} part{'s'[: count - 1]} of a batch of {size} images"
            for size, count in parts.items()
            if count < splits
        ]
    for names in TURNS:
        given = [f"{flag_of(name)} {getattr(experiment, name):g}" for name in names if getattr(experiment, name)]
        if given and not _moves_pixels(experiment, names, dataset.shape):
            idle.append(f"{' and '.join(given)} moved no pixel in {DRAWS} draws")
    return idle


def _moves_pixels(experiment: Experiment, names: tuple[str, ...], shape: tuple[int, int, int]) -> bool:
    """Tell whether the random turns of some settings change an image whose pixels differ from their neighbours."""
    turn = Augmentation(interpolation=experiment.interpolation, **{name: getattr(experiment, name) for name in names})
    _, height, width = shape
    image = torch.arange(height * width).remainder(251).to(torch.uint8).view(1, 1, height, width)
    images = image.repeat(DRAWS, 1, 1, 1)
    turned = turn(images, turn.draw(DRAWS, (1, height, width), torch.Generator().manual_seed(0)))
    return not torch.equal(turned, images.to(turned.dtype) / 255)
