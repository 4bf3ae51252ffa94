"""Simulate studies of which the truth is known: what verdicts at planned looks err and cost.

examples:
  python -m docs.simulate_looks                              4,000 studies of each kind, about half an hour
  python -m docs.simulate_looks --studies 20                 a first impression in a minute
  python -m docs.simulate_looks --studies 20 --adastop 20    the same studies, judged by AdaStop as well
"""

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from analysis.compare import Comparison
from analysis.looks import Look, plan_looks
from analysis.verdicts import Question, can_be_decided, decide_at_looks
from engine import flags

DIRECTIONS = ("higher", "lower", "same") * 5  # of 15 claims, each about one more experiment beside the baseline
NOTHING_DIFFERS, SOME_DIFFER = np.zeros(15), np.repeat((0, 0, 0.5, 1, 2), 3)  # in deviations over seeds
PLANNED = (5, 10)
MOST_SEEDS = 80
SHARED = 0.8  # correlation of an image's ease between two experiments
ADASTOP = dict(n=5, K=8)  # seeds in a group, and groups: at most 40 seeds, as where five are planned

Floats = NDArray[np.float64]
Judge = Callable[[Floats], tuple[list[str], list[int]]]  # from runs to the claims' verdicts and numbers of seeds


@dataclass(frozen=True)
class Size:
    """The accuracy of an experiment, its standard deviation over seeds, and the margin of a practical difference."""

    accuracy: float
    deviation: float
    margin: float
    images: float = 10_000  # of the test set; infinite for a metric without an error over test images

    @property
    def image_error(self) -> float:
        """The standard error over test images of the difference between two equally good experiments.

        Every run is right about most images. About the others, the hard ones, a run is right if the ease of the image
        in its experiment plus chance, both standard normal, is positive. Two runs are both right with probability
        1/4 + arcsin(r)/2π (Sheppard 1899), where r is 1/2 within an experiment and SHARED/2 between two.
        """
        hard = 2 * (1 - self.accuracy)  # share of images
        return math.sqrt(hard * (math.asin(1 / 2) - math.asin(SHARED / 2)) / math.pi / self.images)


SIZES = {
    "MNIST, CNN": Size(0.994, 0.0005, 0.001),
    "Fashion-MNIST, MLP": Size(0.88, 0.004, 0.005),
    "the same with L1": Size(0.81, 0.0125, 0.005),
    "MLP, train accuracy": Size(0.88, 0.004, 0.005, images=math.inf),
}


def draw_runs(size: Size, differences: Floats, generator: np.random.Generator) -> Floats:
    """Draw by how much each run's accuracy exceeds the baseline's true accuracy, (1 + claims, MOST_SEEDS).

    The baseline comes first. The choice of test images adds the same to all runs of an experiment.
    """
    truth = np.concatenate([[0], differences])[:, None]
    of_images = size.image_error / math.sqrt(2) * generator.standard_normal(truth.shape)
    return truth + of_images + size.deviation * generator.standard_normal((len(truth), MOST_SEEDS))


def judge_at_looks(
    runs: Floats, image_error: float, looks: Sequence[Look], margin: float | None
) -> tuple[list[str], list[int]]:
    """Judge each claim of a study at its looks until it is decided, as `train.py --until-decided` does."""
    differences = runs[1:] - runs[0]
    of_claims: list[list[list[Comparison]]] = [[] for _ in differences]
    for look in looks:
        first = differences[:, : look.seeds]
        moments = zip(first.mean(1).tolist(), first.std(1, ddof=1).tolist(), strict=True)
        for at_looks, (mean, deviation) in zip(of_claims, moments, strict=True):
            at_looks.append([Comparison(mean, look.seeds, deviation, image_error, look=look)])
    reached = [1] * len(of_claims)  # the looks for which each claim's experiments are trained
    while True:
        claims = list(zip(DIRECTIONS, of_claims, reached, strict=False))
        questions = [Question(direction, margin, at_looks[:number]) for direction, at_looks, number in claims]
        answers = decide_at_looks(questions, len(questions))
        goes_on = [
            answer.verdict == "undecided" and can_be_decided(answer.comparisons, direction, margin, looks[number:])
            for answer, (direction, _, number) in zip(answers, claims, strict=True)
        ]
        if not any(goes_on):
            return [answer.verdict for answer in answers], [looks[number - 1].seeds for number in reached]
        reached = [number + more for number, more in zip(reached, goes_on, strict=True)]


