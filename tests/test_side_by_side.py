from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import models
import side_by_side

SHAPE = (1, 28, 28)
NETWORKS = {
    "mlp1": {"model": "mlp1"},
    "mlp2 dropout": {"model": "mlp2", "dropout": 0.3},
    "mlp3 norm before, dropout": {"model": "mlp3", "norm": "batch", "norm_position": "before", "dropout": 0.25},
    "mlp3 norm after": {"model": "mlp3", "norm": "batch", "norm_position": "after"},
    "mlp 30-20": {"model": "mlp", "hidden": (30, 20), "norm": "batch", "dropout": 0.5},
    "logistic regression": {"model": "mlp", "hidden": ()},
    "cnn1 ghost, frozen": {"model": "cnn1", "norm": "ghost", "ghost_splits": 4, "freeze_gamma": True},
    "cnn2 batch, dropout": {"model": "cnn2", "norm": "batch", "norm_position": "after", "dropout": 0.1},
    "cnn3 layer_chw": {"model": "cnn3", "norm": "layer_chw", "norm_position": "after", "dropout": 0.04},
    "cnn3 channel dropout": {"model": "cnn3", "norm": "batch", "dropout": 0.04, "channel_dropout": 0.2},
    "resnet group": {"model": "resnet", "norm": "group", "groups": 2, "norm_position": "after", "dropout": 0.1},
}


@pytest.fixture(params=NETWORKS.values(), ids=NETWORKS.keys())
def settings(request):
    return request.param


def seed_dropout(model, seeds):
    for number, layer in enumerate(layer for layer in model.modules() if isinstance(layer, side_by_side.RunsDropout)):
        layer.seed([torch.Generator().manual_seed(1000 * number + seed) for seed in seeds])


def use_small_parts(model):
    """Let batches of a few images be computed in parts."""
    for layer in model.modules():
        if isinstance(layer, side_by_side.RunsTail):
            layer.part = 20_000
    return model


def test_a_run_that_is_extracted_is_the_network_that_was_joined(settings):
    networks = [models.build_network(shape=SHAPE, seed=seed, **settings) for seed in range(3)]
    model = side_by_side.join_networks(networks)
    for run, network in enumerate(networks):
        state = side_by_side.extract_run(model.state_dict(), run, runs=3)
        assert state.keys() == network.state_dict().keys()
        for name, tensor in network.state_dict().items():
            assert torch.equal(state[name], tensor), name


NORMS = [
    nn.BatchNorm2d(4, eps=0.01, momentum=0.3),
    models.GhostBatchNorm(4, splits=2),
    nn.GroupNorm(2, 4, eps=0.02),
    nn.LayerNorm([4, 6, 6], eps=0.03),
    nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4, eps=0.04, momentum=0.4), nn.Dropout(1e-9)),
]


@pytest.mark.parametrize("layer", NORMS, ids=lambda layer: type(layer).__name__)
def test_a_norms_own_epsilon_and_momentum_hold_side_by_side(layer):
    if isinstance(layer, models.GhostBatchNorm):
        layer.eps, layer.momentum = 0.05, 0.5
    joined = use_small_parts(side_by_side.join_networks([layer, layer]))
    x = torch.randn(200, 4, 6, 6)
    seed_dropout(joined, [0, 1])
    outputs = joined(torch.cat([x, x], 1)).chunk(2, dim=1)
    expected = layer(x)
    for run, output in enumerate(outputs):
        torch.testing.assert_close(output, expected)
        for name, tensor in side_by_side.extract_run(joined.state_dict(), run, 2).items():
            torch.testing.assert_close(tensor, layer.state_dict()[name])


def test_a_convolution_that_pads_with_something_else_than_zeros_is_refused():
    layer = nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect", bias=False)
    with pytest.raises(TypeError, match="no side-by-side form of Conv2d"):
        side_by_side.join_networks([layer, layer])


