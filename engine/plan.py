"""Which seeds are left to train, and which of them train side by side in one process.

with contextlib.ExitStack() as locks:
    tasks, elsewhere = make_tasks(study, ["GN", "BN"], TrainOptions(seeds=[0, 1]), locks)
    plan = make_plan(tasks, TrainOptions(seeds=[0, 1]))
"""

import contextlib
import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import joblib
from torch import nn

import data
import models
from data import Dataset
from engine import checkpoints, folder_names, records
from engine.checkpoints import Checkpoint
from engine.remarks import describe_penalties, list_idle
from engine.seeds import format_seeds, list_seeds
from experiments import Experiment, UserError
from sources.catalogue import SOURCES
from sources.finding import DataNotFound
from sources.own import describe_source
from studies.study import Study
from training import Run, build_network

# The fastest settings measured on a CPU, by kind of network: (runs side by side in a process, threads per process).
# Training that takes minutes measures the number of runs itself (`pace.py`), because it depends on the machine: on one,
# a run-epoch of cnn1 took 6.4 s alone and 4.4 s beside another run, on another 11.3 s alone and 19 s beside three. For
# an MLP, whose matrix products are small, ten runs take little longer than one. Threads that wait for each other after
# every layer gain nothing, and lose much while other programs use the cores: two took 13.9 s for cnn1, one 11.3 s.
MEASURED = {"mlp": (10, 1), "cnn": (1, 1), "resnet": (1, 2)}


@dataclass(frozen=True)
class TrainOptions:
    """The options for training, apart from the experiments."""

    seeds: list[int]
    runs_dir: Path = Path("runs")
    data_dir: Path = Path("data")
    device: str = "cpu"
    jobs: int | None = None  # processes at a time; None: one for each CPU core, or one for a GPU
    threads: int | None = None  # per process; None: as measured fastest
    runs_at_once: int | None = None  # most runs per process; None: the task's `most` or MEASURED, on a GPU all
    force: bool = False
    takes_sample: bool = True  # whether an embedded sample may replace a data set that is not found
    command: str = ""  # the command line, for the records


@dataclass(frozen=True)
class Task:
    """An experiment with the seeds that are left to train."""

    label: str  # the experiment's title in a study; empty if typed by hand
    experiment: Experiment
    dataset: Dataset
    folder: Path  # the folder of the experiment's records
    seeds: list[int]  # not in any unit yet
    begun: list[Checkpoint] = field(default_factory=list)  # unfinished units of other seeds
    most: int | None = None  # runs side by side that `pace.py` found fastest on this machine; None: as in MEASURED
    choice: str = "table"  # where that number comes from: "measured", "remembered" or, from MEASURED, "table"


@dataclass(frozen=True)
class Unit:
    """Seeds of a task that train side by side in one process."""

    task: Task
    checkpoint: Checkpoint

    @property
    def seeds(self) -> list[int]:
        """The unit's seeds, in the order of the runs."""
        return self.checkpoint.seeds

    @property
    def epochs(self) -> int:
        """The largest possible number of epochs left, summed over the runs."""
        return (self.task.experiment.epochs - self.checkpoint.epoch) * len(self.seeds)

    def count_trained(self, runs: list[Run]) -> int:
        """Return the number of epochs trained after the checkpoint that training began from, summed over the runs."""
        return sum(max(0, run.result["epochs"] - self.checkpoint.epoch) for run in runs)

    @property
    def name(self) -> str:
        """The unit's name in messages: its task's label, if not empty, and its seeds."""
        return join_label(self.task.label, format_seeds(self.seeds))


@dataclass(frozen=True)
class Plan:
    """The units to train, the longest first, and the number of processes that train them."""

    units: list[Unit]
    jobs: int  # processes at a time

    @property
    def threads(self) -> list[int]:
        """The distinct numbers of threads per process."""
        return sorted({unit.checkpoint.threads for unit in self.units})

    def __str__(self) -> str:
        counts = [len(unit.seeds) for unit in self.units]
        sizes = "+".join(map(str, counts)) if len(counts) <= 10 else f"{len(counts)} times up to {max(counts)}"
        seeds = f"{sizes} seeds side by side" if max(counts) > 1 else "one seed at a time"
        processes = f"{self.jobs} processes" if self.jobs > 1 else "one process"
        threads = "1 thread" if self.threads == [1] else f"{' or '.join(map(str, self.threads))} threads"
        return f"{processes} ({seeds}), {threads} each"


def join_label(label: str, rest: str) -> str:
    """Put a label and a comma before a text, unless the label is empty."""
    return f"{label}, {rest}" if label else rest


# ---------------------------------------------------------------------------------------------------------------------
# What is left to train


