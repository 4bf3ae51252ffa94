import pytest
import torch
from torch import nn

import models
import side_by_side
from data import to_float

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
    "resnet group": {"model": "resnet", "norm": "group", "groups": 2, "norm_position": "after", "dropout": 0.1},
}


@pytest.fixture(params=NETWORKS.values(), ids=NETWORKS.keys())
def settings(request):
    return request.param


def dropout_seeds(model, seeds):
    for number, layer in enumerate(layer for layer in model.modules() if isinstance(layer, side_by_side.RunsDropout)):
        layer.seed([torch.Generator().manual_seed(1000 * number + seed) for seed in seeds])


def test_one_run_taken_out_is_the_network_that_was_laid_in(settings):
    networks = [models.textbook_network(shape=SHAPE, seed=seed, **settings) for seed in range(3)]
    model = side_by_side.join(networks)
    for run, network in enumerate(networks):
        state = side_by_side.state_of_run(model.state_dict(), run, runs=3)
        assert state.keys() == network.state_dict().keys()
        for name, tensor in network.state_dict().items():
            assert torch.equal(state[name], tensor), name


def test_one_run_taken_out_is_a_copy():
    model = side_by_side.join([models.textbook_network("mlp1", SHAPE, seed=seed) for seed in range(2)])
    state = side_by_side.state_of_run(model.state_dict(), 0, runs=2)
    before = {name: tensor.clone() for name, tensor in state.items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert all(torch.equal(state[name], before[name]) for name in state)


NORMS = {
    "none": {},
    "batch": dict(norm="batch"),
    "batch before": dict(norm="batch", norm_position="before"),
    "ghost": dict(norm="ghost", ghost_splits=4),
    "layer": dict(norm="layer"),
    "group": dict(norm="group", groups=2),
    "layer_chw": dict(norm="layer_chw"),
}
COMBINATIONS = [
    (model, norm)
    for model in ("mlp3", "cnn1", "cnn2", "cnn3", "resnet")
    for norm in NORMS
    if (model, norm) not in (("mlp3", "layer_chw"), ("cnn2", "group"))  # refused; 11 channels
] + [("cnn2", "group of one")]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("model", "norm"), COMBINATIONS)
def test_side_by_side_equals_torchs_own_layers_run_by_run(model, norm, clothes):
    settings = dict(norm_position="after") | NORMS.get(norm, dict(norm="group", group_size=1))
    networks = [models.textbook_network(model, SHAPE, seed=seed, **settings) for seed in range(3)]
    with torch.no_grad():  # what starts at 1 or 0 would hide a mistake
        for parameter in [parameter for network in networks for parameter in network.parameters()]:
            parameter.add_(0.1 * torch.randn_like(parameter))
    joined = side_by_side.join(networks)
    images = to_float(clothes.train.images[:24]).view(8, 3, 28, 28)
    labels = clothes.train.labels[:24].view(8, 3)

    logits = joined(images).view(8, 3, 10)
    sum(nn.functional.cross_entropy(logits[:, run], labels[:, run]) for run in range(3)).backward()
    gradients = {name: parameter.grad for name, parameter in joined.named_parameters()}

    for run, network in enumerate(networks):
        own_logits = network(images[:, run : run + 1])
        nn.functional.cross_entropy(own_logits, labels[:, run]).backward()
        torch.testing.assert_close(logits[:, run], own_logits, rtol=0, atol=1e-9)
        own_gradients = side_by_side.state_of_run(gradients, run, runs=3)
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(own_gradients[name], parameter.grad, rtol=0, atol=1e-9)
        state = side_by_side.state_of_run(joined.state_dict(), run, runs=3)
        for name, buffer in network.named_buffers():  # running mean and variance, the count of batches
            torch.testing.assert_close(state[name], buffer, rtol=0, atol=1e-9)