def test_a_run_that_is_extracted_is_a_copy():
    model = side_by_side.join_networks([models.build_network("mlp1", SHAPE, seed=seed) for seed in range(2)])
    state = side_by_side.extract_run(model.state_dict(), 0, runs=2)
    before = {name: tensor.clone() for name, tensor in state.items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert all(torch.equal(state[name], before[name]) for name in state)


NORMS = {
    "none": {},
    "batch": dict(norm="batch"),
    "batch before": dict(norm="batch", norm_position="before"),
    "ghost": dict(norm="ghost", ghost_splits=2),
    "layer": dict(norm="layer"),
    "group": dict(norm="group", groups=2),
    "layer_chw": dict(norm="layer_chw"),
}
COMBINATIONS = [
    (model, norm)
    for model in ("mlp3", "cnn1", "cnn2", "cnn3", "cnn4", "resnet", "resnet2")
    for norm in NORMS
    if (model, norm) not in (("mlp3", "layer_chw"), ("cnn2", "group"))  # refused; 11 channels
] + [("cnn2", "group of one")]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("model", "norm"), COMBINATIONS)
def test_side_by_side_equals_torchs_own_layers_run_by_run(model, norm, clothes):
    settings = dict(norm_position="after") | NORMS.get(norm, dict(norm="group", group_size=1))
    networks = [models.build_network(model, SHAPE, seed=seed, **settings) for seed in range(3)]
    torch.manual_seed(1)  # some draws leave features nearly dead, whose normalization amplifies rounding
    with torch.no_grad():  # scales of 1 and shifts of 0 would hide a mistake
        for parameter in [parameter for network in networks for parameter in network.parameters()]:
            parameter.add_(0.1 * torch.randn_like(parameter))
    joined = side_by_side.join_networks(networks)
    images = clothes.to_float(clothes.train.images[:24]).view(8, 3, 28, 28)
    labels = clothes.train.labels[:24].view(8, 3)

    logits = joined(images).view(8, 3, 10)
    sum(nn.functional.cross_entropy(logits[:, run], labels[:, run]) for run in range(3)).backward()
    gradients = {name: parameter.grad for name, parameter in joined.named_parameters()}

    for run, network in enumerate(networks):
        run_logits = network(images[:, run : run + 1])
        nn.functional.cross_entropy(run_logits, labels[:, run]).backward()
        torch.testing.assert_close(logits[:, run], run_logits, rtol=0, atol=1e-9)
        run_gradients = side_by_side.extract_run(gradients, run, runs=3)
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(run_gradients[name], parameter.grad, rtol=0, atol=1e-9)
        state = side_by_side.extract_run(joined.state_dict(), run, runs=3)
        for name, buffer in network.named_buffers():  # running mean and variance, the count of batches
            torch.testing.assert_close(state[name], buffer, rtol=0, atol=1e-9)


@pytest.mark.parametrize("norm", ["batch", "ghost", "layer", "group", "layer_chw"])
def test_a_frozen_scale_stays_at_1_while_the_shift_is_learned(norm, clothes):
    settings = dict(groups=2) if norm == "group" else dict(ghost_splits=2) if norm == "ghost" else {}
    networks = [models.build_network("cnn1", SHAPE, seed=0, norm=norm, freeze_gamma=True, **settings) for _ in range(2)]
    model = side_by_side.join_networks(networks)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    nn.functional.cross_entropy(
        model(clothes.to_float(clothes.train.images[:8]).view(4, 2, 28, 28)), torch.arange(4)
    ).backward()
    optimizer.step()
    assert (model[1].weight == 1).all()
    assert (model[1].bias != 0).any()


@pytest.mark.usefixtures("float64")
def test_the_gradient_of_the_images_reaches_each_run_alone():
    layer = side_by_side.RunsLinear(5, 3, runs=2)
    with torch.no_grad():
        layer.weight.normal_(generator=torch.Generator().manual_seed(0))
        layer.bias.normal_(generator=torch.Generator().manual_seed(1))
    x = torch.rand(4, 10, generator=torch.Generator().manual_seed(2)).requires_grad_()
    assert torch.autograd.gradcheck(layer, x)
    layer(x)[:, :3].sum().backward()
    assert x.grad[:, :5].abs().min() > 0
    assert x.grad[:, 5:].abs().max() == 0


def test_changing_one_runs_weights_changes_no_bit_of_its_neighbours(settings, clothes):
    def train(disturbed):
        networks = [models.build_network(shape=SHAPE, seed=seed, **settings) for seed in range(5)]
        if disturbed:
            with torch.no_grad():
                for parameter in networks[2].parameters():
                    parameter.mul_(-3).add_(1)
        model = use_small_parts(side_by_side.join_networks(networks))
        seed_dropout(model, range(5))
        optimizer = torch.optim.Adam(model.parameters())
        for step in range(5):
            images = clothes.to_float(clothes.train.images[step * 40 :][:40]).view(8, 5, 28, 28)
            labels = clothes.train.labels[step * 40 :][:40].view(8, 5)
            optimizer.zero_grad()
            logits = model(images).view(8, 5, 10)
            nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum").backward()
            optimizer.step()
        return model.state_dict()

    plain, disturbed = train(disturbed=False), train(disturbed=True)
    for run in range(5):
        ours, theirs = (side_by_side.extract_run(state, run, runs=5) for state in (plain, disturbed))
        same = all(torch.equal(ours[name], theirs[name]) for name in ours)
        assert same == (run != 2)


