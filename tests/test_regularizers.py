import numpy as np
import pytest
import torch
from helpers import standardized
from torch import nn
from torch.nn import functional as F

import models
import regularizers
import side_by_side
from regularizers import Penalty

# ---------------------------------------------------------------------------------------------------------------------
# Value and gradient

RUNS = 3
NETWORKS = {
    "mlp1 batch": dict(model="mlp1", norm="batch"),
    "mlp layer": dict(model="mlp", hidden=(12, 7), norm="layer"),
    "cnn1": dict(model="cnn1"),
    "cnn1 batch": dict(model="cnn1", norm="batch"),
    "cnn1 ghost, frozen": dict(model="cnn1", norm="ghost", ghost_splits=2, freeze_gamma=True),
    "cnn1 layer_chw": dict(model="cnn1", norm="layer_chw", norm_position="after"),
    "cnn1 layer_chw, frozen": dict(model="cnn1", norm="layer_chw", freeze_gamma=True),
    "cnn3 group": dict(model="cnn3", norm="group", group_size=4, dropout=0.04),
    "resnet batch": dict(model="resnet", norm="batch", norm_position="after", dropout=0.1),
    "resnet layer, frozen": dict(model="resnet", norm="layer", freeze_gamma=True),
}
FORMS = {  # the settings, and the penalty of one run's part of a tensor
    "l1": (dict(l1=0.01), lambda w: 0.01 * w.abs().sum()),
    "l1 of means": (dict(l1=0.5, l1_reduction="mean"), lambda w: 0.5 * w.abs().mean()),
    "l2": (dict(l2=0.003), lambda w: 0.003 * w.square().sum()),
    "l2 of norms": (dict(l2=0.1, l2_form="norm"), lambda w: 0.1 * w.square().sum().sqrt()),
    "elastic net": (dict(l1=0.01, l2=0.003), lambda w: 0.01 * w.abs().sum() + 0.003 * w.square().sum()),
    "l1 and norms": (
        dict(l1=0.5, l1_reduction="mean", l2=0.1, l2_form="norm"),
        lambda w: 0.5 * w.abs().mean() + 0.1 * w.square().sum().sqrt(),
    ),
}
PENALIZE = pytest.mark.parametrize("penalize", ["weights", "all"])
ON_NETWORKS = pytest.mark.parametrize("settings", NETWORKS.values(), ids=NETWORKS.keys())
IN_FORMS = pytest.mark.parametrize(("lambdas", "of_tensor"), FORMS.values(), ids=FORMS.keys())


def textbook_network(settings, seed=0):
    shape = (3, 32, 32) if settings["model"] == "resnet" else (1, 28, 28)
    return models.build_network(shape=shape, seed=seed, **settings)


def join_noisy_networks(settings, runs=RUNS):
    """Join networks in double precision that differ in all parameters, with some weights exactly zero."""
    model = side_by_side.join_networks([textbook_network(settings, seed) for seed in range(runs)]).double()
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=noise, dtype=torch.float64), alpha=0.1)
            parameter[torch.rand(parameter.shape, generator=noise) < 0.1] = 0
    return model


def give_gradients(model):
    """Give everything that is trained a gradient, as a loss would, and return copies, {name: gradient}."""
    noise = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn(parameter.shape, generator=noise, dtype=torch.float64).to(parameter.dtype)
    return {name: tensor.grad.clone() for name, tensor in model.named_parameters() if tensor.requires_grad}


def gradients_added(model, penalty):
    """Compute what the penalty adds to the gradients, {name: gradient}."""
    of_loss = give_gradients(model)
    penalty.add_gradient()
    return {name: model.get_parameter(name).grad - gradient for name, gradient in of_loss.items()}


def make_penalty(model, penalize="weights", runs=RUNS, **settings):
    return Penalty(regularizers.select_penalized(model, penalize).values(), runs=runs, **settings)


def penalized_by_the_book(network, penalize):
    """Return all that is trained, or the weights of linear layers and convolutions alone, {name: parameter}."""
    if penalize == "all":
        return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
    return {f"{name}.weight": layer.weight for name, layer in layers.items()}


