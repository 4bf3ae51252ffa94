import copy

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
    "cnn1 ghost, frozen": {"model": "cnn1", "norm": "ghost", "ghost_splits": 4, "freeze_gamma": True},
    "cnn2 batch, dropout": {"model": "cnn2", "norm": "batch", "norm_position": "after", "dropout": 0.1},
    "cnn3 layer_chw": {"model": "cnn3", "norm": "layer_chw", "norm_position": "after", "dropout": 0.04},
    "resnet group": {"model": "resnet", "norm": "group", "groups": 2, "norm_position": "after", "dropout": 0.1},
}


@pytest.fixture(params=NETWORKS.values(), ids=NETWORKS.keys())
def settings(request):
    return request.param


def dropout_seeds(model, seeds):
    for number, layer in enumerate(layer for layer in model.modules() if isinstance(layer, models.RunsDropout)):
        layer.seed([torch.Generator().manual_seed(1000 * number + seed) for seed in seeds])


def test_every_model_that_can_be_named_can_be_built():
    assert set(experiments.MODELS) == {*models.MLP_WIDTHS, "mlp", *models.CNNS}
    assert set(models.RUNS_AT_ONCE) == set(models.THREADS) == set(experiments.MODELS)


@pytest.mark.parametrize(
    ("settings", "parameters"),
    [
        ({"model": "mlp1"}, 55_050),
        ({"model": "mlp2"}, 118_282),
        ({"model": "mlp3"}, 94_154),
        ({"model": "mlp3", "norm": "batch"}, 95_050),
        ({"model": "mlp", "hidden": ()}, 7_850),
        ({"model": "cnn1", "norm": "batch"}, 7_288),
        ({"model": "cnn1", "norm": "ghost", "ghost_splits": 2, "freeze_gamma": True}, 7_288),
        ({"model": "cnn2", "norm": "batch"}, 6_765),
        ({"model": "cnn3", "norm": "batch"}, 8_880),
        ({"model": "cnn3", "norm": "group", "group_size": 4}, 8_880),
        ({"model": "cnn3", "norm": "layer"}, 8_880),
        ({"model": "cnn3", "norm": "layer_chw"}, 44_712),
    ],
)
def test_parameters_are_those_of_the_published_networks(settings, parameters):
    network = models.textbook_network(shape=SHAPE, seed=0, **settings)
    assert models.parameter_count(network) == parameters
    assert sum(row[2] for row in models.layer_table(network, SHAPE)) == parameters


C, B, L, R, D, M, G = "Conv2d", "BatchNorm2d", "GroupNorm", "ReLU", "Dropout", "MaxPool2d", "AdaptiveAvgPool2d"
RESIDUAL = (C, R, B, D, "+ block's input")
TABLES = {  # the order of the layers; channels and size out, and parameters, of those that have any
    "cnn1": (
        [*[C, B, R] * 3, M, *[C, B, R] * 3, C, G, "Flatten"],
        [
            *((8, 26, 72), (8, 26, 16), (8, 24, 576), (8, 24, 16), (8, 22, 576), (8, 22, 16)),
            *((16, 9, 1152), (16, 9, 32), (16, 7, 2304), (16, 7, 32), (16, 5, 2304), (16, 5, 32), (10, 5, 160)),
        ],
    ),
    "cnn2": (
        [*[C, R, B, D] * 2, M, *[C, R, B, D] * 2, M, *[C, R, B, D] * 2, C, "Flatten"],
        [
            *((10, 28, 90), (10, 28, 20), (10, 26, 900), (10, 26, 20), (11, 13, 990), (11, 13, 22)),
            *((11, 11, 1089), (11, 11, 22), (12, 5, 1188), (12, 5, 24), (12, 3, 1296), (12, 3, 24), (10, 1, 1080)),
        ],
    ),
    "cnn3": (
        [*[C, R, B] * 2, C, M, *[C, R, B], *[C, R, B, D] * 2, *[C, R, B], G, C, "Flatten"],
        [
            *((8, 26, 72), (8, 26, 16), (16, 24, 1152), (16, 24, 32), (8, 24, 128), (12, 10, 864), (12, 10, 24)),
            *((16, 8, 1728), (16, 8, 32), (16, 6, 2304), (16, 6, 32), (16, 6, 2304), (16, 6, 32), (10, 1, 160)),
        ],
    ),
    "resnet": (
        [
            *(C, R, B, D, *RESIDUAL, C, R, B, D, M),
            *(C, R, B, D, *RESIDUAL * 2, C, R, B, D, M),
            *(C, R, B, D, *RESIDUAL * 2, G, C, "Flatten"),
        ],
        [
            *((20, 32, 540), (20, 32, 40), (20, 32, 3600), (20, 32, 40), (16, 32, 320), (16, 32, 32)),
            *((26, 16, 3744), (26, 16, 52), *((26, 16, 6084), (26, 16, 52)) * 2, (16, 16, 416), (16, 16, 32)),
            *((32, 8, 4608), (32, 8, 64), *((32, 8, 9216), (32, 8, 64)) * 2, (10, 1, 320)),
        ],
    ),
}


