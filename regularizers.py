"""L1 and L2 on a network's weights, limits of norms, averages of weights, and measures of sparsity.

`measure_layers` takes the network of one run. Everything else also works for several runs side by side: the first
dimension of every parameter is then a multiple of the number of runs, and a run's penalty depends only on that run's
part of the parameters. `limit_norms` needs the layout of the weights side by side.
"""

import copy
import itertools
import math
from collections.abc import Iterable
from typing import Any, Self, TypedDict

import torch
from torch import Tensor, nn

NORM_LAYERS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
SMALL = 1e-3  # |w| below this counts as nearly zero


class LayerMetrics(TypedDict):
    """Counts and norms of a layer's weights."""

    layer: str
    weights: int
    zeros: int  # exact zeros
    small: int  # |w| < SMALL, zeros included
    l1_norm: float
    l2_norm: float


def select_penalized(model: nn.Module, penalize: str = "weights") -> dict[str, nn.Parameter]:
    """Select the parameters that L1, L2 and weight decay act on, {name: parameter}; by default, all weights.

    `weights` leaves out biases and the scale and shift of normalization layers; `all` includes every trained parameter.
    """
    chosen = {}
    for layer_name, layer in model.named_modules():
        for name, parameter in layer.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            if penalize == "all" or (name != "bias" and not isinstance(layer, NORM_LAYERS)):
                chosen[f"{layer_name}.{name}".lstrip(".")] = parameter
    return chosen


def group_parameters(model: nn.Module, weight_decay: float, penalize: str = "weights") -> list[dict[str, Any]]:
    """Group the parameters for a torch optimizer by whether weight decay acts on them.

    Without weight decay, all parameters are in one group.
    """
    if not weight_decay:
        return [dict(params=list(model.parameters()), weight_decay=0.0)]
    chosen = select_penalized(model, penalize)
    rest = [parameter for name, parameter in model.named_parameters() if name not in chosen]
    groups = [(list(chosen.values()), weight_decay), (rest, 0.0)]
    return [dict(params=parameters, weight_decay=decay) for parameters, decay in groups if parameters]


