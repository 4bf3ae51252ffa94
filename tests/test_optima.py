"""What training with a penalty leads to: closed forms of its steps, and scikit-learn's optimum."""

import numpy as np
import pytest
import torch
from helpers import standardized
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional as F

import models
import regularizers
import side_by_side
from regularizers import Penalty

POOLED = (1, 7, 7)
OPTIMIZERS = {
    "SGD": (torch.optim.SGD, dict(lr=0.05)),
    "SGD with momentum": (torch.optim.SGD, dict(lr=0.05, momentum=0.9)),
    "SGD with Nesterov": (torch.optim.SGD, dict(lr=0.05, momentum=0.9, nesterov=True)),
    "Adam": (torch.optim.Adam, dict(lr=0.01)),
    "AdamW": (torch.optim.AdamW, dict(lr=0.01, weight_decay=0.1)),
}


def pooled(dataset, count):
    images, labels = standardized(dataset, count)
    return F.avg_pool2d(images, 4), labels


def logistic_regression():
    return models.build_network("mlp", POOLED, seed=0, hidden=())


def train_step(network, images, labels, optimizer, penalty):
    optimizer.zero_grad()
    F.cross_entropy(network(images), labels).backward()
    penalty.add_gradient()
    optimizer.step()
    penalty.shrink(optimizer)


def train_until_still(network, images, labels, optimizer, penalty, change=1e-10, at_most=6000):
    for _ in range(at_most):
        before = [parameter.detach().clone() for parameter in network.parameters()]
        train_step(network, images, labels, optimizer, penalty)
        pairs = zip(network.parameters(), before, strict=True)
        if max((parameter - old).abs().max().item() for parameter, old in pairs) < change:
            return
    pytest.fail(f"still moving after {at_most} steps")


# ---------------------------------------------------------------------------------------------------------------------
# The proximal step


def compute_threshold(optimizer, settings, lr, l1, gradients):
    """Compute what |w| is lowered by from the gradients so far alone."""
    if optimizer is torch.optim.SGD:
        return torch.full_like(gradients[0], lr * l1 / (1 - settings.get("momentum", 0)))
    mean_square = sum(0.001 * 0.999**age * gradient**2 for age, gradient in enumerate(reversed(gradients)))
    return lr * l1 / ((mean_square / (1 - 0.999 ** len(gradients))).sqrt() + 1e-8)


SHRUNK = {
    "mlp": (dict(model="mlp", shape=POOLED, hidden=(12,)), pooled, 60),
    "cnn1": (dict(model="cnn1", shape=(1, 28, 28), norm="batch"), standardized, 20),
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("optimizer_class", "settings"), OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
@pytest.mark.parametrize(("network", "images_of", "count"), SHRUNK.values(), ids=SHRUNK.keys())
def test_shrink_is_the_soft_threshold_in_the_optimizers_metric(
    network, images_of, count, optimizer_class, settings, fused, digits
):
    images, labels = images_of(digits, count)
    model = side_by_side.join_networks([models.build_network(seed=seed, **network) for seed in range(2)])
    chosen = regularizers.select_penalized(model)
    weights = list(chosen.values())
    rest = [parameter for name, parameter in model.named_parameters() if name not in chosen]
    optimizer = optimizer_class(model.parameters(), fused=fused, **settings)
    penalty = Penalty(weights, l1=0.02, l1_mode="proximal", runs=2)
    gradients = [[] for _ in weights]
    lr = settings["lr"]
    for _ in range(4):
        optimizer.zero_grad()
        logits = model(images.expand(-1, 2, -1, -1)).view(-1, 10)
        F.cross_entropy(logits, labels.repeat_interleave(2)).backward()
        optimizer.step()
        before = [parameter.detach().clone() for parameter in weights]
        rest_before = [parameter.detach().clone() for parameter in rest]

        penalty.shrink(optimizer)

        for parameter, old, so_far in zip(weights, before, gradients, strict=True):
            so_far.append(parameter.grad.clone())
            threshold = compute_threshold(optimizer_class, settings, lr, 0.02, so_far)
            expected = old.sign() * torch.maximum(old.abs() - threshold, torch.zeros_like(old))
            torch.testing.assert_close(parameter.detach(), expected, rtol=0, atol=1e-14)
            assert torch.equal(parameter == 0, old.abs() <= threshold)
        zero = torch.cat([(parameter == 0).flatten() for parameter in weights])
        assert 0 < zero.sum() < len(zero)
        assert rest
        assert all(torch.equal(parameter, old) for parameter, old in zip(rest, rest_before, strict=True))
        lr /= 2  # as a schedule would: the threshold follows the rate of the same step
        for group in optimizer.param_groups:
            group["lr"] = lr


@pytest.mark.usefixtures("float64")
def test_the_threshold_follows_the_momentum_of_the_same_step():
    weight = nn.Parameter(torch.linspace(-1, 1, 101))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.95)
    for lr, momentum in [(0.1, 0.95), (0.2, 0.9), (0.05, 0.85)]:  # as one cycle moves them
        optimizer.param_groups[0].update(lr=lr, momentum=momentum)
        weight.grad = torch.full_like(weight, 0.01)
        optimizer.step()
        before = weight.detach().clone()
        Penalty([weight], l1=0.02, l1_mode="proximal").shrink(optimizer)
        expected = before.sign() * torch.relu(before.abs() - 0.02 * lr / (1 - momentum))
        torch.testing.assert_close(weight.detach(), expected, rtol=0, atol=1e-15)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "settings", [dict(l1=0.5), dict(l2=0.5, l1_mode="proximal")], ids=["subgradient", "without l1"]
)
def test_without_proximal_l1_shrink_does_nothing(settings, digits):
    network = logistic_regression()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    images, labels = pooled(digits, 60)
    F.cross_entropy(network(images), labels).backward()
    optimizer.step()
    before = [parameter.detach().clone() for parameter in network.parameters()]
    Penalty(network.parameters(), **settings).shrink(optimizer)
    assert all(torch.equal(parameter, old) for parameter, old in zip(network.parameters(), before, strict=True))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["SGD with momentum", "Adam"])
