"""The networks: textbook ones of standard layers, and any number of them laid side by side as one.

    networks = [textbook_network("mlp1", (1, 28, 28), seed=seed) for seed in range(5)]
    model = side_by_side(networks)         # images (batch, 5*channels, height, width) -> logits (batch, 5*classes)
    network = networks[0]
    network.load_state_dict(state_of_run(model.state_dict(), run=0, runs=5))

Every layer keeps the runs apart: run r owns the r-th part of the features, and no product or sum crosses between parts.
So the gradient of the sum of the runs' losses is each run's own gradient.
"""

import math
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
    return next(parts for parts in range(splits, 0, -1) if parts == 1 or (images % parts == 0 and images >= 2 * parts))


# ---------------------------------------------------------------------------------------------------------------------
# Side by side


def side_by_side(networks):
    """One model that computes all networks, which differ in their weights alone, at once."""
    model = _widened(networks[0], len(networks))
    model.load_state_dict(_side_by_side_state([network.state_dict() for network in networks]))
    return model.to(memory_format=torch.channels_last)  # convolutions on a CPU are faster in it


def _widened(layer, runs):
    """The layer that does for `runs` runs side by side what this one does for one."""
    match layer:
        case nn.Sequential():  # a Residual too
            wide = type(layer)(*(_widened(part, runs) for part in layer))
        case nn.Linear():
            wide = RunsLinear(layer.in_features, layer.out_features, runs)
        case nn.Conv2d():
            channels = runs * layer.in_channels, runs * layer.out_channels
            wide = nn.Conv2d(*channels, layer.kernel_size, padding=layer.padding, groups=runs, bias=False)
        case GhostBatchNorm():
            wide = GhostBatchNorm(runs * layer.num_features, layer.splits)
        case nn.BatchNorm1d() | nn.BatchNorm2d():
            wide = type(layer)(runs * layer.num_features)
        case nn.GroupNorm():
            wide = nn.GroupNorm(runs * layer.num_groups, runs * layer.num_channels)
        case nn.LayerNorm(normalized_shape=(features,)):
            wide = nn.GroupNorm(runs, runs * features)
        case nn.LayerNorm():
            wide = RunsLayerNorm(layer.normalized_shape, runs)
        case nn.Dropout():
            wide = RunsDropout(layer.p, runs)
        case nn.ReLU():
            wide = nn.ReLU(inplace=True)
        case nn.Flatten() | nn.MaxPool2d() | nn.AdaptiveAvgPool2d():
            return layer
        case _:
            raise TypeError(f"no side-by-side form of {layer}")
    for name, parameter in layer.named_parameters(recurse=False):
        getattr(wide, name).requires_grad_(parameter.requires_grad)
    return wide


def _side_by_side_state(states):
    def joined(tensors):
        if tensors[0].dim() == 0:  # the count of batches, which all runs share
            return tensors[0]
        if tensors[0].dim() == 2:  # a linear layer's weight (out, in)
            tensors = [tensor.T for tensor in tensors]
        return torch.cat(tensors)

    return {name: joined([state[name] for state in states]) for name in states[0]}


def state_of_run(state, run, runs):
    """A copy of one run's part of a side-by-side `state_dict`: the textbook network's `state_dict`."""

    def part(tensor):
        if tensor.dim() == 0:
            return tensor.clone()
        own = tensor.chunk(runs)[run]
        return (own.T if own.dim() == 2 else own).clone(memory_format=torch.contiguous_format)

    return {name: part(tensor) for name, tensor in state.items()}


class RunsLinear(nn.Module):
    """`nn.Linear` for runs side by side: (batch, runs*in) -> (batch, runs*out).

    Its weight is (runs*in, out), its bias (runs*out,).
    """

    def __init__(self, in_features, out_features, runs):
        super().__init__()
        self.runs = runs
        self.weight = nn.Parameter(torch.empty(runs * in_features, out_features))
        self.bias = nn.Parameter(torch.empty(runs * out_features))

    def forward(self, x):
        by_run = x.view(len(x), self.runs, -1).transpose(0, 1)
        weight, bias = self.weight.unflatten(0, (self.runs, -1)), self.bias.view(self.runs, 1, -1)
        return torch.baddbmm(bias, by_run, weight).transpose(0, 1).reshape(len(x), -1)


class RunsLayerNorm(nn.GroupNorm):
    """`nn.LayerNorm` over (channels, height, width) for runs side by side: each run is one group.

    Its weight and bias are (runs*channels, height, width).
    """

    def __init__(self, shape, runs):
        channels, height, width = shape
        super().__init__(runs, runs * channels, affine=False)
        self.weight = nn.Parameter(torch.empty(runs * channels, height, width))
        self.bias = nn.Parameter(torch.empty(runs * channels, height, width))

    def forward(self, x):
        return torch.addcmul(self.bias, F.group_norm(x, self.num_groups, eps=self.eps), self.weight)


class RunsDropout(nn.Module):
    """`nn.Dropout` for runs side by side, what each run drops drawn from that run's own generator.

    Instead of one number for every element, the gaps between dropped elements are drawn, which are geometrically
    distributed: a share `p` of the numbers, and the elements between them need not be looked at.
    """

    BLOCK = 1 << 16  # gaps a run draws at once; a call for each step costs more than its numbers

    def __init__(self, p, runs):
        super().__init__()
        self.p, self.runs = p, runs

    def seed(self, generators):
        """Start anew from one generator a run."""
        self.generators = generators
        self.drawn = [torch.full((1,), -1, device=generator.device) for generator in generators]
        self.passed = [0] * self.runs  # elements of the steps before

    def forward(self, x):
        if not self.training:
            return x
        if x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        features = x.shape[1] // self.runs
        places = [self._dropped(run, x.numel() // self.runs) for run in range(self.runs)]
        # An element's place in the run's own numbers, then in memory, where the runs' features alternate.
        places = [(own // features * self.runs + run) * features + own % features for run, own in enumerate(places)]
        return _Dropped.apply(x, torch.cat(places), 1 / (1 - self.p))

    def _dropped(self, run, count):
        """Which of the next `count` elements of a run are dropped, whatever the sizes of the steps before."""
        drawn = self.drawn[run]
        while drawn[-1] < self.passed[run] + count:
            uniform = torch.rand(self.BLOCK, dtype=torch.float64, generator=self.generators[run], device=drawn.device)
            gaps = uniform.neg_().log1p_().div_(math.log1p(-self.p)).long().add_(1)
            drawn = torch.cat([drawn, drawn[-1] + gaps.cumsum(0)])
        first, last = torch.searchsorted(drawn, torch.tensor([0, count], device=drawn.device) + self.passed[run])
        places = drawn[first:last] - self.passed[run]
        self.drawn[run] = drawn[last:]
        self.passed[run] += count
        return places


class _Dropped(torch.autograd.Function):
    """x times `scale`, and 0 at `places` of its memory; x is (batch, features) or in the channels-last format."""

    @staticmethod
    def forward(ctx, x, places, scale):
        ctx.save_for_backward(places)
        ctx.scale = scale
        return _fill(x * scale, places)

    @staticmethod
    def backward(ctx, gradient):
        (places,) = ctx.saved_tensors
        if gradient.dim() == 4:
            gradient = gradient.contiguous(memory_format=torch.channels_last)
        return _fill(gradient * ctx.scale, places), None, None


def _fill(x, places):
    x.movedim(1, -1).reshape(-1).index_fill_(0, places, 0)
    return x


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