class Penalty:
    """The penalty λ₁·Σ|w| + λ₂·Σw² over the penalized parameters of each run.

    With both terms, this is the elastic net (Zou and Hastie 2005). The gradient, λ₁·sign(w) + 2λ₂·w, is known, so it is
    added directly to the parameters' `.grad`, without autograd. With `l1_mode` `proximal`, L1 is not in the gradient:
    `shrink` soft-thresholds the weights after each step and sets small weights exactly to zero, where the subgradient
    only makes them small.

    Some assignments use other forms. With `l1_reduction` `mean`, the L1 term is the sum over tensors of λ₁·mean|w|,
    which divides λ₁ by the tensor's size. With `l2_form` `norm`, the L2 term is the sum over tensors of λ₂·‖W‖₂, with
    gradient λ₂·W/‖W‖₂.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        l1: float = 0.0,
        l2: float = 0.0,
        l1_mode: str = "subgradient",
        runs: int = 1,
        l1_reduction: str = "sum",
        l2_form: str = "square",
    ) -> None:
        self.parameters = list(parameters)
        self.l1, self.l2, self.l1_mode, self.runs = l1, l2, l1_mode, runs
        self.l1_reduction, self.l2_form = l1_reduction, l2_form

    @classmethod
    def of(cls, settings: Any, model: nn.Module, runs: int) -> Self:
        """Build from an object with these settings, such as an `experiments.Experiment`, for a model of some runs."""
        parameters = select_penalized(model, settings.penalize).values()
        names = ("l1", "l2", "l1_mode", "l1_reduction", "l2_form")
        return cls(parameters, runs=runs, **{name: getattr(settings, name) for name in names})

    def value(self) -> Tensor:
        """Compute each run's penalty, (runs,)."""
        total = torch.zeros(self.runs, dtype=self.parameters[0].dtype, device=self.parameters[0].device)
        for parameter in self.parameters:
            weights = parameter.reshape(self.runs, -1)
            if self.l1:
                total = total + self._l1_for(parameter) * weights.abs().sum(1)
            if self.l2:
                total = total + self.l2 * (weights.square().sum(1) if self.l2_form == "square" else weights.norm(dim=1))
        return total

    @torch.no_grad()
    def add_gradient(self) -> None:
        """Add the penalty's gradient to each parameter's `.grad`; call it between `backward` and `step`."""
        for parameter in self.parameters:
            gradient = parameter.grad
            assert gradient is not None, "add_gradient comes after backward"
            if self.l1 and self.l1_mode == "subgradient":
                gradient.add_(parameter.sign(), alpha=self._l1_for(parameter))
            if self.l2 and self.l2_form == "square":
                gradient.add_(parameter, alpha=2 * self.l2)
            elif self.l2:
                norms = parameter.reshape(self.runs, -1).norm(dim=1)
                norms.masked_fill_(norms == 0, math.inf)  # zero gradient if W is 0 or its squares underflow
                per_row = norms.repeat_interleave(len(parameter) // self.runs)
                gradient.addcdiv_(parameter, per_row.view(-1, *[1] * (parameter.dim() - 1)), value=self.l2)

    def _l1_for(self, parameter: nn.Parameter) -> float:
        """Return the factor of Σ|w|: λ₁, or for `mean` λ₁ divided by the number of the parameter's weights in a run."""
        return self.l1 if self.l1_reduction == "sum" else self.l1 * self.runs / parameter.numel()

    @torch.no_grad()
    def shrink(self, optimizer: torch.optim.Optimizer) -> None:
        """Take the proximal step of L1 after `optimizer.step()`: w becomes sign(w)·max(|w| − threshold, 0).

        The threshold is λ₁ times the optimizer's step size, so that λ₁ means the same with every optimizer: lr·λ₁/(1−μ)
        for SGD with momentum μ, and lr·λ₁/(√v̂ + ε) for each weight with Adam and AdamW (ProxGen: Yun, Lozano, Yang
        2021). At a fixed point without other penalties, the magnitude of the loss's gradient is at most λ₁ for zero
        weights and exactly λ₁ for other weights. In the first 1/(1−μ) steps, before the momentum has built up, the
        threshold is larger than the steps of the gradient.
        """
        if not self.l1 or self.l1_mode != "proximal":
            return
        penalized = set(map(id, self.parameters))
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) in penalized:
                    threshold = self.l1 * compute_step_size(group, optimizer.state[parameter])
                    parameter.copy_(parameter.sign() * (parameter.abs() - threshold).clamp_(min=0))


def compute_step_size(group: dict[str, Any], state: dict[str, Tensor]) -> float | Tensor:
    """Compute the step size: how far a gradient of 1 moves a weight in a step, once the momentum has built up.

    `group` is an entry of an optimizer's `param_groups`, `state` the optimizer's state for a parameter. SGD has the
    same step size for all weights, Adam a different one for each weight.
    """
    if "momentum" in group:
        return group["lr"] / (1 - group["momentum"])
    second_moment = state["exp_avg_sq"]
    step = state["step"].to(second_moment.dtype)  # stays on the device: moving it would wait for the GPU
    correction = -torch.expm1(step * math.log(group["betas"][1]))  # 1 − β₂ᵗ
    return group["lr"] / ((second_moment / correction).sqrt_().add_(group["eps"]))


