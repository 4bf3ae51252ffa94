import copy

import pytest
import torch
from torch import nn

import experiments
import models
from engine.plan import MEASURED

SHAPE = (1, 28, 28)


def test_every_model_that_can_be_named_can_be_built():
    assert set(experiments.MODELS) == {*models.MLP_WIDTHS, "mlp", *models.CNNS}
    assert {model.rstrip("0123456789") for model in experiments.MODELS} == MEASURED.keys()


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
        ({"model": "cnn4", "norm": "batch"}, 7_652),
        ({"model": "cnn3", "norm": "layer"}, 8_880),
        ({"model": "cnn3", "norm": "layer_chw"}, 44_712),
    ],
)
def test_parameters_are_those_of_the_published_networks(settings, parameters):
    network = models.build_network(shape=SHAPE, seed=0, **settings)
    assert models.count_parameters(network) == parameters
    assert sum(row[2] for row in models.list_layers(network, SHAPE)) == parameters


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
    network = models.build_network(model, shape, seed=0, norm="batch", norm_position=position, dropout=0.1)
    rows = models.list_layers(network, shape)[1:]
    layers, with_parameters = TABLES[model]
    if model == "cnn1":  # its reference has no dropout
        rows = [row for row in rows if row[0] != "Dropout"]
    assert [row[0] for row in rows] == layers
    assert [(row[1][0], row[1][1], row[2]) for row in rows if row[2]] == with_parameters


def test_a_residual_block_adds_its_input(clothes):
    network = models.build_network("resnet", SHAPE, seed=0, norm="batch", norm_position="after").eval()
    state = network.state_dict()
    x = clothes.to_float(clothes.train.images[:4])
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
    network = models.build_network(model, shape, seed=0, norm="layer_chw")
    assert network(torch.rand(2, *shape)).shape == (2, 10)


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        (dict(model="cnn2"), (3, 32, 32), "--model cnn2: of images of 32×32 pixels it leaves 2×2 pixels, expected one"),
        (dict(model="cnn1"), (1, 8, 8), "--model cnn1: of images of 8×8 pixels it leaves no pixel, expected one"),
        (dict(model="cnn1", norm="group", groups=3), SHAPE, "--groups 3: does not divide the 8 channels of a layer"),
        (dict(model="cnn3", norm="group", group_size=8), SHAPE, "--group-size 8: does not divide the 12 channels"),
        (dict(model="mlp1", norm="group", groups=5), SHAPE, "--groups 5: does not divide the 64 channels"),
        (dict(model="mlp"), SHAPE, "--model mlp: needs the widths of its hidden layers"),
        (
            dict(model="mlp1", norm="ghost"),
            SHAPE,
            "--norm ghost: unknown, or without the number of its groups or parts",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, shape, message):
    with pytest.raises(ValueError, match=message):
        models.build_network(shape=shape, seed=0, **settings)


def test_the_textbook_network_is_initialised_as_torch_does_after_manual_seed():
    network = models.build_network("mlp3", SHAPE, seed=7, norm="batch", norm_position="after", dropout=0.25)
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
    models.build_network("mlp1", SHAPE, seed=0)
    assert torch.equal(torch.rand(4), expected)


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
    network = models.build_network(model, SHAPE, seed=0, norm=norm, norm_position="before", groups=groups)
    assert str(network[2 if model == "mlp1" else 1]) == str(layer)


# ---------------------------------------------------------------------------------------------------------------------
# Ghost batch normalization


