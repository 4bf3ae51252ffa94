"""The settings of an experiment: default, range, command-line flag and help text of each, in one place.

Experiment(model="mlp3", l1=0.001).name     # 'mlp3,l1=0.001'
"""

import hashlib
import operator
import typing
from collections.abc import Callable
from dataclasses import Field, asdict, dataclass, field, fields, replace
from functools import partial
from typing import Any, NoReturn

from sources.catalogue import OWN_RULE, SOURCES, is_own

Settings = dict[str, Any]  # {name of a field of Experiment: value}

# Each model's defaults. cnn2 has layers of 11 channels, which divide into one group or into groups of one channel.
_MLP = dict(dataset="fashion_mnist", norm="none", norm_position="before", dropout=0.0, groups=4)
DEFAULTS: dict[str, Settings] = dict.fromkeys(("mlp1", "mlp2", "mlp3", "mlp"), _MLP) | dict(
    cnn1=dict(dataset="mnist", norm="batch", norm_position="before", dropout=0.0, group_size=4),
    cnn2=dict(dataset="mnist", norm="batch", norm_position="after", dropout=0.01, group_size=1),
    cnn3=dict(dataset="mnist", norm="batch", norm_position="after", dropout=0.04, group_size=4),
    cnn4=dict(dataset="mnist", norm="batch", norm_position="before", dropout=0.0, group_size=2),
    resnet=dict(dataset="cifar10", norm="batch", norm_position="after", dropout=0.1, groups=2),
    resnet2=dict(dataset="cifar10", norm="batch", norm_position="before", dropout=0.0, groups=4),
)
GHOST_SPLITS = 2
LARGEST = 1e30  # number in a setting; products of larger ones would not fit into float32

MODELS = tuple(DEFAULTS)
NORM_CHOICES = ("none", "batch", "ghost", "layer", "group", "layer_chw")
BOUNDS = dict(at_least=operator.ge, above=operator.gt, at_most=operator.le, below=operator.lt)
LONGEST_NAME = 94  # bytes in the name of an experiment's folder, so that paths fit into the 260 of Windows


class UserError(Exception):
    """A mistake that the user can correct; the message is one line that says what to do."""


def _setting(group: str, default: Any, help: str, choices: tuple[str, ...] | None = None, **bounds: float) -> Any:
    """Describe a setting; its bounds are the names in `BOUNDS`."""
    return field(default=default, metadata=dict(group=group, help=help, choices=choices, bounds=bounds))


_network, _data, _optimization = (partial(_setting, group) for group in ("network", "data", "optimization"))
_penalty, _norm, _stopping = (partial(_setting, group) for group in ("penalties", "normalization", "early stopping"))
_other = partial(_setting, "other regularization")


