"""The background section of the report: formulas, conventions, examples and sources for each technique.

The text is in `templates/background.md`. The numbers in its examples are computed here for every report, with the same
layers and penalties that the networks are trained with.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from statistics import mean, median
from typing import Any

import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from torch import Tensor, nn

from analysis.compare import compute_mean_interval
from analysis.document import TEMPLATES
from early_stopping import EarlyStopping
from experiments import flag_of
from models import build_norm, count_parameters
from regularizers import SMALL, Average, Penalty, clip_gradients, limit_norms

Loss = Callable[[Tensor], Tensor]
MakeOptimizer = Callable[..., torch.optim.Optimizer]
Numbers = dict[str, Any]  # {name in the template: value}

SHAPE = (32, 16, 4, 4)  # images, channels, rows, columns
EXAMPLE_DROPOUT = 0.25
NORM_EXAMPLES: dict[str, tuple[dict[str, Any], str]] = {  # {norm: (settings, formula for the number of means)}
    "batch": ({}, "channels"),
    "ghost": ({"ghost_splits": 4}, "splits × channels"),
    "layer": ({}, "images"),
    "layer_chw": ({}, "images"),
    "group": ({"groups": 2}, "groups × images"),
}
STEPS, LR = 100, 0.1
OPTIMIZERS: dict[str, MakeOptimizer] = {
    "SGD": partial(torch.optim.SGD, lr=LR),
    "SGD, momentum 0.9": partial(torch.optim.SGD, lr=LR, momentum=0.9),
    "Adam": partial(torch.optim.Adam, lr=LR),
    "AdamW": partial(torch.optim.AdamW, lr=LR),
}
TARGETS = torch.tensor([1.0, 0.35, 0.12, -0.05], dtype=torch.float64)  # the values of a in ½(w − a)²


@cache
def write_background() -> str:
    """Write the section in Markdown, with third-level headings; the text is the same in every report."""
    environment = Environment(loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= dict(number=format_number, listed=format_list)
    return environment.get_template("background.md").render(
        outlier=make_outlier_example(),
        zeros=make_zeros_example(),
        small=SMALL,
        decay=make_decay_example(),
        stopping=make_stopping_example(),
        dropout=dict(p=EXAMPLE_DROPOUT, kept=1 / (1 - EXAMPLE_DROPOUT)),
        smooth=make_smoothing_example(),
        limits=make_limits_example(),
        average=make_average_example(),
        batch_norm=make_batch_norm_example(),
        shape=SHAPE,
        norms=make_norm_rows(),
        not_group_means=SHAPE[1] // NORM_EXAMPLES["group"][0]["groups"] * SHAPE[0],
        seeds=make_seeds_example(),
    )


def format_number(value: float, places: int) -> str:
    """Format a number; an exact zero becomes `0`, a number rounded to zero keeps its decimals (`0.00`)."""
    return f"{value:z.{places}f}".replace("-", "−") if value else "0"


def format_list(values: Iterable[float], places: int) -> str:
    """Format numbers as `1, 2 and 3`."""
    *others, last = (format_number(value, places) for value in values)
    return f"{', '.join(others)} and {last}"


# ---------------------------------------------------------------------------------------------------------------------
# Penalties, early stopping and seeds


def minimize(loss: Loss, start: Tensor, make_optimizer: MakeOptimizer, **settings: Any) -> Tensor:
    """Minimize a loss plus a `Penalty` with these settings, for STEPS steps from `start` (any shape)."""
    weights = nn.Parameter(start.clone())
    optimizer, penalty = make_optimizer([weights]), Penalty([weights], **settings)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss(weights).backward()
        penalty.add_gradient()
        optimizer.step()
        penalty.shrink(optimizer)
    return weights.detach()


def compute_distance(weights: Tensor) -> Tensor:
    """Compute the sum of ½(w − a)² over the weights w and their targets a."""
    return (weights - TARGETS).square().sum() / 2


def make_outlier_example(numbers: Sequence[int] = (1, 2, 3, 4, 90), l1: float = 0.5) -> Numbers:
    """Find the minima of the L1 loss, of the L2 loss, and of half the mean squared error plus an L1 penalty."""
    data, start = torch.tensor(numbers, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    penalized = minimize(lambda weight: (weight - data).square().mean() / 2, start, OPTIMIZERS["SGD"], l1=l1)
    return dict(numbers=numbers, l1=l1, median=median(numbers), mean=mean(numbers), penalized=penalized.item())


def make_zeros_example(l1: float = 0.2) -> Numbers:
    """Minimize ½(w − a)² + λ·|w| in both L1 modes; the rows are (a, exact minimum, subgradient, proximal)."""
    minima = TARGETS.sign() * (TARGETS.abs() - l1).clamp(min=0)
    minimize_by = partial(minimize, compute_distance, TARGETS, OPTIMIZERS["SGD"], l1=l1)
    subgradient, proximal = minimize_by(l1_mode="subgradient"), minimize_by(l1_mode="proximal")
    return dict(
        l1=l1,
        steps=STEPS,
        lr=LR,
        rows=torch.stack([TARGETS, minima, subgradient, proximal], 1).tolist(),
        subgradient=int((subgradient == 0).sum()),
        proximal=int((proximal == 0).sum()),
    )


def make_decay_example(l2: float = 0.05) -> Numbers:
    """Measure how far L2 of λ and weight decay of 2λ lead apart, for each optimizer.

    They agree under SGD and Adam, not under AdamW.
    """
    start = torch.ones_like(TARGETS)
    largest = {}
    for name, optimizer in OPTIMIZERS.items():
        decayed = minimize(compute_distance, start, partial(optimizer, weight_decay=2 * l2))
        without_decay = partial(optimizer, weight_decay=0)  # AdamW decays weights by default
        penalized = minimize(compute_distance, start, without_decay, l2=l2)
        largest[name] = (decayed - penalized).abs().max().item()
    return dict(l2=l2, steps=STEPS, largest=largest)


def make_stopping_example() -> Numbers:
    """Find the epoch after which early stopping stops a run, and the epoch with the best loss."""
    losses, patience = (0.50, 0.42, 0.40, 0.41, 0.39, 0.40, 0.42, 0.45, 0.47), 3
    stopping = EarlyStopping("val_loss", patience=patience)
    for loss in losses:
        stopping.step({"val_loss": [loss]})
    return dict(losses=losses, patience=patience, stopped=stopping.stopped_epoch[0], best=stopping.best_epoch[0])


def make_smoothing_example(classes: int = 10, smoothing: float = 0.1) -> Numbers:
    """Compute the probabilities in a smooth label and the least loss that it allows, that of predicting just them."""
    label = torch.full((1, classes), smoothing / classes, dtype=torch.float64)
    label[0, 0] += 1 - smoothing
    target = torch.zeros(1, dtype=torch.long)
    least = nn.functional.cross_entropy(label.log(), target, label_smoothing=smoothing).item()
    return dict(classes=classes, smoothing=smoothing, own=label[0, 0].item(), other=label[0, 1].item(), least=least)


def make_limits_example(vector: Sequence[float] = (3, 4), largest: float = 1) -> Numbers:
    """Shorten a vector to a norm of at most `largest`, once as a gradient and once as the weights of a unit."""
    weights = nn.Parameter(torch.tensor(vector, dtype=torch.float64).view(-1, 1))  # (in, out)
    weights.grad = weights.detach().clone()
    clip_gradients([weights], largest, runs=1)
    gradient = weights.grad.flatten().tolist()
    limit_norms([weights], largest, runs=1)
    return dict(vector=vector, largest=largest, gradient=gradient, weights=weights.flatten().tolist())


def make_average_example(decay: float = 0.9, weights: Sequence[float] = (1, 2, 3)) -> Numbers:
    """Average a weight that takes some values one after the other, with the start corrected and without."""
    model = nn.ParameterList([torch.zeros(1, dtype=torch.float64)])
    average, plain = Average(model, decay), 0.0
    for weight in weights:
        nn.init.constant_(model[0], weight)
        average.update()
        plain = decay * plain + (1 - decay) * weight
    (corrected,) = average.model.parameters()
    return dict(decay=decay, weights=weights, corrected=corrected.item(), plain=plain)


def make_seeds_example() -> Numbers:
    """Compute an interval over seeds, and the probability of a false positive among several tests at 5 %."""
    accuracies, comparisons = (87.9, 88.3, 88.1, 87.6, 88.6), 10
    average, half_width = compute_mean_interval(accuracies)
    by_chance = 1 - 0.95**comparisons
    return dict(
        accuracies=accuracies, mean=average, half_width=half_width, comparisons=comparisons, by_chance=by_chance
    )


# ---------------------------------------------------------------------------------------------------------------------
# Normalization


def make_batch_norm_example(numbers: Sequence[int] = (0, 0, 0, 0, 0, 0, 0, 8)) -> Numbers:
    """Normalize one feature of a batch of images, then undo the normalization with the layer's scale and shift."""
    x = torch.tensor(numbers, dtype=torch.float64).view(-1, 1)
    layer = build_norm((1,), "batch")
    assert isinstance(layer, nn.BatchNorm1d)
    layer.double()
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