def make_ghost_and_plain(images, splits, like):
    """Make a ghost batch norm and torch's batch norm with the same random state, and input for both."""
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
def test_ghost_batch_norm_equals_a_batch_norm_on_each_part(like, splits, channels_last):
    ghost, plain, x = make_ghost_and_plain(12, splits, like)
    given = x.contiguous(memory_format=torch.channels_last) if channels_last and x.dim() == 4 else x
    gradient = torch.randn(x.shape)
    y = ghost(given)
    y.backward(gradient)
    of_ghost = [x.grad.clone(), ghost.weight.grad.clone(), ghost.bias.grad.clone()]
    x.grad = None

    plains = [copy.deepcopy(plain) for _ in range(splits)]
    parts = torch.cat([layer(part) for layer, part in zip(plains, x.split(12 // splits), strict=True)])
    parts.backward(gradient)

    torch.testing.assert_close(y, parts, rtol=0, atol=1e-12)
    weight, bias = (torch.stack([getattr(layer, name).grad for layer in plains]).sum(0) for name in ("weight", "bias"))
    for ours, torchs in zip(of_ghost, (x.grad, weight, bias), strict=True):
        torch.testing.assert_close(ours, torchs, rtol=0, atol=1e-12)
    for name in ("running_mean", "running_var"):
        mean = torch.stack([getattr(layer, name) for layer in plains]).mean(0)
        torch.testing.assert_close(getattr(ghost, name), mean, rtol=0, atol=1e-12)
    assert ghost.num_batches_tracked == 1


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("like", [nn.BatchNorm1d, nn.BatchNorm2d])
def test_ghost_batch_norm_evaluates_as_plain_batch_norm_and_has_its_state(like):
    ghost, plain, x = make_ghost_and_plain(7, 3, like)
    assert torch.equal(ghost.eval()(x), plain.eval()(x))
    shapes = [{name: tensor.shape for name, tensor in layer.state_dict().items()} for layer in (ghost, plain)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("images", "splits", "parts"),
    [
        *((128, 2, 2), (80, 32, 20), (80, 64, 40), (96, 4, 4), (128, 64, 64), (128, 128, 64), (9, 2, 1), (9, 4, 3)),
        *((97, 8, 1), (2, 2, 1), (1, 4, 1), (4, 2, 2), (6, 4, 3), (128, 10**18, 64)),
    ],
)
def test_a_batch_is_cut_into_the_largest_number_of_equal_parts_of_two_images(images, splits, parts):
    assert models.count_equal_parts(images, splits) == parts
    if images > 1:
        layer = models.GhostBatchNorm(3, splits)
        y = layer(torch.randn(images, 3, 4, 4))
        for part in y.split(images // parts):
            torch.testing.assert_close(part.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)


def test_ghost_batch_norm_takes_features_and_images_only():
    with pytest.raises(ValueError, match="2D or 4D"):
        models.GhostBatchNorm(3, 2)(torch.randn(4, 3, 5))


def test_channel_dropout_is_torchs_own_and_the_last_layer_of_the_blocks_that_have_dropout():
    def kinds_of(model, **settings):
        layers = models.build_network(model, SHAPE, seed=0, **settings).modules()
        return [type(layer).__name__ for layer in layers]

    for model in models.CNNS:
        both = kinds_of(model, norm="batch", norm_position="after", dropout=0.1, channel_dropout=0.2)
        places = [place for place, kind in enumerate(both) if kind == "Dropout2d"]
        assert places == [place + 1 for place, kind in enumerate(both) if kind == "Dropout"]
        assert len(places) == (
            2 if model == "cnn3" else sum(isinstance(c, models.Conv) and c.block for c in models.CNNS[model])
        )
        alone = kinds_of(model, channel_dropout=0.2)
        assert alone.count("Dropout2d") == len(places)
        assert "Dropout" not in alone


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (dict(norm="group", groups=4), "--groups 4: makes groups of one feature, which become constant; name fewer"),
        (dict(norm="group", group_size=1), "--group-size 1: makes groups of one feature, which become constant; name "),
        (dict(norm="layer"), "--norm layer: makes a layer's only feature constant; name more features"),
    ],
)
def test_a_feature_that_normalization_would_make_constant_is_refused(settings, says):
    """torch normalizes it to 0 without a word, but for a batch of one image."""
    hidden = [1] if settings == dict(norm="layer") else [4]
    with pytest.raises(ValueError, match=f"^{says}"):
        models.build_network("mlp", (1, 28, 28), seed=0, hidden=hidden, **settings)


def test_a_channel_alone_is_normalized_over_its_pixels():
    layer = models.build_norm((4, 3, 3), "group", groups=4)
    assert layer(torch.randn(1, 4, 3, 3)).std() > 0.5