@dataclass(frozen=True)
class Experiment:
    """The settings that all seeds of an experiment train with.

    Raises:
        ValueError: a value is out of range, or two settings exclude each other; the message names the flag.
    """

    model: str = _network(
        "mlp1",
        "mlp1 (64-64), mlp2 (128-128), mlp3 (64-128-256), mlp with --hidden, or a small CNN; see --summary",
        choices=MODELS,
    )
    hidden: tuple[int, ...] | None = _network(
        None, "widths of the hidden layers of --model mlp; no widths: logistic regression", at_least=1, at_most=4096
    )
    dataset: str | None = _data(
        None,
        "data set, or a file of your own, NAME.npz (default: the model's, or its sample if it cannot be found)",
        choices=tuple(SOURCES),
    )
    split_seed: int = _data(
        0, "seed of the split into train, validation and (mnist_sample only) test images", at_least=0, at_most=2**32 - 1
    )
    standardize: bool = _data(False, "subtract the train images' mean, divide by their standard deviation, per channel")
    crop_padding: int = _data(0, "pad train images by this many pixels, then crop at random", at_least=0, at_most=16)
    crop_mode: str = _data("zero", "what --crop-padding pads with", choices=("zero", "reflect"))
    flip: bool = _data(False, "mirror train images left to right, with probability 1/2")
    rotation: float = _data(0.0, "rotate train images by up to ± this many degrees", at_least=0, at_most=180)
    rotation_fill: int = _data(0, "gray level, 0 to 255, of corners that --rotation uncovers", at_least=0, at_most=255)
    affine_degrees: float = _data(0.0, "affine rotation, up to ± this many degrees", at_least=0, at_most=180)
    affine_translate: float = _data(0.0, "shift by whole pixels, up to ± this share of a side", at_least=0, at_most=1)
    affine_scale: float = _data(0.0, "affine scale, 1 ± up to this", at_least=0, below=1)
    elastic: float = _data(0.0, "standard deviation of elastic displacements, in pixels", at_least=0, at_most=32)
    interpolation: str = _data("nearest", "take the nearest pixel, or mix four", choices=("nearest", "bilinear"))
    brightness: float = _data(0.0, "scale the brightness of train images by 1 ± up to this", at_least=0)
    contrast: float = _data(0.0, "scale the contrast of train images by 1 ± up to this", at_least=0)
    epochs: int = _optimization(15, "maximum number of passes over the train images", at_least=1, at_most=1_000_000)
    batch_size: int = _optimization(64, "images in each training step", at_least=1)
    optimizer: str = _optimization("adam", "optimizer", choices=("adam", "adamw", "sgd"))
    lr: float = _optimization(0.001, "learning rate; with one_cycle, its peak", above=0)
    lr_scheduler: str = _optimization(
        "constant",
        "learning rate over time: constant; step: multiplied by --lr-gamma every --lr-step-size epochs; cosine: from "
        "--lr to 0 over the whole training; one_cycle: up to --lr and down again over the whole training, while the "
        "momentum moves from 0.95 to 0.85 and back",
        choices=("constant", "step", "cosine", "one_cycle"),
    )
    lr_step_size: int | None = _optimization(None, "epochs between the steps of --lr-scheduler step", at_least=1)
    lr_gamma: float = _optimization(0.1, "factor at each step of --lr-scheduler step", above=0)
    warmup: int | None = _optimization(None, "epochs in which the learning rate rises evenly to --lr", at_least=1)
    clip_norm: float | None = _optimization(None, "largest norm of a run's gradient; longer ones are scaled", above=0)
    momentum: float = _optimization(0.0, "momentum of sgd", at_least=0, below=1)
    nesterov: bool = _optimization(False, "use Nesterov momentum with sgd")
    weight_decay: float = _penalty(0.0, "λ of the optimizer's decay (gradient λ·w; decoupled with adamw)", at_least=0)
    l1: float = _penalty(0.0, "λ of the L1 penalty λ·Σ|w|", at_least=0)
    l1_mode: str = _penalty(
        "subgradient",
        "subgradient: λ·sign(w) in the gradient; proximal: soft thresholding after each step, which gives exact zeros",
        choices=("subgradient", "proximal"),
    )
    l1_reduction: str = _penalty(
        "sum",
        "sum: λ·Σ|w|; mean: λ·mean|w| of each tensor, summed, which divides λ by the tensor's size",
        choices=("sum", "mean"),
    )
    l2: float = _penalty(0.0, "λ of the L2 penalty λ·Σw² (gradient 2λ·w)", at_least=0)
    l2_form: str = _penalty("square", "square: λ·Σw²; norm: λ·‖W‖₂ of each tensor, summed", choices=("square", "norm"))
    penalize: str = _penalty(
        "weights",
        "what L1, L2 and weight decay act on: only weights, or also biases and normalization layers",
        choices=("weights", "all"),
    )
    label_smoothing: float | None = _other(None, "ε, the share of each label given to all classes", above=0, below=1)
    mixup: float | None = _other(None, "α; mix images and labels in pairs, by Beta(α, α)", above=0, at_most=1000)
    cutout: int | None = _other(None, "cover a random square of this many pixels a side", at_least=1, at_most=32)
    channel_dropout: float | None = _other(None, "probability to drop each channel of a CNN's layer", above=0, below=1)
    max_norm: float | None = _other(None, "largest norm of the weights that lead to a unit or channel", above=0)
    average: float | None = _other(None, "record the weights' moving average, with this decay", above=0, below=1)
    dropout: float | None = _network(
        None, "probability to drop each output of a hidden layer (default: the model's)", at_least=0, below=1
    )
    norm: str | None = _norm(
        None,
        "normalization of hidden layers; layer_chw is layer normalization with a scale and shift for each pixel "
        "(default: the model's)",
        choices=NORM_CHOICES,
    )
    norm_position: str | None = _norm(
        None, "normalize before or after the activation (default: the model's)", choices=("before", "after")
    )
    groups: int | None = _norm(None, "number of groups for --norm group (default: the model's)", at_least=1)
    group_size: int | None = _norm(None, "channels in each group, instead of --groups", at_least=1)
    ghost_splits: int | None = _norm(
        None, f"parts of a batch that --norm ghost normalizes separately (default: {GHOST_SPLITS})", at_least=1
    )
    freeze_gamma: bool = _norm(False, "keep the scale of normalization layers at 1")
    patience: int | None = _stopping(
        None, "stop a run after this many epochs in a row without improvement (default: no early stopping)", at_least=1
    )
    monitor: str = _stopping("val_loss", "metric that early stopping watches", choices=("val_loss", "val_accuracy"))
    min_delta: float = _stopping(0.0, "an improvement is more than this; 0.001 is 0.1 points of accuracy", at_least=0)
    start_from_epoch: int = _stopping(1, "first epoch that early stopping considers", at_least=1)
    restore: str = _stopping(
        "best", "record the weights of the last improvement, or of the last epoch", choices=("best", "last")
    )

    def __post_init__(self) -> None:
        for setting in fields(self):
            value = getattr(self, setting.name)
            if isinstance(value, list):  # from argparse or JSON
                object.__setattr__(self, setting.name, tuple(value))
            elif kind_of(setting) is float and type(value) is int:
                object.__setattr__(self, setting.name, float(value))  # 1 and 1.0 give the same experiment and name
            _check_range(setting, getattr(self, setting.name))
        self._fill_in_defaults()
        self._check_combinations()

    def _fill_in_defaults(self) -> None:
        """Fill unset fields with the model's defaults, so that writing a default out gives an equal experiment."""
        defaults = self._model_defaults()
        del defaults["dataset"]  # chosen later, when it is known whether the data are available
        has_groups = self.groups is not None or self.group_size is not None
        for name, value in defaults.items():
            if getattr(self, name) is None and not (has_groups and name in ("groups", "group_size")):
                object.__setattr__(self, name, value)

    def _check_combinations(self) -> None:
        defaults = self._model_defaults()
        for name, is_possible, why in DEPENDENT_SETTINGS:
            if getattr(self, name) != defaults.get(name, default_of(name)) and not is_possible(self):
                _refuse(name, getattr(self, name), why)
        if self.model == "mlp" and self.hidden is None:
            why = "needs --hidden with widths, such as --hidden 128 64, or --hidden alone for logistic regression"
            _refuse("model", "mlp", why)
        if self.norm in ("batch", "ghost") and self.batch_size == 1:
            _refuse("batch_size", 1, f"--norm {self.norm} needs at least 2 images to average over")
        if (splits := self.ghost_splits) and (self.batch_size % splits or self.batch_size < 2 * splits):
            _refuse("ghost_splits", splits, f"does not divide --batch-size {self.batch_size} into parts of 2 or more")
        if self.norm == "layer_chw" and self.model.startswith("mlp"):
            _refuse("norm", "layer_chw", f"needs images in the hidden layers; --model {self.model} takes --norm layer")
        if self.groups is not None and self.group_size is not None:
            _refuse("group_size", self.group_size, f"excludes --groups {self.groups}; name one of them")
        if self.start_from_epoch > self.epochs:
            _refuse("start_from_epoch", self.start_from_epoch, f"expected at most --epochs {self.epochs}")

    def _model_defaults(self) -> Settings:
        """Return the model's defaults for the settings that go with the chosen norm, {name: value}."""
        of_model = DEFAULTS[self.model]
        defaults = {name: of_model[name] for name in ("dataset", "norm", "norm_position", "dropout")}
        norm = self.norm or defaults["norm"]
        if norm == "ghost":
            defaults["ghost_splits"] = GHOST_SPLITS
        if norm == "group":
            defaults |= {name: of_model[name] for name in ("groups", "group_size") if name in of_model}
        return defaults

    @property
    def dataset_name(self) -> str:
        """The data set that was named, or the model's default."""
        return self.dataset or DEFAULTS[self.model]["dataset"]

    @property
    def name(self) -> str:
        """The model and the settings that are not default, `mlp3,l1=0.001`; shortened if too long for a folder."""
        return shorten(self.whole_name)

    @property
    def whole_name(self) -> str:
        """`name` before it is shortened."""
        return join_settings(self.model, {name: value for name, value in self.changed().items() if name != "model"})

    @property
    def command(self) -> str:
        """The command that trains this experiment."""
        words = ["python train.py"]
        for name, value in self.changed().items():
            words.append(flag_of(name))
            if isinstance(value, tuple):
                words.extend(map(str, value))
            elif value is not True:
                words.append(str(value))
        return " ".join(words)

    def changed(self) -> Settings:
        """Return the settings that differ from their defaults, {name: value}."""
        defaults = {setting.name: setting.default for setting in fields(self)} | self._model_defaults()
        values = ((name, getattr(self, name)) for name in defaults)
        return {name: value for name, value in values if value is not None and value != defaults[name]}

    def baseline(self) -> "Experiment":
        """Return this experiment without regularization and early stopping, with the default dropout and norm.

        If the default norm cannot be used (batch normalization needs more than one image), keep this experiment's norm.
        """

        def defaults(*groups: str) -> Settings:
            return {each.name: each.default for each in fields(self) if each.metadata["group"] in groups}

        plain = replace(self, dropout=None, **defaults("penalties", "other regularization", "early stopping"))
        try:
            return replace(plain, **defaults("normalization"))
        except ValueError:
            return plain

    def to_dict(self) -> Settings:
        """Return {setting: value}."""
        return asdict(self)


