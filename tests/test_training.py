import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import cut_dataset, take_images
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.optim.swa_utils import get_ema_avg_fn

import side_by_side
import training
from data import Split
from engine import records, run_files
from experiments import Experiment

SHORT = dict(dataset="mnist_sample", epochs=2)


def build_network(experiment, dataset):
    return training.build_network(experiment, dataset.shape, len(dataset.classes), seed=0)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "settings",
    [
        dict(model="mlp1", l1=1e-4),
        dict(model="mlp2", l2=1e-4, dropout=0.2, optimizer="sgd", lr=0.05, momentum=0.9),
        dict(model="mlp3", norm="batch", dropout=0.25, weight_decay=1e-3),
        dict(model="mlp3", norm="batch", norm_position="after", optimizer="adamw", weight_decay=0.1, penalize="all"),
        dict(model="mlp", hidden=(40, 30), norm="batch", dropout=0.5, l1=1e-3, l1_mode="proximal"),
        dict(model="mlp", hidden=(), standardize=True),
        dict(model="mlp1", l1=0.01, l1_reduction="mean", l2=0.01, l2_form="norm", optimizer="sgd", lr=0.1),
        dict(model="mlp3", label_smoothing=0.1, max_norm=0.5, optimizer="sgd", lr=0.1),
        dict(model="mlp1", mixup=0.4, cutout=9, norm="batch", standardize=True),
        dict(model="mlp2", average=0.9, norm="batch", dropout=0.2),
        dict(model="mlp3", clip_norm=0.1, l2=0.01, l1=1e-4, optimizer="sgd", lr=0.5, lr_scheduler="cosine", warmup=1),
    ],
    ids=str,
)
def test_a_seed_trained_alone_equals_the_seed_beside_nine_others(settings, digits):
    check_alone_equals_beside(Experiment(**settings, batch_size=32), digits, range(10), alone=(0, 4, 9), steps=20)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "settings",
    [
        dict(model="cnn1", channel_dropout=0.2, mixup=0.4, label_smoothing=0.1),
        dict(model="cnn3", channel_dropout=0.2, cutout=9, max_norm=0.5, norm="group"),
        dict(model="resnet", channel_dropout=0.2, dropout=0.1, average=0.9, clip_norm=0.1, max_norm=1.0, l2=0.01),
    ],
    ids=str,
)
def test_a_cnns_seed_trained_alone_equals_the_seed_beside_others(settings, digits):
    check_alone_equals_beside(Experiment(**settings, batch_size=6), digits, (3, 1, 8), alone=(3, 1, 8), steps=4)


AUGMENTED = dict(
    standardize=True,
    crop_padding=2,
    crop_mode="reflect",
    flip=True,
    rotation=15,
    affine_degrees=10,
    affine_translate=0.1,
    affine_scale=0.1,
    brightness=0.3,
    contrast=0.3,
    optimizer="sgd",
    lr=0.05,
)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("model", "norm"),
    [
        *itertools.product(("cnn1", "resnet"), ("none", "batch", "ghost", "layer", "group", "layer_chw")),
        ("cnn2", "batch"),
        ("cnn3", "ghost"),
    ],
)
def test_a_cnns_seed_trained_alone_on_augmented_images_equals_the_seed_beside_others(model, norm, digits):
    settings = dict(lr_scheduler="one_cycle", weight_decay=1e-3, dropout=0.1) if model == "resnet" else dict(l1=1e-4)
    experiment = Experiment(**AUGMENTED, model=model, norm=norm, batch_size=6, epochs=1, **settings)
    check_alone_equals_beside(experiment, digits, (3, 1, 8), alone=(3, 8), steps=4)


def check_alone_equals_beside(experiment, dataset, seeds, alone, steps):
    train_set = take_images(dataset.train, steps * experiment.batch_size)
    dataset = replace(dataset, train=train_set, is_standardized=experiment.standardize)

    def train_one_epoch(seeds):
        trainer = training.Trainer(experiment, dataset, seeds, "cpu")
        training.train_epoch(trainer, dataset, 1)
        state = trainer.model.state_dict()
        state |= {f"evaluated {name}": tensor for name, tensor in trainer.evaluated.state_dict().items()}
        return [side_by_side.extract_run(state, run, len(seeds)) for run in range(len(seeds))]

    beside = dict(zip(seeds, train_one_epoch(list(seeds)), strict=True))
    for seed in alone:
        (state,) = train_one_epoch([seed])
        for name, tensor in state.items():
            torch.testing.assert_close(tensor, beside[seed][name], rtol=0, atol=1e-9)


