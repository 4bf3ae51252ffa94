"""One experiment: every hyper-parameter with its default, its check and its command-line flag, stated once.

Experiment(model="mlp3", l1=0.001).name     # 'mlp3,l1=0.001'
"""

import argparse
import hashlib
import math
import typing
from dataclasses import asdict, dataclass, field, fields, replace

MODELS = ("mlp1", "mlp2", "mlp3", "mlp")
DATA_SETS = ("fashion_mnist", "mnist", "cifar10", "fashion_mnist_sample", "mnist_sample")
LONGEST_NAME = 120  # characters of a folder's name; file systems take 255 bytes, archives and paths need room


def flag(default, help, choices=None, at_least=None, above=None, at_most=None, below=None):
    bounds = dict(at_least=at_least, above=above, at_most=at_most, below=below)
    return field(default=default, metadata=dict(help=help, choices=choices, bounds=bounds))


@dataclass(frozen=True)
class Experiment:
    """One configuration; all its seeds train with it.

    Raises:
        ValueError: a value outside its range, or two that exclude each other; the message names the flag.
    """

    model: str = flag("mlp1", "network: mlp1 64-64, mlp2 128-128, mlp3 64-128-256, mlp with --hidden", choices=MODELS)
    hidden: tuple[int, ...] | None = flag(
        None,
        "widths of the hidden layers of --model mlp; none at all is multinomial logistic regression",
        at_least=1,
        at_most=4096,
    )
    dataset: str | None = flag(
        None, "data set (default: fashion_mnist; its embedded sample if that cannot be had)", choices=DATA_SETS
    )
    split_seed: int = flag(0, "seed of the split into train, validation and test images", at_least=0, at_most=2**32 - 1)
    standardize: bool = flag(False, "subtract the train images' mean and divide by their deviation, per channel")
    epochs: int = flag(15, "passes over the train images, at most", at_least=1)
    batch_size: int = flag(64, "images a step", at_least=1)
    optimizer: str = flag("adam", "optimizer", choices=("adam", "adamw", "sgd"))
    lr: float = flag(0.001, "learning rate", above=0)
    momentum: float = flag(0.0, "momentum of sgd", at_least=0, below=1)
    nesterov: bool = flag(False, "Nesterov's form of sgd's momentum")
    weight_decay: float = flag(0.0, "the optimizer's own decay λ (gradient λw; decoupled under adamw)", at_least=0)
    l1: float = flag(0.0, "λ of the L1 penalty λ·Σ|w|", at_least=0)
    l1_mode: str = flag(
        "subgradient",
        "L1 by λ·sign(w) in the gradient, or by soft thresholds after the step, which give exact zeros",
        choices=("subgradient", "proximal"),
    )
    l2: float = flag(0.0, "λ of the L2 penalty λ·Σw² (gradient 2λw)", at_least=0)
    penalize: str = flag(
        "weights",
        "what L1, L2 and weight decay act on: weights alone, or biases and norms too",
        choices=("weights", "all"),
    )
    dropout: float = flag(0.0, "share of each hidden layer's outputs that is dropped", at_least=0, below=1)
    norm: str = flag("none", "normalization of each hidden layer", choices=("none", "batch"))
    norm_position: str = flag("before", "normalization before or after the activation", choices=("before", "after"))
    patience: int | None = flag(
        None, "stop a run after this many epochs in a row without improvement (default: no early stopping)", at_least=1
    )
    monitor: str = flag("val_loss", "what early stopping watches", choices=("val_loss", "val_accuracy"))
    min_delta: float = flag(0.0, "an improvement is a change by more than this", at_least=0)
    start_from_epoch: int = flag(1, "first epoch that early stopping looks at", at_least=1)
    restore: str = flag(
        "best", "weights an early stopped run ends with: its best epoch's or its last's", choices=("best", "last")
    )

    def __post_init__(self):
        for setting in fields(self):
            value = getattr(self, setting.name)
            if isinstance(value, list):  # as argparse and JSON have it
                object.__setattr__(self, setting.name, tuple(value))
            elif _kind(setting.type) is float and type(value) is int:
                object.__setattr__(self, setting.name, float(value))  # 1 and 1.0 are one experiment, with one name
            _check_range(setting, getattr(self, setting.name))
        if self.model == "mlp" and self.hidden is None:
            _refuse(
                "hidden",
                None,
                "--model mlp needs widths, such as --hidden 128 64; --hidden alone is logistic regression",
            )
        if self.model != "mlp" and self.hidden is not None:
            _refuse("hidden", self.hidden, f"--model {self.model} has its own widths; --model mlp takes any")
        if self.optimizer != "sgd" and self.momentum:
            _refuse("momentum", self.momentum, f"goes with --optimizer sgd, not {self.optimizer}")
        if self.nesterov and not self.momentum:
            _refuse("nesterov", True, "needs --momentum above 0")
        if self.l1_mode == "proximal" and not self.l1:
            _refuse("l1_mode", self.l1_mode, "needs --l1 above 0")
        if self.penalize == "all" and not (self.l1 or self.l2 or self.weight_decay):
            _refuse("penalize", self.penalize, "needs --l1, --l2 or --weight-decay above 0")
        if self.norm == "none" and self.norm_position != "before":
            _refuse("norm_position", self.norm_position, "needs a --norm other than none")
        if self.norm == "batch" and self.batch_size == 1:
            _refuse("batch_size", 1, "--norm batch needs at least 2 images to average over")
        if self.hidden == () and (self.dropout or self.norm != "none"):
            name = "dropout" if self.dropout else "norm"
            _refuse(name, getattr(self, name), "acts on hidden layers, and --hidden names none")
        if self.patience is None:
            for name in ("monitor", "min_delta", "start_from_epoch", "restore"):
                if getattr(self, name) != default_of(name):
                    _refuse(name, getattr(self, name), "is a setting of early stopping and needs --patience")
        if self.start_from_epoch > self.epochs:
            _refuse("start_from_epoch", self.start_from_epoch, f"expected at most --epochs {self.epochs}")

    @property
    def default_dataset(self):
        """What it trains on where no data set is named."""
        return "fashion_mnist"

    @property
    def name(self):
        """Every setting that differs from its default, as a file name: `mlp3,l1=0.001`."""
        changed = {setting.name: getattr(self, setting.name) for setting in self._changed()}
        if self.dataset == self.default_dataset:
            del changed["dataset"]
        name = ",".join([self.model, *(f"{key}={_in_name(value)}" for key, value in changed.items() if key != "model")])
        if len(name) > LONGEST_NAME:
            digest = hashlib.sha256(name.encode()).hexdigest()[:8]
            name = f"{name[: LONGEST_NAME - 9]}-{digest}"
        return name

    @property
    def command(self):
        """The command that trains it."""
        words = ["python train.py"]
        for setting in self._changed():
            value = getattr(self, setting.name)
            words.append(flag_of(setting.name))
            words.extend(map(str, value) if isinstance(value, tuple) else () if value is True else (str(value),))
        return " ".join(words)

    def _changed(self):
        return [setting for setting in fields(self) if getattr(self, setting.name) != setting.default]

    def baseline(self):
        """The same experiment without L1, L2, weight decay, dropout and early stopping."""
        off = ("l1", "l1_mode", "l2", "weight_decay", "penalize", "dropout")
        off += ("patience", "monitor", "min_delta", "start_from_epoch", "restore")
        return replace(self, **{name: default_of(name) for name in off})

    def to_dict(self):
        return asdict(self)


