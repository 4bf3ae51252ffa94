"""Command lines: a parser and commands whose errors are one line, the flags that commands share.

parser = make_parser("train.py", "Train an experiment.\n\nexamples: ...")
add_settings(parser)
experiment = Experiment(**given_settings(parser.parse_args(["--l1", "0.001"])))
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - every command imports this first, and an older Python fails further on
    sys.stderr.write(f"error: expected Python 3.11 or later, found {sys.version.split()[0]}\n")
    raise SystemExit(2)

import argparse
import contextlib
import difflib
import glob
import os
import re
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from engine import console
from engine.seeds import parse_seeds
from experiments import Experiment, Settings, UserError, flag_of, kind_of, takes_list
from sources.catalogue import OWN_RULE, SOURCES, is_own
from studies import STUDIES
from studies.study import Study, join_words

DEVICES = ("cpu", "cuda", "mps")
RUNS_DIR = Path("runs")
MOST_SUGGESTED = 3  # flags for the beginning of a flag
REFUSED, READER_GONE, OF_SIGNAL = 2, 141, 128  # exit statuses; a signal's number is added to the last


class OneLineParser(argparse.ArgumentParser):
    """A parser that reports a mistake in one line, without the whole usage."""

    def parse(self, words: Sequence[str] | None = None) -> argparse.Namespace:
        """Parse words, by default this process's arguments; for an unknown flag, suggest the nearest known flag."""
        console.make_readable()
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
        return suggest(word.partition("=")[0], flags) if word.startswith("-") else ""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Extend argparse's answer to a word that is no choice by the nearest choice."""
        if action.choices is not None and value not in action.choices and isinstance(value, str):
            known = ", ".join(map(str, action.choices))
            raise argparse.ArgumentError(
                action, f"invalid choice: {value!r} (choose from {known}){suggest(value, action.choices)}"
            )
        super()._check_value(action, value)

    def error(self, message: str) -> NoReturn:
        """Print the message in one line on stderr, and exit with status 2."""
        self.exit(REFUSED, f"{self.prog}: error: {' '.join(message.splitlines())}\n")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Print a message on stderr and end this process or, in a notebook, only the cell.

        The message is the note of the exception.
        """
        if console.is_notebook():
            raise console.CellEnd((message or "").strip())
        try:
            super().exit(status, message)
        except SystemExit as end:
            end.add_note((message or "").strip())
            raise


def make_parser(prog: str, doc: str) -> OneLineParser:
    """Make a command's parser from the description and the examples in its module's docstring."""
    description, examples = doc.split("\n\n", 1)
    formatter = argparse.RawDescriptionHelpFormatter
    return OneLineParser(
        prog=prog, description=description, epilog=examples, formatter_class=formatter, allow_abbrev=False
    )


def suggest(typed: str, known: Iterable[str]) -> str:
    """Return `; did you mean …?` for a mistyped or shortened word, or an empty text if no known word is near."""

    def squeeze(word: str) -> str:
        return word.replace("-", "").replace("_", "").lower()

    words = {squeeze(word): word for word in known}
    nearest = [word for word in words if word.startswith(squeeze(typed))]
    if not 1 <= len(nearest) <= MOST_SUGGESTED:
        nearest = difflib.get_close_matches(squeeze(typed), words, n=1, cutoff=0.65)
    return f"; did you mean {' or '.join(words[word] for word in nearest)}?" if nearest else ""


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Report a signal while the slow modules are imported in one line, and end the process."""
    noted: list[int] = []

    def end(number: int, _: object) -> None:  # numpy and others would turn a KeyboardInterrupt into other errors
        noted.append(number)
        if not console.is_notebook():  # a kernel could not import torch again after half an import
            os.write(2, b"\ninterrupted: nothing was begun\n")
            os._exit(OF_SIGNAL + number)

    with console.handling(end, lambda before: before != signal.SIG_IGN):  # as a shell ignores them in the background
        yield
    if noted:
        raise KeyboardInterrupt(noted[0])