def test_the_same_training_twice_gives_the_same_bits(digits):
    experiment = Experiment(**SHORT, model="mlp3", dropout=0.25, norm="batch", l1=1e-4)
    check_twice(experiment, digits)


def test_the_same_training_of_a_cnn_twice_gives_the_same_bits(digits):
    settings = AUGMENTED | dict(norm="ghost", dropout=0.1, lr_scheduler="one_cycle", epochs=2)
    check_twice(Experiment(model="cnn1", **settings), cut_dataset(digits, train=200))


def check_twice(experiment, dataset):
    first, second = (training.train(experiment, [0, 1, 2], dataset) for _ in range(2))
    for run, again in zip(first, second, strict=True):
        assert run.history == again.history
        assert all(torch.equal(run.weights[name], again.weights[name]) for name in run.weights)
        assert np.array_equal(run.log_probabilities, again.log_probabilities)
        assert {**run.result, "seconds": 0} == {**again.result, "seconds": 0}


def test_recorded_weights_in_a_network_written_by_hand_give_the_recorded_accuracy(digits, tmp_path):
    experiment = Experiment(**SHORT, model="mlp3", dropout=0.25, norm="batch")
    run = training.train(experiment, [4, 5], digits)[1]
    folder = records.write_run(tmp_path, run)

    network = nn.Sequential(
        nn.Flatten(),
        *(nn.Linear(784, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.25)),
        *(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Dropout(0.25)),
        *(nn.Linear(128, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Dropout(0.25)),
        nn.Linear(256, 10),
    ).eval()
    network.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    with torch.no_grad():
        logits = network(digits.test.images / 255)

    result = json.loads((folder / "result.json").read_text())
    assert (logits.argmax(1) == digits.test.labels).double().mean().item() == result["test_accuracy"]
    assert nn.functional.cross_entropy(logits, digits.test.labels).item() == pytest.approx(result["test_loss"])
    stored = torch.from_numpy(run_files.read_log_probabilities(folder))
    torch.testing.assert_close(stored, logits.log_softmax(1), rtol=0, atol=1e-5)


def test_the_metrics_in_the_result_follow_from_the_chosen_weights(digits):
    experiment = Experiment(**SHORT, l1=1e-3)
    for run in training.train(experiment, [0, 1], digits):
        network = build_network(experiment, digits)
        network.load_state_dict(run.weights)
        for name, split in (("train", digits.train), ("val", digits.validation), ("test", digits.test)):
            with torch.no_grad():
                logits = network.eval()(split.images / 255)
            accuracy = (logits.argmax(1) == split.labels).double().mean().item()
            assert run.result[f"{name}_accuracy"] == accuracy
        weights = [tensor for name, tensor in run.weights.items() if name.endswith("weight")]
        assert run.result["penalty"] == pytest.approx(1e-3 * sum(w.abs().sum().item() for w in weights), rel=1e-5)
        assert run.history[-1]["val_accuracy"] == run.result["val_accuracy"]
        assert run.history[-1]["penalty"] == pytest.approx(run.result["penalty"], rel=1e-5)


def test_the_penalty_is_not_part_of_the_loss(digits):
    experiment = Experiment(**SHORT, l2=100.0, lr=1e-12)
    (run,) = training.train(experiment, [0], digits)
    assert run.history[0]["train_loss"] == pytest.approx(math.log(10), abs=0.05)
    assert run.history[0]["penalty"] > 100


# ---------------------------------------------------------------------------------------------------------------------
# Batches


@pytest.mark.parametrize(("count", "sizes"), [(10, [4, 4, 2]), (9, [4, 5]), (8, [4, 4]), (1, [1]), (3, [3])])
def test_every_image_is_seen_once_and_a_last_batch_of_one_joins_the_one_before(count, sizes, digits):
    train_set = Split(digits.train.images[:count], torch.arange(count))  # a label tells its image
    dataset = replace(digits, train=train_set)
    batches = list(training.draw_batches(Experiment(batch_size=4), dataset, [0, 1], epoch=1))
    assert [len(labels) for _, labels in batches] == sizes
    assert all(images.shape == (len(labels), 2, 28, 28) for images, labels in batches)
    for run in range(2):
        assert sorted(torch.cat([labels[:, run] for _, labels in batches]).tolist()) == list(range(count))
        for images, labels in batches:
            assert torch.equal(images[:, run], train_set.images[labels[:, run], 0] / 255)


def test_a_runs_order_depends_on_its_seed_and_the_epoch_alone(digits):
    def order(seeds, epoch, seed):
        batches = training.draw_batches(Experiment(batch_size=600), digits, seeds, epoch)
        return torch.cat([labels[:, seeds.index(seed)] for _, labels in batches])

    assert torch.equal(order([3], 1, 3), order([9, 3, 5], 1, 3))
    assert not torch.equal(order([3], 1, 3), order([3], 2, 3))
    assert not torch.equal(order([3, 4], 1, 3), order([3, 4], 1, 4))


def test_augmented_images_differ_from_run_to_run_and_from_epoch_to_epoch(digits):
    experiment = Experiment(batch_size=50, rotation=30, brightness=0.5)
    dataset = replace(digits, train=Split(take_images(digits.train, 200).images, torch.arange(200)))

    def images(seeds, epoch, seed):
        run, augmented = seeds.index(seed), torch.empty(200, 28, 28)
        for batch, labels in training.draw_batches(experiment, dataset, seeds, epoch):
            augmented[labels[:, run]] = batch[:, run]
        return augmented

    assert torch.equal(images([3], 1, 3), images([9, 3, 5], 1, 3))
    assert not torch.equal(images([3], 1, 3), images([3], 2, 3))
    assert not torch.equal(images([3], 1, 3), images([4], 1, 4))


@pytest.mark.parametrize("settings", [dict(rotation=30), dict(mixup=0.4)])
def test_each_run_and_epoch_is_augmented_and_mixed_anew(settings, digits, monkeypatch):
    monkeypatch.setattr(torch, "randperm", lambda count, **_: torch.arange(count))  # another order would hide it
    experiment = Experiment(batch_size=600, **settings)
    first, later, other = (
        next(training.draw_batches(experiment, digits, [seed], epoch))[0] for seed, epoch in ((3, 1), (3, 2), (4, 1))
    )
    assert not torch.equal(first, later)
    assert not torch.equal(first, other)


def test_each_run_layer_and_epoch_has_dropout_of_its_own(digits, monkeypatch):
    drawn, seed = [], side_by_side.RunsDropout.seed

    def note(layer, generators):
        drawn.extend(each.initial_seed() for each in generators)
        seed(layer, generators)

    monkeypatch.setattr(side_by_side.RunsDropout, "seed", note)
    few = cut_dataset(digits, train=100, validation=100, test=100)
    training.train(Experiment(model="mlp2", dataset="mnist_sample", dropout=0.5, epochs=2), [0, 1], few)
    assert len(set(drawn)) == len(drawn) == 2 * 2 * 2


def test_denormal_numbers_are_flushed():
    assert torch.tensor(1e-38).mul(0.01).item() == 0


def test_generators_of_different_purposes_draw_different_numbers():
    keys = [(0, "order", 1), (0, "dropout", 1, 0), (0, "dropout", 1, 1), (1, "order", 1), (0, "order", 2)]
    draws = {tuple(torch.randperm(100, generator=training.make_generator(*key)).tolist()) for key in keys}
    assert len(draws) == len(keys)


def test_mixed_images_of_a_run_depend_on_its_seed_and_the_epoch_alone(digits):
    def images(seeds, epoch, seed):
        experiment, run = Experiment(batch_size=600, mixup=0.4, cutout=8), seeds.index(seed)
        batches = list(training.draw_batches(experiment, digits, seeds, epoch))
        return torch.cat([batch[:, run] for batch, _ in batches]), torch.cat([labels[:, run] for _, labels in batches])

    alone, beside = images([3], 1, 3), images([9, 3, 5], 1, 3)
    assert torch.equal(alone[0], beside[0])
    assert torch.equal(alone[1], beside[1])
    assert not torch.equal(alone[1], images([3], 2, 3)[1])
    assert not torch.equal(alone[1], images([4], 1, 4)[1])


@pytest.mark.usefixtures("float64")
def test_cutout_covers_with_0_once_images_are_standardized(digits):
    dataset = replace(digits, is_standardized=True)
    batch, _ = next(training.draw_batches(Experiment(cutout=32, standardize=True), dataset, [0], epoch=1))
    assert (batch == 0).double().mean() > 0.5


# ---------------------------------------------------------------------------------------------------------------------
# The loss and the accuracy that are trained on


@pytest.fixture
def still(digits):
    """Return a function that trains an epoch so slowly that no weight changes, and returns the run and its network."""

    def train(**settings):
        (run,) = training.train(Experiment(dataset="mnist_sample", epochs=1, lr=1e-30, **settings), [2], digits)
        network = build_network(Experiment(), digits).eval()
        network.load_state_dict(run.weights)
        return run, network

    return train


@pytest.mark.usefixtures("float64")
def test_the_train_loss_is_that_of_smooth_labels_and_the_recorded_losses_are_plain_cross_entropy(still, digits):
    run, network = still(label_smoothing=0.2, l2=1.0)
    with torch.no_grad():
        logits, labels = network(digits.train.images / 255), digits.train.labels
    by_torch = nn.functional.cross_entropy(logits, labels, label_smoothing=0.2).item()
    plain = nn.functional.cross_entropy(logits, labels).item()
    probabilities = 0.8 * nn.functional.one_hot(labels, 10) + 0.02  # 1 − ε + ε/K and ε/K
    assert -(probabilities * logits.log_softmax(1)).sum(1).mean().item() == pytest.approx(by_torch)
    assert run.history[0]["train_loss"] == pytest.approx(by_torch, rel=1e-9)
    assert run.result["train_loss"] == pytest.approx(plain, rel=1e-9)
    assert by_torch != pytest.approx(plain, rel=1e-6)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("smoothing", [None, 0.1])
def test_mixups_loss_and_accuracy_are_weighted_by_the_shares(smoothing, still, digits):
    run, network = still(mixup=0.4, label_smoothing=smoothing)
    shares = np.random.default_rng(side_by_side.make_generator(2, "mixup", 1).initial_seed()).beta(0.4, 0.4, 3600)
    shares, losses, correct = torch.from_numpy(shares), [], []
    for images, labels in training.draw_batches(Experiment(), digits, [2], epoch=1):  # not mixed
        share, labels = shares[: len(labels)], labels[:, 0]
        shares = shares[len(labels) :]
        partners, others = images.roll(1, 0), labels.roll(1, 0)
        weights = share.view(-1, 1, 1, 1)
        with torch.no_grad():
            logits = network(weights * images + (1 - weights) * partners)

        def loss_of(labels, logits=logits):
            return nn.functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing or 0.0)

        losses.append(share * loss_of(labels) + (1 - share) * loss_of(others))
        correct.append(share * (logits.argmax(1) == labels) + (1 - share) * (logits.argmax(1) == others))
    assert run.history[0]["train_loss"] == pytest.approx(torch.cat(losses).mean().item(), rel=1e-9)
    assert run.history[0]["train_accuracy"] == pytest.approx(torch.cat(correct).mean().item(), rel=1e-9)
    assert run.history[0]["val_loss"] == pytest.approx(run.result["val_loss"], rel=1e-9)


