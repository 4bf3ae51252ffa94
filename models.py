"""The textbook networks, of standard layers: MLPs, small CNNs, and their normalization layers.

network = textbook_network("cnn1", (1, 28, 28), seed=0, norm="batch")      # images -> logits (batch, classes)
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

MLP_WIDTHS = {"mlp1": (64, 64), "mlp2": (128, 128), "mlp3": (64, 128, 256)}


class Conv(NamedTuple):
    """A convolution without bias and what follows it in its block: normalization, ReLU, dropout."""

    channels: int | None  # None: one for each class
    kernel: int = 3
    padding: int = 0
    block: bool = True  # False: the convolution stands alone
    dropout: bool = True
    residual: bool = False  # the block's output is added to its input


SAME = dict(padding=1)  # 3×3 that keeps the size
LOGITS = Conv(None, 1, block=False)

CNNS = {
    "cnn1": [Conv(8), Conv(8), Conv(8), "max pool", Conv(16), Conv(16), Conv(16), LOGITS, "mean"],
    "cnn2": [
        *(Conv(10, **SAME), Conv(10), "max pool"),
        *(Conv(11, **SAME), Conv(11), "max pool"),
        *(Conv(12, **SAME), Conv(12), Conv(None, block=False)),
    ],
    "cnn3": [
        *(Conv(8, dropout=False), Conv(16, dropout=False), Conv(8, 1, block=False), "max pool"),
        *(Conv(12, dropout=False), Conv(16), Conv(16), Conv(16, **SAME, dropout=False), "mean", LOGITS),
    ],
    "resnet": [
        *(Conv(20, **SAME), Conv(20, **SAME, residual=True), Conv(16, 1), "max pool"),
        *(Conv(26, **SAME), *[Conv(26, **SAME, residual=True)] * 2, Conv(16, 1), "max pool"),
        *(Conv(32, **SAME), *[Conv(32, **SAME, residual=True)] * 2, "mean", LOGITS),
    ],
}

# What measured fastest per run-epoch on a CPU: runs side by side in a process, and threads of a process. Grouped
# convolutions are slower than as many plain ones, and threads that wait for each other after every layer gain nothing
# and lose much where other programs use the cores: cnn1 took 11.3 s with one run, 19 s a run with four, and 13.9 s with
# two threads. The products of an MLP are small, and ten runs' worth of them cost little more than one's.
RUNS_AT_ONCE = {"mlp1": 10, "mlp2": 10, "mlp3": 10, "mlp": 10, "cnn1": 1, "cnn2": 1, "cnn3": 1, "resnet": 1}
THREADS = {"mlp1": 1, "mlp2": 1, "mlp3": 1, "mlp": 1, "cnn1": 1, "cnn2": 1, "cnn3": 1, "resnet": 2}


# ---------------------------------------------------------------------------------------------------------------------
# The textbook networks


def textbook_network(
    model,
    shape,
    seed,
    classes=10,
    hidden=None,
    dropout=0.0,
    norm="none",
    norm_position="before",
    groups=None,
    group_size=None,
    ghost_splits=None,
    freeze_gamma=False,
):
    """The network as a textbook has it, initialised as torch does after `manual_seed(seed)`.

    Args:
        model: `mlp`, which takes the widths of its hidden layers from `hidden`, or a name in `MLP_WIDTHS` or `CNNS`.
        shape: of one image, (channels, height, width).
        dropout: comes last in a block; with ReLU, its place before or after the activation makes no difference.
        norm, groups, group_size, ghost_splits, freeze_gamma: see `normalization`.
        norm_position: `before` or `after` the activation.

    Raises:
        ValueError: the images are too small or too large for the network, or the groups do not divide its channels.
    """

    def make_norm(*layer_shape):
        return normalization(layer_shape, norm, groups, group_size, ghost_splits, freeze_gamma)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if model in CNNS:
            return cnn(model, shape, classes, dropout, make_norm, norm_position)
        return mlp(shape, MLP_WIDTHS.get(model, hidden), classes, dropout, make_norm, norm_position)


def mlp(shape, widths, classes, dropout, make_norm, norm_position):
    layers = [nn.Flatten()]
    features = torch.Size(shape).numel()
    for width in widths:
        layers += block(nn.Linear(features, width), make_norm(width), norm_position, dropout)
        features = width
    return nn.Sequential(*layers, nn.Linear(features, classes))


def cnn(model, shape, classes, dropout, make_norm, norm_position):
    layers = []
    channels, *size = shape
    for step in CNNS[model]:
        match step:
            case Conv():
                out = step.channels or classes
                conv = nn.Conv2d(channels, out, step.kernel, padding=step.padding, bias=False)
                channels, size = out, [length + 2 * step.padding - step.kernel + 1 for length in size]
                if min(size) < 1:
                    break
                parts = [conv]
                if step.block:
                    parts = block(conv, make_norm(channels, *size), norm_position, dropout * step.dropout)
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


def block(linear, norm, norm_position, dropout):
    """The layers of a block, in order; `norm` and dropout may be none."""
    before, after = (norm, None) if norm_position == "before" else (None, norm)
    layers = [linear, before, nn.ReLU(), after, nn.Dropout(dropout) if dropout else None]
    return [layer for layer in layers if layer is not None]


class Residual(nn.Sequential):
    """A block whose output is added to its input (He, Zhang, Ren, Sun 2015)."""

    def forward(self, x):
        return x + super().forward(x)


# ---------------------------------------------------------------------------------------------------------------------
# Normalization


def normalization(shape, norm, groups=None, group_size=None, ghost_splits=None, freeze_gamma=False):
    """The normalization layer for (features,) or (channels, height, width), None if `norm` is `none`.

    Args:
        norm: `batch`, `ghost` (batch normalization in `ghost_splits` parts), `group` (`groups` groups of channels, or
            groups of `group_size` channels), `layer` (all channels one group, a scale and shift a channel) or
            `layer_chw` (the same with a scale and shift for each channel and pixel).
        freeze_gamma: the scale stays 1; the shift is learned.
    """
    channels, of_images = shape[0], len(shape) == 3
    match norm:
        case "none":
            return None
        case "batch":
            layer = nn.BatchNorm2d(channels) if of_images else nn.BatchNorm1d(channels)
        case "ghost":
            layer = GhostBatchNorm(channels, ghost_splits)
        case "group":
            if channels % (groups or group_size):
                given = f"--groups {groups}" if groups else f"--group-size {group_size}"
                raise ValueError(f"{given}: does not divide the {channels} channels of a layer; name one that does")
            layer = nn.GroupNorm(groups or channels // group_size, channels)
        case "layer":
            layer = nn.GroupNorm(1, channels) if of_images else nn.LayerNorm(channels)
        case "layer_chw":
            layer = nn.LayerNorm(shape)
    layer.weight.requires_grad_(not freeze_gamma)
    return layer


class GhostBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalization of parts of the batch, each by its own mean and variance (Hoffer, Hubara, Soudry 2017).

    Input is (batch, features) or (batch, features, height, width); image n belongs to part n mod `splits`. A batch
    that `splits` does not divide is cut into the largest smaller number of equal parts of at least two images.
    The running statistics move by the mean of the parts' own, so `state_dict` and evaluation are plain batch
    normalization's.
    """

    def __init__(self, num_features, splits):
        super().__init__(num_features)
        self.splits = splits

    def extra_repr(self):
        return f"{super().extra_repr()}, splits={self.splits}"

    def _check_input_dim(self, x):
        if x.dim() not in (2, 4):
            raise ValueError(f"expected 2D or 4D input (got {x.dim()}D input)")

    def forward(self, x):
        parts = equal_parts(len(x), self.splits)
        if parts == 1 or not self.training:
            return super().forward(x)
        self._check_input_dim(x)
        # The parts' channels as the columns of one plain batch normalization: three times as fast as a loop over parts.
        by_part = x.unflatten(0, (-1, parts)).movedim(2, -1)  # (images a part, parts, ..., features)
        columns = by_part.movedim(1, -2).reshape(-1, parts * self.num_features)
        mean, var, weight, bias = (
            tensor.repeat(parts) for tensor in (self.running_mean, self.running_var, self.weight, self.bias)
        )
        y = F.batch_norm(columns, mean, var, weight, bias, training=True, momentum=self.momentum, eps=self.eps)
        self.running_mean.copy_(mean.view(parts, -1).mean(0))
        self.running_var.copy_(var.view(parts, -1).mean(0))
        self.num_batches_tracked.add_(1)
        y = y.view(by_part.movedim(1, -2).shape).movedim(-2, 1)
        return y.reshape(len(x), *y.shape[2:]).movedim(-1, 1)


def equal_parts(images, splits):
    """The largest number of equal parts, at most `splits`, of at least two images each; one if there is none."""
    most = max(1, min(splits, images // 2))
    return next(parts for parts in range(most, 0, -1) if images % parts == 0)


# ---------------------------------------------------------------------------------------------------------------------
# Looking at a network


def parameter_count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def layer_table(network, shape):
    """Rows (layer, shape out without the batch, parameters) of a textbook network for images of `shape`."""
    rows = [("images", tuple(shape), 0)]

    def through(layers, x):
        for layer in layers:
            if isinstance(layer, Residual):
                x = x + through(layer, x)
                rows.append(("+ block's input", tuple(x.shape[1:]), 0))
            else:
                x = layer(x)
                rows.append((type(layer).__name__, tuple(x.shape[1:]), parameter_count(layer)))
        return x

    with torch.no_grad():
        through(network.eval(), torch.zeros(2, *shape))
    return rows