@contextlib.contextmanager
def answer_in_one_line(
    parser: OneLineParser, kept: Callable[[BaseException], str], failed: int = REFUSED
) -> Iterator[None]:
    """Report a mistake, a missing package, a system error or a signal in one line, and end with an exit status.

    Args:
        kept: says what is kept after a system error or a signal, and how to go on.
        failed: the exit status after a system error.
    """
    with console.interrupting():
        try:
            yield
            sys.stdout.flush()  # at the end of the process, a failure would be Python's own to report
        except UserError as error:
            parser.error(str(error))
        except ModuleNotFoundError as error:
            parser.error(f"{error.name} is not installed: pip install -r requirements.txt")
        except OSError as error:  # the output's reader has gone, as with `| head`, or the disk is full
            console.discard_output()
            status = READER_GONE if isinstance(error, BrokenPipeError) else failed
            place = f"{error.filename}: " if error.filename else ""
            parser.exit(status, f"{parser.prog}: {place}{error.strerror or error}; {kept(error)}\n")
        except MemoryError as error:
            parser.exit(failed, f"{parser.prog}: out of memory; {kept(error)}\n")
        except KeyboardInterrupt as interrupt:
            number = interrupt.args[0] if interrupt.args else signal.SIGINT
            parser.exit(OF_SIGNAL + number, f"\ninterrupted: {kept(interrupt)}\n")


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
        elif setting.name == "dataset":
            options |= dict(type=read_dataset, metavar=f"{{{','.join(choices)},NAME.npz}}")
        else:
            options |= dict(type=kind, choices=choices, metavar=None if choices else kind.__name__.upper())
            if setting.default is not None:
                options["help"] += f" (default: {setting.default})"
        if takes_list(setting):
            options["nargs"] = "*"
        groups[name].add_argument(flag_of(setting.name), **options)


def given_settings(args: argparse.Namespace) -> Settings:
    """Return the settings of the experiment in the parsed arguments, {name: value}: of a data set's path, the name."""
    given = {setting.name: getattr(args, setting.name) for setting in fields(Experiment) if hasattr(args, setting.name)}
    return given | {name: Path(value).name for name, value in given.items() if name == "dataset"}


def read_dataset(text: str) -> str:
    """Read the name of a data set, or the path of an .npz file with a data set of one's own."""
    if text in SOURCES or is_own(Path(text).name):
        return text
    near = difflib.get_close_matches(re.sub(r"\W+", "_", text.lower()), SOURCES, n=1)
    way_out = f"did you mean {near[0]}?" if near else "the folder of a data set goes to --data-dir"
    if text.lower().endswith(".npz"):
        text, way_out = Path(text).name, "rename the file"
    raise argparse.ArgumentTypeError(f"{text!r} (choose from {', '.join(SOURCES)}, {OWN_RULE}); {way_out}")


def choose_data_dir(args: argparse.Namespace) -> Path:
    """Return the folder to look for data sets in: `--data-dir`, or the folder of the file that `--dataset` names.

    Raises:
        UserError: `--dataset` names a file in a folder, and it is not there, or `--data-dir` is another folder.
    """
    file = Path(getattr(args, "dataset", ""))
    has_folder, is_default = file.parent != Path(), args.data_dir == Path(default_data_dir())
    if not is_own(file.name) or (not has_folder and not (is_default and file.is_file())):
        return args.data_dir
    if not file.is_file():
        raise UserError(f"--dataset {file}: there is no such file")
    if not is_default and args.data_dir.resolve() != file.parent.resolve():
        raise UserError(f"--data-dir {args.data_dir}: --dataset names the folder {file.parent}; leave one of them out")
    return file.parent


def leave_out_folder(words: Sequence[str], args: argparse.Namespace) -> list[str]:
    """Return the words of a command with only the name of the file that `--dataset` names, for the records."""
    file = getattr(args, "dataset", "")
    return [word.replace(file, Path(file).name) if file and word.endswith(file) else word for word in words]


def default_data_dir() -> str:
    """Return the default folder of data sets: $DATA_DIR, or else `data`."""
    return os.environ.get("DATA_DIR") or "data"


def add_data_dir(parser: Any) -> None:
    """Add `--data-dir` to a parser or an argument group."""
    about = "folder in and below which data sets lie or are downloaded to (default: $DATA_DIR, else data)"
    parser.add_argument("--data-dir", type=read_folder, default=default_data_dir(), help=about)


def add_runs_dir(parser: Any) -> None:
    """Add `--runs-dir` to a parser or an argument group."""
    about = "folder of the recorded runs (default: %(default)s)"
    parser.add_argument("--runs-dir", type=read_folder, default=RUNS_DIR, help=about)


