"""Train one experiment or a whole study, several seeds side by side. The training loop is in training.py.

examples:
  python train.py --model mlp3 --l1 0.001                     five seeds of the third network with L1
  python train.py --model mlp3 --l1 0.001 --seeds 5-9         five more seeds; finished seeds are kept
  python train.py --model mlp3 --dropout 0.25                 dropout after each hidden layer
  python train.py --model mlp3 --patience 3 --epochs 20       early stopping on the validation loss
  python train.py --model mlp3 --norm batch                   batch normalization before each activation
  python train.py --model mlp --hidden 300 100 --optimizer sgd --lr 0.1 --momentum 0.9
  python train.py --model mlp --hidden --l1 0.001 --l1-mode proximal     sparse logistic regression
  python train.py --model cnn1 --norm ghost --ghost-splits 4  a small CNN with ghost batch normalization
  python train.py --model mlp3 --summary                      the layers and their parameters; trains nothing
  python train.py --dataset mnist_sample --epochs 3           a first try in seconds, without a download
  python train.py --list                                      the studies, and which of their seeds are trained
  python train.py --study mnist-norms                         all experiments of a study
  python train.py --study fashion-mlp --only dropout "batch norm" --seeds 0-9
  python train.py --study mnist-norms --dataset mnist_sample --epochs 3    a study in minutes, without a download
"""

import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from engine import flags
from experiments import Experiment, Settings, UserError, flag_of
from studies import STUDIES
from studies.study import Study

SEEDS = "0-4"
FAILED, NOT_ALL = 1, 3  # exit statuses: a unit failed; another command is training some of the experiments


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, plan the training, train, and record the runs."""
    parser = make_train_parser()
    args = parser.parse(argv)
    settings = flags.given_settings(args)
    with answer_in_one_line(parser, args.force, args.cluster):
        if args.list and settings and not args.study:
            raise UserError(f"--list {flag_of(min(settings))}: settings need --study NAME")
        study, titles = choose_experiments(settings, args.study, args.only)
        seeds = flags.parse_seeds(args.seeds)

        from engine import cluster, overview, workers  # late, because importing torch takes seconds
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
        options = plan_options = TrainOptions(seeds, **{name: getattr(args, name) for name in names}, command=command)
        failures: list[str] = []
        with contextlib.ExitStack() as stack:
            if args.cluster is None:
                workers.check_device(args.device)
                train_units, where = workers.train_units, "training"
            else:
                client = stack.enter_context(cluster.connect(args.cluster, args.jobs or 1))
                train_units, where = partial(cluster.train_units, client), f"training on {args.cluster}"
                plan_options = replace(options, jobs=len(client.nthreads()), threads=args.threads or 1)
            tasks, elsewhere = make_tasks(study, titles, options, stack)
            if tasks:
                plan = make_plan(tasks, plan_options)
                print(f"{where}: {plan}")
                failures = workers.train_and_record(plan, options, train_units)
        if failures:
            failures.append("finished runs are kept; the same command tries the others again\n")
        if failures or elsewhere:
            parser.exit(FAILED if failures else NOT_ALL, "".join(elsewhere + failures))


@contextlib.contextmanager
def answer_in_one_line(parser: flags.OneLineParser, is_forced: bool, cluster: str | None) -> Iterator[None]:
    """Report a mistake, a system error or Ctrl-C in one line, and end with an exit status."""
    try:
        yield
    except UserError as error:
        parser.error(str(error))
    except OSError as error:  # the output's reader has gone, as with `| head`, or the disk is full
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141 if isinstance(error, BrokenPipeError) else FAILED
        parser.exit(status, f"train.py: {error.strerror or error}; finished runs and checkpoints are kept\n")
    except KeyboardInterrupt as interrupt:
        # Once training has begun, --force has discarded the old runs; used again, it would discard the new ones.
        has_begun = type(interrupt) is not KeyboardInterrupt
        same = "the same command without --force" if is_forced and has_begun else "the same command"
        kept = "finished runs are kept, and unfinished runs up to their last checkpoint, if there is one"
        resumes = f"{kept}; {same} resumes them"
        if cluster is not None:
            resumes = f"finished runs are kept; {same} trains the others from a local checkpoint or from the start"
        parser.exit(130, f"\ninterrupted: {resumes}\n")


def make_train_parser() -> flags.OneLineParser:
    """Make the parser for train.py's command line."""
    parser = flags.make_parser("train.py", __doc__)
    flags.add_settings(parser)
    group = parser.add_argument_group("what to train, where and how")
    group.add_argument(
        "--seeds", default=SEEDS, help="seeds and ranges of seeds: 0-4, 7 or 0,3,5-9 (default: %(default)s)"
    )
    group.add_argument(
        "--study", choices=STUDIES, help="train a study's experiments; settings given beside it apply to all of them"
    )
    group.add_argument("--only", nargs="+", metavar="TITLE", help="train only these experiments of the study")
    group.add_argument(
        "--list", action="store_true", help="print the studies, or the experiments of --study; train nothing"
    )
    group.add_argument("--summary", action="store_true", help="print the network's layers and train nothing")
    flags.add_data_dir(group)
    flags.add_runs_dir(group)
    group.add_argument(
        "--force",
        action="store_true",
        help="train finished and unfinished seeds again, and replace records of an experiment edited since",
    )
    flags.add_device(group)
    jobs = "parallel processes (default: one for each core, one for a GPU); with --cluster, workers to wait for"
    group.add_argument("--jobs", type=flags.positive, help=f"{jobs} (default: 1)")
    group.add_argument("--threads", type=flags.positive, help="threads in each process (default: the fastest measured)")
    group.add_argument(
        "--runs-at-once",
        type=flags.positive,
        help="maximum number of seeds side by side in a process (default: the fastest measured; on a GPU, all)",
    )
    group.add_argument(
        "--cluster", metavar="ADDRESS", help="train on the workers of this Dask scheduler, such as tcp://host:8786"
    )
    return parser


def choose_experiments(settings: Settings, name: str | None, only: list[str] | None) -> tuple[Study, list[str]]:
    """Return the requested study with its overrides, and the titles of the experiments to train.

    Args:
        settings: the settings of an experiment typed by hand, or the overrides of a study.
        name: the name of the study; None: make a study of the experiment typed by hand.
        only: the titles to train; None: all titles of the study.

    Raises:
        UserError: a setting is not allowed, or a title is not in the study.
    """
    try:
        if name is None:
            if only:
                raise UserError(f"--only {only[0]}: needs --study NAME")
            experiment = Experiment(**settings)
            return Study.typed_by_hand({experiment.name: experiment}), [experiment.name]
        study = STUDIES[name].with_overrides(settings)
    except ValueError as error:
        raise UserError(str(error)) from None
    for title in only or STUDIES[name].experiments:
        if title in study.left_out:
            raise UserError(study.left_out[title])
        if title not in study.experiments:
            known = ", ".join(f'"{known}"' for known in STUDIES[name].experiments)
            raise UserError(f"--only {title}: expected experiments of {name}: {known}")
    return study, list(dict.fromkeys(only or study.experiments))


def interrupt_once(*_: object) -> None:
    """Raise KeyboardInterrupt, and ignore further Ctrl-C, which would disturb the shutdown."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell's & has Ctrl-C ignored: keep it so
        signal.signal(signal.SIGINT, interrupt_once)
    main()
