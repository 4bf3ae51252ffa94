"""Networks that differ only in their weights, joined side by side into one model.

    networks = [build_network("mlp1", (1, 28, 28), seed=seed) for seed in range(5)]
    model = join_networks(networks)        # images (batch, 5*channels, height, width) -> logits (batch, 5*classes)
    network = networks[0]
    network.load_state_dict(extract_run(model.state_dict(), run=0, runs=5))

Every layer keeps the runs apart: run r owns the r-th part of the features, and no product or sum mixes two parts. So
the gradient of the sum of all losses, taken for one run's weights, is the gradient of that run's loss.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from models import GhostBatchNorm

RAREST = 2.0**-40  # dropout draws with this rate at least, so that positions fit 64-bit integers
PURPOSES = ("order", "dropout", "augmentation", "channel dropout", "mixup")  # a use's position is part of the seed


def join_networks(networks: Sequence[nn.Module]) -> nn.Module:
    """Join networks that differ only in their weights into one model that computes all of them at once."""
    model = _widen(networks[0], len(networks))
    model.load_state_dict(_join_states([network.state_dict() for network in networks]))
    return nn.utils.convert_conv2d_weight_memory_format(model, torch.channels_last)  # faster for convolutions


def _widen(layer: nn.Module, runs: int) -> nn.Module:
    """Build the layer that does a layer's work for several runs; `join_networks` sets its weights."""
    wide: nn.Module
    match layer:
        case nn.Sequential():  # also a Residual
            wide = type(layer)(*_join_tails([_widen(part, runs) for part in layer]))
        case nn.Linear():
            wide = RunsLinear(layer.in_features, layer.out_features, runs)
        case nn.Conv2d(stride=(1, 1), dilation=(1, 1), groups=1, bias=None, padding_mode="zeros"):
            channels = runs * layer.in_channels, runs * layer.out_channels
            # Any, because torch's type hints forget that these tuples are pairs.
            sizes: dict[str, Any] = dict(kernel_size=layer.kernel_size, padding=layer.padding)
            wide = nn.Conv2d(*channels, **sizes, groups=runs, bias=False)
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
        case nn.Dropout2d():
            wide = RunsDropout(layer.p, runs, of_channels=True)
        case nn.ReLU():
            wide = nn.ReLU(inplace=True)
        case nn.Flatten() | nn.MaxPool2d() | nn.AdaptiveAvgPool2d():
            return layer
        case _:
            raise TypeError(f"no side-by-side form of {layer}")
    for name in {"eps", "momentum"} & vars(layer).keys():
        setattr(wide, name, getattr(layer, name))
    for name, parameter in layer.named_parameters(recurse=False):
        getattr(wide, name).requires_grad_(parameter.requires_grad)
    return wide


def _join_tails(layers: list[nn.Module]) -> list[nn.Module]:
    """Make one layer of ReLU, batch norm and dropout; identities keep the other layers' names in a `state_dict`."""
    for number in range(len(layers) - 2):
        match layers[number : number + 3]:
            case [nn.ReLU(), nn.BatchNorm2d() as norm, RunsDropout(of_channels=False) as dropout]:
                layers[number : number + 3] = nn.Identity(), RunsTail(norm, dropout), nn.Identity()
    return layers