@PENALIZE
@ON_NETWORKS
def test_each_runs_value_and_gradient_are_its_own_textbook_networks_by_autograd(settings, penalize):
    model = join_noisy_networks(settings)
    networks = [textbook_network(settings).double() for _ in range(RUNS)]
    for run, network in enumerate(networks):
        network.load_state_dict(side_by_side.extract_run(model.state_dict(), run, RUNS))
    for form, (lambdas, of_tensor) in FORMS.items():
        penalty = make_penalty(model, penalize, **lambdas)
        values, gradients = penalty.value().tolist(), gradients_added(model, penalty)
        assert len({round(value, 6) for value in values}) == RUNS  # equal values would hide runs that are mixed up
        for run, network in enumerate(networks):
            network.zero_grad()
            expected = sum(of_tensor(weights) for weights in penalized_by_the_book(network, penalize).values())
            expected.backward()
            assert values[run] == pytest.approx(expected.item(), rel=1e-12), form
            of_run = side_by_side.extract_run(gradients, run, RUNS)
            trained = {name: tensor for name, tensor in network.named_parameters() if tensor.requires_grad}
            assert of_run.keys() == trained.keys()
            for name, parameter in trained.items():
                of_penalty = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                assert (of_run[name] - of_penalty).abs().max() < 1e-12, form


@PENALIZE
@IN_FORMS
@pytest.mark.parametrize("network", ["mlp1 batch", "cnn1 ghost, frozen", "cnn1 layer_chw"])
def test_what_one_run_weighs_changes_nothing_for_the_others(network, lambdas, of_tensor, penalize):
    model = join_noisy_networks(NETWORKS[network])
    penalty = make_penalty(model, penalize, **lambdas)
    values, gradients = penalty.value().tolist(), gradients_added(model, penalty)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.chunk(RUNS)[1].mul_(-3).add_(0.5)
    new_values, new_gradients = penalty.value().tolist(), gradients_added(model, penalty)
    assert (new_values[0], new_values[2]) == (values[0], values[2])
    assert new_values[1] > 2 * values[1]
    for name, gradient in gradients.items():
        before, after = gradient.chunk(RUNS), new_gradients[name].chunk(RUNS)
        assert torch.equal(before[0], after[0])
        assert torch.equal(before[2], after[2])
    assert any(not torch.equal(gradient, new_gradients[name]) for name, gradient in gradients.items())


def test_a_small_example_by_hand():
    """Two runs of one tensor of two weights and one of one weight."""
    parameters = [nn.Parameter(torch.tensor([3.0, -4.0, 0.0, 2.0])), nn.Parameter(torch.tensor([-1.0, 5.0]))]
    values, gradients = {}, {}
    for l1_reduction, l2_form in [("sum", "square"), ("mean", "square"), ("sum", "norm"), ("mean", "norm")]:
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        penalty = Penalty(parameters, l1=1.0, l2=10.0, runs=2, l1_reduction=l1_reduction, l2_form=l2_form)
        values[l1_reduction, l2_form] = penalty.value().tolist()
        penalty.add_gradient()
        gradients[l1_reduction, l2_form] = [parameter.grad.tolist() for parameter in parameters]
    assert values == {
        ("sum", "square"): [3 + 4 + 1 + 10 * (25 + 1), 2 + 5 + 10 * (4 + 25)],
        ("mean", "square"): [3.5 + 1 + 10 * (25 + 1), 1 + 5 + 10 * (4 + 25)],
        ("sum", "norm"): [3 + 4 + 1 + 10 * (5 + 1), 2 + 5 + 10 * (2 + 5)],
        ("mean", "norm"): [3.5 + 1 + 10 * (5 + 1), 1 + 5 + 10 * (2 + 5)],
    }
    assert gradients == {
        ("sum", "square"): [[1 + 60, -1 - 80, 0, 1 + 40], [-1 - 20, 1 + 100]],
        ("mean", "square"): [[0.5 + 60, -0.5 - 80, 0, 0.5 + 40], [-1 - 20, 1 + 100]],
        ("sum", "norm"): [[1 + 6, -1 - 8, 0, 1 + 10], [-1 - 10, 1 + 10]],
        ("mean", "norm"): [[0.5 + 6, -0.5 - 8, 0, 0.5 + 10], [-1 - 10, 1 + 10]],
    }