# Settings that not every experiment may have: (setting, whether this one may, message if it may not).
DEPENDENT_SETTINGS: tuple[tuple[str, Callable[[Experiment], Any], str], ...] = (
    ("hidden", lambda e: e.model == "mlp", "needs --model mlp; the other networks have fixed widths"),
    ("crop_mode", lambda e: e.crop_padding, "needs --crop-padding above 0"),
    ("rotation_fill", lambda e: e.rotation, "needs --rotation above 0"),
    (
        "interpolation",
        lambda e: e.rotation or e.affine_degrees or e.affine_scale or e.elastic,
        "needs --rotation, --affine-degrees, --affine-scale or --elastic above 0",
    ),
    ("lr_scheduler", lambda e: e.lr_scheduler != "step" or e.lr_step_size, "needs --lr-step-size, such as 5"),
    ("lr_step_size", lambda e: e.lr_scheduler == "step", "needs --lr-scheduler step"),
    ("lr_gamma", lambda e: e.lr_scheduler == "step", "needs --lr-scheduler step"),
    ("warmup", lambda e: (e.warmup or 0) < e.epochs, "needs more --epochs than that"),
    ("warmup", lambda e: e.lr_scheduler in ("constant", "cosine"), "needs --lr-scheduler constant or cosine"),
    ("momentum", lambda e: e.optimizer == "sgd", "needs --optimizer sgd"),
    ("momentum", lambda e: e.lr_scheduler != "one_cycle", "one_cycle sets the momentum itself; leave it out"),
    ("nesterov", lambda e: e.optimizer == "sgd", "needs --optimizer sgd"),
    ("nesterov", lambda e: e.momentum or e.lr_scheduler == "one_cycle", "needs --momentum above 0"),
    ("l1_mode", lambda e: e.l1, "needs --l1 above 0"),
    ("l1_reduction", lambda e: e.l1, "needs --l1 above 0"),
    ("l1_reduction", lambda e: e.l1_mode == "subgradient", "needs --l1-mode subgradient"),
    ("l2_form", lambda e: e.l2, "needs --l2 above 0"),
    ("penalize", lambda e: e.l1 or e.l2 or e.weight_decay, "needs --l1, --l2 or --weight-decay above 0"),
    ("mixup", lambda e: e.batch_size > 1, "needs a second image in each batch, so --batch-size of at least 2"),
    ("channel_dropout", lambda e: not e.model.startswith("mlp"), "needs the channels of a CNN; an MLP takes --dropout"),
    ("average", lambda e: e.l1_mode != "proximal", "its weights are never exactly zero; leave out --l1-mode proximal"),
    ("dropout", lambda e: e.hidden != (), "acts on hidden layers, and --hidden names none"),
    ("norm", lambda e: e.hidden != (), "acts on hidden layers, and --hidden names none"),
    ("norm_position", lambda e: e.norm != "none", "needs a --norm other than none"),
    ("freeze_gamma", lambda e: e.norm != "none", "needs a --norm other than none"),
    ("ghost_splits", lambda e: e.norm == "ghost", "needs --norm ghost"),
    ("groups", lambda e: e.norm == "group", "needs --norm group"),
    ("group_size", lambda e: e.norm == "group", "needs --norm group"),
    *(
        (name, lambda e: e.patience is not None, "needs --patience, as every setting of early stopping does")
        for name in ("monitor", "min_delta", "start_from_epoch", "restore")
    ),
)


