"""Seeds as a command line names them, in the way of a printer's pages.

parse_seeds("0,3,5-9")          # [0, 3, 5, 6, 7, 8, 9]
format_seeds([5, 0, 2, 1])      # "seeds 0-2,5"
"""

from collections.abc import Collection, Iterable

from experiments import UserError

LARGEST_SEED = 2**32 - 1
MOST_SEEDS = 1000  # in one command


def parse_seeds(text: str) -> list[int]:
    """Parse a list of seeds and ranges of seeds, such as `0,3,5-9`.

    Raises:
        UserError: the text is not such a list, a range falls, or seeds are repeated, too large or too many.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        numbers = [first, last] if dash else [first]
        if not all(number.isascii() and number.isdecimal() for number in numbers):
            raise UserError(f"--seeds {text}: expected seeds such as 0-4, 7 or 0,3,5-9, found {part.strip()!r}")
        numbers = [number.lstrip("0") or "0" for number in numbers]
        if any(len(number) > 10 or int(number) > LARGEST_SEED for number in numbers):
            raise UserError(f"--seeds {text[:40]}: expected seeds of at most {LARGEST_SEED}, found {part.strip()[:40]}")
        low, high = int(numbers[0]), int(numbers[-1])
        if low > high:
            raise UserError(f"--seeds {text}: the range {part.strip()} falls; write {high}-{low}")
        if high - low >= MOST_SEEDS:
            raise UserError(f"--seeds {text}: expected at most {MOST_SEEDS} seeds, found {high - low + 1}")
        seeds.extend(range(low, high + 1))
        if len(seeds) > MOST_SEEDS:
            raise UserError(
                f"--seeds {text[:40]}: expected at most {MOST_SEEDS} seeds; name the others in a second command"
            )
    repeated = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if repeated:
        raise UserError(f"--seeds {text}: seed {repeated[0]} is named twice; each seed is one run")
    return seeds


def list_seeds(seeds: Iterable[int]) -> str:
    """List seeds as `--seeds` takes them: `0-2,5`."""
    ranges: list[list[int]] = []
    for seed in sorted(seeds):
        if ranges and seed == ranges[-1][1] + 1:
            ranges[-1][1] = seed
        else:
            ranges.append([seed, seed])
    return ",".join(f"{low}-{high}" if high > low else str(low) for low, high in ranges)


def format_seeds(seeds: Iterable[int]) -> str:
    """List seeds after the word `seed` or `seeds`: `seeds 0-2,5`."""
    listed = list_seeds(seeds)
    return f"seed {listed}" if listed.isdecimal() else f"seeds {listed}"


def continue_seeds(seeds: Iterable[int], count: int, judged: Collection[int] = ()) -> list[int]:
    """List the first `count` of some seeds, in the order of their numbers, and the numbers after them if they are few.

    So whoever was given the seeds 5-9 trains 10-14 next, which nobody else has.

    Args:
        judged: seeds that come first in any case, if a look was taken at them. No other seed below their last is
            listed, because it would change which seeds are the first ones, and the look would be taken again.
    """
    last = max(judged, default=-1)
    first = sorted({*judged, *(seed for seed in seeds if seed > last)})[:count]
    start = first[-1] + 1 if first else 0
    return [*first, *range(start, start + count - len(first))]
