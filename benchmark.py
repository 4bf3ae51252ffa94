"""How fast: a plain loop as tutorials teach it, ours with one seed and with several, in one run.

examples:
  python benchmark.py                                   the MLP on full Fashion-MNIST, a few minutes
  python benchmark.py --model cnn1                      cnn1 on MNIST with rotation and jitter
  python benchmark.py --model resnet                    resnet on CIFAR-10 with crop, flip and rotation
  python benchmark.py --dataset fashion_mnist_sample    a first look in seconds
  python benchmark.py --device cuda                     ours on a GPU against the plain loop on the CPU
"""

import argparse
import contextlib
import json
import math
import os
import platform
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median

import experiments
import studies
import train
from sources import downloading, finding

EXPERIMENTS = {
    "mlp1": experiments.Experiment(l1=0.001),
    "cnn1": replace(studies.A1_BN, rotation=7, affine_degrees=0, affine_translate=0, affine_scale=0),
    "resnet": studies.C_PLAIN,
}
SEEDS = {"mlp1": 10, "cnn1": 4, "resnet": 4}
IMAGES = {"mlp1": None, "cnn1": None, "resnet": 10_240}  # train images of a timed epoch; None: all
LATE = 10  # epochs after which L2 has driven the weights of always-black pixels towards denormal numbers


def main(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    if not args.out.parent.is_dir():
        parser.error(f"--out {args.out}: there is no folder {args.out.parent}; make it, or name another file")

    import data

    on_cpu = args.device == "cpu"
    experiment = replace(EXPERIMENTS[args.model], dataset=args.dataset, epochs=args.epochs)
    name = args.dataset or experiment.default_dataset
    try:
        train.check_device(args.device)
        whole = data.load(name, args.data_dir)
    except (finding.DataError, train.CannotTrain) as error:
        parser.error(str(error))
    dataset, share = part_of(whole, IMAGES[args.model])
    rounds = []
    for number in range(args.rounds):  # alternating, so that a machine that slows down slows all of them down
        print(f"round {number + 1} of {args.rounds}", file=sys.stderr)
        measured = dict(
            plain=plain_loop(experiment, dataset),
            one_seed=ours(experiment, dataset, 1, args.device),
            several_seeds=ours(experiment, dataset, SEEDS[args.model], args.device),
        )
        if args.model == "mlp1" and on_cpu:
            measured["arithmetic"] = arithmetic(experiment, dataset)
        rounds.append({name: seconds / share for name, seconds in measured.items()})
    result = dict(
        machine=describe_machine(args.device),
        dataset=name,
        share_of_images=share,
        experiment=experiment.to_dict(),
        seconds_per_run_epoch={name: median(each[name] for each in rounds) for name in rounds[0]},
        rounds=rounds,
        peak_memory_mb=peak_memory(),
    )
    if args.model == "mlp1" and on_cpu:
        result["late_over_first_epoch_with_l2"] = late_over_first_epoch(dataset)
    print_result(result)
    args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"written to {args.out}")