# ---------------------------------------------------------------------------------------------------------------------
# Norms and averages


def watch_training(experiment, dataset, seeds, hook, look):
    """Train, and call `look` with the trainer before or after each of the optimizer's steps."""
    trainers, make = [], training.Trainer.__init__

    def remember(trainer, *args):
        make(trainer, *args)
        trainers.append(trainer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.Trainer, "__init__", remember)
        handle = hook(lambda *_: look(trainers[0]))
        try:
            return training.train(experiment, seeds, dataset), trainers[0]
        finally:
            handle.remove()


def test_each_runs_gradient_with_the_penalty_in_it_is_clipped(digits):
    experiment = Experiment(model="mlp2", clip_norm=0.3, l2=0.01, batch_size=50, epochs=2)
    norms = []

    def look(trainer):
        gradients = {name: parameter.grad for name, parameter in trainer.model.named_parameters()}
        of_runs = [side_by_side.extract_run(gradients, run, 3).values() for run in range(3)]
        norms.append([torch.cat([gradient.flatten() for gradient in of_run]).norm().item() for of_run in of_runs])

    watch_training(experiment, cut_dataset(digits, train=500), [0, 1, 2], register_optimizer_step_pre_hook, look)
    assert len(norms) == 20
    assert max(map(max, norms)) <= 0.3 + 1e-6
    assert sum(norm > 0.2999 for of_step in norms for norm in of_step) > 30  # one joint norm would leave less to each


