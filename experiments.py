"""One experiment: every hyper-parameter with its default, its check and its command-line flag, stated once.

Experiment(model="mlp3", l1=0.001).name     # 'mlp3,l1=0.001'
"""

import argparse
import hashlib
import math
import os
import sys
import typing
from dataclasses import asdict, dataclass, field, fields, replace

# What a setting that is not given stands for: each model's own, as its reference used it. cnn2's layers of 11 channels
# leave a group normalization nothing but one group, which is layer normalization, or groups of one channel.
_MLP = dict(dataset="fashion_mnist", norm="none", norm_position="before", dropout=0.0, groups=4)
OWN = dict(
    mlp1=_MLP,
    mlp2=_MLP,
    mlp3=_MLP,
    mlp=_MLP,
    cnn1=dict(dataset="mnist", norm="batch", norm_position="before", dropout=0.0, group_size=4),
    cnn2=dict(dataset="mnist", norm="batch", norm_position="after", dropout=0.01, group_size=1),
    cnn3=dict(dataset="mnist", norm="batch", norm_position="after", dropout=0.04, group_size=4),
    resnet=dict(dataset="cifar10", norm="batch", norm_position="after", dropout=0.1, groups=2),
)
GHOST_SPLITS = 2

MODELS = tuple(OWN)
NORMS = ("none", "batch", "ghost", "layer", "group", "layer_chw")
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

    model: str = flag(
        "mlp1",
        "network: mlp1 64-64, mlp2 128-128, mlp3 64-128-256, mlp with --hidden, small CNNs (--summary shows any)",
        choices=MODELS,
    )
    hidden: tuple[int, ...] | None = flag(
        None,
        "widths of the hidden layers of --model mlp; none at all is multinomial logistic regression",
        at_least=1,
        at_most=4096,
    )
    dataset: str | None = flag(
        None, "data set (default: the model's own; its embedded sample if that cannot be had)", choices=DATA_SETS
    )
    split_seed: int = flag(0, "seed of the split into train, validation and test images", at_least=0, at_most=2**32 - 1)
    standardize: bool = flag(False, "subtract the train images' mean and divide by their deviation, per channel")
    crop_padding: int = flag(0, "pad the train images by this many pixels, then crop at random", at_least=0, at_most=16)
    crop_mode: str = flag("zero", "what --crop-padding pads with", choices=("zero", "reflect"))
    flip: bool = flag(False, "mirror every other train image, left to right")
    rotation: float = flag(0.0, "rotate train images by up to ± this many degrees", at_least=0, at_most=180)
    rotation_fill: int = flag(0, "grey, of 255, of what --rotation turns in from outside", at_least=0, at_most=255)
    affine_degrees: float = flag(0.0, "rotation of an affine transform after that", at_least=0, at_most=180)
    affine_translate: float = flag(0.0, "its shift, up to ± this share of the size", at_least=0, at_most=1)
    affine_scale: float = flag(0.0, "its scale, 1 ± up to this", at_least=0, below=1)
    brightness: float = flag(0.0, "scale the brightness of train images by 1 ± up to this", at_least=0)
    contrast: float = flag(0.0, "scale their contrast by 1 ± up to this", at_least=0)
    epochs: int = flag(15, "passes over the train images, at most", at_least=1)
    batch_size: int = flag(64, "images a step", at_least=1)
    optimizer: str = flag("adam", "optimizer", choices=("adam", "adamw", "sgd"))
    lr: float = flag(0.001, "learning rate; with one_cycle its peak", above=0)
    lr_scheduler: str = flag(
        "constant",
        "learning rate over time: constant, times --lr-gamma every --lr-step-size epochs, or one cycle, which cycles "
        "the momentum between 0.95 and 0.85 too",
        choices=("constant", "step", "one_cycle"),
    )
    lr_step_size: int | None = flag(None, "epochs between the steps of --lr-scheduler step", at_least=1)
    lr_gamma: float = flag(0.1, "factor of each step", above=0)
    momentum: float = flag(0.0, "momentum of sgd", at_least=0, below=1)
    nesterov: bool = flag(False, "Nesterov's form of sgd's momentum")
    weight_decay: float = flag(0.0, "the optimizer's own decay λ (gradient λw; decoupled under adamw)", at_least=0)
    l1: float = flag(0.0, "λ of the L1 penalty λ·Σ|w|", at_least=0)
    l1_mode: str = flag(
        "subgradient",
        "L1 by λ·sign(w) in the gradient, or by soft thresholds after the step, which give exact zeros",
        choices=("subgradient", "proximal"),
    )
    l1_reduction: str = flag(
        "sum", "Σ|w|, or the sum of each tensor's mean, which divides λ by the tensor's size", choices=("sum", "mean")
    )
    l2: float = flag(0.0, "λ of the L2 penalty λ·Σw² (gradient 2λw)", at_least=0)
    l2_form: str = flag("square", "Σw², or the sum of each tensor's plain norm ‖W‖₂", choices=("square", "norm"))
    penalize: str = flag(
        "weights",
        "what L1, L2 and weight decay act on: weights alone, or biases and norms too",
        choices=("weights", "all"),
    )
    dropout: float | None = flag(
        None, "share of the outputs of hidden layers that is dropped (default: the model's own)", at_least=0, below=1
    )
    norm: str | None = flag(
        None,
        "normalization of hidden layers; layer_chw is layer normalization with a scale and shift for each pixel "
        "(default: the model's own)",
        choices=NORMS,
    )
    norm_position: str | None = flag(
        None, "normalization before or after the activation (default: the model's own)", choices=("before", "after")
    )
    groups: int | None = flag(None, "groups of --norm group (default: the model's own)", at_least=1)
    group_size: int | None = flag(None, "channels a group, in place of --groups", at_least=1)
    ghost_splits: int | None = flag(
        None, f"parts of a batch that --norm ghost normalizes apart (default: {GHOST_SPLITS})", at_least=1
    )
    freeze_gamma: bool = flag(False, "keep the scale of normalization layers at 1")
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
        self._fill_in()
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
        if self.momentum and self.lr_scheduler == "one_cycle":
            _refuse("momentum", self.momentum, "--lr-scheduler one_cycle sets the momentum itself")
        if self.nesterov and not (self.optimizer == "sgd" and (self.momentum or self.lr_scheduler == "one_cycle")):
            _refuse("nesterov", True, "needs --optimizer sgd and --momentum above 0")
        if self.lr_scheduler == "step" and self.lr_step_size is None:
            _refuse("lr_scheduler", "step", "needs --lr-step-size, such as --lr-step-size 5")
        if self.lr_scheduler != "step" and self.lr_step_size is not None:
            _refuse("lr_step_size", self.lr_step_size, "goes with --lr-scheduler step")
        if self.lr_scheduler != "step":
            self._need_default("lr_gamma", "goes with --lr-scheduler step")
        if self.l1_mode == "proximal" and not self.l1:
            _refuse("l1_mode", self.l1_mode, "needs --l1 above 0")
        if not self.l1:
            self._need_default("l1_reduction", "needs --l1 above 0")
        if self.l1_mode == "proximal" and self.l1_reduction == "mean":
            _refuse("l1_reduction", "mean", "goes with --l1-mode subgradient")
        if not self.l2:
            self._need_default("l2_form", "needs --l2 above 0")
        if self.penalize == "all" and not (self.l1 or self.l2 or self.weight_decay):
            _refuse("penalize", self.penalize, "needs --l1, --l2 or --weight-decay above 0")
        if not self.crop_padding:
            self._need_default("crop_mode", "needs --crop-padding above 0")
        if not self.rotation:
            self._need_default("rotation_fill", "needs --rotation above 0")
        self._check_norm()
        if self.hidden == () and (self.dropout or self.norm != "none"):
            name = "dropout" if self.dropout else "norm"
            _refuse(name, getattr(self, name), "acts on hidden layers, and --hidden names none")
        if self.patience is None:
            for name in ("monitor", "min_delta", "start_from_epoch", "restore"):
                self._need_default(name, "is a setting of early stopping and needs --patience")
        if self.start_from_epoch > self.epochs:
            _refuse("start_from_epoch", self.start_from_epoch, f"expected at most --epochs {self.epochs}")

    def _fill_in(self):
        """Put the model's own in the place of what is not given, so that giving it makes no other experiment."""
        own = self._own()
        del own["dataset"]  # whether it can be had shows later
        if self.groups is not None or self.group_size is not None:
            own.pop("groups", None)
            own.pop("group_size", None)
        for name, value in own.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    def _check_norm(self):
        if self.norm == "none":
            self._need_default("norm_position", "needs a --norm other than none")
            self._need_default("freeze_gamma", "needs a --norm other than none")
        if self.norm in ("batch", "ghost") and self.batch_size == 1:
            _refuse("batch_size", 1, f"--norm {self.norm} needs at least 2 images to average over")
        if self.norm == "layer_chw" and self.model.startswith("mlp"):
            _refuse("norm", "layer_chw", f"needs images in the hidden layers; --model {self.model} takes --norm layer")
        if self.norm != "ghost":
            self._need_default("ghost_splits", "goes with --norm ghost")
        if self.norm != "group":
            self._need_default("groups", "goes with --norm group")
            self._need_default("group_size", "goes with --norm group")
        if self.groups is not None and self.group_size is not None:
            _refuse("group_size", self.group_size, f"excludes --groups {self.groups}; name one of them")

    def _need_default(self, name, why):
        if getattr(self, name) != self._own().get(name, default_of(name)):
            _refuse(name, getattr(self, name), why)

    def _own(self):
        """What stands for the settings that are not given: {name: value}."""
        own = {name: OWN[self.model][name] for name in ("dataset", "norm", "norm_position", "dropout")}
        norm = self.norm or own["norm"]
        if norm == "ghost":
            own["ghost_splits"] = GHOST_SPLITS
        if norm == "group":
            own |= {name: value for name, value in OWN[self.model].items() if name in ("groups", "group_size")}
        return own

    @property
    def default_dataset(self):
        """What it trains on where no data set is named."""
        return OWN[self.model]["dataset"]

    @property
    def name(self):
        """Every setting that differs from its default, as a file name: `mlp3,l1=0.001`."""
        return _cut(self.whole_name)

    @property
    def whole_name(self):
        """The same, however long it is."""
        return _name(self.model, {name: value for name, value in self._changed().items() if name != "model"})

    @property
    def command(self):
        """The command that trains it."""
        words = ["python train.py"]
        for name, value in self._changed().items():
            words.append(flag_of(name))
            words.extend(map(str, value) if isinstance(value, tuple) else () if value is True else (str(value),))
        return " ".join(words)

    def _changed(self):
        """The settings that differ from what they are when not given: {name: value}."""
        own = {setting.name: setting.default for setting in fields(self)} | self._own()
        values = ((name, getattr(self, name)) for name in own)
        return {name: value for name, value in values if value is not None and value != own[name]}

    def baseline(self):
        """The same without L1, L2, weight decay, dropout, early stopping, and with the model's own normalization.

        Where that does not go with the rest, as batch normalization does not with batches of one image, with its own.
        """
        off = ("l1", "l1_mode", "l1_reduction", "l2", "l2_form", "weight_decay", "penalize", "dropout")
        off += ("patience", "monitor", "min_delta", "start_from_epoch", "restore")
        plain = replace(self, **{name: default_of(name) for name in off})
        norm = ("norm", "norm_position", "groups", "group_size", "ghost_splits", "freeze_gamma")
        try:
            return replace(plain, **{name: default_of(name) for name in norm})
        except ValueError:
            return plain

    def to_dict(self):
        return asdict(self)