@pytest.mark.parametrize("model", TABLES)
def test_the_layers_of_a_cnn_are_those_of_its_published_table(model):
    shape = (3, 32, 32) if model == "resnet" else SHAPE
    position = "before" if model == "cnn1" else "after"
    network = models.textbook_network(model, shape, 0, norm="batch", norm_position=position, dropout=0.1)
    rows = models.layer_table(network, shape)[1:]
    layers, with_parameters = TABLES[model]
    if model == "cnn1":  # its reference has no dropout
        rows = [row for row in rows if row[0] != "Dropout"]
    assert [row[0] for row in rows] == layers
    assert [(row[1][0], row[1][1], row[2]) for row in rows if row[2]] == with_parameters


def test_a_residual_block_adds_its_input(clothes):
    network = models.textbook_network("resnet", SHAPE, 0, norm="batch", norm_position="after").eval()
    state = network.state_dict()
    x = to_float(clothes.train.images[:4])
    with torch.no_grad():
        first = network[:3](x)
        second = nn.functional.conv2d(first, state["3.0.weight"], padding=1).relu()
        second = nn.functional.batch_norm(second, *(state[f"3.2.{name}"] for name in BATCH_NORM))
        torch.testing.assert_close(network[:4](x), first + second)


BATCH_NORM = ("running_mean", "running_var", "weight", "bias")


@pytest.mark.parametrize(
    ("model", "shape"),
    [("cnn1", (3, 32, 32)), ("cnn1", (1, 32, 32)), ("cnn2", (3, 28, 28)), ("cnn3", (3, 32, 32)), ("resnet", SHAPE)],
)
def test_cnns_take_other_images_where_the_shape_allows_it(model, shape):
    network = models.textbook_network(model, shape, 0, norm="layer_chw")
    assert network(torch.rand(2, *shape)).shape == (2, 10)


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        (dict(model="cnn2"), (3, 32, 32), "--model cnn2: of images of 32×32 pixels it leaves 2×2 pixels, expected one"),
        (dict(model="cnn1"), (1, 8, 8), "--model cnn1: of images of 8×8 pixels it leaves no pixel, expected one"),
        (dict(model="cnn1", norm="group", groups=3), SHAPE, "--groups 3: does not divide the 8 channels of a layer"),
        (dict(model="cnn3", norm="group", group_size=8), SHAPE, "--group-size 8: does not divide the 12 channels"),
        (dict(model="mlp1", norm="group", groups=5), SHAPE, "--groups 5: does not divide the 64 channels"),
    ],
)
def test_images_and_groups_that_do_not_fit_are_refused(settings, shape, message):
    with pytest.raises(ValueError, match=message):
        models.textbook_network(shape=shape, seed=0, **settings)


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
    side_by_side = models.side_by_side(networks)
    images = to_float(clothes.train.images[:24]).view(8, 3, 28, 28)
    labels = clothes.train.labels[:24].view(8, 3)

    logits = side_by_side(images).view(8, 3, 10)
    sum(nn.functional.cross_entropy(logits[:, run], labels[:, run]) for run in range(3)).backward()
    gradients = {name: parameter.grad for name, parameter in side_by_side.named_parameters()}

    for run, network in enumerate(networks):
        own_logits = network(images[:, run : run + 1])
        nn.functional.cross_entropy(own_logits, labels[:, run]).backward()
        torch.testing.assert_close(logits[:, run], own_logits, rtol=0, atol=1e-9)
        own_gradients = models.state_of_run(gradients, run, runs=3)
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(own_gradients[name], parameter.grad, rtol=0, atol=1e-9)
        state = models.state_of_run(side_by_side.state_dict(), run, runs=3)
        for name, buffer in network.named_buffers():  # running mean and variance, the count of batches
            torch.testing.assert_close(state[name], buffer, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("model", "norm", "layer"),
    [
        ("mlp1", "layer", nn.LayerNorm(64)),
        ("cnn1", "layer", nn.GroupNorm(1, 8)),
        ("cnn1", "group", nn.GroupNorm(2, 8)),
        ("cnn1", "layer_chw", nn.LayerNorm((8, 26, 26))),
        ("cnn1", "batch", nn.BatchNorm2d(8)),
        ("mlp1", "batch", nn.BatchNorm1d(64)),
    ],
)
def test_norms_are_torchs_own_layers(model, norm, layer):
    groups = 2 if norm == "group" else None
    network = models.textbook_network(model, SHAPE, 0, norm=norm, norm_position="before", groups=groups)
    assert str(network[2 if model == "mlp1" else 1]) == str(layer)