@pytest.mark.parametrize("norm", ["batch", "ghost", "layer", "group", "layer_chw"])
def test_a_frozen_scale_stays_at_1_while_the_shift_is_learned(norm, clothes):
    settings = dict(groups=2) if norm == "group" else dict(ghost_splits=2) if norm == "ghost" else {}
    networks = [models.textbook_network("cnn1", SHAPE, 0, norm=norm, freeze_gamma=True, **settings) for _ in range(2)]
    model = side_by_side.join(networks)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    nn.functional.cross_entropy(
        model(to_float(clothes.train.images[:8]).view(4, 2, 28, 28)), torch.arange(4)
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
        networks = [models.textbook_network(shape=SHAPE, seed=seed, **settings) for seed in range(5)]
        if disturbed:
            with torch.no_grad():
                for parameter in networks[2].parameters():
                    parameter.mul_(-3).add_(1)
        model = side_by_side.join(networks)
        dropout_seeds(model, range(5))
        optimizer = torch.optim.Adam(model.parameters())
        for step in range(5):
            images = to_float(clothes.train.images[step * 40 :][:40]).view(8, 5, 28, 28)
            labels = clothes.train.labels[step * 40 :][:40].view(8, 5)
            optimizer.zero_grad()
            logits = model(images).view(8, 5, 10)
            nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum").backward()
            optimizer.step()
        return model.state_dict()

    plain, disturbed = train(disturbed=False), train(disturbed=True)
    for run in range(5):
        ours, theirs = (side_by_side.state_of_run(state, run, runs=5) for state in (plain, disturbed))
        same = all(torch.equal(ours[name], theirs[name]) for name in ours)
        assert same == (run != 2)


# ---------------------------------------------------------------------------------------------------------------------
# Dropout


@pytest.fixture(params=["gaps", "masks"])
def both_ways(request, monkeypatch):
    """As a CPU draws what is dropped, and as a GPU does."""
    if request.param == "masks":
        monkeypatch.setattr(side_by_side.RunsDropout, "GAPS_ON", ())


def dropout(p, seeds, training=True):
    layer = side_by_side.RunsDropout(p, len(seeds)).train(training)
    layer.seed([torch.Generator().manual_seed(seed) for seed in seeds])
    return layer


@pytest.mark.usefixtures("both_ways")
def test_dropout_drops_its_share_and_scales_the_rest():
    y = dropout(0.25, [0, 1])(torch.ones(2000, 200))
    assert set(y.unique().tolist()) == {0.0, torch.tensor(4 / 3).item()}
    for run in y.view(2000, 2, 100).unbind(1):
        # Five standard errors of a share of 200,000 draws.
        assert (run == 0).float().mean().item() == pytest.approx(0.25, abs=5 * (0.25 * 0.75 / 200_000) ** 0.5)


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("p", [1e-9, 0.001, 0.01, 0.1, 0.5, 0.9, 0.999])
def test_dropouts_share_and_neighbours_are_those_of_independent_draws(p):
    n = 1_000_000
    dropped = dropout(p, [0])(torch.ones(1000, 1000)).view(-1) == 0
    both = dropped[1:] & dropped[:-1]
    for found, expected in ((dropped, p), (both, p * p)):
        # Five standard errors of a share; pairs overlap, which at most doubles their variance.
        assert found.double().mean().item() == pytest.approx(expected, abs=5 * (2 * expected / n) ** 0.5 + 1e-12)


@pytest.mark.usefixtures("both_ways")
def test_dropout_of_images_does_not_depend_on_their_format():
    x = torch.rand(5, 6, 4, 4)
    y = dropout(0.3, [0, 1])(x)
    assert torch.equal(dropout(0.3, [0, 1])(x.contiguous(memory_format=torch.channels_last)), y)
    kept = y != 0
    assert torch.equal(y[kept], (x / 0.7)[kept]) or torch.allclose(y[kept], x[kept] / 0.7)
    assert 0.1 < (~kept).double().mean() < 0.5
    assert dropout(0.3, [1])(x[:, 3:]).eq(0).equal(y[:, 3:].eq(0))


@pytest.mark.usefixtures("both_ways")
def test_a_layer_of_one_feature_has_dropout_too():
    wide = side_by_side.RunsLinear(3, 1, runs=2)
    nn.init.ones_(wide.weight)
    nn.init.ones_(wide.bias)
    y = dropout(0.5, [0, 1])(wide(torch.rand(200, 6)))
    (gradient,) = torch.autograd.grad(y.sum(), wide.bias)
    dropped = (y == 0).sum(0)
    assert ((dropped > 50) & (dropped < 150)).all()
    assert torch.equal(gradient, 2.0 * (200 - dropped))


@pytest.mark.usefixtures("both_ways")
def test_dropout_does_nothing_in_evaluation():
    x = torch.rand(10, 6)
    assert dropout(0.5, [0, 1], training=False)(x) is x


@pytest.mark.usefixtures("both_ways")
def test_a_runs_mask_depends_on_its_own_generator_alone():
    x = torch.ones(50, 3 * 40)
    beside = dropout(0.5, [5, 6, 7])(x).view(50, 3, 40)
    assert torch.equal(dropout(0.5, [6])(x[:, :40]), beside[:, 1])
    assert not torch.equal(beside[:, 0], beside[:, 1])


def test_masks_do_not_depend_on_how_many_numbers_are_drawn_at_once(monkeypatch):
    x = torch.ones(33, 50)
    monkeypatch.setattr(side_by_side.RunsDropout, "BLOCK", 3)
    layer = dropout(0.5, [3])
    by_step = [layer(x) for _ in range(4)]
    monkeypatch.setattr(side_by_side.RunsDropout, "BLOCK", 1 << 16)
    layer = dropout(0.5, [3])
    assert all(torch.equal(layer(x), mask) for mask in by_step)
    assert not torch.equal(by_step[0], by_step[1])


@pytest.mark.usefixtures("both_ways")
def test_dropouts_gradient_passes_where_the_output_does():
    for shape in ((20, 8), (5, 4, 3, 3)):
        x = torch.ones(shape, requires_grad=True)
        y = dropout(0.5, [0, 1])(x)
        y.sum().backward()
        assert torch.equal(x.grad, y.detach())
