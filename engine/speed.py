"""Time per run-epoch: for the plain loop of tutorials, for our training, and for the arithmetic alone.

seconds = time_ours(experiment, dataset, seeds=10, device="cpu")
"""

import contextlib
import heapq
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any

import joblib
import torch
from joblib.externals.loky import get_reusable_executor
from PIL import Image
from tabulate import tabulate
from torch import Tensor, nn

from data import Dataset, Split
from engine.pace import count_operations, set_fastest
from engine.plan import Plan, Task, TrainOptions, make_plan, measured_for
from engine.progress import Progress
from engine.provenance import describe_machine, read_cpu_name
from engine.workers import prepare_process, run_in_processes, train_units
from experiments import Experiment, UserError
from side_by_side import RunsLinear, join_networks
from sources.downloading import import_torchvision
from training import build_network, make_optimizer, train

LATE_RATIO = "late_over_first_epoch_with_l2"
LATE = 10  # epochs after which L2 has driven the weights of pixels that are hardly ever lit to denormal numbers
SIDE, PRODUCTS = 2048, 10  # side of the large matrices whose product is timed, and how often
TIMED_STEPS, SECONDS = 5, 2  # the least number of steps of the layers alone that are timed, and the least time for them


def take_part(dataset: Dataset, images: int | None) -> tuple[Dataset, float]:
    """Return a data set with fewer train images and the same share of the validation images, and this share.

    Args:
        images: number of train images to keep; None keeps all.
    """
    if images is None or images >= len(dataset.train):
        return dataset, 1.0
    share = images / len(dataset.train)
    counts = dict(train=images, validation=round(share * len(dataset.validation)), test=100)
    splits = {name: getattr(dataset, name) for name in counts}
    splits = {name: Split(split.images[: counts[name]], split.labels[: counts[name]]) for name, split in splits.items()}
    return replace(dataset, **splits), share


# ---------------------------------------------------------------------------------------------------------------------
# These functions return seconds per run-epoch: one run's training on all train images, and its validation


def time_plain_loop(experiment: Experiment, dataset: Dataset) -> float:
    """Time one epoch of a tutorial's loop: PIL images, torchvision's transforms, DataLoader, L1 by autograd."""
    torch.set_num_threads(joblib.cpu_count())
    transforms = import_torchvision().transforms
    normalize = [transforms.ToTensor()]
    if experiment.standardize:
        normalize.append(transforms.Normalize(dataset.mean, dataset.std))
    augment = []
    if experiment.crop_padding:
        size, padding = dataset.shape[1:], experiment.crop_padding
        mode = "constant" if experiment.crop_mode == "zero" else experiment.crop_mode
        augment.append(transforms.RandomCrop(size, padding, padding_mode=mode))
    if experiment.flip:
        augment.append(transforms.RandomHorizontalFlip())
    if experiment.rotation:
        augment.append(transforms.RandomRotation(experiment.rotation))
    if experiment.brightness or experiment.contrast:
        augment.append(transforms.ColorJitter(experiment.brightness, experiment.contrast))
    train_set = PlainImages(dataset.train, transforms.Compose(augment + normalize))
    validation_set = PlainImages(dataset.validation, transforms.Compose(normalize))
    train_loader = torch.utils.data.DataLoader(train_set, batch_size=experiment.batch_size, shuffle=True)
    validation_loader = torch.utils.data.DataLoader(validation_set, batch_size=experiment.batch_size)

    model = build_network(experiment, dataset.shape, len(dataset.classes), seed=0)
    optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), lr=experiment.lr)
    if experiment.optimizer == "sgd":
        momentum = make_optimizer(experiment, model).defaults["momentum"]
        optimizer = torch.optim.SGD(model.parameters(), experiment.lr, momentum)
    loss_of = nn.CrossEntropyLoss()

    started = time.perf_counter()
    model.train()
    total_loss = correct = 0
    for x, y in train_loader:
        optimizer.zero_grad()
        logits = model(x)
        loss = loss_of(logits, y)
        penalized = loss
        if experiment.l1:
            penalized = loss + experiment.l1 * sum(parameter.abs().sum() for parameter in model.parameters())
        penalized.backward()
        optimizer.step()
        total_loss += loss.item() * len(y)
        correct += (logits.argmax(1) == y).sum().item()
    model.eval()
    with torch.no_grad():
        for x, y in validation_loader:
            logits = model(x)
            total_loss += loss_of(logits, y).item() * len(y)
            correct += (logits.argmax(1) == y).sum().item()
    return time.perf_counter() - started