# ---------------------------------------------------------------------------------------------------------------------
# Dropout


def make_dropout(p, seeds, training=True, **settings):
    layer = side_by_side.RunsDropout(p, len(seeds), **settings).train(training)
    layer.seed([torch.Generator().manual_seed(seed) for seed in seeds])
    return layer


@pytest.fixture(params=["gaps", "masks"])
def dropout(request):
    """`make_dropout` of layers that draw as on a CPU, and of layers that draw as on a GPU."""
    return partial(make_dropout, gap_devices=("cpu",) if request.param == "gaps" else ())


def test_dropout_drops_its_share_and_scales_the_rest(dropout):
    y = dropout(0.25, [0, 1])(torch.ones(2000, 200))
    assert set(y.unique().tolist()) == {0.0, torch.tensor(4 / 3).item()}
    for run in y.view(2000, 2, 100).unbind(1):
        # Five standard errors of a share of 200,000 draws.
        assert (run == 0).float().mean().item() == pytest.approx(0.25, abs=5 * (0.25 * 0.75 / 200_000) ** 0.5)


@pytest.mark.parametrize("p", [1e-300, 1e-9, 0.001, 0.01, 0.1, 0.5, 0.9, 0.999])
def test_dropouts_share_and_neighbours_are_those_of_independent_draws(dropout, p):
    n = 1_000_000
    dropped = dropout(p, [0])(torch.ones(1000, 1000)).view(-1) == 0
    both = dropped[1:] & dropped[:-1]
    for events, expected in ((dropped, p), (both, p * p)):
        # Five standard errors of a share; pairs overlap, which at most doubles their variance.
        assert events.double().mean().item() == pytest.approx(expected, abs=5 * (2 * expected / n) ** 0.5 + 1e-12)


def test_dropout_of_images_does_not_depend_on_their_format(dropout):
    x = torch.rand(5, 6, 4, 4)
    y = dropout(0.3, [0, 1])(x)
    assert torch.equal(dropout(0.3, [0, 1])(x.contiguous(memory_format=torch.channels_last)), y)
    kept = y != 0
    torch.testing.assert_close(y[kept], x[kept] / 0.7)
    assert 0.1 < (~kept).double().mean() < 0.5
    assert dropout(0.3, [1])(x[:, 3:]).eq(0).equal(y[:, 3:].eq(0))


def test_a_layer_of_one_feature_has_dropout_too(dropout):
    wide = side_by_side.RunsLinear(3, 1, runs=2)
    nn.init.ones_(wide.weight)
    nn.init.ones_(wide.bias)
    y = dropout(0.5, [0, 1])(wide(torch.rand(200, 6)))
    (gradient,) = torch.autograd.grad(y.sum(), wide.bias)
    dropped = (y == 0).sum(0)
    assert ((dropped > 50) & (dropped < 150)).all()
    assert torch.equal(gradient, 2.0 * (200 - dropped))


def test_dropout_does_nothing_in_evaluation(dropout):
    x = torch.rand(10, 6)
    assert dropout(0.5, [0, 1], training=False)(x) is x


def test_a_runs_mask_depends_on_its_own_generator_alone(dropout):
    x = torch.ones(50, 3 * 40)
    beside = dropout(0.5, [5, 6, 7])(x).view(50, 3, 40)
    assert torch.equal(dropout(0.5, [6])(x[:, :40]), beside[:, 1])
    assert not torch.equal(beside[:, 0], beside[:, 1])


def test_masks_do_not_depend_on_how_many_numbers_are_drawn_at_once():
    x = torch.ones(33, 50)
    in_blocks, at_once = make_dropout(0.5, [3], block=3), make_dropout(0.5, [3])
    masks = [in_blocks(x) for _ in range(4)]
    assert all(torch.equal(at_once(x), mask) for mask in masks)
    assert not torch.equal(masks[0], masks[1])


def test_dropouts_gradient_passes_where_the_output_does(dropout):
    for shape in ((20, 8), (5, 4, 3, 3)):
        x = torch.ones(shape, requires_grad=True)
        y = dropout(0.5, [0, 1])(x)
        y.sum().backward()
        assert torch.equal(x.grad, y.detach())


