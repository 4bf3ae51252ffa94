"""Draw how alike the weights of runs are: of independent runs, and of runs and their disguised copies.

examples:
  python -m docs.draw_copies --study fashion-mlp mnist-l1-l2-ghost      the runs of these studies under runs/

It compares all runs of different seeds, copies the last run of each experiment in several disguises, prints a table and
draws a figure. To train a copy for one more epoch takes seconds for an MLP, and up to a minute for a CNN.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

import side_by_side
import training
from analysis.findings import build_network_of, load_test_set
from data import Dataset
from engine import flags, records, run_files
from engine.records import Record
from grading.copies import LEAST, Trace, correlate, measure_units, trace_run
from studies import STUDIES
from training import Weights

INDEPENDENT, SAME_SEED = "other seed", "same seed, other settings"
NOISES = (0.01, 0.1, 0.3)

Disguise = Callable[[nn.Sequential, torch.Generator], None]


# ---------------------------------------------------------------------------------------------------------------------
# Disguises


def pair_layers(network: nn.Sequential) -> list[tuple[list[nn.Module], nn.Module]]:
    """List (a hidden layer and its normalization, the next layer) for each hidden layer."""
    groups: list[list[nn.Module]] = []
    for module in network:
        if isinstance(module, nn.Linear | nn.Conv2d):
            groups.append([module])
        elif groups and module.state_dict():
            groups[-1].append(module)
    return [(group, following[0]) for group, following in pairwise(groups)]


@torch.no_grad()
def add_noise(network: nn.Sequential, generator: torch.Generator, size: float) -> None:
    """Add normal noise to the weights, `size` times as large as each layer's weights on average."""
    for parameter in network.parameters():
        if parameter.dim() > 1:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(size * parameter.square().mean().sqrt() * noise)


@torch.no_grad()
def permute_units(network: nn.Sequential, generator: torch.Generator) -> None:
    """Put the units of each hidden layer into another order; the network computes the same."""
    for group, following in pair_layers(network):
        order = torch.randperm(len(group[0].state_dict()["weight"]), generator=generator)
        for module in group:
            for tensor in module.state_dict().values():
                if tensor.dim():
                    tensor.copy_(tensor[order].clone())
        weight = following.state_dict()["weight"]
        weight.copy_(weight[:, order].clone())


@torch.no_grad()
def rescale_units(network: nn.Sequential, generator: torch.Generator) -> None:
    """Multiply what each hidden unit puts out by a factor, and divide the weights from it by the same factor.

    The scale and the standard deviation of batch normalization are multiplied by another. The network computes the
    same. The factors are log-normal, most of them between a half and 2, but one unit's is a thousand times as large.
    """
    for group, following in pair_layers(network):
        state = group[-1].state_dict()
        factors, others = (0.7 * torch.randn(2, len(state["weight"]), generator=generator)).exp()
        factors[0] *= 1000
        if isinstance(group[-1], nn.BatchNorm1d | nn.BatchNorm2d):
            state["weight"].mul_(others)
            state["running_var"].add_(group[-1].eps).mul_(others.square()).sub_(group[-1].eps)
        for name in ("weight", "bias"):
            if name in state:
                state[name].mul_(factors.view(-1, *[1] * (state[name].dim() - 1)))
        weight = following.state_dict()["weight"]
        weight.div_(factors.view(1, -1, *[1] * (weight.dim() - 2)))


@torch.no_grad()
def flip_signs(network: nn.Sequential, generator: torch.Generator) -> None:
    """Change the signs of about half the units that have batch normalization; the network computes the same."""
    modules = list(network)
    for (layer, *norms), following in pair_layers(network):
        for norm in norms:
            if not isinstance(norm, nn.modules.batchnorm._BatchNorm):
                continue
            if modules.index(norm) == modules.index(layer) + 1:  # before the activation
                changed = [*layer.state_dict().values(), norm.weight, norm.running_mean]
            else:
                changed = [norm.weight, norm.bias, following.state_dict()["weight"].transpose(0, 1)]
            signs = 1 - 2 * torch.randint(2, (norm.num_features,), generator=generator).float()
            for tensor in changed:
                tensor.mul_(signs.view(-1, *[1] * (tensor.dim() - 1)))


def disguise_fully(network: nn.Sequential, generator: torch.Generator) -> None:
    """Add noise, permute, rescale and change signs."""
    add_noise(network, generator, NOISES[1])
    permute_units(network, generator)
    rescale_units(network, generator)
    flip_signs(network, generator)


DISGUISES: dict[str, Disguise] = {
    "other order of units": permute_units,
    "rescaled units": rescale_units,
    "other signs": flip_signs,
    **{f"noise of {size:.0%}": partial(add_noise, size=size) for size in NOISES},
    f"noise of {NOISES[1]:.0%}, other order, scales, signs": disguise_fully,
}