def test_the_proximal_step_gives_exact_zeros_and_the_subgradient_none(name, digits):
    images, labels = pooled(digits, 300)
    optimizer_class, settings = OPTIMIZERS[name]
    zeros = {}
    for l1_mode in ("subgradient", "proximal"):
        network = models.build_network("mlp", POOLED, seed=0, hidden=(16,))
        optimizer = optimizer_class(network.parameters(), **settings)
        chosen = regularizers.select_penalized(network).values()
        penalty = Penalty(chosen, l1=0.01, l1_mode=l1_mode)
        for _ in range(150):
            train_step(network, images, labels, optimizer, penalty)
        zeros[l1_mode] = regularizers.summarize_layers(regularizers.measure_layers(network))["zeros"]
    assert zeros["subgradient"] == 0
    assert zeros["proximal"] > 0.5


FIXED_POINT_OPTIMIZERS = {
    "SGD": (torch.optim.SGD, dict(lr=1.0)),
    "SGD with momentum": (torch.optim.SGD, dict(lr=0.5, momentum=0.9)),
    "SGD with Nesterov": (torch.optim.SGD, dict(lr=0.5, momentum=0.9, nesterov=True)),
    "Adam": (torch.optim.Adam, dict(lr=0.03)),
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("optimizer_class", "settings"), FIXED_POINT_OPTIMIZERS.values(), ids=FIXED_POINT_OPTIMIZERS.keys()
)
def test_where_the_proximal_step_stands_still_the_optimality_conditions_hold(optimizer_class, settings, digits):
    l1 = 0.03
    images, labels = pooled(digits, 200)
    network = logistic_regression()
    weight, bias = network[1].weight, network[1].bias
    optimizer = optimizer_class(network.parameters(), **settings, fused=True)
    train_until_still(network, images, labels, optimizer, Penalty([weight], l1=l1, l1_mode="proximal"))

    network.zero_grad()
    F.cross_entropy(network(images), labels).backward()
    zero = weight == 0
    assert 0.5 < zero.double().mean() < 0.95
    assert weight.grad[zero].abs().max() <= l1 + 1e-8
    torch.testing.assert_close(weight.grad[~zero], -l1 * weight.detach()[~zero].sign(), rtol=0, atol=1e-8)
    torch.testing.assert_close(bias.grad, torch.zeros(10), rtol=0, atol=1e-8)


# ---------------------------------------------------------------------------------------------------------------------
# L2 and weight decay


def weights_after_20_steps(dataset, optimizer_class, settings, l2=0.0, weight_decay=0.0):
    images, labels = standardized(dataset, 640)
    order = torch.randperm(640, generator=torch.Generator().manual_seed(0))
    network = models.build_network("mlp1", (1, 28, 28), seed=0, norm="batch")
    optimizer = optimizer_class(regularizers.group_parameters(network, weight_decay), **settings)
    penalty = Penalty(regularizers.select_penalized(network).values(), l2=l2)
    for batch in order.repeat(2).split(64):
        train_step(network, images[batch], labels[batch], optimizer, penalty)
    return nn.utils.parameters_to_vector(network.parameters()).detach()