def make_tasks(
    study: Study, titles: Iterable[str], options: TrainOptions, locks: contextlib.ExitStack
) -> tuple[list[Task], list[str]]:
    """Open the folders of some experiments, lock them, and decide which seeds still have to be trained.

    What is skipped or resumed is printed. With `options.force`, checkpoints of the seeds and the records of an edited
    experiment are deleted.

    Args:
        locks: keeps the locks of the tasks' folders until it is closed.

    Returns:
        (a task for each experiment with seeds to train, a line for each experiment that another command is training).

    Raises:
        UserError: a network is impossible, a data set cannot be loaded, a folder cannot be written or holds another
            experiment, or unfinished training began on another device.
    """
    experiments = {title: study.experiments[title].experiment for title in titles}
    networks = {
        title: check_network(experiment, study, title, options.data_dir) for title, experiment in experiments.items()
    }
    datasets = load_datasets(experiments.values(), options.data_dir, options.takes_sample)
    samples = {dataset.name for (name, _), dataset in datasets.items() if dataset.name != name}
    recorded_study = study.with_overrides(dict(dataset=min(samples))) if samples and not study.is_single else study
    tasks, seen, elsewhere = [], set(), []
    for title, experiment in experiments.items():
        dataset = datasets[experiment.dataset_name, experiment.split_seed]
        experiment = replace(experiment, dataset=dataset.name)
        first = experiment.name if study.is_single else study.trained_as[title]
        if first != title and not study.is_single:
            print(f"{title}: has the settings of {first}, so it is trained and recorded as {first}")
        if first in seen:
            continue
        seen.add(first)
        folder = folder_names.locate(options.runs_dir, recorded_study, first, experiment)
        with contextlib.ExitStack() as lock:
            try:
                lock.enter_context(checkpoints.lock(folder))
            except checkpoints.TrainedElsewhere as error:
                elsewhere.append(f"not trained: {first}: {error} is training it; try again when it has ended\n")
                print(elsewhere[-1].rstrip())
                continue
            named = None if study.is_single else study.name
            description = records.describe(experiment, dataset, folder.name, named, recorded_study.overrides)
            records.open_folder(folder, description, replace=options.force)
            missing, begun, lines = split_seeds(folder, options)
            print("; ".join([first, *describe_penalties(experiment, networks[title]), *lines]))
            if idle := list_idle(experiment, dataset):
                print(f"WARNING: {first}: {', '.join(idle)}", file=sys.stderr)
            if missing or begun:
                label = "" if study.is_single else first
                tasks.append(Task(label, experiment, dataset, folder, missing, begun))
                locks.push(lock.pop_all())
    return tasks, elsewhere


def check_network(experiment: Experiment, study: Study, title: str, data_dir: Path) -> nn.Sequential:
    """Build an experiment's network, to refuse impossible settings before anything is downloaded or written.

    Raises:
        UserError: the images or the groups do not fit the network, the network has more parameters than the study
            allows, or a data set of one's own cannot be used.
    """
    source = describe_source(experiment.dataset_name, data_dir)
    try:
        network = build_network(experiment, source.shape, len(source.classes), seed=0)
    except ValueError as error:
        raise UserError(str(error) if study.is_single else f"{title}: {error}") from None
    count, most = models.count_parameters(network), study.most_parameters
    if most and count > most:
        raise UserError(
            f"{title}: {count:,} parameters, but {study.name} allows at most {most:,}; make the network smaller"
        )
    return network


def load_datasets(
    experiments: Iterable[Experiment], data_dir: Path, takes_sample: bool = True
) -> dict[tuple[str, int], Dataset]:
    """Load the experiments' data sets, {(name, split seed): data set}, and print where each was found.

    If a model's default data set cannot be found, its embedded sample is used instead, with a warning, unless
    `takes_sample` is False.

    Raises:
        sources.finding.DataError: a data set is damaged, or it cannot be found and no sample may replace it.
    """
    datasets: dict[tuple[str, int], Dataset] = {}
    for experiment in experiments:
        name, split_seed = experiment.dataset_name, experiment.split_seed
        if (name, split_seed) in datasets:
            continue
        try:
            dataset = data.load(name, data_dir, split_seed)
        except DataNotFound as error:
            if experiment.dataset or not takes_sample or not (sample := SOURCES[name].sample):
                raise
            warning = f"training on the small embedded sample {sample} instead; its metrics are not those of {name}"
            print(f"{error}\nWARNING: {warning}", file=sys.stderr)
            dataset = data.load(sample, data_dir, split_seed)
        datasets[name, split_seed] = dataset
    for dataset in datasets.values():
        for line in dataset.passed_over:
            print(f"passed over: {line}")
        print(
            f"{dataset.name} from {dataset.found_in}: {len(dataset.train):,} train / "
            f"{len(dataset.validation):,} validation / {len(dataset.test):,} test images"
        )
        if seen := dataset.count_seen():
            warning = f"{seen:,} of the test images are also train or validation images; test metrics look too good"
            print(f"WARNING: {dataset.name}: {warning}", file=sys.stderr)
    return datasets


