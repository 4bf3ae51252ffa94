"""The textbook networks, built from standard layers: MLPs, small CNNs and their normalization layers.

network = build_network("cnn1", (1, 28, 28), seed=0, norm="batch")      # images -> logits (batch, classes)
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MLP_WIDTHS = {"mlp1": (64, 64), "mlp2": (128, 128), "mlp3": (64, 128, 256)}
MakeBlock = Callable[..., list[nn.Module]]  # (linear layer or convolution, its output's shape, with_dropout=True)


class Conv(NamedTuple):
    """A convolution without bias, followed by the other layers of its block: normalization, ReLU, dropout."""

    channels: int | None  # None: the number of classes
    kernel: int = 3
    padding: int = 0  # with 1, a kernel of 3 keeps the images' size
    block: bool = True  # False: only the convolution
    dropout: bool = True
    residual: bool = False  # the block's output is added to its input


LOGITS = Conv(None, 1, block=False)

CNNS: dict[str, list[Conv | str]] = {
    "cnn1": [Conv(8), Conv(8), Conv(8), "max pool", Conv(16), Conv(16), Conv(16), LOGITS, "mean"],
    "cnn2": [
        *(Conv(10, padding=1), Conv(10), "max pool"),
        *(Conv(11, padding=1), Conv(11), "max pool"),
        *(Conv(12, padding=1), Conv(12), Conv(None, block=False)),
    ],
    "cnn3": [
        *(Conv(8, dropout=False), Conv(16, dropout=False), Conv(8, 1, block=False), "max pool"),
        *(Conv(12, dropout=False), Conv(16), Conv(16), Conv(16, padding=1, dropout=False), "mean", LOGITS),
    ],
    "cnn4": [
        *(Conv(8), Conv(8), "max pool", Conv(14, padding=1), Conv(14, padding=1), "max pool"),
        *(Conv(14), Conv(14), Conv(None, 2, block=False)),
    ],
    "resnet": [
        *(Conv(20, padding=1), Conv(20, padding=1, residual=True), Conv(16, 1), "max pool"),
        *(Conv(26, padding=1), Conv(26, padding=1, residual=True), Conv(26, padding=1, residual=True)),
        *(Conv(16, 1), "max pool"),
        *(Conv(32, padding=1), Conv(32, padding=1, residual=True), Conv(32, padding=1, residual=True), "mean", LOGITS),
    ],
    "resnet2": [
        *(Conv(16, padding=1), Conv(16, padding=1, residual=True), "max pool"),
        *(Conv(28, padding=1), Conv(28, padding=1, residual=True), "max pool"),
        *(Conv(36, padding=1), Conv(36, padding=1, residual=True), "max pool"),
        *(Conv(40, 1), "mean", LOGITS),
    ],
}


# ---------------------------------------------------------------------------------------------------------------------
# The textbook networks


def build_network(
    model: str,
    shape: Sequence[int],
    *,
    seed: int,
    classes: int = 10,
    hidden: Sequence[int] | None = None,
    dropout: float = 0.0,
    channel_dropout: float | None = None,
    norm: str = "none",
    norm_position: str = "before",
    groups: int | None = None,
    group_size: int | None = None,
    ghost_splits: int | None = None,
    freeze_gamma: bool = False,
) -> nn.Sequential:
    """Build the network for one run, with torch's default initialization after `manual_seed(seed)`.

    Args:
        model: `mlp`, which takes the widths of its hidden layers from `hidden`, or a name in `MLP_WIDTHS` or `CNNS`.
        shape: (channels, height, width) of one image.
        dropout: probability to drop an output. Dropout comes last in a block; before ReLU it would do the same, unless
            normalization stands after ReLU.
        channel_dropout: probability to drop a whole channel of an image. It acts in the same blocks, after dropout.
        norm, groups, group_size, ghost_splits, freeze_gamma: see `build_norm`.
        norm_position: `before` or `after` the activation.

    Raises:
        ValueError: the images are too small or too large for the network, the groups do not divide its channels, or a
            setting is missing.
    """

    def make_block(linear: nn.Module, shape: Sequence[int], with_dropout: bool = True) -> list[nn.Module]:
        norm_layer = build_norm(shape, norm, groups, group_size, ghost_splits, freeze_gamma)
        return build_block(linear, norm_layer, norm_position, *((dropout, channel_dropout) if with_dropout else ()))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if model in CNNS:
            return build_cnn(model, shape, classes, make_block)
        widths = MLP_WIDTHS.get(model, hidden)
        if widths is None:
            raise ValueError(f"--model {model}: needs the widths of its hidden layers; give them with --hidden")
        return build_mlp(shape, widths, classes, make_block)


def build_mlp(shape: Sequence[int], widths: Iterable[int], classes: int, make_block: MakeBlock) -> nn.Sequential:
    """Build a multilayer perceptron: one block for each width, then a linear layer for the logits."""
    layers: list[nn.Module] = [nn.Flatten()]
    features = math.prod(shape)
    for width in widths:
        layers += make_block(nn.Linear(features, width), (width,))
        features = width
    return nn.Sequential(*layers, nn.Linear(features, classes))


def build_cnn(model: str, shape: Sequence[int], classes: int, make_block: MakeBlock) -> nn.Sequential:
    """Build a CNN from `CNNS`; the layers must reduce the images to a single pixel."""
    layers: list[nn.Module] = []
    channels, *size = shape
    for step in CNNS[model]:
        match step:
            case Conv():
                out = step.channels or classes
                conv = nn.Conv2d(channels, out, step.kernel, padding=step.padding, bias=False)
                channels, size = out, [length + 2 * step.padding - step.kernel + 1 for length in size]
                if min(size) < 1:
                    break
                parts = make_block(conv, (channels, *size), step.dropout) if step.block else [conv]
                layers += [Residual(*parts)] if step.residual else parts
            case "max pool":
                layers.append(nn.MaxPool2d(2))
                size = [length // 2 for length in size]
            case "mean":
                layers.append(nn.AdaptiveAvgPool2d(1))
                size = [1, 1]
    if size != [1, 1]:
        left = "no pixel" if min(size) < 1 else f"{size[0]}×{size[1]} pixels"
        raise ValueError(
            f"--model {model}: of images of {shape[1]}×{shape[2]} pixels it leaves {left}, expected one; "
            "name another --model or --dataset"
        )
    return nn.Sequential(*layers, nn.Flatten())


def build_block(
    linear: nn.Module,
    norm: nn.Module | None,
    norm_position: str,
    dropout: float = 0.0,
    channel_dropout: float | None = None,
) -> list[nn.Module]:
    """List the layers of a block in order; `norm` None and a dropout of 0 or None add no layer.

    Channel dropout is that of Tompson et al. 2015: neighbouring pixels of a channel are so alike that dropping single
    ones hides little, and so it drops the whole channel, with a draw for each image and channel.
    """
    before, after = (norm, None) if norm_position == "before" else (None, norm)
    layers = [linear, before, nn.ReLU(), after]
    layers += [nn.Dropout(dropout) if dropout else None, nn.Dropout2d(channel_dropout) if channel_dropout else None]
    return [layer for layer in layers if layer is not None]


class Residual(nn.Sequential):
    """A block whose output is added to its input (He, Zhang, Ren, Sun 2015), without their ReLU after the sum."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