@PENALIZE
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("network", ["mlp1 batch", "cnn1 batch"])
def test_a_tensor_of_zeros_has_a_norm_without_gradient(network, dtype, penalize):
    model = join_noisy_networks(NETWORKS[network]).to(dtype)
    chosen = regularizers.select_penalized(model, penalize)
    with torch.no_grad():
        for parameter in chosen.values():
            parameter.chunk(RUNS)[1].zero_()
    of_loss = give_gradients(model)
    penalty = make_penalty(model, penalize, l2=0.25, l2_form="norm")
    values = penalty.value().tolist()
    assert values[1] == 0 < min(values[0], values[2])
    penalty.add_gradient()
    for name, parameter in chosen.items():
        assert torch.equal(parameter.grad.chunk(RUNS)[1], of_loss[name].chunk(RUNS)[1])
        for run in (0, 2):
            weights = parameter.detach().chunk(RUNS)[run]
            expected = of_loss[name].chunk(RUNS)[run] + 0.25 * weights / weights.square().sum().sqrt()
            torch.testing.assert_close(parameter.grad.chunk(RUNS)[run], expected)


@pytest.mark.parametrize(("size", "length"), [(1e-12, 1), (1e-18, 1), (1e-25, 0), (1e-38, 0)])
def test_the_norms_gradient_is_never_longer_than_lambda_even_where_squares_underflow(size, length):
    parameter = nn.Parameter(torch.full((6, 4), size))
    parameter.grad = torch.zeros_like(parameter)
    Penalty([parameter], l2=0.5, l2_form="norm", runs=2).add_gradient()
    for gradient in parameter.grad.chunk(2):
        assert gradient.norm().item() == pytest.approx(0.5 * length, rel=1e-4)


@pytest.mark.parametrize("network", ["mlp1 batch", "cnn1 batch"])
def test_in_proximal_mode_the_value_has_l1_and_the_gradient_has_not(network):
    model = join_noisy_networks(NETWORKS[network])
    for l2_form in ("square", "norm"):
        proximal = make_penalty(model, l1=0.01, l2=0.003, l1_mode="proximal", l2_form=l2_form)
        both = make_penalty(model, l1=0.01, l2=0.003, l2_form=l2_form)
        l2_alone = make_penalty(model, l2=0.003, l2_form=l2_form)
        assert proximal.value().tolist() == both.value().tolist() != l2_alone.value().tolist()
        gradients, expected = gradients_added(model, proximal), gradients_added(model, l2_alone)
        assert all(torch.equal(gradient, expected[name]) for name, gradient in gradients.items())
        assert any(gradient.any() for gradient in gradients.values())


@pytest.mark.parametrize("form", [dict(), dict(l1_reduction="mean", l2_form="norm"), dict(l1_mode="proximal")])
def test_without_a_penalty_the_value_is_zero_and_the_gradient_unchanged(form):
    model = join_noisy_networks(NETWORKS["cnn1 batch"])
    penalty = make_penalty(model, **form)
    assert penalty.value().tolist() == [0, 0, 0]
    assert not any(gradient.any() for gradient in gradients_added(model, penalty).values())


# ---------------------------------------------------------------------------------------------------------------------
# What is penalized


@pytest.mark.parametrize(
    ("settings", "weights", "rest"),
    [
        (dict(model="mlp1"), 54_912, 138),
        (dict(model="mlp3"), 93_696, 458),
        (dict(model="mlp3", norm="batch"), 93_696, 458 + 896),
        (dict(model="mlp3", norm="batch", norm_position="after"), 93_696, 458 + 896),
        (dict(model="mlp3", norm="layer", freeze_gamma=True), 93_696, 458 + 448),
        (dict(model="mlp", hidden=()), 7_840, 10),
        (dict(model="cnn1"), 7_144, 0),
        (dict(model="cnn1", norm="batch"), 7_144, 144),
        (dict(model="cnn1", norm="ghost", ghost_splits=2), 7_144, 144),
        (dict(model="cnn1", norm="group", group_size=4), 7_144, 144),
        (dict(model="cnn1", norm="layer"), 7_144, 144),
        (dict(model="cnn1", norm="layer_chw"), 7_144, 32_736),
        (dict(model="cnn1", norm="batch", freeze_gamma=True), 7_144, 72),
        (dict(model="cnn1", norm="ghost", ghost_splits=2, freeze_gamma=True), 7_144, 72),
        (dict(model="cnn1", norm="layer_chw", freeze_gamma=True), 7_144, 16_368),
        (dict(model="cnn2", norm="batch", norm_position="after", dropout=0.01), 6_633, 132),
        (dict(model="cnn3", norm="batch", norm_position="after", dropout=0.04), 8_712, 168),
        (dict(model="cnn3", norm="layer_chw", norm_position="after", dropout=0.04), 8_712, 36_000),
        (dict(model="resnet", norm="batch", norm_position="after", dropout=0.1), 44_148, 492),
        (dict(model="resnet", norm="layer", freeze_gamma=True), 44_148, 246),
    ],
)
def test_penalized_are_the_weights_of_linear_layers_and_convolutions_alone_or_all_that_is_trained(
    settings, weights, rest
):
    network = textbook_network(settings)
    joined_models = [(runs, side_by_side.join_networks([network] * runs)) for runs in (1, 2)]
    for runs, model in [(1, network), *joined_models]:
        for penalize, expected in (("weights", weights), ("all", weights + rest)):
            chosen = regularizers.select_penalized(model, penalize)
            assert list(chosen) == list(penalized_by_the_book(network, penalize))
            assert all(parameter is model.get_parameter(name) for name, parameter in chosen.items())
            assert sum(parameter.numel() for parameter in chosen.values()) == runs * expected


