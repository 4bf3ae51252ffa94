"""Train an experiment, all its seeds side by side.

examples:
  python train.py --model mlp3 --l1 0.001                     five seeds of the third network with L1
  python train.py --model mlp3 --l1 0.001 --seeds 5-9         five more; finished seeds are kept
  python train.py --model mlp3 --dropout 0.25                 dropout after each hidden layer
  python train.py --model mlp3 --patience 3 --epochs 20       early stopping on the validation loss
  python train.py --model mlp3 --norm batch                   batch normalization before each activation
  python train.py --model mlp --hidden 300 100 --optimizer sgd --lr 0.1 --momentum 0.9
  python train.py --model mlp --hidden --l1 0.001 --l1-mode proximal     sparse logistic regression
  python train.py --model mlp3 --summary                      the layers and their parameters; trains nothing
  python train.py --dataset mnist_sample --epochs 3           a first try in seconds, without a download
"""

import argparse
import contextlib
import math
import os
import shlex
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Listener
from pathlib import Path

import experiments
import records
import sources

# torch, scikit-learn and joblib take seconds to import: the functions that need them do, so that `--help` and every
# refusal answer at once.

SEEDS = "0-4"
LARGEST_SEED = 2**32 - 1
MOST_SEEDS = 1000  # of one command


@dataclass(frozen=True)
class Plan:
    """Who trains what: each unit is a list of seeds side by side in one process."""

    units: list[list[int]]
    jobs: int  # processes at a time
    threads: int  # of each process