def test_no_units_weights_are_longer_than_the_limit(digits):
    experiment = Experiment(model="cnn1", max_norm=0.4, epochs=1, lr=0.01, batch_size=50)
    for run in training.train(experiment, [0, 1], cut_dataset(digits, train=500, validation=100, test=100)):
        norms = [tensor.flatten(1).norm(dim=1) for tensor in run.weights.values() if tensor.dim() > 1]
        assert max(norm.max().item() for norm in norms) == pytest.approx(0.4, abs=1e-6)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("settings", [dict(), dict(patience=1, lr=0.1, epochs=12)], ids=["last", "best"])
def test_the_average_of_all_steps_is_evaluated_and_recorded_and_training_goes_on_without_it(settings, digits):
    decay, seeds = 0.97, [4, 5]
    settings = dict(dataset="mnist_sample", model="mlp1", norm="batch", batch_size=50, epochs=3, l1=1e-3) | settings
    experiment, dataset = Experiment(**settings, average=decay), cut_dataset(digits, train=300)
    of_torch = get_ema_avg_fn(decay)
    sums, means, latest = {}, [], {}

    def look(trainer):
        for name, tensor in trainer.model.state_dict().items():
            latest[name] = tensor.clone()
            sums[name] = of_torch(sums.get(name, torch.zeros_like(tensor)), tensor, None)
        means.append({name: total / (1 - decay ** (len(means) + 1)) for name, total in sums.items()})

    runs, trainer = watch_training(experiment, dataset, seeds, register_optimizer_step_post_hook, look)
    chosen = {run.result["chosen_epoch"] for run in runs}
    assert settings["epochs"] == 3 or min(chosen) < len(means) // 6
    for number, run in enumerate(runs):
        expected = side_by_side.extract_run(means[6 * run.result["chosen_epoch"] - 1], number, 2)
        for name, tensor in run.weights.items():
            if tensor.is_floating_point():  # running means and variances, too
                torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-12)
            else:
                assert tensor == 6 * run.result["chosen_epoch"]
        row = run.history[run.result["chosen_epoch"] - 1]
        assert row["val_loss"] == pytest.approx(run.result["val_loss"], rel=1e-9)
        assert row["penalty"] == pytest.approx(run.result["penalty"], rel=1e-9)
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, latest[name])
    if settings["epochs"] == 3:
        for run, without in zip(runs, training.train(Experiment(**settings), seeds, dataset), strict=True):
            assert [row["train_loss"] for row in run.history] == [row["train_loss"] for row in without.history]
            assert run.history[-1]["val_loss"] != without.history[-1]["val_loss"]


