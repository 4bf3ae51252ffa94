"""Any number of textbook networks, which differ in their weights alone, laid side by side as one.

    networks = [textbook_network("mlp1", (1, 28, 28), seed=seed) for seed in range(5)]
    model = join(networks)                 # images (batch, 5*channels, height, width) -> logits (batch, 5*classes)
    network = networks[0]
    network.load_state_dict(state_of_run(model.state_dict(), run=0, runs=5))

Every layer keeps the runs apart: run r owns the r-th part of the features, and no product or sum crosses between parts.
So the gradient of the sum of the runs' losses is each run's own gradient.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from models import GhostBatchNorm


def join(networks):
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

    On a CPU, instead of one number for every element, the gaps between dropped elements are drawn, which are
    geometrically distributed: a share `p` of the numbers, and the elements between them need not be looked at. A GPU
    draws a number for every element: how many gaps there are it would have to tell its host, which waits meanwhile.
    """

    GAPS_ON = ("cpu",)
    BLOCK = 1 << 16  # gaps a run draws at once; a call for each step costs more than its numbers

    def __init__(self, p, runs):
        super().__init__()
        self.p, self.runs = p, runs

    def seed(self, generators):
        """Start anew from one generator a run."""
        self.generators = generators  # on the device of what they drop
        self.drawn = [torch.tensor([-1]) for _ in generators]  # places of dropped elements, as gaps are drawn for them
        self.passed = [0] * self.runs  # elements of the steps before

    def forward(self, x):
        if not self.training:
            return x
        if x.device.type not in self.GAPS_ON:
            return x * self._kept(x).div_(1 - self.p)
        x = _in_order(x)
        features = x.shape[1] // self.runs
        places = [self._dropped(run, x.numel() // self.runs) for run in range(self.runs)]
        # An element's place in the run's own numbers, then in memory, where the runs' features alternate.
        places = [(own // features * self.runs + run) * features + own % features for run, own in enumerate(places)]
        return _Dropped.apply(x, torch.cat(places), 1 / (1 - self.p))

    def _kept(self, x):
        """1 where an element of x, (batch, runs*features, ...), is kept and 0 where it is dropped."""
        shape = (len(x), x.shape[1] // self.runs, *x.shape[2:])
        numbers = [torch.rand(shape, generator=generator, device=x.device) for generator in self.generators]
        return (torch.cat(numbers, 1) >= self.p).to(x.dtype)

    def _dropped(self, run, count):
        """Which of the next `count` elements of a run are dropped, whatever the sizes of the steps before."""
        drawn = self.drawn[run]
        while drawn[-1] < self.passed[run] + count:
            uniform = torch.rand(self.BLOCK, dtype=torch.float64, generator=self.generators[run])
            gaps = uniform.neg_().log1p_().div_(math.log1p(-self.p)).long().add_(1)
            drawn = torch.cat([drawn, drawn[-1] + gaps.cumsum(0)])
        first, last = torch.searchsorted(drawn, torch.tensor([0, count]) + self.passed[run])
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
        return _fill(_in_order(gradient) * ctx.scale, places), None, None


def _in_order(x):
    """The same, its features next to each other in memory."""
    return x.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.contiguous_format)


def _fill(x, places):
    x.movedim(1, -1).view(-1).index_fill_(0, places, 0)
    return x