def test_dropped_are_the_elements_to_which_geometric_gaps_lead():
    uniform = torch.rand(1000, dtype=torch.float32, generator=torch.Generator().manual_seed(6)).double().numpy()
    gaps = np.floor(np.log1p(-uniform) / np.log1p(-0.1)).astype(int) + 1
    places = gaps.cumsum() - 1
    steps = make_dropout(0.1, [6], block=64), make_dropout(0.1, [5, 6], block=64)
    alone, beside = (torch.cat([layer(torch.ones(20, 7 * layer.runs)) for _ in range(30)]) for layer in steps)
    for y in (alone, beside[:, 7:]):
        assert y.flatten().eq(0).nonzero().flatten().tolist() == places[places < 4200].tolist()


# ---------------------------------------------------------------------------------------------------------------------
# Channel dropout


@pytest.mark.parametrize("make", [nn.Dropout2d, partial(make_dropout, seeds=[0, 1], of_channels=True)])
def test_channel_dropout_drops_whole_channels_of_single_images_and_scales_the_rest(make):
    torch.manual_seed(0)
    x = torch.rand(500, 40, 3, 2) + 0.5
    ratio = make(0.25)(x) / x
    torch.testing.assert_close(ratio, ratio[:, :, :1, :1].expand_as(ratio), rtol=1e-6, atol=0)
    kept = ratio[:, :, 0, 0]
    torch.testing.assert_close(kept[kept > 0], torch.full_like(kept[kept > 0], 4 / 3))
    for part in (*kept.chunk(2, 1), kept[:, ::2]):  # five standard errors of a share of 10,000 draws
        assert (part == 0).double().mean().item() == pytest.approx(0.25, abs=5 * (0.25 * 0.75 / 10_000) ** 0.5)


def test_channel_dropout_of_a_run_depends_on_its_own_generator_alone():
    x = torch.ones(50, 3 * 8, 2, 2)
    beside = make_dropout(0.5, [5, 6, 7], of_channels=True)(x).view(50, 3, 8, 2, 2)
    assert torch.equal(make_dropout(0.5, [6], of_channels=True)(x[:, :8]), beside[:, 1])
    assert not torch.equal(beside[:, 0], beside[:, 1])


def test_channel_dropout_passes_the_gradient_where_the_output_passes_and_does_nothing_in_evaluation():
    x = torch.ones(20, 8, 3, 3, requires_grad=True)
    y = make_dropout(0.5, [0, 1], of_channels=True)(x)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    assert make_dropout(0.5, [0, 1], training=False, of_channels=True)(x) is x


def test_dropout_draws_the_same_with_channel_dropout_beside_it_and_channels_the_same_without_dropout():
    def draw(**settings):
        networks = [models.build_network("cnn3", SHAPE, seed=0, **settings)]
        model = side_by_side.join_networks(networks)
        side_by_side.seed_dropout(model, [3], 1, torch.device("cpu"))
        layers = [layer for layer in model.modules() if isinstance(layer, side_by_side.RunsDropout)]
        draws = {False: [], True: []}
        for layer in layers:
            draws[layer.of_channels].append(layer(torch.ones(4, 16, 5, 5)))
        return draws

    both, dropout, channels = (
        draw(dropout=0.1, channel_dropout=0.3),
        draw(dropout=0.1),
        draw(channel_dropout=0.3),
    )
    assert [len(both[kind]) for kind in (False, True)] == [2, 2]
    assert all(torch.equal(*pair) for pair in zip(both[False], dropout[False], strict=True))
    assert all(torch.equal(*pair) for pair in zip(both[True], channels[True], strict=True))
    assert not torch.equal(*both[True])


# ---------------------------------------------------------------------------------------------------------------------
# ReLU, batch norm and dropout in one layer


def make_tail(p, seeds, part=54, **settings):
    """Make a tail for runs of 3 channels; rows of 3 pixels have 9 elements a run."""
    norm = nn.BatchNorm2d(3 * len(seeds))
    with torch.no_grad():
        norm.weight.normal_(generator=torch.Generator().manual_seed(1))
        norm.bias.normal_(generator=torch.Generator().manual_seed(2))
    tail = side_by_side.RunsTail(norm, make_dropout(p, seeds), part)
    tail.load_state_dict(norm.state_dict())
    return tail, norm


def draw_images(count, channels):
    """Draw images in the channels-last format without pixels near 0, where ReLU has no derivative."""
    x = torch.randn(count, channels, 4, 3, generator=torch.Generator().manual_seed(3))
    return (x + 0.1 * x.sign()).contiguous(memory_format=torch.channels_last)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("part", [1, 54, 200, 1000], ids=["rows", "uneven parts", "two parts", "the whole batch"])