def default_of(name):
    return next(setting.default for setting in fields(Experiment) if setting.name == name)


def flag_of(name):
    return "--" + name.replace("_", "-")


def folder_name(first, settings):
    """`first` and some settings, {name: value}, as a file name that is not too long: `mlp3,l1=0.001`."""
    return _cut(_name(first, settings))


def _cut(name):
    """A name that is too long ends in a digest of the whole of it."""
    if len(name) > LONGEST_NAME:
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        name = f"{name[: LONGEST_NAME - 9]}-{digest}"
    return name


def _name(first, settings):
    return ",".join([first, *(f"{key}={_in_name(value)}" for key, value in settings.items())])


def _in_name(value):
    if isinstance(value, tuple):
        return "-".join(map(str, value)) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


# ---------------------------------------------------------------------------------------------------------------------
# Checks


def _refuse(name, value, why):
    shown = value if isinstance(value, tuple) else () if value is None or value is True else (value,)
    raise ValueError(f"{' '.join([flag_of(name), *map(str, shown)])}: {why}")


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
    elif isinstance(value, tuple) != _is_list(setting.type):
        _refuse(setting.name, value, f"expected {'one number' if isinstance(value, tuple) else 'a list of numbers'}")
    else:
        for number in value if isinstance(value, tuple) else (value,):
            if not _is_within(number, kind, **setting.metadata["bounds"]):
                _refuse(setting.name, value, f"expected {_in_words(kind, setting.metadata['bounds'])}")