def judge_with_adastop(runs: Floats, adastop: Any, alpha: float) -> tuple[list[str], list[int]]:
    """Judge the claims of a study with AdaStop, which compares each experiment with the baseline."""
    pairs = np.empty(len(runs) - 1, dtype=object)
    pairs[:] = [(0, experiment) for experiment in range(1, len(runs))]  # as tuples they are four times as fast
    comparator = adastop.MultipleAgentsComparator(**ADASTOP, alpha=alpha, comparisons=pairs, seed=0)
    seeds = [0] * len(pairs)
    while not comparator.is_finished:
        for _, experiment in comparator.current_comparisons:
            seeds[experiment - 1] += ADASTOP["n"]
        comparator.partial_compare(dict(enumerate(runs)), verbose=False)
    verdicts = []
    for pair, direction in zip(pairs, DIRECTIONS, strict=False):
        found = dict(equal="", smaller="higher", larger="lower")[comparator.decisions[str(pair)]]
        verdicts.append("undecided" if not found else "supported" if found == direction else "contradicted")
    return verdicts, seeds


def mark(verdict: str, direction: str, difference: float, margin: float | None) -> int:
    """Return 1 for a verdict that is right if this is the true difference, -1 for a wrong one, 0 for none."""
    if verdict == "undecided":
        return 0
    if verdict == "no practical difference" or (verdict, direction) == ("supported", "same"):
        is_right = margin is not None and abs(difference) < margin
    elif direction == "same":
        is_right = difference != 0 and abs(difference) >= (margin or 0)
    else:
        is_right = difference > 0 if (direction == "higher") == (verdict == "supported") else difference < 0
    return 1 if is_right else -1