def name_folders(text: str, runs_dir: Path, data_dir: Path) -> str:
    """Add `--runs-dir` and `--data-dir` to every command of train.py in a text, unless they are the defaults."""
    folders = [("--runs-dir", runs_dir, RUNS_DIR), ("--data-dir", data_dir, Path(default_data_dir()))]
    words = [word for flag, folder, default in folders if folder != default for word in (flag, str(folder))]
    return text.replace("python train.py", join_words("python", "train.py", *words))


def add_device(parser: Any) -> None:
    """Add `--device` to a parser or an argument group."""
    parser.add_argument("--device", default="cpu", choices=DEVICES, help="device for training (default: %(default)s)")


def read_path(text: str) -> Path:
    """Read a path; refuse an empty text, which would mean the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, found an empty text")
    return Path(text)


def read_folder(text: str) -> Path:
    """Read the path of a folder, which need not exist yet; refuse a file."""
    if os.path.exists(text) and not os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"{text} is a file, expected a folder")
    return read_path(text)


def check_output(flag: str, path: Path | None, suffix: str) -> None:
    """Check that a file can be written and has a suffix: `--csv *.zip` would overwrite the first submission.

    Raises:
        UserError: the suffix is another, there is no such folder, or nothing can be written there.
    """
    if path and (path.suffix != suffix or path.is_dir()):
        raise UserError(f"{flag} {path}: expected a file with a name that ends in {suffix}")
    if path and not path.parent.is_dir():
        raise UserError(f"{flag} {path}: there is no folder {path.parent}; make it, or name another")
    if path and not os.access(path.parent, os.W_OK):  # a file is written beside its place first
        raise UserError(f"{flag} {path}: cannot be written; name a file in another folder")


def find_submissions(paths: Iterable[Path], are_of_a_class: bool) -> list[Path]:
    """Find the submissions that paths and patterns name; on Windows, no shell resolves `*.zip`.

    Raises:
        UserError: one cannot be read, or the only one of a class is a folder of submissions.
    """
    matches = ([path] if path.exists() else sorted(glob.glob(str(path))) or [path] for path in paths)
    submissions = [Path(path) for several in matches for path in several]
    for path in submissions:
        if not path.exists():
            raise UserError(f"{path}: not found; expected a submission.zip or its unpacked folder")
        if not os.access(path, os.R_OK):
            raise UserError(f"{path}: cannot be read; change its permissions, or leave it out")
        found = [each for pattern in ("*.zip", "*/*.zip", "*/manifest.json") for each in path.glob(pattern)]
        if are_of_a_class and len(submissions) == 1 < len(found) and not (path / "manifest.json").exists():
            raise UserError(f"{path}: is a folder of submissions; name the submissions: {path / '*'}")
    return submissions


def positive(text: str) -> int:
    """Read a whole number from 1 to 1024, such as a number of processes."""
    if not text.isascii() or not text.isdecimal() or len(text) > 4 or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number from 1 to 1024")
    return int(text)


# ---------------------------------------------------------------------------------------------------------------------
# What is asked for


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
    for title in only or ():
        if title not in study.titles:
            known = ", ".join(f'"{known}"' for known in study.titles) + suggest(title, study.titles)
            raise UserError(f"--only {title}: expected experiments of {study.name}: {known}")
    return study, study.choose(only)


def choose_seeds(args: argparse.Namespace, study: Study) -> list[int]:
    """Return the seeds to train: those that are given, or as many as the study plans.

    Raises:
        UserError: the seeds are no list of seeds, or a flag does not go with `--until-decided`.
    """
    nothing = "--list" if args.list else "--summary" if args.summary else ""
    for name in ("seeds", "until_decided", "force", "jobs", "threads", "runs_at_once", "cluster"):
        if nothing and getattr(args, name):
            raise UserError(f"{flag_of(name)}: {nothing} trains nothing; leave one of the two out")
    if args.until_decided:
        if study.is_single:
            raise UserError("--until-decided: needs --study NAME, whose claims it decides")
        for flag in (*map(flag_of, study.overrides), *(["--only"] if args.only else [])):
            raise UserError(f"{flag}: --until-decided trains a study as it is; leave one of the two out")
        if args.seeds:
            raise UserError(f"--seeds {args.seeds}: --until-decided chooses the seeds; leave one of the two out")
        if args.most_seeds and args.most_seeds < study.seeds:
            raise UserError(f"--most-seeds {args.most_seeds}: expected at least the {study.seeds} that the study plans")
    elif args.most_seeds:
        raise UserError(f"--most-seeds {args.most_seeds}: needs --until-decided")
    return list(range(study.seeds)) if args.seeds is None else parse_seeds(args.seeds)
