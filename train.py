"""Train an experiment, or all of a study, the seeds side by side. (The loop is in training.py.)

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
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from experiments import Experiment, UserError, flag_of
from studies import STUDIES, flags
from studies.study import Study

SEEDS = "0-4"
FAILED, NOT_ALL = 1, 3  # exit statuses: a unit failed; another command trains some of the experiments


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, plan, train and record."""
    parser = make_train_parser()
    args = parser.parse(argv)
    with answer_in_one_line(parser, args):
        study, titles = choose_experiments(args)
        seeds = flags.parse_seeds(args.seeds)

        from engine import cluster, overview, workers  # with torch and joblib: seconds that a refusal need not wait
        from engine.plan import TrainOptions, make_plan, make_tasks

        if args.list:
            for listed in [study] if args.study else STUDIES.values():
                overview.print_study(listed, titles if args.study else listed.experiments, args.runs_dir)
            return
        if args.summary:
            overview.print_summary(study, titles)
            return
        names = ("runs_dir", "data_dir", "device", "jobs", "threads", "runs_at_once", "force")
        command = shlex.join(["train.py", *(sys.argv[1:] if argv is None else argv)])
        options = in_plan = TrainOptions(seeds, **{name: getattr(args, name) for name in names}, command=command)
        failures: list[str] = []
        with contextlib.ExitStack() as stack:
            if args.cluster is None:
                workers.check_device(args.device)
                train_units, where = workers.train_units, "training"
            else:
                client = stack.enter_context(cluster.connect(args.cluster, args.jobs or 1))
                train_units, where = partial(cluster.train_units, client), f"training on {args.cluster}"
                in_plan = replace(options, jobs=len(client.nthreads()), threads=args.threads or 1)
            tasks, elsewhere = make_tasks(study, titles, options, stack)
            if tasks:
                plan = make_plan(tasks, in_plan)
                print(f"{where}: {plan}")
                failures = workers.train_and_record(plan, options, train_units)
        if failures:
            failures.append("finished runs are kept; the same command tries the others again\n")
        if failures or elsewhere:
            parser.exit(FAILED if failures else NOT_ALL, "".join(elsewhere + failures))


@contextlib.contextmanager
def answer_in_one_line(parser: flags.OneLineParser, args: argparse.Namespace) -> Iterator[None]:
    """End with one line and an exit status where a mistake, the system or Ctrl-C ends the training."""
    try:
        yield
    except UserError as error:
        parser.error(str(error))
    except OSError as error:  # nobody reads the output any more, as with `| head`, or its disk is full
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141 if isinstance(error, BrokenPipeError) else FAILED
        parser.exit(status, f"train.py: {error.strerror or error}; finished runs and checkpoints are kept\n")
    except KeyboardInterrupt as interrupt:
        # Once the checkpoints are begun, they know what --force has discarded.
        has_begun = type(interrupt) is not KeyboardInterrupt
        same = "the same command without --force" if args.force and has_begun else "the same command"
        kept = "finished runs are kept, and the others as they were at their last checkpoint, if there was time for one"
        resumes = f"{kept}; {same} resumes them"
        if args.cluster is not None:
            resumes = f"finished runs are kept; {same} trains the others from the start, or from a checkpoint made here"
        parser.exit(130, f"\ninterrupted: {resumes}\n")


def make_train_parser() -> flags.OneLineParser:
    """Make the parser of train.py's command line."""
    parser = flags.make_parser("train.py", __doc__)
    flags.add_settings(parser)
    group = parser.add_argument_group("what to train, where and how")
    group.add_argument(
        "--seeds", default=SEEDS, help="as a printer takes pages: 0-4, 7 or 0,3,5-9 (default: %(default)s)"
    )
    group.add_argument(
        "--study", choices=STUDIES, help="train a study's experiments; settings given beside it change them all"
    )
    group.add_argument("--only", nargs="+", metavar="TITLE", help="train these experiments of the study alone")
    group.add_argument(
        "--list", action="store_true", help="print the studies, or one study's experiments; train nothing"
    )
    group.add_argument("--summary", action="store_true", help="print the network's layers and train nothing")
    flags.add_data_dir(group)
    flags.add_runs_dir(group)
    group.add_argument(
        "--force",
        action="store_true",
        help="train finished and begun seeds again, and replace a study's experiment that was edited",
    )
    flags.add_device(group)
    jobs = "processes at a time (default: one for each core, one for a GPU); of a cluster, workers to wait for"
    group.add_argument("--jobs", type=flags.positive, help=f"{jobs} (default: 1)")
    group.add_argument("--threads", type=flags.positive, help="threads of a process (default: as measured)")
    group.add_argument(
        "--runs-at-once",
        type=flags.positive,
        help="seeds side by side in a process, at most (default: as measured; on a GPU all)",
    )
    group.add_argument(
        "--cluster", metavar="ADDRESS", help="train on the workers of the Dask scheduler there, such as tcp://host:8786"
    )
    return parser


def choose_experiments(args: argparse.Namespace) -> tuple[Study, list[str]]:
    """Return the study that was asked for, with its overrides, and the titles to train.

    An experiment typed by hand is a study, too.

    Raises:
        UserError: an experiment that cannot be, or a title that the study does not have.
    """
    settings = flags.given_settings(args)
    try:
        if args.study is None:
            if args.only:
                raise UserError(f"--only {args.only[0]}: names experiments of a --study")
            if args.list and settings:
                raise UserError(f"--list {flag_of(min(settings))}: settings go with --list --study NAME")
            experiment = Experiment(**settings)
            return Study.typed_by_hand({experiment.name: experiment}), [experiment.name]
        study = STUDIES[args.study].with_overrides(settings)
    except ValueError as error:
        raise UserError(str(error)) from None
    for title in args.only or STUDIES[args.study].experiments:
        if title in study.left_out:
            raise UserError(study.left_out[title])
        if title not in study.experiments:
            known = ", ".join(f'"{known}"' for known in STUDIES[args.study].experiments)
            raise UserError(f"--only {title}: is none of {args.study}'s experiments, {known}")
    return study, list(dict.fromkeys(args.only or study.experiments))


def interrupt_once(*_: object) -> None:
    """Raise KeyboardInterrupt, and ignore a second Ctrl-C: it would disturb the end that the first one asked for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where a shell's & has it ignored
        signal.signal(signal.SIGINT, interrupt_once)
    main()