def main(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    args.command = shlex.join(["train.py", *(sys.argv[1:] if argv is None else argv)])
    try:
        experiment, seeds = experiments.from_arguments(args), parse_seeds(args.seeds)
    except ValueError as error:
        parser.error(str(error))
    try:
        if args.summary:
            print_summary(experiment)
        else:
            check_device(args.device)
            train_seeds(experiment, seeds, args)
    except (CannotTrain, sources.DataError, records.RecordError) as error:
        parser.error(str(error))
    except BrokenPipeError:  # nobody reads on, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        parser.exit(141, "train.py: output closed; finished runs are kept\n")
    except KeyboardInterrupt:
        parser.exit(130, "\ninterrupted: finished runs are kept; the same command trains what is missing\n")


def make_parser():
    description, examples = __doc__.split("\n\n", 1)
    parser = experiments.OneLineParser(
        prog="train.py", description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    experiments.add_flags(parser)
    group = parser.add_argument_group("what to train, where and how")
    group.add_argument(
        "--seeds", default=SEEDS, help="as a printer takes pages: 0-4, 7 or 0,3,5-9 (default: %(default)s)"
    )
    group.add_argument("--summary", action="store_true", help="print the network's layers and train nothing")
    group.add_argument(
        "--data-dir", default=sources.default_data_dir(), help="folder of data sets (default: $DATA_DIR, else data)"
    )
    group.add_argument("--runs-dir", type=Path, default=Path("runs"), help="folder of records (default: %(default)s)")
    group.add_argument("--force", action="store_true", help="train finished seeds anew")
    group.add_argument("--device", default="cpu", choices=("cpu", "cuda", "mps"), help="default: %(default)s")
    group.add_argument(
        "--jobs", type=experiments.positive, help="processes at a time (default: a process for each core)"
    )
    group.add_argument("--threads", type=experiments.positive, help="threads of a process (default: as measured)")
    group.add_argument(
        "--runs-at-once",
        type=experiments.positive,
        help="seeds side by side in a process, at most (default: as measured)",
    )
    return parser


def parse_seeds(text):
    """`0,3,5-9` as a list of seeds.

    Raises:
        ValueError: not a list of numbers and ranges, a range that falls, a seed named twice.
    """
    seeds = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        numbers = [first, last] if dash else [first]
        if not all(number.isascii() and number.isdecimal() and len(number) <= 10 for number in numbers):
            raise ValueError(f"--seeds {text}: expected seeds such as 0-4, 7 or 0,3,5-9, found {part.strip()!r}")
        low, high = int(first), int(last or first)
        if high > LARGEST_SEED:
            raise ValueError(f"--seeds {text}: expected seeds of at most {LARGEST_SEED}, found {high}")
        if low > high:
            raise ValueError(f"--seeds {text}: the range {part.strip()} falls; write {high}-{low}")
        if high - low >= MOST_SEEDS:
            raise ValueError(f"--seeds {text}: expected at most {MOST_SEEDS} seeds, found {high - low + 1}")
        seeds.extend(range(low, high + 1))
    repeated = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if repeated:
        raise ValueError(f"--seeds {text}: seed {repeated[0]} is named twice; each seed is one run")
    return seeds


class CannotTrain(Exception):
    """Training cannot start or go on; the message is one line and says what to do."""


def check_device(device):
    import torch

    is_there = dict(cpu=lambda: True, cuda=torch.cuda.is_available, mps=torch.backends.mps.is_available)
    if not is_there[device]():
        there = ", ".join(name for name, available in is_there.items() if available())
        raise CannotTrain(f"--device {device}: this torch ({torch.__version__}) finds none; expected one of: {there}")


def print_summary(experiment):
    import models
    import training

    source = sources.SOURCES[experiment.dataset or experiment.default_dataset]
    network = training.textbook_network(experiment, source, seed=0)
    print(f"{experiment.name}: {models.parameter_count(network):,} parameters a run")
    print(f"{'layer':<12} {'shape out':<14} {'parameters':>10}")
    for layer, shape, parameters in models.layer_table(network, source.shape):
        print(f"{layer:<12} {'×'.join(map(str, shape)):<14} {f'{parameters:,}' if parameters else '':>10}")


# ---------------------------------------------------------------------------------------------------------------------
# Training


def train_seeds(experiment, seeds, args):
    """Train what is not finished yet and record each run as soon as its unit is done."""
    dataset = load_data(experiment, args.data_dir)
    experiment = replace(experiment, dataset=dataset.name)
    folder = records.open_folder(args.runs_dir, records.SINGLE, records.describe(experiment, dataset))
    finished = [] if args.force else [seed for seed in seeds if seed in records.finished_seeds(folder)]
    missing = [seed for seed in seeds if seed not in finished]
    print(
        f"{experiment.name}: {dataset.name} from {dataset.found_in}, {len(dataset.train):,} train / "
        f"{len(dataset.validation):,} validation / {len(dataset.test):,} test images"
    )
    print_penalized(experiment, dataset)
    if finished:
        print(f"skipped: {seed_list(finished)} finished already (--force trains anew)")
    if not missing:
        return
    plan = make_plan(missing, experiment.model, args.jobs, args.threads, args.runs_at_once)
    print(f"training: {seed_list(missing)} in {describe_plan(plan)}")

    shared = dict(command=args.command, commit=git_commit())
    with Progress(experiment.epochs, len(missing)) as progress:
        for runs in train_units(experiment, plan, dataset, args.device, progress):
            for run in runs:
                run.result |= shared | dict(finished=datetime.now(UTC).isoformat(timespec="seconds"))
                path = records.write_run(folder, run)
                progress.say(
                    f"seed {run.seed}: test accuracy {100 * run.result['test_accuracy']:.2f} % "
                    f"at epoch {run.result['chosen_epoch']} ({run.result['stop_reason']}) → {path}"
                )
            progress.finish(runs)


def load_data(experiment, data_dir):
    """The data set of an experiment; where none was named and the default cannot be had, its embedded sample."""
    import data

    name = experiment.dataset or experiment.default_dataset
    try:
        return data.load(name, data_dir, experiment.split_seed)
    except sources.DataNotFound as error:
        sample = sources.SOURCES[name].sample
        if experiment.dataset or not sample:
            raise
        warning = (
            f"WARNING: training on the small embedded sample {sample} instead; its figures are not those of {name}"
        )
        print(f"{error}\n{warning}", file=sys.stderr)
        return data.load(sample, data_dir, experiment.split_seed)


def print_penalized(experiment, dataset):
    import models
    import regularizers
    import training

    if experiment.l1 or experiment.l2 or experiment.weight_decay:
        network = training.textbook_network(experiment, dataset, seed=0)
        chosen = regularizers.penalized_parameters(network, experiment.penalize)
        count, total = sum(parameter.numel() for parameter in chosen.values()), models.parameter_count(network)
        print(
            f"penalized: {count:,} of {total:,} parameters a run, in {len(chosen)} of "
            f"{len(list(network.parameters()))} tensors (--penalize {experiment.penalize})"
        )


def make_plan(seeds, model, jobs=None, threads=None, runs_at_once=None):
    """Units enough to keep every core busy, none with more runs than measured fastest."""
    import joblib

    import models

    processes = jobs or joblib.cpu_count()
    at_least = math.ceil(len(seeds) / (runs_at_once or models.RUNS_AT_ONCE[model]))
    count = at_least if runs_at_once else max(at_least, min(processes, len(seeds)))
    units = [seeds[len(seeds) * unit // count : len(seeds) * (unit + 1) // count] for unit in range(count)]
    processes = min(processes, count)
    return Plan(units, processes, threads or max(1, min(joblib.cpu_count() // processes, models.THREADS[model])))


def describe_plan(plan):
    sizes = "+".join(str(len(unit)) for unit in plan.units)
    processes = f"{plan.jobs} processes" if plan.jobs > 1 else "one process"
    return f"{processes} ({sizes} side by side), {plan.threads} thread{'s' * (plan.threads > 1)} each"


def train_units(experiment, plan, dataset, device, progress):
    """Yield the runs of each unit as it is done, in whatever order that is."""
    import training

    if len(plan.units) == 1:
        yield training.train(experiment, plan.units[0], dataset, device, plan.threads, progress.show)
        return

    import joblib
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    with progress.shown_from_afar() as show:
        jobs = [
            joblib.delayed(training.train)(experiment, unit, dataset, device, plan.threads, show) for unit in plan.units
        ]
        with joblib.parallel_config(backend="loky", inner_max_num_threads=plan.threads), ctrl_c_ignored():
            results = joblib.Parallel(n_jobs=plan.jobs, return_as="generator_unordered")(jobs)
        try:
            yield from results
        except TerminatedWorkerError:
            raise CannotTrain(
                "a training process was killed, perhaps for want of memory; finished runs are kept: "
                "try again with --jobs 1, --runs-at-once 1 or a smaller --hidden"
            ) from None


@contextlib.contextmanager
def ctrl_c_ignored():
    """Processes started meanwhile leave Ctrl-C to this one, which ends them, instead of printing tracebacks."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Progress:
    """One bar over the epochs of all runs, whoever trains them; a line an epoch where there is no terminal."""

    def __init__(self, epochs, runs):
        from tqdm import tqdm

        self.epochs = epochs
        self.bar = tqdm(total=epochs * runs, unit="epoch", disable=not sys.stderr.isatty(), dynamic_ncols=True)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.bar.close()

    def show(self, rows):
        """Take the history rows of the runs of a unit that have just ended an epoch."""
        means = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
        line = (
            f"train loss {means['train_loss']:.4f} accuracy {100 * means['train_accuracy']:.2f} %, "
            f"validation loss {means['val_loss']:.4f} accuracy {100 * means['val_accuracy']:.2f} %"
        )
        if means["penalty"]:
            line += f", penalty {means['penalty']:.4f}"
        if self.bar.disable:
            seeds = seed_list([row["seed"] for row in rows])
            print(f"epoch {rows[0]['epoch']}/{self.epochs}, {seeds}: {line}", flush=True)
        else:
            self.bar.set_postfix_str(f"validation {100 * means['val_accuracy']:.2f} %", refresh=False)
            self.bar.update(len(rows))

    def finish(self, runs):
        """Count the epochs that early stopping spared."""
        self.bar.total -= sum(self.epochs - run.result["epochs"] for run in runs)
        self.bar.refresh()

    def say(self, line):
        self.bar.write(line)

    @contextlib.contextmanager
    def shown_from_afar(self):
        """What other processes call in place of `show`: each call is one short connection to a thread of this one."""
        key = os.urandom(32)

        def answer():
            rows = []
            while rows is not None:
                with contextlib.suppress(OSError, EOFError, AuthenticationError):  # whoever called was killed meanwhile
                    with listener.accept() as connection:
                        rows = connection.recv()
                    if rows:
                        self.show(rows)

        with Listener(authkey=key) as listener:
            thread = threading.Thread(target=answer, daemon=True)
            thread.start()
            try:
                yield partial(send, listener.address, key)
            finally:
                if thread.is_alive():
                    send(listener.address, key, None)  # comes last, so every call before it has been shown
                thread.join()


def send(address, key, rows):
    """Show rows from another process; a training goes on also if nobody looks."""
    with contextlib.suppress(OSError, EOFError), Client(address, authkey=key) as connection:
        connection.send(rows)


def seed_list(seeds):
    """`[0, 1, 2, 5]` as `seeds 0-2,5`, in the form `--seeds` takes."""
    ranges = []
    for seed in sorted(seeds):
        if ranges and seed == ranges[-1][1] + 1:
            ranges[-1][1] = seed
        else:
            ranges.append([seed, seed])
    text = ",".join(f"{low}-{high}" if high > low else str(low) for low, high in ranges)
    return f"seed{'s' * (len(seeds) > 1)} {text}"


def git_commit():
    """The commit of this code, with `-dirty` if it was changed since; None outside a repository."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        folder = os.path.dirname(os.path.abspath(__file__))
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
    return None


if __name__ == "__main__":
    main()