class PlainImages(torch.utils.data.Dataset):
    """A data set as in tutorials: each image is converted from array to PIL and transformed, one at a time."""

    def __init__(self, split: Split, transform: Callable) -> None:
        self.arrays = split.images.permute(0, 2, 3, 1).squeeze(3).numpy()
        self.labels, self.transform = split.labels.tolist(), transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.arrays[index])), self.labels[index]


def plan_ours(experiment: Experiment, dataset: Dataset, seeds: int, device: str) -> Plan:
    """Plan the training of some seeds as train.py does, and print the plan on stderr."""
    options = TrainOptions(list(range(seeds)), device=device)
    with contextlib.redirect_stdout(sys.stderr):  # so that stdout has only the table
        plan = make_plan(set_fastest([Task("", experiment, dataset, Path(), options.seeds)], options), options)
        print(f"ours: {plan}")
    return plan


def time_ours(plan: Plan, device: str) -> float:
    """Time the training of a plan: the seconds until the last process ends, divided by the epochs and runs.

    Raises:
        UserError: a unit failed.
    """
    epochs = sum(unit.epochs for unit in plan.units)
    with contextlib.redirect_stdout(sys.stderr):
        results = list(train_units(plan, device, Progress(epochs)))
    ends = [0.0] * plan.jobs  # a heap: the next unit starts in the process that is free first
    for result in sorted(results, key=lambda result: result.number):
        if result.error:
            raise UserError(result.error)
        heapq.heapreplace(ends, ends[0] + sum(run.result["seconds"] for run in result.runs))
    return max(ends) / epochs


def time_layers(plan: Plan) -> float:
    """Time the linear layers and convolutions alone, side by side and in processes as a plan has them.

    This is what torch needs for the products in these shapes. Normalization, activations, augmentation, penalties, the
    optimizer and the calls of Python take the rest of the time of training.
    """
    unit = plan.units[0]
    experiment, dataset = unit.task.experiment, unit.task.dataset
    classes, threads = len(dataset.classes), max(plan.threads)
    call = partial(time_images_of_layers, experiment, dataset.shape, classes, unit.seeds, threads)
    of_processes = list(run_in_processes([call] * plan.jobs, plan.jobs))
    training, evaluation = (fmean(seconds) for seconds in zip(*of_processes, strict=True))
    return (training * len(dataset.train) + evaluation * len(dataset.validation)) / plan.jobs