def default_of(name: str) -> Any:
    """Return a setting's default; None: the setting is off, or its default depends on the model or the norm."""
    return next(setting.default for setting in fields(Experiment) if setting.name == name)


def flag_of(name: str) -> str:
    """Return a setting's flag: `--weight-decay` for `weight_decay`."""
    return "--" + name.replace("_", "-")


def join_settings(first: str, settings: Settings) -> str:
    """Join a model's or study's name and some settings, {name: value}, into one name: `mlp3,l1=0.001`."""
    return ",".join([first, *(f"{name}={_text(value)}" for name, value in settings.items())])


def shorten(name: str, longest: int = LONGEST_NAME) -> str:
    """Cut a name that has too many bytes for a folder, and append a hash of the full name."""
    if len(name.encode()) <= longest:
        return name
    return f"{name.encode()[: longest - 9].decode(errors='ignore')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return "-".join(map(str, value)) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


# ---------------------------------------------------------------------------------------------------------------------
# Ranges


def _refuse(name: str, value: Any, why: str) -> NoReturn:
    values = value if isinstance(value, tuple) else () if value is None or value is True else (value,)
    raise ValueError(f"{' '.join([flag_of(name), *map(str, values)])}: {why}")


def _check_range(setting: Field, value: Any) -> None:
    choices, kind, bounds = setting.metadata["choices"], kind_of(setting), setting.metadata["bounds"]
    if (value is None and setting.default is None) or (setting.name == "dataset" and is_own(value)):
        return
    if choices:
        if value not in choices:
            expected = [*choices, OWN_RULE] if setting.name == "dataset" else choices
            _refuse(setting.name, value, f"expected one of {', '.join(expected)}")
    elif kind is bool:
        if not isinstance(value, bool):
            _refuse(setting.name, value, "expected True or False")
    elif isinstance(value, tuple) != takes_list(setting):
        _refuse(setting.name, value, f"expected {'one number' if isinstance(value, tuple) else 'a list of numbers'}")
    else:
        for number in value if isinstance(value, tuple) else (value,):
            if not _is_within(number, kind, bounds):
                stated = [f"{name.replace('_', ' ')} {limit}" for name, limit in bounds.items()]
                stated += [f"at most {LARGEST:g}"] if isinstance(number, float) and number > LARGEST else []
                expected = f"a {'whole' if kind is int else 'finite'} number, {' and '.join(stated)}"
                _refuse(setting.name, repr(number) if isinstance(number, str) else value, f"expected {expected}")


def _is_within(number: Any, kind: Any, bounds: dict[str, float]) -> bool:
    return (
        isinstance(number, kind)
        and not isinstance(number, bool)
        and (kind is int or abs(number) <= LARGEST)
        and all(BOUNDS[name](number, limit) for name, limit in bounds.items())
    )


def kind_of(setting: Field) -> type:
    """Return the type of a setting's value or list items: int for both `int | None` and `tuple[int, ...] | None`."""
    kind: Any = setting.type
    while inner := typing.get_args(kind):
        kind = inner[0]
    return kind


def takes_list(setting: Field) -> bool:
    """Tell whether a setting's value is a list of numbers."""
    return any(typing.get_origin(member) is tuple for member in typing.get_args(setting.type))