def find_means(layer: nn.Module, x: Tensor) -> list[tuple[int, ...]]:
    """Find the means that a layer computes over a batch, from the inputs that each output depends on.

    Args:
        x: the batch, (images, channels, rows, columns).

    Returns:
        For each mean, the numbers of (images, channels, rows, columns) that it is taken over. The list is empty if
        each output depends on a single input.
    """
    x = x.clone().requires_grad_()
    y = layer(x)
    means, left = [], torch.ones(x.shape, dtype=torch.bool)
    while left.any():
        (gradient,) = torch.autograd.grad(y[tuple(left.nonzero()[0])], x, retain_graph=True)
        together = gradient != 0
        left &= ~together
        if together.sum() > 1:
            means.append(tuple(places.unique().numel() for places in together.nonzero().T))
    return means


def make_norm_rows() -> list[Numbers]:
    """List the flags, the means, and the number of scales and shifts for each normalization layer."""
    x = torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = []
    for norm, (settings, formula) in NORM_EXAMPLES.items():
        layer = build_norm(SHAPE[1:], norm, **settings)
        assert layer is not None
        means = find_means(layer.double(), x)
        flags = {"norm": norm, **settings}
        rows.append(
            dict(
                flags=" ".join(f"{flag_of(name)} {value}" for name, value in flags.items()),
                means=len(means),
                formula=formula,
                over=" × ".join(map(str, means[0])),
                evaluation=len(find_means(layer.eval(), x[:1])),
                parameters=count_parameters(layer),
            )
        )
    return rows
