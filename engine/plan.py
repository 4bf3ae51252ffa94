"""What is left to train, and which seeds of it go side by side in which process.

with contextlib.ExitStack() as locks:
    tasks, elsewhere = make_tasks(study, ["GN", "BN"], TrainOptions(seeds=[0, 1]), locks)
    plan = make_plan(tasks, TrainOptions(seeds=[0, 1]))
"""

import contextlib
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import joblib
from torch import nn

import data
import models
import regularizers
from data import Dataset
from engine import checkpoints, records
from engine.checkpoints import Checkpoint
from experiments import Experiment, UserError
from sources.catalogue import SOURCES
from sources.finding import DataNotFound
from studies.flags import format_seeds
from studies.study import Study
from training import Run, build_network

# What measured fastest per run-epoch on a CPU, by kind of network: (runs side by side in a process, threads of a
# process). Grouped convolutions are slower than as many plain ones, and threads that wait for each other after every
# layer gain nothing and lose much where other programs use the cores: cnn1 took 11.3 s with one run, 19 s a run with
# four, and 13.9 s with two threads. The products of an MLP are small: ten runs' cost little more than one's.
MEASURED = {"mlp": (10, 1), "cnn": (1, 1), "resnet": (1, 2)}


@dataclass(frozen=True)
class TrainOptions:
    """What a training needs beside its experiments."""

    seeds: list[int]
    runs_dir: Path = Path("runs")
    data_dir: Path = Path("data")
    device: str = "cpu"
    jobs: int | None = None  # processes at a time; None: one for each core, one for a GPU
    threads: int | None = None  # of a process; None: as measured
    runs_at_once: int | None = None  # in a process, at most; None: as measured, on a GPU all
    force: bool = False
    command: str = ""  # that is recorded


@dataclass(frozen=True)
class Task:
    """An experiment with what is left of it to train."""

    label: str  # its title in a study; empty if it was typed by hand
    experiment: Experiment
    dataset: Dataset
    folder: Path  # of its records
    seeds: list[int]  # in no unit yet
    begun: list[Checkpoint] = field(default_factory=list)  # units of other seeds, resumed as they were planned


@dataclass(frozen=True)
class Unit:
    """Seeds of a task that train side by side in one process."""

    task: Task
    checkpoint: Checkpoint

    @property
    def seeds(self) -> list[int]:
        """The seeds, in the order of the runs."""
        return self.checkpoint.seeds

    @property
    def epochs(self) -> int:
        """How many epochs are left at most, summed over the runs."""
        return (self.task.experiment.epochs - self.checkpoint.epoch) * len(self.seeds)

    def count_trained(self, runs: list[Run]) -> int:
        """Return how many epochs its runs were trained since the checkpoint, summed over the runs."""
        return sum(max(0, run.result["epochs"] - self.checkpoint.epoch) for run in runs)

    @property
    def name(self) -> str:
        """What messages call it: its title, if it has one, and its seeds."""
        return join_label(self.task.label, format_seeds(self.seeds))


@dataclass(frozen=True)
class Plan:
    """The units of a training, the longest first, and how many processes train them."""

    units: list[Unit]
    jobs: int  # processes at a time

    @property
    def threads(self) -> list[int]:
        """The distinct numbers of threads of the processes."""
        return sorted({unit.checkpoint.threads for unit in self.units})

    def __str__(self) -> str:
        counts = [len(unit.seeds) for unit in self.units]
        sizes = "+".join(map(str, counts)) if len(counts) <= 10 else f"{len(counts)} units of up to {max(counts)}"
        processes = f"{self.jobs} processes" if self.jobs > 1 else "one process"
        threads = "1 thread" if self.threads == [1] else f"{' or '.join(map(str, self.threads))} threads"
        return f"{processes} ({sizes} side by side), {threads} each"


def join_label(label: str, rest: str) -> str:
    """Put a label before something, with a comma, unless it is empty."""
    return f"{label}, {rest}" if label else rest


# ---------------------------------------------------------------------------------------------------------------------
# What is left


