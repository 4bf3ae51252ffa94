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
  python train.py --study mnist-norms                         all experiments of a study, with its planned seeds
  python train.py --study fashion-mlp --until-decided         and more seeds, until its claims are decided
  python train.py --study fashion-mlp --only dropout "batch norm" --seeds 0-9
  python train.py --study mnist-norms --dataset mnist_sample --epochs 3    a study in minutes, without a download
"""

import contextlib
import sys
from dataclasses import replace
from functools import partial
from typing import Any

from engine import console, flags
from engine.seeds import continue_seeds
from experiments import UserError, flag_of
from studies import STUDIES
from studies.study import MOST_TO_DECIDE, join_words

FAILED, NOT_ALL = 1, 3  # exit statuses: a unit failed; another command is training some of the experiments


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, plan the training, train, and record the runs."""
    parser = make_train_parser()
    args = parser.parse(argv)
    settings = flags.given_settings(args)
    plans: list[Any] = []  # what was trained
    with flags.answer_in_one_line(parser, partial(describe_kept, args.force, args.cluster, plans), FAILED):
        if args.list and settings and not args.study:
            raise UserError(f"--list {flag_of(min(settings))}: settings need --study NAME")
        study, titles = flags.choose_experiments(settings, args.study, args.only)
        seeds = flags.choose_seeds(args, study)
        args.data_dir = flags.choose_data_dir(args)

        with flags.importing():  # late, because importing torch takes seconds
            from engine import checkpoints, cluster, overview, pace, workers
            from engine.plan import TrainOptions, make_plan, make_tasks

            if args.until_decided:
                from analysis.deciding import find_next_step
                from grading.untrusted import read_runs

        if args.list:
            for listed in [study] if args.study else STUDIES.values():
                overview.print_study(listed, titles if args.study else listed.experiments, args.runs_dir, args.data_dir)
            return
        if args.summary:
            overview.print_summary(study, titles, args.data_dir)
            return
        names = ("runs_dir", "data_dir", "device", "jobs", "threads", "runs_at_once", "force")
        command = join_words("train.py", *flags.leave_out_folder(sys.argv[1:] if argv is None else argv, args))
        given = {name: getattr(args, name) for name in names}
        group = args.runs_dir / study.group
        if args.until_decided:  # on its own data alone, because claims are not judged on a sample
            known, shared = checkpoints.find_seeds(group)
            seeds = continue_seeds(known, study.seeds, shared if len(shared) >= study.seeds else ())
        options = plan_options = TrainOptions(seeds, **given, takes_sample=not args.until_decided, command=command)
        failures: list[str] = []
        with contextlib.ExitStack() as stack:
            if args.cluster is None:
                workers.check_device(args.device)
                train_units, where = workers.train_units, "training"
            else:
                client = stack.enter_context(cluster.connect(args.cluster, args.jobs or 1))
                train_units, where = partial(cluster.train_units, client), f"training on {args.cluster}"
                plan_options = replace(options, jobs=len(client.nthreads()), threads=args.threads or 1)
            step = None
            while True:
                with contextlib.ExitStack() as locks:
                    tasks, elsewhere = make_tasks(study, titles, options, locks)
                    if tasks:
                        if args.cluster is None:
                            tasks = pace.set_fastest(tasks, options)
                        plan = make_plan(tasks, plan_options)
                        print(f"{where}: {plan}")
                        failures = workers.train_and_record(plan, options, train_units)
                        plans.append(plan)
                if failures or elsewhere or not args.until_decided:
                    break
                found, problems = read_runs(args.runs_dir, study.name)
                step = find_next_step(study, found, args.data_dir, args.most_seeds or MOST_TO_DECIDE, step)
                print(step.says, flush=True)
                if not step.titles:
                    print("".join(f"{problem}\n" for problem in problems), end="", file=sys.stderr)
                    break
                seeds = continue_seeds(checkpoints.find_seeds(group)[0], step.seeds, step.judged)
                titles, options = step.titles, replace(options, seeds=seeds, force=False)
        if failures:
            same = "the same command without --force" if args.force else "the same command"
            failures.append(f"finished runs are kept; {same} tries the others again\n")
        if failures or elsewhere:
            parser.exit(FAILED if failures else NOT_ALL, "".join(elsewhere + failures))


def describe_kept(is_forced: bool, cluster: str | None, plans: list[Any], error: BaseException) -> str:
    """Say what is kept of the training that a system error or a signal stopped, and which command resumes it."""
    if isinstance(error, OSError):
        return "finished runs and checkpoints are kept"
    # Once training has begun, --force has discarded the old runs; used again, it would discard the new ones. Then a
    # signal raises a subclass, `workers.Interrupted`.
    has_begun = bool(plans) or type(error) is not KeyboardInterrupt
    same = "the same command without --force" if is_forced and has_begun else "the same command"
    if cluster is not None:
        return f"finished runs are kept; {same} trains the others from a local checkpoint or from the start"
    kept = "finished runs are kept, and unfinished runs up to their last checkpoint, if there is one"
    return f"{kept}; {same} resumes them"


def make_train_parser() -> flags.OneLineParser:
    """Make the parser for train.py's command line."""
    parser = flags.make_parser("train.py", __doc__)
    flags.add_settings(parser)
    group = parser.add_argument_group("what to train, where and how")
    about = "seeds and ranges of seeds: 0-4, 7 or 0,3,5-9 (default: 0-4; of a study, as many as it plans)"
    group.add_argument("--seeds", help=about)
    group.add_argument(
        "--study", choices=STUDIES, help="train a study's experiments; settings given beside it apply to all of them"
    )
    group.add_argument("--only", nargs="+", metavar="TITLE", help="train only these experiments of the study")
    about = "train a study's planned seeds, and then more seeds of what its undecided claims compare"
    group.add_argument("--until-decided", action="store_true", help=about)
    about = f"no more seeds of an experiment than these, with --until-decided (default: {MOST_TO_DECIDE})"
    group.add_argument("--most-seeds", type=flags.positive, metavar="N", help=about)
    instead = group.add_mutually_exclusive_group()
    about = "print all studies, or --study, with the seeds trained so far; train nothing"
    instead.add_argument("--list", action="store_true", help=about)
    instead.add_argument("--summary", action="store_true", help="print the network's layers and train nothing")
    flags.add_data_dir(group)
    flags.add_runs_dir(group)
    group.add_argument(
        "--force",
        action="store_true",
        help="train these seeds again, even if finished; if the experiment was edited, delete all its old runs",
    )
    flags.add_device(group)
    about = "parallel processes (default: one a core, one for a GPU); with --cluster, workers to wait for (default: 1)"
    group.add_argument("--jobs", type=flags.positive, help=about)
    about = "threads in each process (default: 1; for resnet 2, if cores are free)"
    group.add_argument("--threads", type=flags.positive, help=about)
    group.add_argument(
        "--runs-at-once",
        type=flags.positive,
        help="most seeds side by side in a process (default: the fastest, measured for long training; on a GPU, all)",
    )
    group.add_argument(
        "--cluster", metavar="ADDRESS", help="train on the workers of this Dask scheduler, such as tcp://host:8786"
    )
    return parser


if __name__ == "__main__":
    main()
    console.ignore_further()  # only the worker processes are left to end