def train_further(record: Record, network: nn.Sequential, seed: int, dataset: Dataset) -> Weights:
    """Train a run's network for one more epoch, with another seed's order of the images, and return its weights."""
    dataset = replace(dataset, is_standardized=record.experiment.standardize)
    trainer = training.Trainer(record.experiment, dataset, [seed], "cpu")
    trainer.model.load_state_dict(side_by_side.join_networks([network]).state_dict())
    training.train_epoch(trainer, dataset, record.experiment.epochs + 1)
    return side_by_side.extract_run(trainer.model.state_dict(), 0, 1)


def make_copies(record: Record, seed: int, dataset: Dataset | None) -> Iterator[tuple[str, Weights]]:
    """Yield (disguise, weights) for each copy of a run."""
    weights = run_files.read_weights(record.run_folder(seed))
    for name, disguise in DISGUISES.items():
        network = build_network_of(record)
        network.load_state_dict(weights)
        disguise(network, torch.Generator().manual_seed(seed))
        yield name, network.state_dict()
    if dataset:
        network = build_network_of(record)
        network.load_state_dict(weights)
        yield "one more epoch", train_further(record, network, seed + 1000, dataset)


# ---------------------------------------------------------------------------------------------------------------------
# Correlations


def correlate_all(found: list[Record], data_dir: Path) -> dict[str, list[float]]:
    """Compute the correlations of all pairs of runs of a study, and of the last runs with their copies."""
    pairs: dict[str, list[float]] = {INDEPENDENT: [], SAME_SEED: []}
    traces: list[Trace] = []
    for record in found:
        for seed in record.results:
            trace = trace_run(record, seed, record.title)
            others = [other for other in traces if other.shapes == trace.shapes]
            for index, correlation in correlate(trace, others).items() if others else ():
                if trace.seed != others[index].seed:
                    pairs[INDEPENDENT].append(correlation)
                elif trace.experiment != others[index].experiment:
                    pairs[SAME_SEED].append(correlation)
            traces.append(trace)
        last = max(record.results)
        original = trace_run(record, last, record.title)
        for name, weights in make_copies(record, last, load_test_set(record, data_dir)[0]):
            layers, shares = measure_units(weights)
            copy = replace(original, seed=-1, layers=layers, shares=shares)
            pairs.setdefault(name, []).append(correlate(copy, [original])[0])
    return pairs


def draw(of_studies: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Draw a dot for each pair, with a row for each kind and a part for each study."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    parts = figure.subplots(1, len(of_studies), sharex=True, sharey=True, squeeze=False)[0]
    generator = np.random.default_rng(0)
    for axes, (study, pairs) in zip(parts, of_studies.items(), strict=True):
        for row, (kind, values) in enumerate(pairs.items()):
            heights = row + generator.uniform(-0.3, 0.3, len(values))
            color = {INDEPENDENT: "tab:gray", SAME_SEED: "tab:blue"}.get(kind, "tab:red")
            axes.scatter(values, heights, s=3, color=color, alpha=0.5, linewidths=0)
        axes.axvline(LEAST, color="black", linestyle=":", linewidth=1)
        axes.set(title=study, xlabel="correlation of the weights", xlim=(0, 1.02))
    kinds = max(of_studies.values(), key=len)
    parts[0].set_yticks(range(len(kinds)), list(kinds))
    parts[0].invert_yaxis()
    figure.savefig(path, dpi=110)


def make_copies_parser() -> flags.OneLineParser:
    """Make the parser of the command line."""
    parser = flags.make_parser("docs/draw_copies.py", __doc__)
    parser.add_argument("--study", nargs="+", choices=STUDIES, required=True, help="the studies whose runs to compare")
    parser.add_argument(
        "--out", type=Path, default=Path("copies.png"), help="file of the figure (default: %(default)s)"
    )
    flags.add_data_dir(parser)
    flags.add_runs_dir(parser)
    return parser


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, compare the runs, print a table in Markdown and draw the figure."""
    args: argparse.Namespace = make_copies_parser().parse(argv)
    torch.set_num_threads(1)
    of_studies = {}
    for study in args.study:
        found = [record for record in records.read_all(args.runs_dir, study)[0] if record.results]
        of_studies[study] = correlate_all(found, args.data_dir)
        print(f"\n| {study} | pairs | lowest | highest |\n| --- | ---: | ---: | ---: |")
        for kind, values in of_studies[study].items():
            print(f"| {kind} | {len(values):,} | {min(values):.2f} | {max(values):.2f} |", flush=True)
    draw(of_studies, args.out)


if __name__ == "__main__":
    main()