# ---------------------------------------------------------------------------------------------------------------------
# The learning rate


def learning_rates(experiment, digits):
    """Train, and return [(lr, momentum) of every step] and the recorded rate of every epoch."""
    dataset = cut_dataset(digits, train=40, validation=40, test=40)
    used = []

    def note(optimizer, *_):
        group = optimizer.param_groups[0]
        used.append((group["lr"], group["momentum"] if "momentum" in group else group["betas"][0]))

    hook = register_optimizer_step_pre_hook(note)
    try:
        (run,) = training.train(experiment, [0], dataset)
    finally:
        hook.remove()
    return used, [row["lr"] for row in run.history]


def test_the_learning_rate_steps_down_after_every_so_many_epochs(digits):
    experiment = Experiment(
        optimizer="sgd",
        lr=0.4,
        momentum=0.9,
        lr_scheduler="step",
        lr_step_size=2,
        lr_gamma=0.5,
        batch_size=20,
        epochs=5,
    )
    used, recorded = learning_rates(experiment, digits)
    assert recorded == pytest.approx([0.4, 0.4, 0.2, 0.2, 0.1])
    assert used == [(lr, 0.9) for lr in recorded for _ in range(2)]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_one_cycle_moves_learning_rate_and_momentum_at_every_step(optimizer, digits):
    experiment = Experiment(optimizer=optimizer, lr=0.1, lr_scheduler="one_cycle", batch_size=4, epochs=2)
    used, recorded = learning_rates(experiment, digits)

    def cosine(start, end, share):
        return end + (start - end) / 2 * (1 + math.cos(math.pi * share))

    # 20 steps: up to the peak at 30 % of them, down for the rest; steps count from 0.
    peak, last = 0.3 * 20 - 1, 19
    for step, (lr, momentum) in enumerate(used):
        if step <= peak:
            expected = cosine(0.1 / 25, 0.1, step / peak), cosine(0.95, 0.85, step / peak)
        else:
            share = (step - peak) / (last - peak)
            expected = cosine(0.1, 0.1 / 25 / 1e4, share), cosine(0.85, 0.95, share)
        assert (lr, momentum) == pytest.approx(expected)
    assert recorded == [used[0][0], used[10][0]]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("warmup", [None, 1, 2])
