"""Command lines: a parser whose errors are one line, the flags that commands share, and lists of seeds.

parser = make_parser("train.py", "Train an experiment.\n\nexamples: ...")
add_settings(parser)
experiment = Experiment(**given_settings(parser.parse_args(["--l1", "0.001"])))
"""

import argparse
import difflib
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from experiments import Experiment, Settings, UserError, flag_of, kind_of, takes_list

DEVICES = ("cpu", "cuda", "mps")
LARGEST_SEED = 2**32 - 1
MOST_SEEDS = 1000  # in one command


class OneLineParser(argparse.ArgumentParser):
    """A parser that reports a mistake in one line, without the whole usage."""

    def parse(self, words: Sequence[str] | None = None) -> argparse.Namespace:
        """Parse words, by default this process's arguments; for an unknown flag, suggest the nearest known flag."""
        words = sys.argv[1:] if words is None else words
        for word in words:
            if word.encode(errors="ignore").decode() != word:  # records and reports could not contain it
                self.error(f"{word!r}: expected text in UTF-8; rename the file or folder")
        args, unknown = self.parse_known_args(words)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._suggest(unknown[0])}")
        return args

    def _suggest(self, word: str) -> str:
        flags = [flag for flag in self._option_string_actions if flag.startswith("--")]
        typed = word.partition("=")[0].replace("_", "-").lower()
        squeezed = {flag.replace("-", ""): flag for flag in flags}
        nearest = difflib.get_close_matches(typed.replace("-", ""), squeezed, n=1, cutoff=0.65)
        return f"; did you mean {squeezed[nearest[0]]}?" if typed.startswith("-") and nearest else ""

    def error(self, message: str) -> NoReturn:
        """Print the message in one line on stderr, and exit with status 2."""
        self.exit(2, f"{self.prog}: error: {' '.join(message.splitlines())}\n")


def make_parser(prog: str, doc: str) -> OneLineParser:
    """Make a command's parser from the description and the examples in its module's docstring."""
    description, examples = doc.split("\n\n", 1)
    formatter = argparse.RawDescriptionHelpFormatter
    return OneLineParser(prog=prog, description=description, epilog=examples, formatter_class=formatter)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each field of `Experiment`; flags that are not given are missing in the parsed arguments."""
    groups: dict[str, Any] = {}
    for setting in fields(Experiment):
        name, kind, choices = setting.metadata["group"], kind_of(setting), setting.metadata["choices"]
        if name not in groups:
            groups[name] = parser.add_argument_group(name)
        options: dict[str, Any] = dict(default=argparse.SUPPRESS, help=setting.metadata["help"])
        if kind is bool:
            options["action"] = "store_true"
        else:
            options |= dict(type=kind, choices=choices, metavar=None if choices else kind.__name__.upper())
            if setting.default is not None:
                options["help"] += f" (default: {setting.default})"
        if takes_list(setting):
            options["nargs"] = "*"
        groups[name].add_argument(flag_of(setting.name), **options)


def given_settings(args: argparse.Namespace) -> Settings:
    """Return the settings of the experiment in the parsed arguments: {name: value}."""
    return {setting.name: getattr(args, setting.name) for setting in fields(Experiment) if hasattr(args, setting.name)}


def default_data_dir() -> str:
    """Return the default folder of data sets: $DATA_DIR, or else `data`."""
    return os.environ.get("DATA_DIR") or "data"


def add_data_dir(parser: Any) -> None:
    """Add `--data-dir` to a parser or an argument group."""
    about = "folder of data sets (default: $DATA_DIR, else data)"
    parser.add_argument("--data-dir", type=Path, default=default_data_dir(), help=about)


def add_runs_dir(parser: Any) -> None:
    """Add `--runs-dir` to a parser or an argument group."""
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="folder of records (default: %(default)s)")


def add_device(parser: Any) -> None:
    """Add `--device` to a parser or an argument group."""
    parser.add_argument("--device", default="cpu", choices=DEVICES, help="device for training (default: %(default)s)")


def positive(text: str) -> int:
    """Read a whole number from 1 to 1024, such as a number of processes."""
    if not text.isascii() or not text.isdecimal() or len(text) > 4 or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number from 1 to 1024")
    return int(text)


# ---------------------------------------------------------------------------------------------------------------------
# Seeds


def parse_seeds(text: str) -> list[int]:
    """Parse a list of seeds and ranges of seeds, such as `0,3,5-9`.

    Raises:
        UserError: the text is not such a list, a range falls, or seeds are repeated, too large or too many.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        numbers = [first, last] if dash else [first]
        if not all(number.isascii() and number.isdecimal() and len(number) <= 10 for number in numbers):
            raise UserError(f"--seeds {text}: expected seeds such as 0-4, 7 or 0,3,5-9, found {part.strip()!r}")
        low, high = int(first), int(last or first)
        if high > LARGEST_SEED:
            raise UserError(f"--seeds {text}: expected seeds of at most {LARGEST_SEED}, found {high}")
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


def format_seeds(seeds: Iterable[int]) -> str:
    """Format seeds as `--seeds` takes them, after the word `seed` or `seeds`: `seeds 0-2,5`."""
    ranges: list[list[int]] = []
    for seed in sorted(seeds):
        if ranges and seed == ranges[-1][1] + 1:
            ranges[-1][1] = seed
        else:
            ranges.append([seed, seed])
    text = ",".join(f"{low}-{high}" if high > low else str(low) for low, high in ranges)
    is_one = len(ranges) == 1 and ranges[0][0] == ranges[0][1]
    return f"seed {text}" if is_one else f"seeds {text}"