def make_tasks(
    study: Study, titles: Iterable[str], options: TrainOptions, locks: contextlib.ExitStack
) -> tuple[list[Task], list[str]]:
    """Decide which seeds of some experiments still have to be trained, and print what is skipped or resumed.

    Args:
        locks: keeps the folders of the tasks from other commands.

    Returns:
        (a task for each experiment with something to train, a line for each that another command trains).

    Raises:
        UserError: a network that cannot be, data that cannot be had, or a folder that holds something else.
    """
    experiments = {title: study.experiments[title].experiment for title in titles}
    networks = {title: check_network(experiment, study, title) for title, experiment in experiments.items()}
    datasets = load_datasets(experiments.values(), options.data_dir)
    samples = {dataset.name for (name, _), dataset in datasets.items() if dataset.name != name}
    recorded_study = study.with_overrides(dict(dataset=min(samples))) if samples and not study.is_single else study
    tasks, seen, elsewhere = [], set(), []
    for title, experiment in experiments.items():
        dataset = datasets[experiment.dataset_name, experiment.split_seed]
        experiment = replace(experiment, dataset=dataset.name)
        first = experiment.name if study.is_single else study.trained_as[title]
        if first != title and not study.is_single:
            print(f"{title}: the same settings as {first}, trained under that title")
        if first in seen:
            continue
        seen.add(first)
        folder = options.runs_dir / recorded_study.group / first
        with contextlib.ExitStack() as lock:
            try:
                lock.enter_context(checkpoints.lock(folder))
            except checkpoints.TrainedElsewhere as error:
                elsewhere.append(f"not trained: {first}: {error} is training it; try again when it has ended\n")
                print(elsewhere[-1].rstrip())
                continue
            named = None if study.is_single else study.name
            description = records.describe(experiment, dataset, first, named, recorded_study.overrides)
            records.open_folder(folder, description, replace=options.force)
            missing, begun, lines = split_seeds(folder, options)
            print("; ".join([first, *describe_penalties(experiment, networks[title]), *lines]))
            if missing or begun:
                label = "" if study.is_single else first
                tasks.append(Task(label, experiment, dataset, folder, missing, begun))
                locks.push(lock.pop_all())
    return tasks, elsewhere


def check_network(experiment: Experiment, study: Study, title: str) -> nn.Sequential:
    """Build an experiment's network, so that it is refused before anything is downloaded or written.

    Raises:
        UserError: its images or groups do not fit.
    """
    source = SOURCES[experiment.dataset_name]
    try:
        return build_network(experiment, source.shape, len(source.classes), seed=0)
    except ValueError as error:
        raise UserError(str(error) if study.is_single else f"{title}: {error}") from None


def load_datasets(experiments: Iterable[Experiment], data_dir: Path) -> dict[tuple[str, int], Dataset]:
    """Load the data sets of experiments, {(name, split seed): data set}, and print what was found.

    Where none was named and the model's cannot be had, its embedded sample stands in, with a warning.

    Raises:
        sources.finding.DataError: one that was named cannot be had, or is damaged.
    """
    datasets: dict[tuple[str, int], Dataset] = {}
    for experiment in experiments:
        name, split_seed = experiment.dataset_name, experiment.split_seed
        if (name, split_seed) in datasets:
            continue
        try:
            dataset = data.load(name, data_dir, split_seed)
        except DataNotFound as error:
            sample = SOURCES[name].sample
            if experiment.dataset or not sample:
                raise
            warning = f"training on the small embedded sample {sample} instead; its metrics are not those of {name}"
            print(f"{error}\nWARNING: {warning}", file=sys.stderr)
            dataset = data.load(sample, data_dir, split_seed)
        datasets[name, split_seed] = dataset
    for dataset in datasets.values():
        print(
            f"{dataset.name} from {dataset.found_in}: {len(dataset.train):,} train / "
            f"{len(dataset.validation):,} validation / {len(dataset.test):,} test images"
        )
    return datasets