@pytest.mark.parametrize("scheduler", ["constant", "cosine"])
def test_cosine_and_warmup_are_those_of_torch(scheduler, warmup, optimizer, digits):
    experiment = Experiment(
        optimizer=optimizer, lr=0.1, lr_scheduler=scheduler, warmup=warmup, batch_size=4, epochs=4, l2=0.01
    )
    used, recorded = learning_rates(experiment, digits)
    plain = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    total, steps = 40, 10 * (warmup or 0)
    of_torch = lr_scheduler.ConstantLR(plain, 1.0)
    if scheduler == "cosine":
        of_torch = lr_scheduler.CosineAnnealingLR(plain, T_max=total - steps)
    if warmup:
        rising = lr_scheduler.LinearLR(plain, start_factor=1 / steps, total_iters=steps - 1)
        of_torch = lr_scheduler.SequentialLR(plain, [rising, of_torch], [steps])
    expected = []
    for _ in range(total):
        expected.append(plain.param_groups[0]["lr"])
        plain.step()
        of_torch.step()
    assert [lr for lr, _ in used] == pytest.approx(expected, abs=1e-15)
    assert recorded == [used[0][0], used[10][0], used[20][0], used[30][0]]
    if warmup:
        assert [lr for lr, _ in used[:steps]] == pytest.approx([0.1 * (step + 1) / steps for step in range(steps)])
    if scheduler == "cosine":
        assert used[-1][0] < 0.001
    assert {momentum for _, momentum in used} == {0.0 if optimizer == "sgd" else 0.9}


def test_nesterov_goes_with_one_cycle(digits):
    experiment = Experiment(optimizer="sgd", nesterov=True, lr=0.1, lr_scheduler="one_cycle", batch_size=20, epochs=2)
    assert learning_rates(experiment, digits)[0][0][1] == pytest.approx(0.95)


# ---------------------------------------------------------------------------------------------------------------------
# Divergence


def test_a_run_that_diverges_is_stopped_and_reaches_no_other_run(digits, monkeypatch):
    experiment = Experiment(model="cnn1", norm="ghost", dropout=0.1, batch_size=20, epochs=3, optimizer="sgd", lr=0.01)
    dataset = cut_dataset(digits, train=100, validation=100, test=100)
    build = training.build_network

    def build_disturbed(experiment, shape, classes, seed):
        network = build(experiment, shape, classes, seed)
        if seed == 1:
            with torch.no_grad():
                network[0].weight.fill_(math.inf)
        return network

    whole = training.train(experiment, [0, 1, 2], dataset)
    monkeypatch.setattr(training, "build_network", build_disturbed)
    runs = training.train(experiment, [0, 1, 2], dataset)
    assert [run.result["diverged"] for run in runs] == [False, True, False]
    assert runs[1].result["epochs"] == len(runs[1].history) == 1
    assert runs[1].result["stop_reason"] == "diverged: its loss was not finite in epoch 1"
    for run in (0, 2):
        assert runs[run].history == whole[run].history
        assert all(torch.equal(runs[run].weights[name], tensor) for name, tensor in whole[run].weights.items())