# ---------------------------------------------------------------------------------------------------------------------
# Limits of norms, and averages


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], largest: float, runs: int) -> None:
    """Scale each run's gradient g, taken over all parameters as one vector, down to a norm of at most `largest`.

    g becomes g·min(1, c/(‖g‖ + 10⁻⁶)) as in torch's `clip_grad_norm_`, which would take one norm over all runs
    (Pascanu, Mikolov, Bengio 2013). The gradient of penalties is part of g, as if the penalty were in the loss.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    of_runs = [gradient.unflatten(0, (runs, -1)) for gradient in gradients]  # views (runs, ...)
    of_parameters = [torch.linalg.vector_norm(gradient, dim=tuple(range(1, gradient.dim()))) for gradient in of_runs]
    norms = torch.linalg.vector_norm(torch.stack(of_parameters), dim=0)
    factors = (largest / (norms + 1e-6)).clamp_(max=1)
    for gradient in of_runs:
        gradient.mul_(factors.view(-1, *[1] * (gradient.dim() - 1)))


@torch.no_grad()
def limit_norms(weights: Iterable[nn.Parameter], largest: float, runs: int) -> None:
    """Project the weights that lead to each unit or channel onto a norm of at most `largest`, after a step.

    This is the max-norm constraint (Srivastava et al. 2014): w becomes w·min(1, c/‖w‖), for each unit of a linear layer
    and each filter of a convolution, the output layer's too; biases are not part of w. `weights` are those of a model
    side by side: (runs*in, out) of a linear layer, with a column for each unit, and (runs*out, in, height, width) of a
    convolution.
    """
    for weight in weights:
        of_units, inputs = (weight.unflatten(0, (runs, -1)), (1,)) if weight.dim() == 2 else (weight, (1, 2, 3))
        norms = of_units.square().sum(inputs, keepdim=True).sqrt_()  # `vector_norm` takes three times as long here
        of_units.mul_((largest / norms).clamp_(max=1))  # a norm of 0 gives infinity, which is clamped to 1, too


class Average:
    """The exponential moving average of a model's weights and running statistics, as a second model.

    With decay d, the average after step t is Σ dᵗ⁻ˢ·wₛ / Σ dᵗ⁻ˢ over the steps s = 1 … t. This is the average of
    torch's `swa_utils.get_ema_avg_fn`, started at 0 and divided by 1 − dᵗ, as Adam corrects its moments (Kingma and Ba
    2015), so that the initial weights have no part in it. Averages of weights go back to Polyak and Juditsky 1992.
    Training goes on with the latest weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay, self.steps = copy.deepcopy(model), decay, 0
        tensors = [itertools.chain(each.parameters(), each.buffers()) for each in (self.model, model)]
        self.pairs = list(zip(*tensors, strict=True))  # (average, latest)

    @torch.no_grad()
    def update(self) -> None:
        """Take the model's latest weights into the average; call it after each step."""
        self.steps += 1
        share = (1 - self.decay) / (1 - self.decay**self.steps)  # of the latest weights; 1 in the first step
        for average, latest in self.pairs:
            if average.is_floating_point():
                average.lerp_(latest, share)
            else:  # a count of batches
                average.copy_(latest)

    def state_dict(self) -> dict[str, Any]:
        """Return the averages and the number of steps."""
        return dict(model=self.model.state_dict(), steps=self.steps)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state that `state_dict` returned."""
        self.model.load_state_dict(state["model"])
        self.steps = state["steps"]


# ---------------------------------------------------------------------------------------------------------------------
# Measuring weights


def measure_layers(network: nn.Module) -> list[LayerMetrics]:
    """Count all, zero and small weights of each layer of a network, and compute the norms of each layer."""
    rows = []
    for name, parameter in select_penalized(network).items():
        weights = parameter.detach().double()
        rows.append(
            LayerMetrics(
                layer=name.removesuffix(".weight"),
                weights=weights.numel(),
                zeros=int((weights == 0).sum()),
                small=int((weights.abs() < SMALL).sum()),
                l1_norm=weights.abs().sum().item(),
                l2_norm=weights.square().sum().sqrt().item(),
            )
        )
    return rows


def summarize_layers(rows: list[LayerMetrics]) -> dict[str, float]:
    """Summarize a network's layers: {zeros, small} as shares of its weights, {l1_norm, l2_norm} over its weights.

    Biases and the parameters of normalization layers are not counted.
    """
    weights = sum(row["weights"] for row in rows)
    return dict(
        zeros=sum(row["zeros"] for row in rows) / weights,
        small=sum(row["small"] for row in rows) / weights,
        l1_norm=sum(row["l1_norm"] for row in rows),
        l2_norm=math.hypot(*(row["l2_norm"] for row in rows)),
    )