def _is_within(number, kind, at_least, above, at_most, below):
    return (
        isinstance(number, kind)
        and not isinstance(number, bool)
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

    def parse_known_args(self, args=None, namespace=None):
        for word in sys.argv[1:] if args is None else args:
            if word.encode(errors="ignore").decode() != word:  # neither records nor reports could be written with it
                self.error(f"{word!r}: expected text in UTF-8; rename the file or folder")
        return super().parse_known_args(args, namespace)

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {' '.join(message.splitlines())}\n")


def positive(text):
    if not text.isascii() or not text.isdecimal() or len(text) > 4 or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number from 1 to 1024")
    return int(text)


def default_data_dir():
    return os.environ.get("DATA_DIR") or "data"


def add_flags(parser):
    """One flag for each field of `Experiment`; those not given are not among the arguments."""
    group = parser.add_argument_group("the experiment")
    for setting in fields(Experiment):
        kind = _kind(setting.type)
        options = dict(default=argparse.SUPPRESS, help=setting.metadata["help"])
        if kind is bool:
            options["action"] = "store_true"
        else:
            options["type"] = kind
            options["choices"] = setting.metadata["choices"]
            options["metavar"] = None if setting.metadata["choices"] else kind.__name__.upper()
            if setting.default is not None:
                options["help"] += f" (default: {setting.default})"
        if _is_list(setting.type):
            options["nargs"] = "*"
        group.add_argument(flag_of(setting.name), **options)


def given_settings(args):
    """The settings of an experiment among the arguments: {name: value}."""
    return {setting.name: getattr(args, setting.name) for setting in fields(Experiment) if hasattr(args, setting.name)}