def split_seeds(folder: Path, options: TrainOptions) -> tuple[list[int], list[Checkpoint], list[str]]:
    """Sort the requested seeds into those not yet in any unit, those in an unfinished unit, and finished seeds.

    If an unfinished unit contains any of these seeds, the whole unit is resumed with its original runs and threads,
    because both affect the results bit for bit. If no epoch is saved and the options differ, the seeds are replanned.

    Returns:
        (seeds not yet in any unit, checkpoints of unfinished units, lines that tell the user about all seeds).

    Raises:
        UserError: an unfinished unit began on another device, or `--force` would discard the progress of seeds that are
            not requested.
    """
    begun, lines = [], []
    for checkpoint in checkpoints.find_unfinished(folder):
        if set(options.seeds).isdisjoint(checkpoint.seeds):
            continue
        fits = len(checkpoint.seeds) <= (options.runs_at_once or math.inf)
        is_laid_out_as_asked = fits and checkpoint.threads == (options.threads or checkpoint.threads)
        is_as_asked = (
            is_laid_out_as_asked and set(checkpoint.seeds) <= set(options.seeds) and checkpoint.device == options.device
        )
        if checkpoint.epoch and checkpoint.device != options.device and not options.force:
            raise UserError(
                f"--device {options.device}: {folder.name}, {format_seeds(checkpoint.seeds)} began on "
                f"{checkpoint.device}; resume with --device {checkpoint.device}, or start again with --force"
            )
        if options.force and checkpoint.epoch and not set(checkpoint.seeds) <= set(options.seeds):
            raise UserError(
                f"--force: {folder.name}, {format_seeds(checkpoint.seeds)} are half trained side by side; discard all "
                f"with --seeds {list_seeds(checkpoint.seeds)}, or first let them finish without --force"
            )
        if options.force or not (checkpoint.epoch or is_as_asked):
            checkpoint.delete()
        else:
            begun.append(checkpoint)
        if checkpoint.epoch:
            what = "discarded by --force" if options.force else "resumed"
            as_begun = "" if is_laid_out_as_asked or options.force else ", side by side and with threads as begun"
            lines.append(f"{what}: {format_seeds(checkpoint.seeds)} after epoch {checkpoint.epoch}{as_begun}")
    taken = {seed for checkpoint in begun for seed in checkpoint.seeds}
    finished = set() if options.force else set(records.finished_seeds(folder)) - taken
    missing = [seed for seed in options.seeds if seed not in finished | taken]
    if skipped := [seed for seed in options.seeds if seed in finished]:
        lines.append(f"skipped: {format_seeds(skipped)} finished already (--force trains them again)")
    if new := missing + [seed for checkpoint in begun if not checkpoint.epoch for seed in checkpoint.seeds]:
        lines.append(f"to train: {format_seeds(new)}")
    return missing, begun, lines


# ---------------------------------------------------------------------------------------------------------------------
# Which seeds train side by side


def measured_for(model: str) -> tuple[int, int]:
    """Return (runs side by side, threads) that measured fastest for a model, by its kind: `cnn` for `cnn1`."""
    return MEASURED[model.rstrip("0123456789")]


def make_plan(tasks: list[Task], options: TrainOptions) -> Plan:
    """Divide the seeds of tasks into units, and sort the units so that the longest comes first.

    By default, there are enough units to keep every core busy, and no unit has more runs than measured fastest: by
    `pace.py` for this task or, if it measured nothing, by kind of network. On a GPU, one process trains all runs of an
    experiment side by side. A resumed unit keeps its seeds and threads, because both affect the results bit for bit.
    """
    cores, on_cpu = joblib.cpu_count(), options.device == "cpu"
    processes = options.jobs or (cores if on_cpu else 1)
    fastest = [measured_for(task.experiment.model) for task in tasks]
    planned = []  # for each task, the seeds of each new unit, and where the number of runs comes from
    for task, (fastest_runs, _) in zip(tasks, fastest, strict=True):
        if options.runs_at_once:
            most, choice = options.runs_at_once, "given"
        elif on_cpu:
            most, choice = task.most or fastest_runs, task.choice
        else:
            most, choice = max(len(task.seeds), 1), "all"
        count = math.ceil(len(task.seeds) / most)
        if not options.runs_at_once:
            wanted = math.ceil(processes / len(tasks)) - len(task.begun)
            count = max(count, min(wanted, len(task.seeds)))
        bounds = [len(task.seeds) * unit // max(count, 1) for unit in range(count + 1)]
        planned.append(([task.seeds[start:end] for start, end in pairwise(bounds)], choice))
    processes = min(processes, sum(len(task.begun) + len(new) for task, (new, _) in zip(tasks, planned, strict=True)))
    threads = options.threads or max(1, min(cores // processes, *(most_threads for _, most_threads in fastest)))
    units = []
    for task, (new, choice) in zip(tasks, planned, strict=True):
        first = [Checkpoint(task.folder, seeds, threads, new, options.device, choice=choice) for seeds in new]
        units += [Unit(task, checkpoint) for checkpoint in (*task.begun, *first)]
    return Plan(sorted(units, key=lambda unit: unit.epochs, reverse=True), processes)