def simulate(
    judge: Judge, size: Size, differences: Floats, margin: float | None, studies: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Judge simulated studies with these true differences, the same studies by every rule.

    Returns:
        The marks of the verdicts and the numbers of seeds, (studies, experiments) both. The baseline comes last: its
        mark is 0, and it has as many seeds as the experiment with most.
    """
    marks, numbers = [], []
    for study in range(studies):
        verdicts, seeds = judge(draw_runs(size, differences, np.random.default_rng([seed, study])))
        claims = zip(verdicts, DIRECTIONS, differences, strict=False)
        marks.append([*(mark(*claim, margin) for claim in claims), 0])
        numbers.append([*seeds, max(seeds)])
    return np.array(marks), np.array(numbers)


def percent(found: ArrayLike) -> str:
    """Format the mean of truth values or of shares in percent."""
    return f"{100 * np.asarray(found).mean():.1f}"


def describe(judge: Judge, size: Size, margin: float | None, studies: int, seed: int) -> list[str]:
    """Return what a rule errs and costs: the cells of a row."""
    marks, seeds = simulate(judge, size, NOTHING_DIFFERS, margin, studies, seed)
    cells = [percent((marks < 0).any(1)), f"{seeds.mean():.1f}"]
    marks, seeds = simulate(judge, size, size.deviation * SOME_DIFFER, margin, studies, seed)
    for effect in (0.5, 1, 2):
        which = np.flatnonzero(effect == SOME_DIFFER)
        chosen = marks[:, which]
        cells.append(f"{percent(chosen > 0)}, {percent(chosen < 0)}, {seeds[:, which].mean():.1f}")
    cells.append(f"{seeds.mean():.1f}")
    if margin is None:
        return [*cells, "", ""]
    marks, seeds = simulate(judge, size, NOTHING_DIFFERS + margin, margin, studies, seed)
    return [*cells, percent(marks[:, :-1] < 0), percent((marks < 0).any(1))]


def find_errors(differences: Floats, image_error: float, levels: dict[int, float]) -> NDArray[np.bool_]:
    """Tell which comparisons, each judged alone, leave out zero at one of the looks at least.

    Args:
        differences: between runs, (..., seeds).
        levels: the level at each number of seeds.
    """
    found = np.zeros(differences.shape[:-1], dtype=bool)
    for seeds, level in levels.items():
        first = differences[..., :seeds]
        error = np.sqrt(first.var(-1, ddof=1) / seeds + image_error**2)
        found |= 2 * special.stdtr(seeds - 1, -np.abs(first.mean(-1)) / error) < level
    return found


def count_errors(size: Size, levels: dict[int, float], studies: int, seed: int) -> list[str]:
    """Return how often looks with these levels find a difference where there is none: the cells of a row.

    Holm's procedure finds one in a study if the smallest p is below its level divided by the number of claims.
    """
    generator, claims = np.random.default_rng(seed), len(DIRECTIONS)
    by_claim = {seeds: level / claims for seeds, level in levels.items()}
    shares = []
    for _ in range(10):  # parts that fit into memory
        runs = np.array([draw_runs(size, np.zeros(2 * claims), generator) for _ in range(studies)])
        one_baseline, own_baselines = runs[:, 1 : claims + 1] - runs[:, :1], runs[:, 1::2] - runs[:, 2::2]
        alone = find_errors(one_baseline, size.image_error, levels).mean()
        both = (find_errors(each, size.image_error, by_claim).any(1).mean() for each in (one_baseline, own_baselines))
        shares.append([alone, *both])
    return [percent(share) for share in np.transpose(shares)]


def print_row(*cells: str) -> None:
    """Print a row of a table as soon as it is known."""
    print(f"| {' | '.join(cells)} |", flush=True)


def print_header(*cells: str) -> None:
    """Print the header of a table."""
    print_row(*cells)
    print_row(*["---"] * len(cells))


def make_simulation_parser() -> flags.OneLineParser:
    """Make the parser of the command line."""
    parser = flags.make_parser("docs/simulate_looks.py", __doc__)
    parser.add_argument("--studies", type=int, default=4000, help="studies of each kind (default: %(default)s)")
    parser.add_argument("--adastop", type=int, default=0, help="studies that AdaStop judges, too (default: none)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the generator (default: %(default)s)")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, simulate, and print two tables in Markdown."""
    parser = make_simulation_parser()
    args = parser.parse(argv)
    for name, least in dict(studies=1, adastop=0, seed=0).items():
        if getattr(args, name) < least:
            parser.error(f"--{name} {getattr(args, name)}: expected {least} at least")
    try:
        adastop = importlib.import_module("adastop") if args.adastop else None
    except ModuleNotFoundError:
        parser.error("--adastop: AdaStop is not installed; install it with pip install adastop")

    looks = plan_looks(PLANNED[0])
    rules = {
        "the planned looks": {look.seeds: look.level for look in looks},
        "5 % at each look": {look.seeds: 0.05 for look in looks},
        "5 % after every seed": dict.fromkeys(range(looks[0].seeds, looks[-1].seeds + 1), 0.05),
    }
    print_header("metric", "rule", "one comparison", "15 claims, one baseline", "15 claims, a baseline each")
    for name, size in SIZES.items():
        for rule, levels in rules.items():
            print_row(name, rule, *count_errors(size, levels, args.studies, args.seed))

    print()
    print_header("metric", "rule", "in error", "runs", "0.5", "1", "2", "runs", "claims in error", "studies in error")
    for name, size in SIZES.items():
        for planned in PLANNED:
            for margin in (None, size.margin):
                judge = partial(judge_at_looks, image_error=size.image_error, looks=plan_looks(planned), margin=margin)
                cells = describe(judge, size, margin, args.studies, args.seed)
                print_row(name, f"{planned} planned{', margin' if margin else ''}", *cells)
        for alpha in (0.05, 0.025) if adastop else ():
            judge = partial(judge_with_adastop, adastop=adastop, alpha=alpha)
            print_row(name, f"AdaStop, α {alpha}", *describe(judge, size, None, args.adastop, args.seed))


if __name__ == "__main__":
    main()
