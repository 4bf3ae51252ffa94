"""Train an experiment, or all of a study, the seeds side by side.

examples:
  python train.py --model mlp3 --l1 0.001                     five seeds of the third network with L1
  python train.py --model mlp3 --l1 0.001 --seeds 5-9         five more; finished seeds are kept
  python train.py --model mlp3 --dropout 0.25                 dropout after each hidden layer
  python train.py --model mlp3 --patience 3 --epochs 20       early stopping on the validation loss
  python train.py --model mlp3 --norm batch                   batch normalization before each activation
  python train.py --model mlp --hidden 300 100 --optimizer sgd --lr 0.1 --momentum 0.9
  python train.py --model mlp --hidden --l1 0.001 --l1-mode proximal     sparse logistic regression
  python train.py --model cnn1 --norm ghost --ghost-splits 4  a small CNN with ghost batch normalization
  python train.py --model mlp3 --summary                      the layers and their parameters; trains nothing
  python train.py --dataset mnist_sample --epochs 3           a first try in seconds, without a download
  python train.py --list                                      the studies, and what of them is trained
  python train.py --study mnist-norms                         all experiments of a study
  python train.py --study fashion-mlp --only dropout "batch norm" --seeds 0-9
  python train.py --study mnist-norms --dataset mnist_sample --epochs 3    a study in minutes, without a download
"""

import argparse
import contextlib
import os
import shlex
import signal
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import experiments
import studies
from engine import cluster, records, workers
from engine.plan import CannotTrain, make_tasks, network_of
from engine.progress import Progress, seed_list
from engine.provenance import git_commit
from sources import catalogue, finding

# torch, scikit-learn and joblib take seconds to import: the functions that need them do, so that `--help` and every
# refusal answer at once.

DEVICES = ("cpu", "cuda", "mps")
SEEDS = "0-4"
LARGEST_SEED = 2**32 - 1
MOST_SEEDS = 1000  # of one command
FAILED, NOT_ALL = 1, 3  # exit statuses: a unit failed; another command trains some of the experiments