@pytest.mark.parametrize("stopping", [{}, dict(patience=1)], ids=["", "patience 1"])
def test_where_every_run_diverges_training_ends(stopping, digits):
    seen = []
    experiment = Experiment(optimizer="sgd", lr=1e30, epochs=50, **stopping)
    dataset = cut_dataset(digits, train=100, validation=100, test=100)
    runs = training.train(experiment, [0, 1], dataset, on_epoch=seen.append)
    assert all(run.result["diverged"] for run in runs)
    assert all(run.result["stop_reason"].startswith("diverged: its loss was not finite") for run in runs)
    assert len(seen) <= 2


# ---------------------------------------------------------------------------------------------------------------------
# Early stopping

OVERFITTING = dict(dataset="mnist_sample", model="mlp2", lr=0.005)


@pytest.fixture
def few_digits(digits):
    """So few train images that the validation loss soon rises again."""
    return cut_dataset(digits, train=500)


def test_the_best_epochs_weights_are_handed_in(few_digits):
    experiment = Experiment(**OVERFITTING, epochs=25, patience=2)
    runs = training.train(experiment, [0, 1, 2, 3], few_digits)
    assert len({run.result["epochs"] for run in runs}) > 1, "runs that stop at one epoch show nothing"
    for run in runs:
        losses = [row["val_loss"] for row in run.history]
        best = 1 + losses.index(min(losses))
        assert run.result["chosen_epoch"] == best
        assert run.result["epochs"] == len(run.history) == best + 2
        assert "val_loss did not improve" in run.result["stop_reason"]
        assert run.result["val_loss"] == pytest.approx(min(losses), rel=1e-5)


def test_the_best_weights_are_handed_in_also_when_the_last_epoch_ended_the_training(few_digits):
    experiment = Experiment(**OVERFITTING, epochs=12, patience=50)
    (run,) = training.train(experiment, [0], few_digits)
    losses = [row["val_loss"] for row in run.history]
    assert run.result["epochs"] == 12
    assert run.result["chosen_epoch"] == 1 + losses.index(min(losses)) < 12
    assert run.result["val_loss"] == pytest.approx(min(losses), rel=1e-5)
    assert run.result["stop_reason"] == "trained all 12 epochs"


def test_restore_last_hands_in_the_epoch_that_the_run_stopped_after(few_digits):
    experiment = Experiment(**OVERFITTING, epochs=25, patience=2, restore="last")
    for run in training.train(experiment, [0, 1], few_digits):
        assert run.result["chosen_epoch"] == run.result["epochs"] == len(run.history) < 25
        assert run.result["val_loss"] == pytest.approx(run.history[-1]["val_loss"], rel=1e-5)


@pytest.mark.parametrize("restore", ["best", "last"])
def test_a_stopped_runs_result_no_longer_changes_while_others_train(restore, few_digits):
    settings = dict(**OVERFITTING, patience=2, restore=restore)
    seeds = [0, 1, 2, 3]
    together = training.train(Experiment(**settings, epochs=25), seeds, few_digits)
    first = min(together, key=lambda run: run.result["epochs"])
    ended = training.train(Experiment(**settings, epochs=first.result["epochs"]), seeds, few_digits)
    same = next(run for run in ended if run.seed == first.seed)
    assert same.history == first.history
    assert all(torch.equal(same.weights[name], first.weights[name]) for name in first.weights)
    assert any(run.result["epochs"] > first.result["epochs"] for run in together)


def test_without_early_stopping_the_last_epochs_weights_are_handed_in(few_digits):
    (run,) = training.train(Experiment(**OVERFITTING, epochs=12), [0], few_digits)
    losses = [row["val_loss"] for row in run.history]
    assert losses[-1] > min(losses)
    assert run.result["chosen_epoch"] == 12
    assert run.result["val_loss"] == pytest.approx(losses[-1], rel=1e-5)


def test_on_epoch_is_given_the_rows_of_the_runs_that_have_not_stopped(few_digits):
    seen = []
    experiment = Experiment(**OVERFITTING, epochs=25, patience=2)
    runs = training.train(experiment, [0, 1, 2, 3], few_digits, on_epoch=seen.append)
    for run in runs:
        assert [row for rows in seen for row in rows if row["seed"] == run.seed] == run.history