def split_seeds(folder: Path, options: TrainOptions) -> tuple[list[int], list[Checkpoint], list[str]]:
    """Split the seeds asked for into those in no unit yet, those of unfinished units, and finished ones.

    A unit that was begun with any of the seeds is resumed whole, with the runs and threads it was begun with: they
    determine its bits. Where nothing of it is trained yet, options that say otherwise have it planned again.

    Returns:
        (seeds in no unit yet, checkpoints of unfinished units, all of this in words).

    Raises:
        UserError: a unit was begun on another device.
    """
    begun, lines = [], []
    for checkpoint in checkpoints.find_unfinished(folder):
        if set(options.seeds).isdisjoint(checkpoint.seeds):
            continue
        is_as_asked = (
            len(checkpoint.seeds) <= (options.runs_at_once or math.inf)
            and checkpoint.threads == (options.threads or checkpoint.threads)
            and checkpoint.device == options.device
        )
        if checkpoint.epoch and checkpoint.device != options.device and not options.force:
            raise UserError(
                f"--device {options.device}: {folder.name}, {format_seeds(checkpoint.seeds)} began on "
                f"{checkpoint.device}; resume with --device {checkpoint.device}, or start again with --force"
            )
        if options.force or not (checkpoint.epoch or is_as_asked):
            checkpoint.delete()
        else:
            begun.append(checkpoint)
        if checkpoint.epoch:
            what = "discarded by --force" if options.force else "resumed"
            lines.append(f"{what}: {format_seeds(checkpoint.seeds)} after epoch {checkpoint.epoch}")
    taken = {seed for checkpoint in begun for seed in checkpoint.seeds}
    finished = set() if options.force else set(records.finished_seeds(folder)) - taken
    missing = [seed for seed in options.seeds if seed not in finished | taken]
    if skipped := [seed for seed in options.seeds if seed in finished]:
        lines.append(f"skipped: {format_seeds(skipped)} finished already (--force trains them again)")
    if new := missing + [seed for checkpoint in begun if not checkpoint.epoch for seed in checkpoint.seeds]:
        lines.append(f"to train: {format_seeds(new)}")
    return missing, begun, lines


def describe_penalties(experiment: Experiment, network: nn.Module) -> list[str]:
    """Say what the penalties act on, in a list of one line; of none if there is no penalty."""
    if not (experiment.l1 or experiment.l2 or experiment.weight_decay):
        return []
    chosen = regularizers.penalized_parameters(network, experiment.penalize)
    count, total = sum(parameter.numel() for parameter in chosen.values()), models.count_parameters(network)
    return [
        f"penalized: {count:,} of {total:,} parameters a run, in {len(chosen)} of "
        f"{len(list(network.parameters()))} tensors (--penalize {experiment.penalize})"
    ]


# ---------------------------------------------------------------------------------------------------------------------
# What goes side by side


def make_plan(tasks: list[Task], options: TrainOptions, measured: Mapping[str, tuple[int, int]] = MEASURED) -> Plan:
    """Plan units enough to keep every core busy, none with more runs than measured fastest, the longest first.

    A GPU has one process, and all runs of an experiment side by side in it. A resumed unit keeps its seeds and threads:
    they determine its bits.
    """
    cores, on_cpu = joblib.cpu_count(), options.device == "cpu"
    processes = options.jobs or (cores if on_cpu else 1)
    fastest = [measured[task.experiment.model.rstrip("0123456789")] for task in tasks]
    planned = []  # for each task, the seeds of each new unit
    for task, (fastest_runs, _) in zip(tasks, fastest, strict=True):
        most = options.runs_at_once or (fastest_runs if on_cpu else max(len(task.seeds), 1))
        count = math.ceil(len(task.seeds) / most)
        if not options.runs_at_once:
            wanted = math.ceil(processes / len(tasks)) - len(task.begun)
            count = max(count, min(wanted, len(task.seeds)))
        bounds = [len(task.seeds) * unit // max(count, 1) for unit in range(count + 1)]
        planned.append([task.seeds[start:end] for start, end in pairwise(bounds)])
    processes = min(processes, sum(len(task.begun) + len(new) for task, new in zip(tasks, planned, strict=True)))
    threads = options.threads or max(1, min(cores // processes, *(threads for _, threads in fastest)))
    units = []
    for task, new in zip(tasks, planned, strict=True):
        units += [Unit(task, checkpoint) for checkpoint in task.begun]
        units += [Unit(task, Checkpoint(task.folder, seeds, threads, new, options.device)) for seeds in new]
    return Plan(sorted(units, key=lambda unit: unit.epochs, reverse=True), processes)