# ---------------------------------------------------------------------------------------------------------------------
# Normalization


def build_norm(
    shape: Sequence[int],
    norm: str,
    groups: int | None = None,
    group_size: int | None = None,
    ghost_splits: int | None = None,
    freeze_gamma: bool = False,
) -> nn.Module | None:
    """Build a normalization layer; return None if `norm` is `none`.

    Args:
        shape: (features,) or (channels, height, width) of the input, without the batch.
        norm: `batch`, `ghost` (batch normalization in `ghost_splits` parts), `group` (`groups` groups of channels, or
            groups of `group_size` channels), `layer` (all channels in one group, a scale and shift for each channel) or
            `layer_chw` (the same with a scale and shift for each channel and pixel).
        freeze_gamma: the scale stays 1; the shift is learned.

    Raises:
        ValueError: the groups do not divide the channels, one feature alone would be normalized, to a constant, or
            `norm` is unknown or lacks its setting.
    """
    channels, of_images = shape[0], len(shape) == 3
    layer: nn.Module
    match norm:
        case "none":
            return None
        case "batch":
            layer = nn.BatchNorm2d(channels) if of_images else nn.BatchNorm1d(channels)
        case "ghost" if ghost_splits:
            layer = GhostBatchNorm(channels, ghost_splits)
        case "group" if divisor := groups or group_size:
            given = f"--groups {groups}" if groups else f"--group-size {group_size}"
            if channels % divisor:
                raise ValueError(f"{given}: does not divide the {channels} channels of a layer; name one that does")
            layer = nn.GroupNorm(groups or channels // divisor, channels)
            if not of_images and layer.num_groups == channels:
                mend = "fewer" if groups else "a larger size"
                raise ValueError(f"{given}: makes groups of one feature, which become constant; name {mend}")
        case "layer" if channels == 1 and not of_images:
            raise ValueError("--norm layer: makes a layer's only feature constant; name more features")
        case "layer":
            layer = nn.GroupNorm(1, channels) if of_images else nn.LayerNorm(channels)
        case "layer_chw":
            layer = nn.LayerNorm(list(shape))
        case _:
            raise ValueError(f"--norm {norm}: unknown, or without the number of its groups or parts")
    layer.weight.requires_grad_(not freeze_gamma)
    return layer


class GhostBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalization that normalizes each part of a batch with the part's own mean and variance.

    Source: Hoffer, Hubara, Soudry 2017, "Train longer, generalize better".
    The input is (batch, features) or (batch, features, height, width); its first images are the first part. If `splits`
    does not divide the batch, the largest smaller number of equal parts with at least two images is used. The running
    statistics take one step for each batch, with the mean over the parts, and not one for each part as in the paper, so
    `state_dict` and evaluation are the same as in plain batch normalization.
    """

    running_mean: Tensor  # never None, unlike in the parent class
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def __init__(self, num_features: int, splits: int) -> None:
        super().__init__(num_features)
        self.splits = splits

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() not in (2, 4):
            raise ValueError(f"expected 2D or 4D input (got {x.dim()}D input)")

    def forward(self, x: Tensor) -> Tensor:
        parts = count_equal_parts(len(x), self.splits)
        if parts == 1 or not self.training:
            return super().forward(x)
        self._check_input_dim(x)
        means, variances = self.running_mean.repeat(parts, 1), self.running_var.repeat(parts, 1)
        normalized = [
            F.batch_norm(part, mean, variance, self.weight, self.bias, True, self.momentum, self.eps)
            for part, mean, variance in zip(x.chunk(parts), means, variances, strict=True)
        ]
        self.running_mean.copy_(means.mean(0))
        self.running_var.copy_(variances.mean(0))
        self.num_batches_tracked.add_(1)
        return torch.cat(normalized)


def count_equal_parts(images: int, splits: int) -> int:
    """Return the largest number of equal parts, up to `splits`, with at least two images each; at least 1."""
    most = max(1, min(splits, images // 2))
    return next(parts for parts in range(most, 0, -1) if images % parts == 0)


# ---------------------------------------------------------------------------------------------------------------------
# Describing a network


def count_parameters(network: nn.Module) -> int:
    """Count a network's parameters, including frozen parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def list_layers(network: nn.Sequential, shape: Sequence[int]) -> list[tuple[str, tuple[int, ...], int]]:
    """List (layer, output shape without the batch, parameters) for the layers of a network on images of `shape`."""
    rows: list[tuple[str, tuple[int, ...], int]] = [("images", tuple(shape), 0)]

    def compute(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
        for layer in layers:
            if isinstance(layer, Residual):
                x = x + compute(layer, x)
                rows.append(("+ block's input", tuple(x.shape[1:]), 0))
            else:
                x = layer(x)
                rows.append((type(layer).__name__, tuple(x.shape[1:]), count_parameters(layer)))
        return x

    with torch.no_grad():
        compute(network.eval(), torch.zeros(2, *shape))
    return rows
