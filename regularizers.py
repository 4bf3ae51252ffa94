"""L1 and L2 on a network's weights: the penalty, its exact gradient added in place, and the proximal step.

All functions take models of any number of runs side by side: the first dimension of every parameter is a multiple of
the number of runs, and each run's penalty is its own.
"""

import math

import torch
from torch import nn

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
SMALL = 1e-3  # |w| below this counts as nearly zero


def penalized_parameters(model, penalize="weights"):
    """The parameters that L1, L2 and weight decay act on: {name: parameter}.

    `weights` leaves out biases and the scale and shift of normalization layers; `all` leaves out nothing that is
    trained.
    """
    chosen = {}
    for layer_name, layer in model.named_modules():
        for name, parameter in layer.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            if penalize == "all" or (name != "bias" and not isinstance(layer, NORMS)):
                chosen[f"{layer_name}.{name}".lstrip(".")] = parameter
    return chosen


def parameter_groups(model, weight_decay, penalize="weights"):
    """Groups for a torch optimizer: what weight decay acts on and the rest, or all in one if there is no decay."""
    if not weight_decay:
        return [dict(params=list(model.parameters()), weight_decay=0.0)]
    chosen = penalized_parameters(model, penalize)
    rest = [parameter for name, parameter in model.named_parameters() if name not in chosen]
    groups = [dict(params=list(chosen.values()), weight_decay=weight_decay), dict(params=rest, weight_decay=0.0)]
    return [group for group in groups if group["params"]]


class Penalty:
    """λ₁·Σ|w| + λ₂·Σw², over the penalized parameters of each run (both: the elastic net, Zou and Hastie 2005).

    The gradient, λ₁·sign(w) + 2λ₂·w, is known, so it is added to the parameters' `.grad` instead of asking autograd.
    With `l1_mode` `proximal`, L1 has no part in the gradient: `shrink` soft-thresholds the weights after each step,
    which sets weights exactly to zero where the subgradient only makes them small.

    Two other forms, as assignments have them: with `l1_reduction` `mean`, the sum over tensors of λ₁·mean|w|, which
    divides λ₁ by the tensor's size; with `l2_form` `norm`, the sum over tensors of λ₂·‖W‖₂, with gradient λ₂·W/‖W‖₂.
    """

    def __init__(self, parameters, l1=0.0, l2=0.0, l1_mode="subgradient", runs=1, l1_reduction="sum", l2_form="square"):
        self.parameters = list(parameters)
        self.l1, self.l2, self.l1_mode, self.runs = l1, l2, l1_mode, runs
        self.l1_reduction, self.l2_form = l1_reduction, l2_form

    def value(self):
        """Each run's penalty, (runs,)."""
        total = torch.zeros(self.runs, dtype=self.parameters[0].dtype, device=self.parameters[0].device)
        for parameter in self.parameters:
            weights = parameter.reshape(self.runs, -1)
            if self.l1:
                total = total + self._l1_of(parameter) * weights.abs().sum(1)
            if self.l2:
                total = total + self.l2 * (weights.square().sum(1) if self.l2_form == "square" else weights.norm(dim=1))
        return total

    @torch.no_grad()
    def add_gradient(self):
        """Add the penalty's gradient to each parameter's `.grad`; to be called between `backward` and `step`."""
        for parameter in self.parameters:
            if self.l1 and self.l1_mode == "subgradient":
                parameter.grad.add_(parameter.sign(), alpha=self._l1_of(parameter))
            if self.l2 and self.l2_form == "square":
                parameter.grad.add_(parameter, alpha=2 * self.l2)
            elif self.l2:
                norms = parameter.reshape(self.runs, -1).norm(dim=1)
                norms.masked_fill_(norms == 0, math.inf)  # at 0, and where the squares underflow: no gradient
                per_run = norms.repeat_interleave(len(parameter) // self.runs)
                parameter.grad.addcdiv_(parameter, per_run.view(-1, *[1] * (parameter.dim() - 1)), value=self.l2)

    def _l1_of(self, parameter):
        return self.l1 if self.l1_reduction == "sum" else self.l1 * self.runs / parameter.numel()

    @torch.no_grad()
    def shrink(self, optimizer):
        """The proximal step of L1 after `optimizer.step()`: w becomes sign(w)·max(|w| − threshold, 0).

        The threshold is λ₁ in the optimizer's own metric, so that λ₁ means the same with every optimizer: lr·λ₁/(1−μ)
        under SGD with momentum μ, lr·λ₁/(√v̂ + ε) weight by weight under Adam and AdamW (ProxGen: Yun, Lozano, Yang
        2021). At its fixed points the loss's gradient is at most λ₁ on zeros and exactly λ₁ elsewhere. In the first
        1/(1−μ) steps, before the momentum has built up, the threshold is larger than the gradient's own steps.
        """
        if not self.l1 or self.l1_mode != "proximal":
            return
        penalized = set(map(id, self.parameters))
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) in penalized:
                    threshold = self.l1 * step_size(group, optimizer.state[parameter])
                    parameter.copy_(parameter.sign() * (parameter.abs() - threshold).clamp_(min=0))


def step_size(group, state):
    """How far a constant gradient of 1 moves a weight a step, in the long run: a number, or one for each weight."""
    if "momentum" in group:
        return group["lr"] / (1 - group["momentum"])
    second_moment = state["exp_avg_sq"]
    step = state["step"].to(second_moment.dtype)  # left where it is: a host would wait for a GPU's
    correction = -torch.expm1(step * math.log(group["betas"][1]))  # 1 − β₂ᵗ
    return group["lr"] / ((second_moment / correction).sqrt_().add_(group["eps"]))


# ---------------------------------------------------------------------------------------------------------------------
# Looking at weights


def weight_statistics(network):
    """For each layer of a textbook network that has weights: how many, how many are zero or small, their norms.

    Returns a list of {layer, weights, zeros, small, l1_norm, l2_norm}; `zeros` counts exact zeros, `small` |w| < 1e-3.
    """
    rows = []
    for name, parameter in penalized_parameters(network).items():
        weights = parameter.detach().double()
        rows.append(
            dict(
                layer=name.removesuffix(".weight"),
                weights=weights.numel(),
                zeros=int((weights == 0).sum()),
                small=int((weights.abs() < SMALL).sum()),
                l1_norm=weights.abs().sum().item(),
                l2_norm=weights.square().sum().sqrt().item(),
            )
        )
    return rows


def overall(rows):
    """The whole network's {zeros, small} as shares of its weights, and {l1_norm, l2_norm}."""
    weights = sum(row["weights"] for row in rows)
    return dict(
        zeros=sum(row["zeros"] for row in rows) / weights,
        small=sum(row["small"] for row in rows) / weights,
        l1_norm=sum(row["l1_norm"] for row in rows),
        l2_norm=math.hypot(*(row["l2_norm"] for row in rows)),
    )
