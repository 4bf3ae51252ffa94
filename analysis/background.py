"""The report's background: what each technique does, its formula and our convention, and the sources.

The text is `templates/background.md`; its numbers are computed here, with the layers and penalties that networks are
trained with, whenever a report is made.
"""

from functools import cache, partial
from statistics import mean, median

import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from torch import nn

from analysis.compare import mean_interval
from analysis.page import TEMPLATES
from early_stopping import EarlyStopping
from models import normalization, parameter_count
from regularizers import SMALL, Penalty

SHAPE = (32, 16, 4, 4)  # images, channels, rows, columns
DROPOUT = 0.25
NORMS = {  # with their settings, and how many means each takes of a batch
    "batch": ({}, "channels"),
    "ghost": ({"ghost_splits": 4}, "splits × channels"),
    "layer": ({}, "images"),
    "layer_chw": ({}, "images"),
    "group": ({"groups": 2}, "groups × images"),
}
OPTIMIZERS = {
    "SGD": partial(torch.optim.SGD, lr=0.1),
    "SGD, momentum 0.9": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    "Adam": partial(torch.optim.Adam, lr=0.1),
    "AdamW": partial(torch.optim.AdamW, lr=0.1),
}
STEPS = 100
TARGETS = torch.tensor([1.0, 0.35, 0.12, -0.05], dtype=torch.float64)  # a, where ½(w − a)² is least