def test_the_names_of_what_is_penalized_are_those_of_the_state_dict():
    model = side_by_side.join_networks([textbook_network(NETWORKS["cnn1 batch"])] * 2)
    weights = [f"{layer}.weight" for layer in (0, 3, 6, 10, 13, 16, 19)]
    assert list(regularizers.select_penalized(model)) == weights
    assert list(regularizers.select_penalized(model[0])) == ["weight"]
    norms = {f"{layer}.{name}" for layer in (1, 4, 7, 11, 14, 17) for name in ("weight", "bias")}
    assert regularizers.select_penalized(model, "all").keys() == norms | {*weights}


@PENALIZE
@ON_NETWORKS
def test_weight_decay_acts_on_what_is_penalized_and_no_parameter_is_lost_or_taken_twice(settings, penalize):
    model = side_by_side.join_networks([textbook_network(settings, seed) for seed in range(2)])
    groups = regularizers.group_parameters(model, 0.25, penalize)
    in_groups = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(in_groups) == sorted(id(parameter) for parameter in model.parameters())
    decayed = {id(parameter) for group in groups if group["weight_decay"] for parameter in group["params"]}
    expected = penalized_by_the_book(textbook_network(settings), penalize)
    assert decayed == {id(model.get_parameter(name)) for name in expected}
    has_rest = len(expected) < len(list(model.parameters()))
    assert [group["weight_decay"] for group in groups] == ([0.25, 0.0] if has_rest else [0.25])
    assert all(group["params"] for group in groups)


@ON_NETWORKS
def test_without_weight_decay_there_is_one_group_of_everything(settings):
    model = side_by_side.join_networks([textbook_network(settings, seed) for seed in range(2)])
    (group,) = regularizers.group_parameters(model, 0.0, "all")
    assert group["weight_decay"] == 0
    assert list(map(id, group["params"])) == list(map(id, model.parameters()))


@pytest.mark.parametrize("l1_mode", ["subgradient", "proximal"])
@pytest.mark.parametrize("optimizer_class", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("network", ["cnn1 ghost, frozen", "cnn1 layer_chw, frozen"])
def test_a_frozen_scale_stays_one_and_without_gradient_whatever_is_penalized(network, optimizer_class, l1_mode, digits):
    model = side_by_side.join_networks([textbook_network(NETWORKS[network], seed) for seed in range(2)])
    groups = regularizers.group_parameters(model, 0.5, "all")
    optimizer = optimizer_class(groups, lr=0.01, fused=True)
    penalty = make_penalty(model, "all", runs=2, l1=1e-5, l2=0.1, l1_mode=l1_mode, l2_form="norm")
    images, labels = standardized(digits, 10)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for _ in range(2):
        optimizer.zero_grad()
        logits = model(images.expand(-1, 2, -1, -1)).view(-1, 10)
        F.cross_entropy(logits, labels.repeat_interleave(2)).backward()
        penalty.add_gradient()
        optimizer.step()
        penalty.shrink(optimizer)
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen == [f"{layer}.weight" for layer in (1, 4, 7, 11, 14, 17)]
    for name, parameter in model.named_parameters():
        if name in frozen:
            assert parameter.grad is None
            assert (parameter == 1).all()
        else:
            assert not torch.equal(parameter, before[name])


# ---------------------------------------------------------------------------------------------------------------------
# Measuring weights


@pytest.fixture
def known_network():
    network = models.build_network("mlp", (1, 7, 7), seed=0, hidden=(6,), norm="batch")
    with torch.no_grad():
        network[1].weight[0] = 0
        network[1].weight[1] = -0.0
        network[1].weight[2, :5] = 0.000999
        network[1].weight[2, 5:9] = -0.000999
        network[1].weight[2, 9:] = 0.0011
        network[4].weight[:, 0] = -0.0005
        network[4].bias.zero_()  # neither biases nor a normalization's scale and shift are counted
    return network


def test_layers_are_measured_by_zeros_small_weights_and_norms(known_network):
    rows = regularizers.measure_layers(known_network)
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


def test_a_summary_gives_shares_of_all_weights_and_the_norms_of_the_whole_network(known_network):
    total = regularizers.summarize_layers(regularizers.measure_layers(known_network))
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


def test_a_weight_of_exactly_a_thousandth_is_not_small():
    network = nn.Sequential(nn.Linear(3, 1)).double()
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[0.001, -0.001, 0.000999]], dtype=torch.float64))
    (row,) = regularizers.measure_layers(network)
    assert (row["weights"], row["small"], row["zeros"]) == (3, 1, 0)