@pytest.mark.parametrize("seeds", [[7], [7, 8]], ids=["alone", "beside"])
def test_a_tail_computes_what_torchs_own_layers_compute(seeds, part):
    tail, norm = make_tail(0.3, seeds, part)
    dropout = make_dropout(0.3, seeds)
    for step in range(2):
        x = (draw_images(5, norm.num_features) + step).requires_grad_()
        gradient = torch.randn(x.shape, generator=torch.Generator().manual_seed(4))
        expected = norm(x.relu()) * dropout(torch.ones_like(x))
        y = tail(x.clone())
        assert (y.grad_fn.name() == "_TailBackward") == (x.numel() > part)
        torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
        of_torch = torch.autograd.grad(expected, [x, norm.weight, norm.bias], gradient)
        for ours, theirs in zip(torch.autograd.grad(y, [x, tail.weight, tail.bias], gradient), of_torch, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
        for name, buffer in norm.named_buffers():
            torch.testing.assert_close(tail.get_buffer(name), buffer, rtol=0, atol=1e-12)
    torch.testing.assert_close(tail.eval()(x.detach().clone()), norm.eval()(x.relu()), rtol=0, atol=1e-12)


@pytest.mark.usefixtures("float64")
def test_the_gradient_of_a_tail_is_that_of_finite_differences():
    tail, norm = make_tail(0.3, [7, 8])

    def compute(x, weight, bias):
        tail.dropout.seed([torch.Generator().manual_seed(seed) for seed in (7, 8)])
        return torch.func.functional_call(tail, dict(weight=weight, bias=bias), x.clone())

    inputs = draw_images(3, 6), norm.weight.detach(), norm.bias.detach()
    assert torch.autograd.gradcheck(compute, [tensor.requires_grad_() for tensor in inputs])


def test_the_moments_of_a_tail_are_exact_far_from_0():
    tail, _ = make_tail(0.3, [7])
    tail.momentum = 1.0
    x = draw_images(50, 3) + 1000
    tail(x)
    torch.testing.assert_close(tail.running_mean.double(), x.double().mean((0, 2, 3)), rtol=1e-6, atol=0)
    torch.testing.assert_close(tail.running_var.double(), x.double().var((0, 2, 3)), rtol=1e-5, atol=0)


def test_tails_are_where_relu_comes_before_batch_norm_and_dropout_after_it():
    def count_tails(model, **settings):
        networks = [models.build_network(model, (3, 32, 32), seed=0, freeze_gamma=True, **settings)]
        layers = side_by_side.join_networks(networks).modules()
        tails = [layer for layer in layers if isinstance(layer, side_by_side.RunsTail)]
        assert not any(tail.weight.requires_grad for tail in tails)
        return len(tails)

    assert count_tails("resnet", norm="batch", norm_position="after", dropout=0.1) == 10
    assert count_tails("resnet", norm="batch", norm_position="before", dropout=0.1) == 0
    assert count_tails("resnet", norm="batch", norm_position="after") == 0
    assert count_tails("resnet", norm="batch", norm_position="after", channel_dropout=0.1) == 0
    assert count_tails("resnet", norm="batch", norm_position="after", dropout=0.1, channel_dropout=0.1) == 10
    assert count_tails("resnet", norm="group", groups=2, norm_position="after", dropout=0.1) == 0


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("model", ["cnn2", "resnet"])
def test_a_run_computed_in_parts_beside_others_is_the_run_alone(model, clothes):
    settings = dict(norm="batch", norm_position="after", dropout=0.1)
    networks = [models.build_network(model, SHAPE, seed=seed, **settings) for seed in range(3)]
    images = clothes.to_float(clothes.train.images[:24]).view(8, 3, 28, 28)

    def compute_gradients(runs):
        joined = use_small_parts(side_by_side.join_networks([networks[run] for run in runs]))
        seed_dropout(joined, runs)
        logits = joined(images[:, runs]).view(8, len(runs), 10)
        logits.logsumexp(2).sum().backward()
        return {name: parameter.grad for name, parameter in joined.named_parameters()}

    beside = compute_gradients([0, 1, 2])
    for run in range(3):
        of_run = side_by_side.extract_run(beside, run, runs=3)
        for name, gradient in side_by_side.extract_run(compute_gradients([run]), 0, runs=1).items():
            torch.testing.assert_close(of_run[name], gradient, rtol=0, atol=1e-9)