L2_OPTIMIZERS = {
    "SGD": (torch.optim.SGD, dict(lr=0.1), 1e-10),
    "SGD with momentum": (torch.optim.SGD, dict(lr=0.1, momentum=0.9), 1e-10),
    "Adam": (torch.optim.Adam, dict(lr=0.001), 1e-9),
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("optimizer_class", "settings", "tolerance"), L2_OPTIMIZERS.values(), ids=L2_OPTIMIZERS.keys())
def test_l2_of_lambda_is_the_optimizers_weight_decay_of_two_lambda(optimizer_class, settings, tolerance, clothes):
    ours = weights_after_20_steps(clothes, optimizer_class, settings, l2=0.01)
    torchs = weights_after_20_steps(clothes, optimizer_class, settings, weight_decay=0.02)
    torch.testing.assert_close(ours, torchs, rtol=0, atol=tolerance)


@pytest.mark.usefixtures("float64")
def test_adamws_decoupled_weight_decay_is_another_thing_than_l2(clothes):
    ours = weights_after_20_steps(clothes, torch.optim.Adam, dict(lr=0.001), l2=0.01)
    decoupled = weights_after_20_steps(clothes, torch.optim.AdamW, dict(lr=0.001), weight_decay=0.02)
    assert (ours - decoupled).abs().max() > 1e-3


# ---------------------------------------------------------------------------------------------------------------------
# Against scikit-learn's optimum


def objective(weight, bias, images, labels, penalty_of):
    """Mean cross entropy and the penalty, written out in numpy."""
    logits = images.flatten(1).numpy() @ weight.T + bias
    logits_of_labels = logits[np.arange(len(labels)), labels.numpy()]
    return (np.logaddexp.reduce(logits, axis=1) - logits_of_labels).mean() + penalty_of(weight)


def scikit_learns_optimum(images, labels, **settings):
    optimum = LogisticRegression(**settings).fit(images.flatten(1).numpy(), labels.numpy())
    return optimum.coef_, optimum.intercept_


def weights_of(network):
    return network[1].weight.detach().numpy(), network[1].bias.detach().numpy()


@pytest.mark.usefixtures("float64")
def test_with_l2_logistic_regression_ends_at_scikit_learns_optimum(digits):
    l2 = 0.002
    images, labels = pooled(digits, 300)
    network = logistic_regression()
    penalty = Penalty([network[1].weight], l2=l2)
    optimizer = torch.optim.LBFGS(
        network.parameters(), max_iter=1000, tolerance_grad=1e-9, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(network(images), labels)
        loss.backward()
        penalty.add_gradient()
        return loss + penalty.value().sum()

    optimizer.step(closure)
    theirs = scikit_learns_optimum(images, labels, C=1 / (2 * len(labels) * l2), tol=1e-9, max_iter=10_000)

    def penalty_of(weight):
        return l2 * (weight**2).sum()

    reached = objective(*weights_of(network), images, labels, penalty_of)
    assert reached == pytest.approx(objective(*theirs, images, labels, penalty_of), rel=0, abs=1e-10)
    np.testing.assert_allclose(weights_of(network)[0], theirs[0], rtol=0, atol=1e-5)


@pytest.mark.usefixtures("float64")
def test_with_proximal_l1_logistic_regression_ends_at_scikit_learns_optimum_with_the_same_zeros(digits):
    l1 = 0.03
    images, labels = pooled(digits, 300)
    network = logistic_regression()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5, momentum=0.9)
    penalty = Penalty([network[1].weight], l1=l1, l1_mode="proximal")
    train_until_still(network, images, labels, optimizer, penalty)
    theirs = scikit_learns_optimum(
        images, labels, l1_ratio=1, C=1 / (len(labels) * l1), solver="saga", tol=1e-8, max_iter=20_000, random_state=0
    )

    def penalty_of(weight):
        return l1 * np.abs(weight).sum()

    reached = objective(*weights_of(network), images, labels, penalty_of)
    assert reached == pytest.approx(objective(*theirs, images, labels, penalty_of), rel=0, abs=1e-10)
    np.testing.assert_array_equal(weights_of(network)[0] == 0, theirs[0] == 0)
    np.testing.assert_allclose(weights_of(network)[0], theirs[0], rtol=0, atol=1e-5)