def make_parser():
    description, examples = __doc__.split("\n\n", 1)
    parser = experiments.OneLineParser(
        prog="benchmark.py",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="mlp1", choices=EXPERIMENTS, help="default: %(default)s")
    parser.add_argument("--dataset", choices=experiments.DATA_SETS, help="default: the model's own")
    parser.add_argument("--data-dir", default=experiments.default_data_dir(), help="default: $DATA_DIR, else data")
    parser.add_argument("--device", default="cpu", choices=train.DEVICES, help="of ours (default: %(default)s)")
    parser.add_argument(
        "--epochs", type=experiments.positive, default=6, help="of ours, each round (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=experiments.positive, default=3, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("benchmark.json"), help="default: %(default)s")
    return parser


def part_of(dataset, images):
    """A data set with so many train images and as large a share of the validation images, and that share."""
    import data

    if images is None or images >= len(dataset.train):
        return dataset, 1.0
    share = images / len(dataset.train)
    counts = dict(train=images, validation=round(share * len(dataset.validation)), test=100)
    splits = {name: getattr(dataset, name) for name in counts}
    splits = {
        name: data.Split(split.images[: counts[name]], split.labels[: counts[name]]) for name, split in splits.items()
    }
    return replace(dataset, **splits), share


# ---------------------------------------------------------------------------------------------------------------------
# Each returns seconds per run-epoch: training on all train images and validation, for one run


def plain_loop(experiment, dataset):
    """One epoch as tutorials teach it: PIL images, torchvision's transforms, DataLoader, autograd for the L1 term."""
    import joblib
    import torch
    from torch import nn

    import training

    torch.set_num_threads(joblib.cpu_count())
    transforms = downloading.import_torchvision().transforms
    normalize = [transforms.ToTensor()]
    if experiment.standardize:
        normalize.append(transforms.Normalize(dataset.mean, dataset.std))
    augment = []
    if experiment.crop_padding:
        size, padding = dataset.shape[1:], experiment.crop_padding
        augment.append(transforms.RandomCrop(size, padding, padding_mode=experiment.crop_mode))
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

    model = training.textbook_network(experiment, dataset, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=experiment.lr)
    if experiment.optimizer == "sgd":
        optimizer = torch.optim.SGD(model.parameters(), lr=experiment.lr, momentum=0.9)
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


class PlainImages:
    """A map-style data set as torchvision's own are: each item is made from an array through a PIL image."""

    def __init__(self, split, transform):
        self.arrays = split.images.permute(0, 2, 3, 1).squeeze(3).numpy()
        self.labels, self.transform = split.labels.tolist(), transform

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        from PIL import Image

        return self.transform(Image.fromarray(self.arrays[index])), self.labels[index]


def ours(experiment, dataset, seeds, device):
    """`train.py` with its own plan: what its processes took, shared by those that ran at a time."""
    from engine import progress, workers

    plan = workers.make_plan([workers.Task("", experiment, dataset, Path(), list(range(seeds)))], device=device)
    with contextlib.redirect_stdout(sys.stderr):  # where the progress goes; the table stands alone
        shown = progress.Progress(experiment.epochs * seeds)
        outcomes = [runs for _, runs in workers.trained(plan, device, shown)]
    for failure in (runs for runs in outcomes if isinstance(runs, workers.Failure)):
        sys.exit(f"benchmark.py: {failure}")
    seconds = sum(run.result["seconds"] for runs in outcomes for run in runs)
    return seconds / plan.jobs / experiment.epochs / seeds


def arithmetic(experiment, dataset):
    """The matrix products of an MLP's runs side by side, forward and backward, and nothing else, on all cores."""
    import joblib
    import torch

    import models

    torch.set_num_threads(joblib.cpu_count())
    batch, sizes = experiment.batch_size, [math.prod(dataset.shape), *models.MLP_WIDTHS[experiment.model], 10]
    runs = SEEDS[experiment.model]
    layers = [
        (torch.rand(runs, batch, i), torch.rand(runs, i, o), torch.rand(runs, batch, o)) for i, o in pairwise(sizes)
    ]

    def step(is_training):
        for number, (x, weight, gradient) in enumerate(layers):
            torch.bmm(x, weight)
            if is_training:
                torch.bmm(x.transpose(1, 2), gradient)
            if is_training and number:  # nobody asks for the gradient of the images
                torch.bmm(gradient, weight.transpose(1, 2))

    def seconds(is_training, steps=100):
        started = time.perf_counter()
        for _ in range(steps):
            step(is_training)
        return (time.perf_counter() - started) / steps

    seconds(True)  # warm-up
    train_steps, validation_steps = len(dataset.train) / batch, len(dataset.validation) / batch
    return (seconds(True) * train_steps + seconds(False) * validation_steps) / runs


def late_over_first_epoch(dataset):
    """Time of an epoch with L2 after `LATE` epochs over that of a first one, medians of four.

    An L2 penalty drives the weights of always-black pixels into denormal numbers, slow ones unless they are flushed.
    """
    import training

    def epoch_times(epochs):
        times = []
        experiment = experiments.Experiment(l2=0.001, epochs=epochs)
        training.train(experiment, [0], dataset, threads=1, on_epoch=lambda rows: times.append(time.perf_counter()))
        return [end - start for start, end in pairwise([started, *times])]

    first = []
    for _ in range(5):
        started = time.perf_counter()
        first += epoch_times(1)
    started = time.perf_counter()
    late = epoch_times(LATE + 4)[LATE:]
    return median(late) / median(first[1:])  # the first of all warms up


def peak_memory():
    """Largest resident size in MB of any process that trained; None where the system does not tell."""
    try:
        import resource
    except ImportError:
        return None

    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=True)  # a process is counted once it has ended
    kilobytes = 1024 if sys.platform == "darwin" else 1
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // kilobytes // 1024


# ---------------------------------------------------------------------------------------------------------------------


def describe_machine(device):
    import torch

    import training

    return dict(
        cpu=cpu_name(),
        device=training.circumstances(device)["device"],
        cores=os.cpu_count(),
        system=platform.platform(),
        python=platform.python_version(),
        torch=torch.__version__,
    )


def cpu_name():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def print_result(result):
    from tabulate import tabulate

    model = result["experiment"]["model"]
    titles = dict(
        plain="plain DataLoader loop",
        one_seed="ours, one seed",
        several_seeds=f"ours, {SEEDS[model]} seeds",
        arithmetic="the matrix products alone",
    )
    seconds = result["seconds_per_run_epoch"]
    rows = [(titles[name], f"{value:.3f}", f"{seconds['plain'] / value:.1f}") for name, value in seconds.items()]
    header = ("", "seconds per run-epoch", "times as fast as plain")
    machine = result["machine"]
    print(f"{EXPERIMENTS[model].name} on {result['dataset']}, validation every epoch")
    if result["share_of_images"] < 1:
        print(f"timed on {100 * result['share_of_images']:.1f} % of the images, stated for all")
    print(f"{machine['cpu']}, {machine['cores']} cores, torch {machine['torch']}; ours on {machine['device']}")
    print(tabulate(rows, header, tablefmt="github", disable_numparse=True, colalign=("left", "right", "right")))
    if "late_over_first_epoch_with_l2" in result:
        late = result["late_over_first_epoch_with_l2"]
        print(f"an epoch with L2 0.001 after {LATE} epochs takes {late:.2f} times the first")
    if result["peak_memory_mb"]:
        print(f"peak memory of a process: {result['peak_memory_mb']:,} MB")


if __name__ == "__main__":
    main()