CNN1_LAYERS = {"0": 72, "3": 576, "6": 576, "10": 1152, "13": 2304, "16": 2304, "19": 160}


@pytest.mark.parametrize("network", ["cnn1 batch", "cnn1 ghost, frozen", "cnn1 layer_chw"])
def test_the_measured_layers_of_a_convolutional_network_are_its_convolutions(network):
    network = textbook_network(NETWORKS[network])
    with torch.no_grad():
        network[0].weight[3] = 0
        network[3].weight[0] = 0.0005
        network[19].weight.fill_(-2)
    assert not any(bias.any() for name, bias in network.named_parameters() if name.endswith("bias"))  # nor counted
    rows = regularizers.measure_layers(network)
    assert {row["layer"]: row["weights"] for row in rows} == CNN1_LAYERS
    by_layer = {row["layer"]: row for row in rows}
    assert {layer: row["zeros"] for layer, row in by_layer.items()} == dict.fromkeys(CNN1_LAYERS, 0) | {"0": 9}
    for layer, row in by_layer.items():
        weights = network[int(layer)].weight.detach().double().numpy().ravel()
        assert row["small"] == (np.abs(weights) < 1e-3).sum()
        assert row["l1_norm"] == pytest.approx(np.abs(weights).sum(), rel=1e-12)
        assert row["l2_norm"] == pytest.approx(np.linalg.norm(weights), rel=1e-12)
    assert by_layer["3"]["small"] >= 72
    assert (by_layer["19"]["small"], by_layer["19"]["l1_norm"]) == (0, 320)
    total = regularizers.summarize_layers(rows)
    weights = np.concatenate([network[int(layer)].weight.detach().double().numpy().ravel() for layer in CNN1_LAYERS])
    assert total["zeros"] == 9 / 7_144
    assert total["small"] == (np.abs(weights) < 1e-3).mean()
    assert total["l2_norm"] == pytest.approx(np.linalg.norm(weights), rel=1e-12)


def test_measured_layers_are_named_inside_residual_blocks_too():
    network = textbook_network(NETWORKS["resnet batch"])
    rows = regularizers.measure_layers(network)
    layers = [network.get_submodule(row["layer"]) for row in rows]
    assert all(isinstance(layer, nn.Conv2d) for layer in layers)
    assert [row["weights"] for row in rows] == [layer.weight.numel() for layer in layers]
    assert [row["layer"] for row in rows if "." in row["layer"]] == ["4.0", "14.0", "15.0", "25.0", "26.0"]
    assert sum(row["weights"] for row in rows) == 44_148


# ---------------------------------------------------------------------------------------------------------------------
# Limits of norms, and averages


