import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional as F

import data
import models
import regularizers
from regularizers import Penalty

POOLED = (1, 7, 7)
OPTIMIZERS = {
    "SGD": (torch.optim.SGD, dict(lr=0.05)),
    "SGD with momentum": (torch.optim.SGD, dict(lr=0.05, momentum=0.9)),
    "SGD with Nesterov": (torch.optim.SGD, dict(lr=0.05, momentum=0.9, nesterov=True)),
    "Adam": (torch.optim.Adam, dict(lr=0.01)),
    "AdamW": (torch.optim.AdamW, dict(lr=0.01, weight_decay=0.1)),
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Threads gain nothing on matrices this small, and wait for one another where the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def standardized(dataset, count):
    """`count` images of all classes: the train images come class by class, so every n-th."""
    every = len(dataset.train) // count
    images = data.to_float(dataset.train.images[::every][:count], dataset.mean, dataset.std)
    return images, dataset.train.labels[::every][:count]


def pooled(dataset, count):
    images, labels = standardized(dataset, count)
    return F.avg_pool2d(images, 4), labels


def logistic_regression():
    return models.textbook_network("mlp", POOLED, seed=0, hidden=())


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
# Value and gradient

RUNS = 3
LAMBDAS = {"l1": dict(l1=0.01), "l2": dict(l2=0.003), "elastic net": dict(l1=0.01, l2=0.003)}


@pytest.fixture
def three_runs():
    """Three networks side by side whose scales, shifts and biases differ too, with a few weights exactly zero."""
    networks = [models.textbook_network("mlp1", (1, 28, 28), seed=seed, norm="batch") for seed in range(RUNS)]
    model = models.side_by_side(networks).double()
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=noise, dtype=torch.float64), alpha=0.1)
            parameter.view(-1)[::7] = 0
    return model


def backward(model, dataset):
    images, labels = standardized(dataset, 60)
    logits = model(images.double().view(20, RUNS, 28, 28)).view(60, 10)
    F.cross_entropy(logits, labels, reduction="sum").backward()


