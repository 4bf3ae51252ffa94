"""How fast: a plain loop as tutorials teach it, ours with one seed and with ten, and the arithmetic alone, in one run.

examples:
  python benchmark.py                                   full Fashion-MNIST, a few minutes
  python benchmark.py --dataset fashion_mnist_sample    a first look in seconds
"""

import argparse
import contextlib
import json
import os
import platform
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

import experiments
import sources

SEEDS = 10
LATE = 10  # epochs after which L2 has driven the weights of always-black pixels towards denormal numbers


def main(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)

    import data

    try:
        dataset = data.load(args.dataset, args.data_dir)
    except sources.DataError as error:
        parser.error(str(error))
    experiment = experiments.Experiment(dataset=args.dataset, l1=0.001, epochs=args.epochs)
    rounds = []
    for number in range(args.rounds):  # alternating, so that a machine that slows down slows all of them down
        print(f"round {number + 1} of {args.rounds}", file=sys.stderr)
        rounds.append(
            dict(
                plain=plain_loop(experiment, dataset),
                one_seed=ours(experiment, dataset, seeds=1),
                ten_seeds=ours(experiment, dataset, seeds=SEEDS),
                arithmetic=arithmetic(experiment, dataset),
            )
        )
    result = dict(
        machine=describe_machine(),
        dataset=args.dataset,
        experiment=experiment.to_dict(),
        seconds_per_run_epoch={name: median(each[name] for each in rounds) for name in rounds[0]},
        rounds=rounds,
        late_over_first_epoch_with_l2=late_over_first_epoch(dataset, args.dataset),
        peak_memory_mb=peak_memory(),
    )
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
    clothes = ("fashion_mnist", "fashion_mnist_sample")
    parser.add_argument("--dataset", default=clothes[0], choices=clothes, help="default: %(default)s")
    parser.add_argument("--data-dir", default=sources.default_data_dir(), help="default: $DATA_DIR, else data")
    parser.add_argument(
        "--epochs", type=experiments.positive, default=6, help="of ours, each round (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=experiments.positive, default=3, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("benchmark.json"), help="default: %(default)s")
    return parser


# ---------------------------------------------------------------------------------------------------------------------
# Each returns seconds per run-epoch: training on all train images and validation, for one run


def plain_loop(experiment, dataset):
    """One epoch as tutorials teach it: torchvision's data set, ToTensor, DataLoader, autograd for the L1 term."""
    import torch
    from torch import nn

    torchvision = sources.import_torchvision()
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "FashionMNIST" / "raw"
        raw.mkdir(parents=True)
        for file in sources.SOURCES[experiment.dataset].files:
            (raw / file).write_bytes(sources.decoded(sources.stored_as(Path(dataset.found_in), file)))
        images = torchvision.datasets.FashionMNIST(folder, train=True, transform=torchvision.transforms.ToTensor())
    train_set, validation_set = torch.utils.data.random_split(images, [len(dataset.train), len(dataset.validation)])
    train_loader = torch.utils.data.DataLoader(train_set, batch_size=experiment.batch_size, shuffle=True)
    validation_loader = torch.utils.data.DataLoader(validation_set, batch_size=experiment.batch_size)

    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=experiment.lr)
    loss_of = nn.CrossEntropyLoss()

    started = time.perf_counter()
    model.train()
    total_loss = correct = 0
    for x, y in train_loader:
        optimizer.zero_grad()
        logits = model(x)
        loss = loss_of(logits, y)
        penalty = sum(parameter.abs().sum() for parameter in model.parameters())
        (loss + experiment.l1 * penalty).backward()
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


def ours(experiment, dataset, seeds):
    """`train.py` with its own plan: the slowest unit's time, which a result states per run, over all run-epochs."""
    import train

    plan = train.make_plan(list(range(seeds)), experiment.model)
    with contextlib.redirect_stdout(sys.stderr):  # where the progress goes; the table stands alone
        units = list(train.train_units(experiment, plan, dataset, "cpu", train.Progress(experiment.epochs, seeds)))
    slowest = max(sum(run.result["seconds"] for run in unit) for unit in units)
    return slowest / experiment.epochs / seeds


def arithmetic(experiment, dataset):
    """The matrix products of `SEEDS` runs side by side, forward and backward, and nothing else, on all cores."""
    import joblib
    import torch

    import models

    torch.set_num_threads(joblib.cpu_count())
    batch, sizes = experiment.batch_size, [784, *models.MLP_WIDTHS[experiment.model], 10]
    layers = [
        (torch.rand(SEEDS, batch, i), torch.rand(SEEDS, i, o), torch.rand(SEEDS, batch, o)) for i, o in pairwise(sizes)
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
    return (seconds(True) * train_steps + seconds(False) * validation_steps) / SEEDS


def late_over_first_epoch(dataset, name):
    """Time of an epoch with L2 after `LATE` epochs over that of a first one, medians of four.

    An L2 penalty drives the weights of always-black pixels into denormal numbers, slow ones unless they are flushed.
    """
    import training

    def epoch_times(epochs):
        times = []
        experiment = experiments.Experiment(dataset=name, l2=0.001, epochs=epochs)
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


def describe_machine():
    import torch

    return dict(
        cpu=cpu_name(),
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

    names = dict(
        plain="plain DataLoader loop",
        one_seed="ours, one seed",
        ten_seeds=f"ours, {SEEDS} seeds",
        arithmetic="the matrix products alone",
    )
    seconds = result["seconds_per_run_epoch"]
    plain, products = seconds["plain"], seconds["arithmetic"]
    rows = [
        (title, f"{seconds[name]:.3f}", f"{plain / seconds[name]:.1f}", f"{seconds[name] / products:.1f}")
        for name, title in names.items()
    ]
    header = ("", "seconds per run-epoch", "times as fast as plain", "times the products")
    machine = result["machine"]
    print(f"{result['dataset']}, MLP 64-64, batch 64, L1, Adam, validation every epoch")
    print(f"{machine['cpu']}, {machine['cores']} cores, torch {machine['torch']}")
    print(
        tabulate(rows, header, tablefmt="github", disable_numparse=True, colalign=("left", "right", "right", "right"))
    )
    late = result["late_over_first_epoch_with_l2"]
    print(f"an epoch with L2 0.001 after {LATE} epochs takes {late:.2f} times the first")
    if result["peak_memory_mb"]:
        print(f"peak memory of a process: {result['peak_memory_mb']:,} MB")


if __name__ == "__main__":
    main()