def time_images_of_layers(
    experiment: Experiment, shape: tuple[int, int, int], classes: int, seeds: list[int], threads: int
) -> tuple[float, float]:
    """Time the layers alone in this process: seconds for an image of a run in (training, evaluation)."""
    prepare_process("cpu", threads)
    model = join_networks([build_network(experiment, shape, classes, seed) for seed in seeds]).eval()
    calls: list[tuple[nn.Module, Tensor, Tensor]] = []  # (layer, its input, the gradient of its output)

    def note(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        calls.append((layer, inputs[0].clone().requires_grad_(bool(calls)), torch.rand_like(output)))

    layers = [layer for layer in model.modules() if isinstance(layer, RunsLinear | nn.Conv2d)]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    images = torch.rand(experiment.batch_size, len(seeds) * shape[0], *shape[1:])
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()

    def step(is_training: bool) -> None:
        with torch.set_grad_enabled(is_training):
            for layer, x, gradient in calls:
                y = layer(x)
                if is_training:
                    inputs = [x] if x.requires_grad else []  # images need no gradient
                    torch.autograd.grad(y, [*layer.parameters(), *inputs], gradient)

    def time_image(is_training: bool) -> float:
        step(is_training)  # a warm-up
        ends = [time.perf_counter()]
        while len(ends) <= TIMED_STEPS or ends[-1] - ends[0] < SECONDS:
            step(is_training)
            ends.append(time.perf_counter())
        return median(end - start for start, end in pairwise(ends)) / len(images) / len(seeds)

    return time_image(is_training=True), time_image(is_training=False)


# ---------------------------------------------------------------------------------------------------------------------
# What these seconds are compared with, and other measures


def compute_arithmetic(experiment: Experiment, dataset: Dataset, rate: float) -> float:
    """Compute the time of the multiplications and additions in linear layers and convolutions, at a given rate.

    At the rate of a large matrix product, this is a limit: smaller products are slower, and normalization, activations,
    augmentation and the optimizer take more time.

    Args:
        rate: operations per second.
    """
    training, validation = count_operations(experiment, dataset.shape, len(dataset.classes))
    return (training * len(dataset.train) + validation * len(dataset.validation)) / rate


def measure_rate() -> float:
    """Measure the operations per second in the product of two large matrices, on all cores: the best of some."""
    torch.set_num_threads(joblib.cpu_count())
    left, right = torch.rand(2, SIDE, SIDE)
    times = []
    for _ in range(PRODUCTS):
        started = time.perf_counter()
        torch.mm(left, right)
        times.append(time.perf_counter() - started)
    return 2 * SIDE**3 / min(times)


def compare_late_epoch(dataset: Dataset) -> float:
    """Return the ratio of a late epoch's time (after `LATE` epochs with L2) to a first epoch's time.

    Both are medians of four epochs. An L2 penalty drives the weights of pixels that are hardly ever lit into
    denormal numbers, which make arithmetic slow unless they are flushed to zero.
    """
    prepare_process("cpu", threads=1)

    def time_epochs(epochs: int) -> list[float]:
        ends = [time.perf_counter()]
        train(Experiment(l2=0.001, epochs=epochs), [0], dataset, on_epoch=lambda _: ends.append(time.perf_counter()))
        return [end - start for start, end in pairwise(ends)]

    first = [seconds for _ in range(5) for seconds in time_epochs(1)]
    late = time_epochs(LATE + 4)[LATE:]
    return median(late) / median(first[1:])  # the very first epoch is a warm-up


def price_settings(
    plain: Experiment, variants: dict[str, Experiment], dataset: Dataset, rounds: int
) -> dict[str, float]:
    """Measure how many times as long each variant of a plain experiment trains: {name: ratio}.

    The seconds are those of the CPU, in one process with one thread, so that other programs hardly change them. Each
    round trains the plain experiment and then every variant; a ratio is the median over the rounds.
    """
    prepare_process("cpu", threads=1)
    seeds = list(range(measured_for(plain.model)[0]))

    def time_cpu(experiment: Experiment) -> float:
        started = time.process_time()
        train(experiment, seeds, dataset)
        return time.process_time() - started

    time_cpu(plain)  # a warm-up
    ratios: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
        seconds = time_cpu(plain)
        for name, variant in variants.items():
            ratios[name].append(time_cpu(variant) / seconds)
    return {name: median(values) for name, values in ratios.items()}


def print_prices(prices: dict[str, float], name: str, machine: dict[str, Any]) -> None:
    """Print what settings cost as a table."""
    print(f"the time that {name} trains with a setting, divided by its time without, in CPU seconds")
    print(f"{machine['cpu']}, torch {machine['torch']}, one thread")
    rows = [(setting, f"{ratio:.2f}") for setting, ratio in prices.items()]
    print(tabulate(rows, ("setting", "times as long"), "github", disable_numparse=True, colalign=("left", "right")))


def measure_peak_memory() -> int | None:
    """Return the largest resident memory (MB) of this process and its children, or None if the system does not tell."""
    try:
        import resource
    except ImportError:
        return None

    get_reusable_executor().shutdown(wait=True)  # processes are counted only after they end
    kilobytes = 1024 if sys.platform == "darwin" else 1
    peaks = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF))
    return max(peaks) // kilobytes // 1024


def describe_computer(device: str) -> dict[str, Any]:
    """Return the machine and the library versions of the benchmark."""
    machine = describe_machine(device)
    return dict(
        cpu=read_cpu_name(),
        device=machine["device"],
        cores=os.cpu_count(),
        system=machine["platform"],
        python=machine["versions"]["python"],
        torch=machine["versions"]["torch"],
    )


def print_result(result: dict[str, Any], name: str, seeds: int) -> None:
    """Print a benchmark's result as a table: seconds, and how many times as fast as the plain loop."""
    titles = dict(
        plain="plain DataLoader loop",
        one_seed="ours, one seed",
        several_seeds=f"ours, {seeds} seeds",
        layers="the linear layers and convolutions alone",
        arithmetic="their arithmetic, at the rate of a large matrix product",
    )
    seconds = result["seconds_per_run_epoch"]
    rows = [(titles[name], f"{value:.3f}", f"{seconds['plain'] / value:.1f}") for name, value in seconds.items()]
    header = ("", "seconds per run-epoch", "times as fast as plain")
    machine = result["machine"]
    print(f"{name} on {result['dataset']}, validation every epoch")
    if result["share_of_images"] < 1:
        print(f"timed on {100 * result['share_of_images']:.1f} % of the images, scaled to all images")
    print(f"{machine['cpu']}, {machine['cores']} cores, torch {machine['torch']}; ours on {machine['device']}")
    print(tabulate(rows, header, tablefmt="github", disable_numparse=True, colalign=("left", "right", "right")))
    if LATE_RATIO in result:
        late = result[LATE_RATIO]
        print(f"an epoch with L2 0.001 after {LATE} epochs takes {late:.2f} times as long as the first epoch")
    if result["peak_memory_mb"]:
        print(f"peak memory of a process: {result['peak_memory_mb']:,} MB")