def _join_states(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    def join(tensors: list[Tensor]) -> Tensor:
        if tensors[0].dim() == 0:  # a count of batches, the same for all runs
            return tensors[0]
        if tensors[0].dim() == 2:  # a linear layer's weight (out, in)
            tensors = [tensor.T for tensor in tensors]
        return torch.cat(tensors)

    return {name: join([state[name] for state in states]) for name in states[0]}


def extract_run(state: Mapping[str, Tensor], run: int, runs: int) -> dict[str, Tensor]:
    """Copy one run's part of a joined model's `state_dict` into a `state_dict` for the run's network."""

    def extract(tensor: Tensor) -> Tensor:
        if tensor.dim() == 0:
            return tensor.clone()
        part = tensor.chunk(runs)[run]
        return (part.T if part.dim() == 2 else part).clone(memory_format=torch.contiguous_format)

    return {name: extract(tensor) for name, tensor in state.items()}


class RunsLinear(nn.Module):
    """`nn.Linear` for runs side by side, with a weight of (runs*in, out): (batch, runs*in) -> (batch, runs*out)."""

    def __init__(self, in_features: int, out_features: int, runs: int) -> None:
        super().__init__()
        self.runs = runs
        self.weight = nn.Parameter(torch.empty(runs * in_features, out_features))
        self.bias = nn.Parameter(torch.empty(runs * out_features))

    def forward(self, x: Tensor) -> Tensor:
        if self.runs == 1:  # views would cost more time than the product
            return torch.addmm(self.bias, x, self.weight)
        by_run = x.view(len(x), self.runs, -1).transpose(0, 1)
        weight, bias = self.weight.unflatten(0, (self.runs, -1)), self.bias.view(self.runs, 1, -1)
        return torch.baddbmm(bias, by_run, weight).transpose(0, 1).reshape(len(x), -1)


class RunsLayerNorm(nn.GroupNorm):
    """`nn.LayerNorm` over (channels, height, width) for runs side by side: each run is one group."""

    def __init__(self, shape: Sequence[int], runs: int) -> None:
        channels, height, width = shape
        super().__init__(runs, runs * channels, affine=False)
        self.weight = nn.Parameter(torch.empty(runs * channels, height, width))
        self.bias = nn.Parameter(torch.empty(runs * channels, height, width))

    def forward(self, x: Tensor) -> Tensor:
        normalized = _order(F.group_norm(x, self.num_groups, eps=self.eps)).movedim(1, -1)
        # In the order of the pixels in memory, so that the gradients are sums of rows, which are faster.
        weight, bias = self.weight.movedim(0, -1).flatten(), self.bias.movedim(0, -1).flatten()
        return torch.addcmul(bias, normalized.flatten(1), weight).view(normalized.shape).movedim(-1, 1)


class RunsDropout(nn.Module):
    """`nn.Dropout` or `nn.Dropout2d` for runs side by side, with a separate random generator for each run.

    `F.dropout` draws a random number for every element, which took 30 % of the resnet's time on a CPU. On a CPU, this
    layer draws the gaps between dropped elements instead. Gaps follow a geometric distribution and need only a share
    `p` of the random numbers. On a GPU, it draws a number for every element: the host would have to wait for a count.

    Args:
        of_channels: drop whole channels of an image, as `nn.Dropout2d`; these are few, so each gets a number.
        block: number of gaps that a run draws at once; drawing them step by step would be slower.
        gap_devices: device types on which gaps are drawn.
    """

    def __init__(
        self, p: float, runs: int, of_channels: bool = False, block: int = 65536, gap_devices: Sequence[str] = ("cpu",)
    ) -> None:
        super().__init__()
        self.p, self.runs, self.of_channels, self.block, self.gap_devices = p, runs, of_channels, block, gap_devices

    def seed(self, generators: list[torch.Generator]) -> None:
        """Start new draws with these generators, one for each run, on the device of the input."""
        self.generators = generators
        self.drawn = [torch.tensor([-1]) for _ in generators]  # positions of dropped elements drawn so far
        self.passed = [0] * self.runs  # number of elements in the steps so far

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        if self.of_channels or x.device.type not in self.gap_devices:
            return x * self._draw_mask(x[:, :, :1, :1] if self.of_channels else x).div_(1 - self.p)
        x = _order(x)
        return _Dropped.apply(x, self.draw_places(x.numel(), x.shape[1]), 1 / (1 - self.p))

    def draw_places(self, count: int, features: int) -> Tensor:
        """Draw the positions to drop in the next `count` elements in memory, in which the runs' features alternate."""
        dropped = [self._draw_dropped(run, count // self.runs) for run in range(self.runs)]
        if self.runs == 1:
            return dropped[0]
        # Turn positions among each run's elements into positions in memory.
        width, places = features // self.runs, []
        for run, positions in enumerate(dropped):
            pixels = positions // width
            places.append(pixels.mul_(self.runs - 1).add_(run).mul_(width).add_(positions))
        return torch.cat(places)

    def _draw_mask(self, x: Tensor) -> Tensor:
        """Draw a mask for x, (batch, runs*features, ...): 1 keeps an element, 0 drops it."""
        shape = (len(x), x.shape[1] // self.runs, *x.shape[2:])
        numbers = [torch.rand(shape, generator=generator, device=x.device) for generator in self.generators]
        return (torch.cat(numbers, 1) >= self.p).to(x.dtype)

    def _draw_dropped(self, run: int, count: int) -> Tensor:
        """Draw the positions to drop in a run's next `count` elements; step sizes do not change the draws."""
        end = self.passed[run] + count
        blocks = [self.drawn[run]]
        while blocks[-1][-1] < end:
            uniform = torch.rand(self.block, dtype=torch.float32, generator=self.generators[run])  # half float64's time
            gaps = uniform.neg_().log1p_().div_(math.log1p(-max(self.p, RAREST))).long().add_(1)
            blocks.append(blocks[-1][-1] + gaps.cumsum(0))
        drawn = torch.cat(blocks) if len(blocks) > 1 else blocks[0]
        first, last = torch.searchsorted(drawn, torch.tensor([self.passed[run], end]))
        places = drawn[first:last] - self.passed[run]
        self.drawn[run] = drawn[last:]
        self.passed[run] = end
        return places


class _Dropped(torch.autograd.Function):
    """Multiply x by `scale`, and set its elements at the memory positions `places` to 0.

    x is (batch, features) or in the channels-last format.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(places)
        ctx.scale = scale
        return _zero(x * scale, places)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (places,) = ctx.saved_tensors
        return _zero(_order(gradient) * ctx.scale, places), None, None


class RunsTail(nn.BatchNorm2d):
    """ReLU, batch norm and dropout, in this order, as one layer for runs side by side.

    On a CPU, these layers mostly wait for memory, and took 40 % of the resnet's time. In training, this layer makes
    several steps with a part of the batch while the part is in the cache. Training the resnet takes 0.9 times as long
    as with three layers, and three quarters of the memory.

    Args:
        part: number of elements in a part; smaller batches pass through three layers.
    """

    running_mean: Tensor  # never None, unlike in the parent class
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def __init__(self, norm: nn.BatchNorm2d, dropout: RunsDropout, part: int = 1 << 19) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        self.weight.requires_grad_(norm.weight.requires_grad)
        self.dropout, self.part = dropout, part

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.device.type in self.dropout.gap_devices and x.numel() > self.part:
            return _Tail.apply(_order(x), self.weight, self.bias, self)
        return self.dropout(super().forward(x.relu_()))


class _Tail(torch.autograd.Function):
    """Compute a `RunsTail` part by part. x is in the channels-last format, and is overwritten with its ReLU, u.

    With u's mean m and deviation s over the batch and a = γ / (s·(1 - p)), the output is a·(u - m) + β / (1 - p), or 0
    where it is dropped. With its gradient g, 0 where it is dropped, and û = (u - m) / s, the gradient of x is
    a·(g - mean(g) - û·mean(g·û)), or 0 where u is 0 (Ioffe and Szegedy 2015).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, tail: RunsTail) -> Tensor:
        _, channels, _, width = x.shape
        parts, count = _split(x, tail.part), x.numel() // channels
        # The mean and variance of each column of a part, (parts, width, channels), and from these those of a channel.
        moments = [torch.batch_norm_update_stats(part.relu_(), None, None, 0.0) for part in parts]
        means, variances = (
            torch.stack(values).double().view(-1, width, channels) for values in zip(*moments, strict=True)
        )
        shares = torch.tensor([len(part) * width / count for part in parts], dtype=torch.float64)
        mean = shares @ means.mean(1)
        variance = shares @ (variances + (means - mean).square()).mean(1)
        tail.running_mean.lerp_(mean.to(x.dtype), tail.momentum)
        tail.running_var.lerp_((variance * count / (count - 1)).to(x.dtype), tail.momentum)
        tail.num_batches_tracked.add_(1)

        inverse, ctx.kept = (variance + tail.eps).rsqrt(), 1 - tail.dropout.p
        scale = weight * inverse / ctx.kept
        shift = bias / ctx.kept - scale * mean
        mean, inverse, scale, shift = (value.to(x.dtype).repeat(width) for value in (mean, inverse, scale, shift))
        y, places = torch.empty_like(x), []
        for part, out in zip(parts, _split(y, tail.part), strict=True):
            torch.addcmul(shift, part, scale, out=out)
            places.append(tail.dropout.draw_places(out.numel(), channels))
            _zero(out, places[-1])
        ctx.save_for_backward(x, mean, inverse, scale, *places)
        ctx.part = tail.part
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, inverse, scale, *places = ctx.saved_tensors
        of_x = torch.empty_like(x)
        parts, outs = _split(x, ctx.part), _split(of_x, ctx.part)
        sums = []  # of g·û and of g, in each column of a part
        for part, out, g, dropped in zip(parts, outs, _split(_order(gradient), ctx.part), places, strict=True):
            _zero(out.copy_(g), dropped)
            sums += torch.ops.aten.native_batch_norm_backward(
                out, part, None, None, None, mean, inverse, True, 0.0, [False, True, True]
            )[1:]
        _, channels, _, width = x.shape
        products, total = torch.stack(sums).double().view(-1, 2, width, channels).sum((0, 2))
        count = x.numel() // channels
        slope = -inverse[:channels] * products / count
        constant = -scale[:channels] * (total / count + slope * mean[:channels])
        slope, constant = (value.to(x.dtype).repeat(width) for value in (slope, constant))
        for part, out in zip(parts, outs, strict=True):
            torch.addcmul(constant, out.addcmul_(part, slope), scale, out=out)
            torch.ops.aten.threshold_backward.grad_input(out, part, 0, grad_input=out)
        return of_x, products / ctx.kept, total / ctx.kept, None


def _split(x: Tensor, part: int) -> tuple[Tensor, ...]:
    """View images in the channels-last format as parts of up to `part` elements: (rows of pixels, width * channels)."""
    rows = x.movedim(1, -1).view(-1, x.shape[3] * x.shape[1])
    return rows.split(max(1, part // rows.shape[1]))


def _order(x: Tensor) -> Tensor:
    """Return x with its features next to each other in memory."""
    return x.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.contiguous_format)


def _zero(x: Tensor, places: Tensor) -> Tensor:
    """Set the elements of x at the memory positions `places` to 0, in place."""
    x.movedim(1, -1).view(-1).index_fill_(0, places, 0)
    return x


# ---------------------------------------------------------------------------------------------------------------------
# Random numbers


def make_generator(
    seed: int, purpose: str, epoch: int, *place: int, device: str | torch.device = "cpu"
) -> torch.Generator:
    """Make the random generator of one run for one purpose, epoch and place, such as the number of a dropout layer."""
    mixed = np.random.SeedSequence([seed, PURPOSES.index(purpose), epoch, *place]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(mixed))


def seed_dropout(model: nn.Module, seeds: list[int], epoch: int, device: torch.device) -> None:
    """Seed every dropout layer with a generator for each run."""
    layers = [layer for layer in model.modules() if isinstance(layer, RunsDropout)]
    for purpose, of_channels in (("dropout", False), ("channel dropout", True)):
        for number, layer in enumerate(layer for layer in layers if layer.of_channels == of_channels):
            layer.seed([make_generator(seed, purpose, epoch, number, device=device) for seed in seeds])
