"""Compare the speed of a plain training loop, as in tutorials, with ours, for one seed and for several seeds.

examples:
  python benchmark.py                                   the MLP on full Fashion-MNIST, a few minutes
  python benchmark.py --model cnn1                      cnn1 on MNIST with rotation and jitter
  python benchmark.py --model resnet                    resnet on CIFAR-10 with crop, flip and rotation
  python benchmark.py --dataset fashion_mnist_sample    a first look in seconds
  python benchmark.py --device cuda                     our loop on a GPU, the plain loop on the CPU
  python benchmark.py --settings                        what each regularizer costs, a few minutes
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from engine import flags
from engine.files import write_answer
from experiments import Experiment, Settings, UserError, join_settings
from sources.catalogue import SOURCES
from studies.cifar_norms import C_PLAIN
from studies.mnist_l1_l2_ghost import A1_BN

EXPERIMENTS = {
    "mlp1": Experiment(l1=0.001),
    "cnn1": replace(A1_BN, rotation=7, affine_degrees=0, affine_translate=0, affine_scale=0),
    "resnet": C_PLAIN,
}
SEEDS = {"mlp1": 10, "cnn1": 4, "resnet": 4}
IMAGES = {"mlp1": None, "cnn1": None, "resnet": 10_240}  # train images in a timed epoch; None: all
EPOCHS = 6
EPOCHS_OF_PRICE = 2  # one of warm-up, and one after it
PRICED: tuple[Settings, ...] = (  # what --settings measures, each alone
    *(dict(l1=0.001), dict(l1=0.001, l1_mode="proximal"), dict(l2=0.001), dict(weight_decay=0.001)),
    *(dict(norm="batch"), dict(norm="ghost"), dict(norm="layer"), dict(norm="group")),
    *(dict(dropout=0.25), dict(channel_dropout=0.1), dict(label_smoothing=0.1), dict(mixup=0.2), dict(cutout=14)),
    *(dict(max_norm=3.0), dict(average=0.999), dict(clip_norm=1.0), dict(lr_scheduler="cosine", warmup=1)),
    *(dict(rotation=7.0), dict(rotation=7.0, interpolation="bilinear"), dict(elastic=0.5)),
)


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, measure in rounds, and print and write the result."""
    parser = make_benchmark_parser()
    args = parser.parse(argv)
    with flags.answer_in_one_line(parser, lambda _: "nothing is written"):
        flags.check_output("--out", args.out, ".json")
        with flags.importing():  # late, because importing torch takes seconds
            import data
            from engine import speed, workers

        workers.check_device(args.device)
        on_cpu, seeds = args.device == "cpu", SEEDS[args.model]
        if args.settings and not on_cpu:
            raise UserError(
                f"--device {args.device}: --settings measures the seconds of the CPU; leave one of the two out"
            )
        if args.settings and args.epochs:
            why = f"--settings always trains {EPOCHS_OF_PRICE} epochs; leave one of the two out"
            raise UserError(f"--epochs {args.epochs}: {why}")
        experiment = replace(EXPERIMENTS[args.model], dataset=args.dataset, epochs=args.epochs or EPOCHS)
        dataset, share = speed.take_part(data.load(experiment.dataset_name, args.data_dir), IMAGES[args.model])
        computer = speed.describe_computer(args.device)
        if args.settings:
            plain = Experiment(model=args.model, dataset=args.dataset, dropout=0.0, norm="none", epochs=EPOCHS_OF_PRICE)
            prices = speed.price_settings(plain, list_variants(plain), dataset, args.rounds)
            speed.print_prices(prices, plain.name, computer)
            write_result(args.out, dict(machine=computer, experiment=plain.to_dict(), times_as_long=prices))
            return
        plans = [speed.plan_ours(experiment, dataset, count, args.device) for count in (1, seeds)]
        rounds = []
        for number in range(args.rounds):  # in rounds, so that a slowdown of the machine affects all loops
            print(f"round {number + 1} of {args.rounds}", file=sys.stderr)
            seconds = dict(
                plain=speed.time_plain_loop(experiment, dataset),
                one_seed=speed.time_ours(plans[0], args.device),
                several_seeds=speed.time_ours(plans[1], args.device),
            )
            if on_cpu:
                seconds["layers"] = speed.time_layers(plans[1])
                seconds["arithmetic"] = speed.compute_arithmetic(experiment, dataset, speed.measure_rate())
            rounds.append({name: value / share for name, value in seconds.items()})
        result = dict(
            machine=computer,
            dataset=experiment.dataset_name,
            share_of_images=share,
            experiment=experiment.to_dict(),
            seconds_per_run_epoch={name: median(each[name] for each in rounds) for name in rounds[0]},
            rounds=rounds,
            peak_memory_mb=speed.measure_peak_memory(),
        )
        if args.model == "mlp1" and on_cpu:
            result[speed.LATE_RATIO] = speed.compare_late_epoch(dataset)
        speed.print_result(result, experiment.name, seeds)
        write_result(args.out, result)


def list_variants(plain: Experiment) -> dict[str, Experiment]:
    """List the experiments whose cost `--settings` measures, {name: experiment}; each adds to a plain experiment."""
    variants = {}
    for settings in PRICED:
        if "channel_dropout" not in settings or not plain.model.startswith("mlp"):
            variants[join_settings("", settings).removeprefix(",")] = replace(plain, **settings)
    return variants


def write_result(out: Path, result: dict[str, Any]) -> None:
    """Write the result as JSON, and print where it is."""
    write_answer(out, json.dumps(result, indent=2) + "\n")
    print(f"written to {out}")


def make_benchmark_parser() -> flags.OneLineParser:
    """Make the parser for benchmark.py's command line."""
    parser = flags.make_parser("benchmark.py", __doc__)
    parser.add_argument("--model", default="mlp1", choices=EXPERIMENTS, help="network to time (default: %(default)s)")
    about = "measure how many times as long training takes with each of many settings, instead of the loops"
    parser.add_argument("--settings", action="store_true", help=about)
    parser.add_argument("--dataset", choices=SOURCES, help="default: the model's data set")
    flags.add_data_dir(parser)
    flags.add_device(parser)
    about = f"epochs of our loop in each round (default: {EPOCHS})"
    parser.add_argument("--epochs", type=flags.positive, help=about)
    parser.add_argument(
        "--rounds",
        type=flags.positive,
        default=3,
        help="times that each loop is measured; the median counts (default: 3)",
    )
    parser.add_argument(
        "--out", type=flags.read_path, default=Path("benchmark.json"), help="file for the result (default: %(default)s)"
    )
    return parser


if __name__ == "__main__":
    main()