def main(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    args.begun = False
    args.command = shlex.join(["train.py", *(sys.argv[1:] if argv is None else argv)])
    try:
        asked, changes = what_is_asked(args)
        seeds = parse_seeds(args.seeds)
    except ValueError as error:
        parser.error(str(error))
    try:
        if args.list:
            print_studies(args, asked, changes)
        elif args.summary:
            for title, experiment in asked.items():
                print_summary(title, experiment)
        else:
            if args.cluster is None:
                check_device(args.device)
            status, message = train_all(args, asked, changes, seeds)
            if status:
                parser.exit(status, message)
    except (CannotTrain, cluster.ClusterError, finding.DataError, records.RecordError) as error:
        parser.error(str(error))
    except OSError as error:  # nobody reads the output any more, as with `| head`, or its disk is full
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141 if isinstance(error, BrokenPipeError) else FAILED
        parser.exit(status, f"train.py: {error.strerror or error}; finished runs and checkpoints are kept\n")
    except KeyboardInterrupt:
        begun = args.force and args.begun
        same = "the same command without --force" if begun else "the same command"
        kept = "finished runs are kept, and the others as they were at their last checkpoint, if there was time for one"
        goes_on = f"{kept}; {same} goes on from there"
        if args.cluster is not None:
            goes_on = f"finished runs are kept; {same} trains the others from the start, or from a checkpoint made here"
        parser.exit(130, f"\ninterrupted: {goes_on}\n")


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
    group.add_argument(
        "--study", choices=studies.STUDIES, help="train a study's experiments; settings given beside it change them all"
    )
    group.add_argument("--only", nargs="+", metavar="TITLE", help="these experiments of the study alone")
    group.add_argument(
        "--list", action="store_true", help="print the studies, or one study's experiments; train nothing"
    )
    group.add_argument("--summary", action="store_true", help="print the network's layers and train nothing")
    group.add_argument(
        "--data-dir", default=experiments.default_data_dir(), help="folder of data sets (default: $DATA_DIR, else data)"
    )
    group.add_argument("--runs-dir", type=Path, default=Path("runs"), help="folder of records (default: %(default)s)")
    group.add_argument(
        "--force",
        action="store_true",
        help="train finished seeds and begun ones anew, and replace a study's experiment that was edited",
    )
    group.add_argument("--device", default="cpu", choices=DEVICES, help="default: %(default)s")
    group.add_argument(
        "--jobs",
        type=experiments.positive,
        help="processes at a time (default: one for each core, one for a GPU); of a cluster, workers to wait for "
        "(default: 1)",
    )
    group.add_argument("--threads", type=experiments.positive, help="threads of a process (default: as measured)")
    group.add_argument(
        "--runs-at-once",
        type=experiments.positive,
        help="seeds side by side in a process, at most (default: as measured; on a GPU all)",
    )
    group.add_argument(
        "--cluster", metavar="ADDRESS", help="train on the workers of the Dask scheduler there, such as tcp://host:8786"
    )
    return parser


def what_is_asked(args):
    """({title: experiment}, {name: value} of the settings that change a study); one without a study has no title.

    Raises:
        ValueError: an experiment that cannot be, or a title that the study does not have.
    """
    given = experiments.given_settings(args)
    if args.study is None:
        if args.only:
            raise ValueError(f"--only {args.only[0]}: names experiments of a --study")
        if args.list and given:
            raise ValueError(f"--list {experiments.flag_of(min(given))}: settings go with --list --study NAME")
        return {"": experiments.Experiment(**given)}, {}
    study = studies.STUDIES[args.study]
    for title in args.only or ():
        if title not in study.experiments:
            known = ", ".join(f'"{known}"' for known in study.experiments)
            raise ValueError(f"--only {title}: is none of {args.study}'s experiments, {known}")
    changes = study.changes(given)
    return {title: study.experiment(title, given) for title in args.only or study.experiments}, changes


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
        if len(seeds) > MOST_SEEDS:
            raise ValueError(f"--seeds {text[:40]}: expected at most {MOST_SEEDS} seeds; others by another command")
    repeated = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if repeated:
        raise ValueError(f"--seeds {text}: seed {repeated[0]} is named twice; each seed is one run")
    return seeds


def check_device(device):
    import torch

    is_there = dict(cpu=lambda: True, cuda=torch.cuda.is_available, mps=torch.backends.mps.is_available)
    if not is_there[device]():
        there = ", ".join(name for name, available in is_there.items() if available())
        raise CannotTrain(f"--device {device}: this torch ({torch.__version__}) finds none; expected one of: {there}")


def print_summary(title, experiment):
    import models

    network = network_of(title, experiment)
    images = catalogue.SOURCES[experiment.dataset or experiment.default_dataset].shape
    print(f"{title or experiment.name}: {models.parameter_count(network):,} parameters a run")
    print(f"{'layer':<18} {'shape out':<12} {'parameters':>10}")
    for layer, shape, parameters in models.layer_table(network, images):
        print(f"{layer:<18} {'×'.join(map(str, shape)):<12} {f'{parameters:,}' if parameters else '':>10}")


def print_studies(args, asked, changes):
    """The studies with their experiments, and the seeds of each that are finished."""
    from tabulate import tabulate

    import models

    for name in [args.study] if args.study else studies.STUDIES:
        study = studies.STUDIES[name]
        rows = []
        for title in asked if args.study else study.experiments:
            entry, experiment = study.experiments[title], study.experiment(title, changes)
            trained_as = study.trained_as(title, changes)
            sample = catalogue.SOURCES[experiment.dataset or experiment.default_dataset].sample
            tables = {"": changes}
            if sample and "dataset" not in changes:
                tables[f" on {sample}"] = dict(dataset=sample) | changes  # which may have taken its place
            trained = {
                where: records.finished_seeds(args.runs_dir / experiments.folder_name(name, given) / trained_as)
                for where, given in tables.items()
            }
            rows.append(
                (
                    title,
                    entry.kind,
                    f"{models.parameter_count(network_of(title, experiment)):,}",
                    ", ".join(seed_list(seeds) + where for where, seeds in trained.items() if seeds),
                    f"the same settings as {trained_as}" if trained_as != title else entry.note,
                )
            )
        print(f"{name}: {study.asks}")
        print(
            tabulate(rows, ("experiment", "kind", "parameters", "trained", "note"), colalign=("left", "left", "right")),
            "\n",
        )


# ---------------------------------------------------------------------------------------------------------------------
# Training


def train_all(args, asked, changes, seeds):
    """Train what is not finished yet and record each run as soon as its unit is done.

    Returns:
        (exit status, what was not trained, in lines).
    """
    with contextlib.ExitStack() as locks:
        client = None
        if args.cluster is not None:
            client = locks.enter_context(cluster.connect(args.cluster, args.jobs or 1))
        tasks, elsewhere = make_tasks(args, asked, changes, seeds, locks)
        failures = train_tasks(args, tasks, client) if tasks else []
    if failures:
        failures.append("finished runs are kept; the same command tries the others again\n")
    return FAILED if failures else NOT_ALL if elsewhere else 0, "".join(elsewhere + failures)


def train_tasks(args, tasks, client=None):
    """Train `workers.Task`s, here or where a `distributed.Client` says, and record their runs; return what failed."""
    if client:
        plan = workers.make_plan(tasks, len(client.nthreads()), args.threads or 1, args.runs_at_once, args.device)
        trained = partial(cluster.trained, client)
        print(f"training on {args.cluster}: {plan}")
    else:
        plan = workers.make_plan(tasks, args.jobs, args.threads, args.runs_at_once, args.device)
        trained = workers.trained
        print(f"training: {plan}")
    for unit in plan.units:
        unit.checkpoint.begin()
    args.begun = True  # from here on the checkpoints know what --force has discarded
    shared = dict(command=args.command, commit=git_commit())
    failures = []
    with Progress(sum(unit.epochs for unit in plan.units)) as progress:
        for unit, runs in trained(plan, args.device, progress):
            label = unit.task.title and f"{unit.task.title}, "
            try:
                if isinstance(runs, workers.Failure):
                    raise CannotTrain(runs)
                for run in runs:
                    run.result |= shared | dict(finished=datetime.now(UTC).isoformat(timespec="seconds"))
                    path = records.write_run(unit.task.folder, run)
                    progress.say(f"{label}seed {run.seed}: {outcome(run.result)} → {path}")
                unit.checkpoint.delete()
                epochs = sum(max(0, run.result["epochs"] - unit.checkpoint.epoch) for run in runs)
                if client:
                    progress.count(epochs)
                progress.spare(unit.epochs - epochs)
            except (CannotTrain, records.RecordError) as error:
                failures.append(f"failed: {label}{seed_list(unit.seeds)}: {error}\n")
                progress.say(failures[-1].rstrip())
    return failures


def outcome(result):
    if result["diverged"]:
        return result["stop_reason"]
    accuracy, epoch = 100 * result["test_accuracy"], result["chosen_epoch"]
    return f"test accuracy {accuracy:.2f} % at epoch {epoch} ({result['stop_reason']})"


def interrupt_once(*_):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would only disturb the end that the first asked for
    raise KeyboardInterrupt


if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where a shell's & has it ignored
        signal.signal(signal.SIGINT, interrupt_once)
    main()
