"""What of the experiments asked for is not trained yet, which is said.

with contextlib.ExitStack() as locks:
    tasks, elsewhere = make_tasks(args, {"": experiment}, changes={}, seeds=[0, 1], locks=locks)
    plan = workers.make_plan(tasks)
"""

import contextlib
import math
import sys
from dataclasses import replace

import experiments
import studies
from engine import checkpoints, records, workers
from engine.progress import seed_list
from sources import catalogue, finding

# torch and scikit-learn take seconds to import: the functions that need them do, so that refusals answer at once.


class CannotTrain(Exception):
    """Training cannot start or go on; the message is one line and says what to do."""


def make_tasks(args, asked, changes, seeds, locks):
    """What of some seeds of the experiments asked for is not finished yet.

    Args:
        args: the command line, as `train.make_parser` reads it.
        asked: {title: experiment}; one without a study has no title.
        changes: {name: value} of the settings that change the study.
        locks: the `contextlib.ExitStack` that keeps their folders from other commands.

    Returns:
        (a `workers.Task` for each that has something to train, a line for each that another command trains).
    """
    # Refused before anything is downloaded or written.
    networks = {title: network_of(title, experiment) for title, experiment in asked.items()}
    datasets = load_data(asked.values(), args.data_dir)
    resolved, sample = {}, {}
    for title, experiment in asked.items():
        name = experiment.dataset or experiment.default_dataset
        dataset = datasets[name, experiment.split_seed]
        if dataset.name != name:
            sample = dict(dataset=dataset.name)  # in its place
        resolved[title] = replace(experiment, dataset=dataset.name), dataset
    for dataset in datasets.values():
        print(
            f"{dataset.name} from {dataset.found_in}: {len(dataset.train):,} train / "
            f"{len(dataset.validation):,} validation / {len(dataset.test):,} test images"
        )
    table = experiments.folder_name(args.study, sample | changes) if args.study else records.SINGLE
    tasks, seen, elsewhere = [], set(), []
    for title, (experiment, dataset) in resolved.items():
        trained_as = studies.STUDIES[args.study].trained_as(title, changes) if args.study else experiment.name
        if trained_as != title and args.study:
            print(f"{title}: the same settings as {trained_as}, trained under that title")
        if trained_as in seen:
            continue
        seen.add(trained_as)
        with contextlib.ExitStack() as lock:
            try:
                lock.enter_context(checkpoints.lock(args.runs_dir / table / trained_as))
            except checkpoints.TrainedElsewhere as error:
                elsewhere.append(f"not trained: {trained_as}: {error} is training it; try again when it has ended\n")
                print(elsewhere[-1].rstrip())
                continue
            description = records.describe(experiment, dataset)
            folder = records.open_folder(args.runs_dir, table, trained_as, description, replace=args.force)
            missing, begun, about = what_is_left(args, folder, seeds)
            print("; ".join([trained_as, *penalized(experiment, networks[title]), *about]))
            if missing or begun:
                tasks.append(workers.Task(title and trained_as, experiment, dataset, folder, missing, begun))
                locks.push(lock.pop_all())
    return tasks, elsewhere


def what_is_left(args, folder, seeds):
    """What of some seeds of an experiment there is to train.

    Units that were begun with any of the seeds go on whole, with as many runs at once and threads as they were begun
    with; where nothing of them is trained yet, --runs-at-once, --threads and --device that say otherwise have them
    planned anew.

    Returns:
        (seeds in no unit yet, the checkpoints of units that were begun, and this in words).

    Raises:
        CannotTrain: a unit was begun on another device.
    """
    begun, about = [], []
    for checkpoint in checkpoints.unfinished(folder):
        if set(seeds).isdisjoint(checkpoint.seeds):
            continue
        as_asked = len(checkpoint.seeds) <= (args.runs_at_once or math.inf)
        as_asked &= checkpoint.threads == (args.threads or checkpoint.threads) and checkpoint.device == args.device
        if checkpoint.epoch and checkpoint.device != args.device and not args.force:
            raise CannotTrain(
                f"--device {args.device}: {folder.name}, {seed_list(checkpoint.seeds)} began on {checkpoint.device}, "
                f"which --device {checkpoint.device} goes on with; --force starts anew"
            )
        if args.force or not (checkpoint.epoch or as_asked):
            checkpoint.delete()
        else:
            begun.append(checkpoint)
        if checkpoint.epoch:
            what = "discarded by --force" if args.force else "goes on"
            about.append(f"{what}: {seed_list(checkpoint.seeds)} after epoch {checkpoint.epoch}")
    taken = {seed for checkpoint in begun for seed in checkpoint.seeds}
    finished = set() if args.force else set(records.finished_seeds(folder)) - taken
    missing = [seed for seed in seeds if seed not in finished | taken]
    if skipped := [seed for seed in seeds if seed in finished]:
        about.append(f"skipped: {seed_list(skipped)} finished already (--force trains anew)")
    if new := missing + [seed for checkpoint in begun if not checkpoint.epoch for seed in checkpoint.seeds]:
        about.append(f"to train: {seed_list(new)}")
    return missing, begun, about


def load_data(asked, data_dir):
    """{(name, split seed): data set} of experiments, under the name that was asked for.

    Where none was named and the model's own cannot be had, its embedded sample takes its place.
    """
    import data

    datasets = {}
    for experiment in asked:
        name, split_seed = experiment.dataset or experiment.default_dataset, experiment.split_seed
        if (name, split_seed) in datasets:
            continue
        try:
            datasets[name, split_seed] = data.load(name, data_dir, split_seed)
        except finding.DataNotFound as error:
            sample = catalogue.SOURCES[name].sample
            if experiment.dataset or not sample:
                raise
            warning = (
                f"WARNING: training on the small embedded sample {sample} instead; its figures are not those of {name}"
            )
            print(f"{error}\n{warning}", file=sys.stderr)
            datasets[name, split_seed] = data.load(sample, data_dir, split_seed)
    return datasets


def penalized(experiment, network):
    """What the penalties act on, in words; nothing if there is none."""
    import models
    import regularizers

    if experiment.l1 or experiment.l2 or experiment.weight_decay:
        chosen = regularizers.penalized_parameters(network, experiment.penalize)
        count, total = sum(parameter.numel() for parameter in chosen.values()), models.parameter_count(network)
        yield (
            f"penalized: {count:,} of {total:,} parameters a run, in {len(chosen)} of "
            f"{len(list(network.parameters()))} tensors (--penalize {experiment.penalize})"
        )


def network_of(title, experiment):
    """The textbook network of an experiment; refused where its images or groups do not fit."""
    import training

    try:
        source = catalogue.SOURCES[experiment.dataset or experiment.default_dataset]
        return training.textbook_network(experiment, source, seed=0)
    except ValueError as error:
        raise CannotTrain(f"{title and f'{title}: '}{error}") from None
