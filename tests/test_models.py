import pytest
import torch
from torch import nn

import experiments
import models
from data import to_float

SHAPE = (1, 28, 28)
NETWORKS = {
    "mlp1": {"model": "mlp1"},
    "mlp2 dropout": {"model": "mlp2", "dropout": 0.3},
    "mlp3 norm before, dropout": {"model": "mlp3", "norm": "batch", "norm_position": "before", "dropout": 0.25},
    "mlp3 norm after": {"model": "mlp3", "norm": "batch", "norm_position": "after"},
    "mlp 30-20": {"model": "mlp", "hidden": (30, 20), "norm": "batch", "dropout": 0.5},
    "logistic regression": {"model": "mlp", "hidden": ()},
}


@pytest.fixture(params=NETWORKS.values(), ids=NETWORKS.keys())
def settings(request):
    return request.param


def dropout_seeds(model, seeds):
    for number, layer in enumerate(layer for layer in model.modules() if isinstance(layer, models.RunsDropout)):
        layer.seed([torch.Generator().manual_seed(1000 * number + seed) for seed in seeds])


def test_every_model_that_can_be_named_can_be_built():
    assert set(models.RUNS_AT_ONCE) == set(experiments.MODELS) == {*models.MLP_WIDTHS, "mlp"}


@pytest.mark.parametrize(
    ("settings", "parameters"),
    [
        ({"model": "mlp1"}, 55_050),
        ({"model": "mlp2"}, 118_282),
        ({"model": "mlp3"}, 94_154),
        ({"model": "mlp3", "norm": "batch"}, 95_050),
        ({"model": "mlp", "hidden": ()}, 7_850),
    ],
)
def test_parameters_are_those_of_the_published_networks(settings, parameters):
    network = models.textbook_network(shape=SHAPE, seed=0, **settings)
    assert models.parameter_count(network) == parameters
    assert sum(row[2] for row in models.layer_table(network, SHAPE)) == parameters


def test_the_textbook_network_is_initialised_as_torch_does_after_manual_seed():
    network = models.textbook_network("mlp3", SHAPE, seed=7, norm="batch", norm_position="after", dropout=0.25)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        by_hand = nn.Sequential(
            nn.Flatten(),
            *(nn.Linear(784, 64), nn.ReLU(), nn.BatchNorm1d(64), nn.Dropout(0.25)),
            *(nn.Linear(64, 128), nn.ReLU(), nn.BatchNorm1d(128), nn.Dropout(0.25)),
            *(nn.Linear(128, 256), nn.ReLU(), nn.BatchNorm1d(256), nn.Dropout(0.25)),
            nn.Linear(256, 10),
        )
    assert str(network) == str(by_hand)
    for ours, torchs in zip(network.parameters(), by_hand.parameters(), strict=True):
        assert torch.equal(ours, torchs)


def test_building_a_network_leaves_torchs_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    models.textbook_network("mlp1", SHAPE, seed=0)
    assert torch.equal(torch.rand(4), expected)


def test_one_run_taken_out_is_the_network_that_was_laid_in(settings):
    networks = [models.textbook_network(shape=SHAPE, seed=seed, **settings) for seed in range(3)]
    model = models.side_by_side(networks)
    for run, network in enumerate(networks):
        state = models.state_of_run(model.state_dict(), run, runs=3)
        assert state.keys() == network.state_dict().keys()
        for name, tensor in network.state_dict().items():
            assert torch.equal(state[name], tensor), name