@cache
def background():
    """The section in Markdown, its headings of the third level; the same every time."""
    environment = Environment(loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= dict(number=number, listed=listed)
    return environment.get_template("background.md").render(
        outlier=outlier_example(),
        zeros=zeros_example(),
        small=SMALL,
        decay=decay_example(),
        stopping=stopping_example(),
        dropout=dict(p=DROPOUT, kept=1 / (1 - DROPOUT)),
        batch_norm=batch_norm_example(),
        shape=SHAPE,
        norms=norm_rows(),
        not_group_means=SHAPE[1] // NORMS["group"][0]["groups"] * SHAPE[0],
        seeds=seeds_example(),
    )


def number(value, places):
    """An exact zero is `0`, to be told from what is rounded to it."""
    return f"{value:z.{places}f}".replace("-", "−") if value else "0"


def listed(values, places):
    *others, last = (number(value, places) for value in values)
    return f"{', '.join(others)} and {last}"


# ---------------------------------------------------------------------------------------------------------------------
# Penalties and early stopping


def minimize(loss, start, optimizer, **penalty):
    """The weights to which STEPS steps of training lead from `start`, of any shape, by `loss` and a `Penalty`."""
    weights = nn.Parameter(start.clone())
    optimizer, penalty = optimizer([weights]), Penalty([weights], **penalty)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss(weights).backward()
        penalty.add_gradient()
        optimizer.step()
        penalty.shrink(optimizer)
    return weights.detach()


def distance(weights):
    return (weights - TARGETS).square().sum() / 2


def outlier_example(numbers=(1, 2, 3, 4, 90), l1=0.5):
    """One number for several: by the L1 loss, by the L2 loss, and by half the L2 loss's mean with an L1 penalty."""
    data, start = torch.tensor(numbers, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    penalized = minimize(lambda weight: (weight - data).square().mean() / 2, start, OPTIMIZERS["SGD"], l1=l1)
    return dict(numbers=numbers, l1=l1, median=median(numbers), mean=mean(numbers), penalized=penalized.item())


def zeros_example(l1=0.2):
    """What two ways of minimizing ½(w − a)² + λ·|w| make of each target a: rows (a, minimum, subgradient, proximal)."""
    minima = TARGETS.sign() * (TARGETS.abs() - l1).clamp(min=0)
    subgradient, proximal = (
        minimize(distance, TARGETS, OPTIMIZERS["SGD"], l1=l1, l1_mode=mode) for mode in ("subgradient", "proximal")
    )
    return dict(
        l1=l1,
        steps=STEPS,
        lr=OPTIMIZERS["SGD"].keywords["lr"],
        rows=torch.stack([TARGETS, minima, subgradient, proximal], 1).tolist(),
        subgradient=int((subgradient == 0).sum()),
        proximal=int((proximal == 0).sum()),
    )


def decay_example(l2=0.05):
    """The largest difference, for each optimizer, between weights trained with L2 of λ and with weight decay of 2λ."""
    start = torch.ones_like(TARGETS)
    largest = {}
    for name, optimizer in OPTIMIZERS.items():
        decayed = minimize(distance, start, partial(optimizer, weight_decay=2 * l2))
        penalized = minimize(distance, start, partial(optimizer, weight_decay=0), l2=l2)  # AdamW's default is not 0
        largest[name] = (decayed - penalized).abs().max().item()
    return dict(l2=l2, steps=STEPS, largest=largest)


def stopping_example(losses=(0.50, 0.42, 0.40, 0.41, 0.39, 0.40, 0.42, 0.45, 0.47), patience=3):
    """After which epoch early stopping ends a training with these validation losses, and which it hands in."""
    stopping = EarlyStopping("val_loss", patience=patience)
    for loss in losses:
        stopping.step({"val_loss": [loss]})
    return dict(losses=losses, patience=patience, stopped=stopping.stopped_epoch[0], best=stopping.best_epoch[0])


# ---------------------------------------------------------------------------------------------------------------------
# Normalization


def batch_norm_example(numbers=(0, 0, 0, 0, 0, 0, 0, 8)):
    """What batch normalization makes of a feature of as many images, and then with the scale and shift that undo it."""
    x = torch.tensor(numbers, dtype=torch.float64).view(-1, 1)
    layer = normalization((1,), "batch").double()
    with torch.no_grad():
        normalized = layer(x)
        layer.weight.copy_((x.var(0, correction=0) + layer.eps).sqrt())
        layer.bias.copy_(x.mean(0))
        undone = layer(x)
    return dict(
        numbers=numbers,
        mean=normalized.mean().item(),
        variance=normalized.var(correction=0).item(),
        ends=(normalized.min().item(), normalized.max().item()),
        undone=undone.flatten().tolist(),
    )


def means(layer, x):
    """The means that a layer takes of a batch, found by which inputs each output depends on.

    Args:
        x: (images, channels, rows, columns).

    Returns:
        For each mean, how many (images, channels, rows, columns) it is over. There is none where every output depends
        on its own input alone.
    """
    x = x.clone().requires_grad_()
    y = layer(x)
    found, left = [], torch.ones(x.shape, dtype=torch.bool)
    while left.any():
        (gradient,) = torch.autograd.grad(y[tuple(left.nonzero()[0])], x, retain_graph=True)
        together = gradient != 0
        left &= ~together
        if together.sum() > 1:
            found.append(tuple(places.unique().numel() for places in together.nonzero().T))
    return found


def norm_rows():
    """For each normalization layer: its flags, the means it takes, and how many scales and shifts it has."""
    x = torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = []
    for norm, (settings, formula) in NORMS.items():
        layer = normalization(SHAPE[1:], norm, **settings).double()
        of_batch = means(layer, x)
        flags = {"norm": norm, **settings}
        rows.append(
            dict(
                flags=" ".join(f"--{name.replace('_', '-')} {value}" for name, value in flags.items()),
                means=len(of_batch),
                formula=formula,
                over=" × ".join(map(str, of_batch[0])),
                evaluation=len(means(layer.eval(), x[:1])),
                parameters=parameter_count(layer),
            )
        )
    return rows


# ---------------------------------------------------------------------------------------------------------------------
# Seeds


def seeds_example(accuracies=(87.9, 88.3, 88.1, 87.6, 88.6), comparisons=10):
    """An interval over seeds, and the chance that one of several comparisons at 5 % finds what is not there."""
    average, half_width = mean_interval(accuracies)
    return dict(
        accuracies=accuracies,
        mean=average,
        half_width=half_width,
        comparisons=comparisons,
        by_chance=1 - 0.95**comparisons,
    )
