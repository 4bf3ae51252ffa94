"""The networks: textbook ones of standard layers, and any number of them laid side by side as one.

    networks = [textbook_network("mlp1", (1, 28, 28), seed=seed) for seed in range(5)]
    model = side_by_side(networks)         # images (batch, 5*channels, height, width) -> logits (batch, 5*classes)
    network = networks[0]
    network.load_state_dict(state_of_run(model.state_dict(), run=0, runs=5))

Every layer keeps the runs apart: run r owns the r-th part of the features, and no product or sum crosses between parts.
So the gradient of the sum of the runs' losses is each run's own gradient.
"""

import torch
from torch import nn

MLP_WIDTHS = {"mlp1": (64, 64), "mlp2": (128, 128), "mlp3": (64, 128, 256)}

# What measured fastest per run-epoch: runs side by side in a process, and threads of a process. Threads that wait for
# each other after every small product gain an MLP nothing, and lose much where other programs use the cores.
RUNS_AT_ONCE = {"mlp1": 10, "mlp2": 10, "mlp3": 10, "mlp": 10}
THREADS = {"mlp1": 1, "mlp2": 1, "mlp3": 1, "mlp": 1}


# ---------------------------------------------------------------------------------------------------------------------
# The textbook networks


def textbook_network(model, shape, seed, classes=10, hidden=None, dropout=0.0, norm="none", norm_position="before"):
    """The network as a textbook has it, initialised as torch does after `manual_seed(seed)`.

    Args:
        model: `mlp`, which takes the widths of its hidden layers from `hidden`, or a name in `MLP_WIDTHS`.
        shape: of one image, (channels, height, width).
        norm, norm_position: `none` or `batch`, `before` or `after` the activation of every hidden layer. Dropout comes
            last: with ReLU its place before or after the activation makes no difference.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return mlp(shape, MLP_WIDTHS.get(model, hidden), classes, dropout, norm, norm_position)


def mlp(shape, widths, classes, dropout, norm, norm_position):
    layers = [nn.Flatten()]
    features = torch.Size(shape).numel()
    for width in widths:
        layers.append(nn.Linear(features, width))
        if norm == "batch" and norm_position == "before":
            layers.append(nn.BatchNorm1d(width))
        layers.append(nn.ReLU())
        if norm == "batch" and norm_position == "after":
            layers.append(nn.BatchNorm1d(width))
        if dropout:
            layers.append(nn.Dropout(dropout))
        features = width
    return nn.Sequential(*layers, nn.Linear(features, classes))


# ---------------------------------------------------------------------------------------------------------------------
# Side by side


def side_by_side(networks):
    """One model that computes all networks, which differ in their weights alone, at once."""
    model = _widened(networks[0], len(networks))
    model.load_state_dict(_side_by_side_state([network.state_dict() for network in networks]))
    return model


def _widened(layer, runs):
    """The layer that does for `runs` runs side by side what this one does for one."""
    match layer:
        case nn.Sequential():
            return nn.Sequential(*(_widened(part, runs) for part in layer))
        case nn.Linear():
            return RunsLinear(layer.in_features, layer.out_features, runs)
        case nn.BatchNorm1d():
            return nn.BatchNorm1d(runs * layer.num_features)
        case nn.Dropout():
            return RunsDropout(layer.p, runs)
        case nn.Flatten():
            return nn.Flatten()
        case nn.ReLU():
            return nn.ReLU(inplace=True)
    raise TypeError(f"no side-by-side form of {layer}")


def _side_by_side_state(states):
    def joined(tensors):
        if tensors[0].dim() == 0:  # the count of batches, which all runs share
            return tensors[0]
        if tensors[0].dim() == 2:  # a linear layer's weight (out, in)
            return torch.stack([tensor.T for tensor in tensors])
        return torch.cat(tensors)

    return {name: joined([state[name] for state in states]) for name in states[0]}


def state_of_run(state, run, runs):
    """A copy of one run's part of a side-by-side `state_dict`: the textbook network's `state_dict`."""

    def part(tensor):
        if tensor.dim() == 0:
            return tensor.clone()
        if tensor.dim() == 3:
            return tensor[run].T.clone(memory_format=torch.contiguous_format)
        return tensor.chunk(runs)[run].clone()

    return {name: part(tensor) for name, tensor in state.items()}


class RunsLinear(nn.Module):
    """`nn.Linear` for runs side by side: (batch, runs*in) -> (batch, runs*out).

    Its weight is (runs, in, out), its bias (runs*out,).
    """

    def __init__(self, in_features, out_features, runs):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(runs, in_features, out_features))
        self.bias = nn.Parameter(torch.empty(runs * out_features))

    def forward(self, x):
        runs, in_features, out_features = self.weight.shape
        by_run = x.view(len(x), runs, in_features).transpose(0, 1)
        y = torch.baddbmm(self.bias.view(runs, 1, out_features), by_run, self.weight)
        return y.transpose(0, 1).reshape(len(x), runs * out_features)


class RunsDropout(nn.Module):
    """`nn.Dropout` for runs side by side, each run's mask drawn from that run's own generator.

    A mask costs 16 random bits an element where `F.dropout` draws a float: `p` is rounded to a multiple of 2**-16, and
    what is kept is scaled by the share so rounded.
    """

    BLOCK = 1 << 21  # numbers a run draws at once; a call for each step costs more than its numbers

    def __init__(self, p, runs):
        super().__init__()
        self.runs = runs
        self.dropped = min(round(p * 65536), 65535)  # of 65536 equally likely numbers
        self.scale = 65536 / (65536 - self.dropped)
        self.generators = None

    def seed(self, generators):
        """Start anew from one generator a run."""
        self.generators = generators
        self.numbers = [torch.empty(0, dtype=torch.int16)] * self.runs

    def forward(self, x):
        if not self.training or not self.dropped:
            return x
        features = x[0].numel() // self.runs
        by_run = torch.stack([self._draw(run, len(x) * features).view(len(x), features) for run in range(self.runs)], 1)
        mask = (by_run >= self.dropped - 32768).to(x.dtype).mul_(self.scale)
        return x * mask.view(x.shape)

    def _draw(self, run, count):
        """The next `count` numbers of a run, whatever the sizes they were drawn in before."""
        numbers = self.numbers[run]
        if len(numbers) < count:
            generator = self.generators[run]
            # The full range: random_'s default never sets the sign bit.
            fresh = torch.empty(max(self.BLOCK, count) // 4 + 1, dtype=torch.int64, device=generator.device)
            fresh = fresh.random_(-(2**63), None, generator=generator).view(torch.int16)
            numbers = torch.cat([numbers.to(fresh.device), fresh])
        self.numbers[run] = numbers[count:]
        return numbers[:count]


# ---------------------------------------------------------------------------------------------------------------------
# Looking at a network


def parameter_count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def layer_table(network, shape):
    """Rows (layer, shape out without the batch, parameters) of a textbook network for images of `shape`."""
    rows = [("images", tuple(shape), 0)]
    x = torch.zeros(2, *shape)
    network.eval()
    with torch.no_grad():
        for layer in network:
            x = layer(x)
            rows.append((type(layer).__name__, tuple(x.shape[1:]), parameter_count(layer)))
    return rows