@pytest.mark.parametrize("norm", ["batch", "ghost", "layer", "group", "layer_chw"])
def test_a_frozen_scale_stays_at_1_while_the_shift_is_learned(norm, clothes):
    settings = dict(groups=2) if norm == "group" else dict(ghost_splits=2) if norm == "ghost" else {}
    networks = [models.textbook_network("cnn1", SHAPE, 0, norm=norm, freeze_gamma=True, **settings) for _ in range(2)]
    model = models.side_by_side(networks)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    nn.functional.cross_entropy(
        model(to_float(clothes.train.images[:8]).view(4, 2, 28, 28)), torch.arange(4)
    ).backward()
    optimizer.step()
    assert (model[1].weight == 1).all()
    assert (model[1].bias != 0).any()


# ---------------------------------------------------------------------------------------------------------------------
# Ghost batch normalization


def ghost_and_input(images, splits, like):
    """A ghost batch norm and torch's own with the same random state, and input for both."""
    torch.manual_seed(images)
    ghost, plain = models.GhostBatchNorm(6, splits), like(6)
    with torch.no_grad():
        for tensor in plain.state_dict().values():
            tensor.copy_(torch.rand_like(tensor, dtype=torch.float64) + 0.5)
    plain.num_batches_tracked.zero_()
    ghost.load_state_dict(plain.state_dict())
    shape = (images, 6, 5, 4) if like is nn.BatchNorm2d else (images, 6)
    return ghost, plain, torch.randn(shape, requires_grad=True)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("splits", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("like", [nn.BatchNorm1d, nn.BatchNorm2d])
def test_ghost_batch_norm_equals_a_batch_norm_on_each_interleaved_part(like, splits, channels_last):
    ghost, plain, x = ghost_and_input(12, splits, like)
    given = x.contiguous(memory_format=torch.channels_last) if channels_last and x.dim() == 4 else x
    gradient = torch.randn(x.shape)
    y = ghost(given)
    y.backward(gradient)
    of_ghost = [x.grad.clone(), ghost.weight.grad.clone(), ghost.bias.grad.clone()]
    x.grad = None

    plains = [copy.deepcopy(plain) for _ in range(splits)]
    parts = torch.stack([own(x[part::splits]) for part, own in enumerate(plains)], 1).flatten(0, 1)
    parts.backward(gradient)

    torch.testing.assert_close(y, parts, rtol=0, atol=1e-12)
    weight, bias = (torch.stack([getattr(own, name).grad for own in plains]).sum(0) for name in ("weight", "bias"))
    for ours, torchs in zip(of_ghost, (x.grad, weight, bias), strict=True):
        torch.testing.assert_close(ours, torchs, rtol=0, atol=1e-12)
    for name in ("running_mean", "running_var"):
        mean = torch.stack([getattr(own, name) for own in plains]).mean(0)
        torch.testing.assert_close(getattr(ghost, name), mean, rtol=0, atol=1e-12)
    assert ghost.num_batches_tracked == 1


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("like", [nn.BatchNorm1d, nn.BatchNorm2d])
def test_ghost_batch_norm_evaluates_as_plain_batch_norm_and_has_its_state(like):
    ghost, plain, x = ghost_and_input(7, 3, like)
    assert torch.equal(ghost.eval()(x), plain.eval()(x))
    shapes = [{name: tensor.shape for name, tensor in layer.state_dict().items()} for layer in (ghost, plain)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("images", "splits", "parts"),
    [
        *((128, 2, 2), (80, 32, 20), (80, 64, 40), (96, 4, 4), (128, 64, 64), (128, 128, 64), (9, 2, 1), (9, 4, 3)),
        *((97, 8, 1), (2, 2, 1), (1, 4, 1), (4, 2, 2), (6, 4, 3)),
    ],
)
def test_a_batch_is_cut_into_the_largest_number_of_equal_parts_of_two_images(images, splits, parts):
    assert models.equal_parts(images, splits) == parts
    if images > 1:
        layer = models.GhostBatchNorm(3, splits)
        y = layer(torch.randn(images, 3, 4, 4))
        for part in range(parts):
            torch.testing.assert_close(y[part::parts].mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)


def test_ghost_batch_norm_takes_features_and_images_only():
    with pytest.raises(ValueError, match="2D or 4D"):
        models.GhostBatchNorm(3, 2)(torch.randn(4, 3, 5))


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
            images = to_float(clothes.train.images[step * 40 :][:40]).view(8, 5, 28, 28)
            labels = clothes.train.labels[step * 40 :][:40].view(8, 5)
            optimizer.zero_grad()
            logits = model(images).view(8, 5, 10)
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


@pytest.mark.parametrize("p", [1e-9, 0.001, 0.01, 0.1, 0.5, 0.9, 0.999])
def test_dropouts_share_and_neighbours_are_those_of_independent_draws(p):
    n = 1_000_000
    dropped = dropout(p, [0])(torch.ones(1000, 1000)).view(-1) == 0
    both = dropped[1:] & dropped[:-1]
    for found, expected in ((dropped, p), (both, p * p)):
        # Five standard errors of a share; pairs overlap, which at most doubles their variance.
        assert found.double().mean().item() == pytest.approx(expected, abs=5 * (2 * expected / n) ** 0.5 + 1e-12)


def test_dropout_of_images_does_not_depend_on_their_format():
    x = torch.rand(5, 6, 4, 4)
    y = dropout(0.3, [0, 1])(x)
    assert torch.equal(dropout(0.3, [0, 1])(x.contiguous(memory_format=torch.channels_last)), y)
    kept = y != 0
    assert torch.equal(y[kept], (x / 0.7)[kept]) or torch.allclose(y[kept], x[kept] / 0.7)
    assert 0.1 < (~kept).double().mean() < 0.5
    assert dropout(0.3, [1])(x[:, 3:]).eq(0).equal(y[:, 3:].eq(0))


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
    monkeypatch.setattr(models.RunsDropout, "BLOCK", 3)
    layer = dropout(0.5, [3])
    by_step = [layer(x) for _ in range(4)]
    monkeypatch.setattr(models.RunsDropout, "BLOCK", 1 << 16)
    layer = dropout(0.5, [3])
    assert all(torch.equal(layer(x), mask) for mask in by_step)
    assert not torch.equal(by_step[0], by_step[1])


def test_dropouts_gradient_passes_where_the_output_does():
    for shape in ((20, 8), (5, 4, 3, 3)):
        x = torch.ones(shape, requires_grad=True)
        y = dropout(0.5, [0, 1])(x)
        y.sum().backward()
        assert torch.equal(x.grad, y.detach())