@pytest.mark.parametrize("penalize", ["weights", "all"])
@pytest.mark.parametrize("lambdas", LAMBDAS.values(), ids=LAMBDAS.keys())
def test_each_runs_value_is_the_closed_form_on_its_own_weights(lambdas, penalize, three_runs):
    penalty = Penalty(regularizers.penalized_parameters(three_runs, penalize).values(), runs=RUNS, **lambdas)
    expected = []
    for run in range(RUNS):
        state = models.state_of_run(dict(three_runs.named_parameters()), run, RUNS)
        chosen = [tensor.detach().numpy() for tensor in state.values() if penalize == "all" or tensor.dim() == 2]
        l1_norm = sum(np.abs(weights).sum() for weights in chosen)
        squares = sum((weights**2).sum() for weights in chosen)
        expected.append(lambdas.get("l1", 0) * l1_norm + lambdas.get("l2", 0) * squares)
    assert np.ptp(expected) > 0.01  # or runs taken for one another would pass
    np.testing.assert_allclose(penalty.value().detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("penalize", ["weights", "all"])
@pytest.mark.parametrize("lambdas", LAMBDAS.values(), ids=LAMBDAS.keys())
def test_the_penaltys_gradient_is_autograds_and_is_added_to_the_losss(lambdas, penalize, three_runs, clothes):
    chosen = regularizers.penalized_parameters(three_runs, penalize)
    penalty = Penalty(chosen.values(), runs=RUNS, **lambdas)
    backward(three_runs, clothes)
    of_loss = {name: parameter.grad.clone() for name, parameter in three_runs.named_parameters()}
    of_penalty = dict(zip(chosen, torch.autograd.grad(penalty.value().sum(), list(chosen.values())), strict=True))

    penalty.add_gradient()

    assert all(gradient.any() for gradient in of_loss.values())  # or overwriting would pass
    for name, parameter in three_runs.named_parameters():
        expected = of_loss[name] + of_penalty.get(name, 0)
        torch.testing.assert_close(parameter.grad, expected, rtol=0, atol=1e-12)


def test_in_proximal_mode_the_value_has_l1_and_the_gradient_has_not(three_runs, clothes):
    chosen = list(regularizers.penalized_parameters(three_runs).values())
    proximal = Penalty(chosen, l1=0.01, l2=0.003, l1_mode="proximal", runs=RUNS)
    both = Penalty(chosen, l1=0.01, l2=0.003, runs=RUNS)
    assert torch.equal(proximal.value(), both.value())
    backward(three_runs, clothes)
    expected = [parameter.grad + 2 * 0.003 * parameter.detach() for parameter in chosen]
    proximal.add_gradient()
    for parameter, gradient in zip(chosen, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=1e-12)


def test_without_a_penalty_the_value_is_zero_and_the_gradient_unchanged(three_runs, clothes):
    chosen = list(regularizers.penalized_parameters(three_runs).values())
    backward(three_runs, clothes)
    before = [parameter.grad.clone() for parameter in chosen]
    penalty = Penalty(chosen, runs=RUNS)
    penalty.add_gradient()
    assert penalty.value().tolist() == [0, 0, 0]
    assert all(torch.equal(parameter.grad, old) for parameter, old in zip(chosen, before, strict=True))


# ---------------------------------------------------------------------------------------------------------------------
# What is penalized


@pytest.mark.parametrize(
    ("settings", "weights", "parameters"),
    [
        (dict(model="mlp1"), 54_912, 55_050),
        (dict(model="mlp3"), 93_696, 94_154),
        (dict(model="mlp3", norm="batch"), 93_696, 95_050),
        (dict(model="mlp3", norm="batch", norm_position="after"), 93_696, 95_050),
        (dict(model="mlp", hidden=()), 7_840, 7_850),
    ],
)
def test_penalized_are_the_weights_of_the_linear_layers_alone_or_everything(settings, weights, parameters):
    network = models.textbook_network(shape=(1, 28, 28), seed=0, **settings)
    linear = {f"{name}.weight" for name, layer in network.named_modules() if isinstance(layer, nn.Linear)}
    for runs in (1, 2):
        model = models.side_by_side([network] * runs)
        chosen = regularizers.penalized_parameters(model)
        assert set(chosen) == linear
        assert sum(parameter.numel() for parameter in chosen.values()) == runs * weights
        everything = regularizers.penalized_parameters(model, "all")
        assert set(everything) == {name for name, _ in model.named_parameters()}
        assert sum(parameter.numel() for parameter in everything.values()) == runs * parameters


@pytest.mark.parametrize("penalize", ["weights", "all"])
def test_weight_decay_acts_on_what_is_penalized_and_no_parameter_is_lost_or_taken_twice(penalize):
    networks = [models.textbook_network("mlp3", (1, 28, 28), seed=seed, norm="batch") for seed in range(2)]
    model = models.side_by_side(networks)
    groups = regularizers.parameter_groups(model, 0.25, penalize)
    in_groups = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(in_groups) == sorted(id(parameter) for parameter in model.parameters())
    decayed = {id(parameter) for group in groups if group["weight_decay"] for parameter in group["params"]}
    assert decayed == {id(parameter) for parameter in regularizers.penalized_parameters(model, penalize).values()}
    assert {group["weight_decay"] for group in groups} == ({0.25, 0.0} if penalize == "weights" else {0.25})


# ---------------------------------------------------------------------------------------------------------------------
# The proximal step


def thresholds(optimizer, settings, lr, l1, gradients):
    """What |w| is lowered by, from the gradients so far alone."""
    if optimizer is torch.optim.SGD:
        return torch.full_like(gradients[0], lr * l1 / (1 - settings.get("momentum", 0)))
    mean_square = sum(0.001 * 0.999**age * gradient**2 for age, gradient in enumerate(reversed(gradients)))
    return lr * l1 / ((mean_square / (1 - 0.999 ** len(gradients))).sqrt() + 1e-8)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("optimizer_class", "settings"), OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_shrink_is_the_soft_threshold_in_the_optimizers_metric(optimizer_class, settings, fused, digits):
    images, labels = pooled(digits, 60)
    model = models.side_by_side([models.textbook_network("mlp", POOLED, seed, hidden=(12,)) for seed in range(2)])
    weights = list(regularizers.penalized_parameters(model).values())
    rest = [parameter for name, parameter in model.named_parameters() if name.endswith("bias")]
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
            threshold = thresholds(optimizer_class, settings, lr, 0.02, so_far)
            expected = old.sign() * torch.maximum(old.abs() - threshold, torch.zeros_like(old))
            torch.testing.assert_close(parameter.detach(), expected, rtol=0, atol=1e-14)
            assert torch.equal(parameter == 0, old.abs() <= threshold)
            assert 0 < (parameter == 0).sum() < parameter.numel()
        assert all(torch.equal(parameter, old) for parameter, old in zip(rest, rest_before, strict=True))
        lr /= 2  # as a schedule would: the threshold goes with the rate of its own step
        for group in optimizer.param_groups:
            group["lr"] = lr


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
        network = models.textbook_network("mlp", POOLED, seed=0, hidden=(16,))
        optimizer = optimizer_class(network.parameters(), **settings)
        chosen = regularizers.penalized_parameters(network).values()
        penalty = Penalty(chosen, l1=0.01, l1_mode=l1_mode)
        for _ in range(150):
            train_step(network, images, labels, optimizer, penalty)
        zeros[l1_mode] = regularizers.overall(regularizers.weight_statistics(network))["zeros"]
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
    network = models.textbook_network("mlp1", (1, 28, 28), seed=0, norm="batch")
    optimizer = optimizer_class(regularizers.parameter_groups(network, weight_decay), **settings)
    penalty = Penalty(regularizers.penalized_parameters(network).values(), l2=l2)
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
    own = logits[np.arange(len(labels)), labels.numpy()]
    return (np.logaddexp.reduce(logits, axis=1) - own).mean() + penalty_of(weight)


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


# ---------------------------------------------------------------------------------------------------------------------
# Looking at weights


@pytest.fixture
def known_network():
    network = models.textbook_network("mlp", POOLED, seed=0, hidden=(6,), norm="batch")
    with torch.no_grad():
        network[1].weight[0] = 0
        network[1].weight[1] = -0.0
        network[1].weight[2, :5] = 0.000999
        network[1].weight[2, 5:9] = -0.000999
        network[1].weight[2, 9:] = 0.0011
        network[4].weight[:, 0] = -0.0005
        network[4].bias.zero_()  # neither biases nor a normalization's scale and shift are counted
    return network


def test_weight_statistics_count_zeros_and_small_weights_and_give_norms_layer_by_layer(known_network):
    rows = regularizers.weight_statistics(known_network)
    assert [row["layer"] for row in rows] == ["1", "4"]
    assert [row["weights"] for row in rows] == [6 * 49, 10 * 6]
    assert rows[0]["zeros"] == 2 * 49
    assert rows[1]["zeros"] == 0
    for row, layer in zip(rows, (known_network[1], known_network[4]), strict=True):
        weights = layer.weight.detach().numpy().astype(np.float64)
        assert row["small"] == (np.abs(weights) < 1e-3).sum()
        assert row["l1_norm"] == pytest.approx(np.abs(weights).sum(), rel=1e-12)
        assert row["l2_norm"] == pytest.approx(np.linalg.norm(weights), rel=1e-12)
    assert rows[0]["small"] >= rows[0]["zeros"] + 9
    assert rows[1]["small"] >= 10


def test_overall_gives_shares_of_all_weights_and_the_norms_of_the_whole_network(known_network):
    total = regularizers.overall(regularizers.weight_statistics(known_network))
    weights = np.concatenate([known_network[layer].weight.detach().double().numpy().ravel() for layer in (1, 4)])
    assert total == pytest.approx(
        dict(
            zeros=(weights == 0).mean(),
            small=(np.abs(weights) < 1e-3).mean(),
            l1_norm=np.abs(weights).sum(),
            l2_norm=np.linalg.norm(weights),
        ),
        rel=1e-12,
    )