def test_one_run_taken_out_is_a_copy():
    model = models.side_by_side([models.textbook_network("mlp1", SHAPE, seed=seed) for seed in range(2)])
    state = models.state_of_run(model.state_dict(), 0, runs=2)
    before = {name: tensor.clone() for name, tensor in state.items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert all(torch.equal(state[name], before[name]) for name in state)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("position", ["before", "after"])
def test_side_by_side_equals_torchs_own_layers_run_by_run(position, clothes):
    settings = dict(model="mlp3", norm="batch", norm_position=position)
    networks = [models.textbook_network(shape=SHAPE, seed=seed, **settings) for seed in range(4)]
    model = models.side_by_side(networks)
    images = to_float(clothes.train.images[:120]).view(30, 4, 28, 28)
    labels = clothes.train.labels[:120].view(30, 4)

    logits = model(images).view(30, 4, 10)
    sum(nn.functional.cross_entropy(logits[:, run], labels[:, run]) for run in range(4)).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}

    for run, network in enumerate(networks):
        own_logits = network(images[:, run : run + 1])
        nn.functional.cross_entropy(own_logits, labels[:, run]).backward()
        torch.testing.assert_close(logits[:, run], own_logits, rtol=0, atol=1e-12)
        own_gradients = models.state_of_run(gradients, run, runs=4)
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(own_gradients[name], parameter.grad, rtol=0, atol=1e-12)
        state = models.state_of_run(model.state_dict(), run, runs=4)
        for name, buffer in network.named_buffers():  # running mean and variance, the count of batches
            torch.testing.assert_close(state[name], buffer, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("float64")
def test_the_gradient_of_the_images_reaches_each_run_alone():
    layer = models.RunsLinear(5, 3, runs=2)
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
        model = models.side_by_side(networks)
        dropout_seeds(model, range(5))
        optimizer = torch.optim.Adam(model.parameters())
        for step in range(5):
            images = to_float(clothes.train.images[step * 160 :][:160]).view(32, 5, 28, 28)
            labels = clothes.train.labels[step * 160 :][:160].view(32, 5)
            optimizer.zero_grad()
            logits = model(images).view(32, 5, 10)
            nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum").backward()
            optimizer.step()
        return model.state_dict()

    plain, disturbed = train(disturbed=False), train(disturbed=True)
    for run in range(5):
        ours, theirs = (models.state_of_run(state, run, runs=5) for state in (plain, disturbed))
        same = all(torch.equal(ours[name], theirs[name]) for name in ours)
        assert same == (run != 2)


# ---------------------------------------------------------------------------------------------------------------------
# Dropout


def dropout(p, seeds, training=True):
    layer = models.RunsDropout(p, len(seeds)).train(training)
    layer.seed([torch.Generator().manual_seed(seed) for seed in seeds])
    return layer


def test_dropout_drops_its_share_and_scales_the_rest():
    y = dropout(0.25, [0, 1])(torch.ones(2000, 200))
    assert set(y.unique().tolist()) == {0.0, torch.tensor(4 / 3).item()}
    for run in y.view(2000, 2, 100).unbind(1):
        # Five standard errors of a share of 200,000 draws.
        assert (run == 0).float().mean().item() == pytest.approx(0.25, abs=5 * (0.25 * 0.75 / 200_000) ** 0.5)


def test_dropout_keeps_the_mean_at_any_share():
    for p in (0.01, 0.5, 0.999, 0.999999):
        layer = dropout(p, [0])
        assert layer.scale * (65536 - layer.dropped) == pytest.approx(65536)
        assert torch.isfinite(layer(torch.ones(100, 100))).all()


def test_dropout_does_nothing_in_evaluation():
    x = torch.rand(10, 6)
    assert dropout(0.5, [0, 1], training=False)(x) is x


def test_a_runs_mask_depends_on_its_own_generator_alone():
    x = torch.ones(50, 3 * 40)
    beside = dropout(0.5, [5, 6, 7])(x).view(50, 3, 40)
    assert torch.equal(dropout(0.5, [6])(x[:, :40]), beside[:, 1])
    assert not torch.equal(beside[:, 0], beside[:, 1])


def test_masks_do_not_depend_on_how_many_numbers_are_drawn_at_once(monkeypatch):
    x = torch.ones(33, 50)
    monkeypatch.setattr(models.RunsDropout, "BLOCK", 1)
    layer = dropout(0.5, [3])
    by_step = [layer(x) for _ in range(4)]
    monkeypatch.setattr(models.RunsDropout, "BLOCK", 1 << 16)
    layer = dropout(0.5, [3])
    assert all(torch.equal(layer(x), mask) for mask in by_step)
    assert not torch.equal(by_step[0], by_step[1])


def test_dropouts_gradient_passes_where_the_output_does():
    x = torch.ones(20, 8, requires_grad=True)
    y = dropout(0.5, [0])(x)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