def default_of(name):
    return next(setting.default for setting in fields(Experiment) if setting.name == name)


def flag_of(name):
    return "--" + name.replace("_", "-")


def _in_name(value):
    if isinstance(value, tuple):
        return "-".join(map(str, value)) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


# ---------------------------------------------------------------------------------------------------------------------
# Checks


def _refuse(name, value, why):
    shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
    raise ValueError(f"{flag_of(name)}{'' if shown is None or shown is True else f' {shown}'}: {why}")


def _check_range(setting, value):
    choices, kind = setting.metadata["choices"], _kind(setting.type)
    if value is None and setting.default is None:
        return
    if choices:
        if value not in choices:
            _refuse(setting.name, value, f"expected one of {', '.join(choices)}")
    elif kind is bool:
        if not isinstance(value, bool):
            _refuse(setting.name, value, "expected True or False")
    else:
        for number in value if isinstance(value, tuple) else (value,):
            if not _is_within(number, kind, **setting.metadata["bounds"]):
                _refuse(setting.name, value, f"expected {_in_words(kind, setting.metadata['bounds'])}")


def _is_within(number, kind, at_least, above, at_most, below):
    return (
        isinstance(number, kind)
        and (kind is int or math.isfinite(number))
        and (at_least is None or number >= at_least)
        and (above is None or number > above)
        and (at_most is None or number <= at_most)
        and (below is None or number < below)
    )


def _in_words(kind, bounds):
    stated = [f"{name.replace('_', ' ')} {limit}" for name, limit in bounds.items() if limit is not None]
    return f"{'a whole' if kind is int else 'a finite'} number {' and '.join(stated)}"


def _kind(annotation):
    """The type of one value: int of `int`, `int | None` and `tuple[int, ...] | None`."""
    inner = typing.get_args(annotation)
    return _kind(inner[0]) if inner else annotation


def _is_list(annotation):
    return any(typing.get_origin(member) is tuple for member in typing.get_args(annotation))


# ---------------------------------------------------------------------------------------------------------------------
# Command line


class OneLineParser(argparse.ArgumentParser):
    """Argparse that answers a mistake with one line instead of the whole usage."""

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message}\n")


def positive(text):
    if not text.isascii() or not text.isdecimal() or len(text) > 4 or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number from 1 to 1024")
    return int(text)


def add_flags(parser):
    """One flag for each field of `Experiment`."""
    group = parser.add_argument_group("the experiment")
    for setting in fields(Experiment):
        kind = _kind(setting.type)
        options = dict(default=setting.default, help=setting.metadata["help"])
        if kind is bool:
            options["action"] = "store_true"
        else:
            options["type"] = kind
            options["choices"] = setting.metadata["choices"]
            options["metavar"] = None if setting.metadata["choices"] else kind.__name__.upper()
            if setting.default is not None:
                options["help"] += " (default: %(default)s)"
        if _is_list(setting.type):
            options["nargs"] = "*"
        group.add_argument(flag_of(setting.name), **options)


def from_arguments(args):
    return Experiment(**{setting.name: getattr(args, setting.name) for setting in fields(Experiment)})