@ON_NETWORKS
@pytest.mark.parametrize("largest", [0.5, 40.0, 1e9])
def test_each_runs_gradient_is_clipped_as_torch_clips_that_of_its_textbook_network(largest, settings):
    model = join_noisy_networks(settings)
    before = give_gradients(model)
    with torch.no_grad():
        for name, gradient in before.items():  # one run with long gradients and one with short ones
            scale = torch.tensor([1.0, 20.0, 0.05], dtype=torch.float64).repeat_interleave(len(gradient) // RUNS)
            gradient.mul_(scale.view(-1, *[1] * (gradient.dim() - 1)))
            model.get_parameter(name).grad.copy_(gradient)
    regularizers.clip_gradients(model.parameters(), largest, RUNS)
    after = {name: model.get_parameter(name).grad for name in before}
    for run in range(RUNS):
        network = textbook_network(settings).double()
        for name, gradient in side_by_side.extract_run(before, run, RUNS).items():
            network.get_parameter(name).grad = gradient
        nn.utils.clip_grad_norm_(network.parameters(), largest)
        for name, gradient in side_by_side.extract_run(after, run, RUNS).items():
            torch.testing.assert_close(gradient, network.get_parameter(name).grad, rtol=1e-12, atol=1e-15)
    assert all(torch.equal(after[name], before[name]) for name in before) == (largest == 1e9)


def test_a_gradient_that_is_not_finite_is_that_of_its_run_alone():
    model = join_noisy_networks(NETWORKS["cnn1 batch"])
    before = give_gradients(model)
    name = next(iter(before))
    model.get_parameter(name).grad[0] = torch.inf  # of the first run
    regularizers.clip_gradients(model.parameters(), 1e9, RUNS)
    for run in (1, 2):
        for name, gradient in before.items():
            after = model.get_parameter(name).grad
            assert torch.equal(after.chunk(RUNS)[run], gradient.chunk(RUNS)[run])


@ON_NETWORKS
@pytest.mark.parametrize("largest", [0.3, 1.0])
def test_the_weights_of_each_unit_are_projected_as_torch_renorm_does_and_nothing_else_changes(largest, settings):
    model = join_noisy_networks(settings)
    with torch.no_grad():
        first = next(iter(regularizers.select_penalized(model).values()))
        first.zero_()  # a norm of 0
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    regularizers.limit_norms(regularizers.select_penalized(model).values(), largest, RUNS)
    for run in range(RUNS):
        network = textbook_network(settings).double()
        network.load_state_dict(side_by_side.extract_run(before, run, RUNS))
        weights = penalized_by_the_book(network, "weights")
        for name, tensor in side_by_side.extract_run(model.state_dict(), run, RUNS).items():
            expected = network.state_dict()[name]
            if name in weights:
                expected = torch.renorm(expected, 2, 0, largest)  # which divides by the norm + 1e-7
                assert tensor.flatten(1).norm(dim=1).max() <= largest + 1e-12
            torch.testing.assert_close(tensor, expected, rtol=1e-6, atol=0)


def test_a_unit_within_the_limit_keeps_its_bits():
    model = join_noisy_networks(NETWORKS["cnn1"])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    regularizers.limit_norms(regularizers.select_penalized(model).values(), 1e6, RUNS)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("decay", [0.001, 0.9, 0.9999])
def test_the_average_is_torchs_of_swa_utils_with_its_start_corrected(decay):
    model = join_noisy_networks(NETWORKS["cnn1 batch"])
    average = regularizers.Average(model, decay)

    def correct(averaged, latest, number):  # AveragedModel's own rule, apart from the share of the latest weights
        return averaged + (latest - averaged) * (1 - decay) / (1 - decay ** (number.item() + 1))

    of_torch = torch.optim.swa_utils.AveragedModel(model, avg_fn=correct, use_buffers=True)
    noise = torch.Generator().manual_seed(1)
    for step in range(5):
        with torch.no_grad():
            for tensor in model.state_dict().values():
                if tensor.is_floating_point():
                    tensor.add_(torch.randn(tensor.shape, generator=noise, dtype=torch.float64))
                else:
                    tensor.add_(1)
        average.update()
        of_torch.update_parameters(model)
        for name, tensor in average.model.state_dict().items():
            if tensor.is_floating_point():
                torch.testing.assert_close(tensor, of_torch.module.state_dict()[name], rtol=1e-9, atol=1e-12)
            else:
                assert tensor == step + 1
            if step == 0:
                assert torch.equal(tensor, model.state_dict()[name])


def test_an_average_goes_on_from_its_state():
    model = join_noisy_networks(NETWORKS["mlp1 batch"])
    first, second = (regularizers.Average(model, 0.9) for _ in range(2))
    first.update()
    state = {name: tensor.clone() for name, tensor in first.state_dict()["model"].items()}
    second.load_state_dict(dict(model=state, steps=1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    first.update()
    second.update()
    for tensor, same in zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True):
        assert torch.equal(tensor, same)
