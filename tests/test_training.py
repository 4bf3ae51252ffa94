import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import cut_dataset, take_images
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

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
    ],
    ids=str,
)
def test_a_seed_trained_alone_equals_the_seed_beside_nine_others(settings, digits):
    check_alone_equals_beside(Experiment(**settings, batch_size=32), digits, seeds=range(10), steps=20)


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
@pytest.mark.parametrize("model", ["cnn1", "cnn2", "cnn3", "resnet"])
@pytest.mark.parametrize("norm", ["none", "batch", "ghost", "layer", "group", "layer_chw"])
def test_a_cnns_seed_trained_alone_on_augmented_images_equals_the_seed_beside_others(model, norm, digits):
    settings = dict(lr_scheduler="one_cycle", weight_decay=1e-3, dropout=0.1) if model == "resnet" else dict(l1=1e-4)
    experiment = Experiment(**AUGMENTED, model=model, norm=norm, batch_size=6, epochs=1, **settings)
    check_alone_equals_beside(experiment, digits, seeds=(3, 1, 8), steps=4)


def check_alone_equals_beside(experiment, dataset, seeds, steps):
    train_set = take_images(dataset.train, steps * experiment.batch_size)
    dataset = replace(dataset, train=train_set, is_standardized=experiment.standardize)

    def train_one_epoch(seeds):
        trainer = training.Trainer(experiment, dataset, seeds, "cpu")
        training.train_epoch(trainer, dataset, 1)
        return [side_by_side.extract_run(trainer.model.state_dict(), run, len(seeds)) for run in range(len(seeds))]

    for seed, beside in zip(seeds, train_one_epoch(list(seeds)), strict=True):
        (alone,) = train_one_epoch([seed])
        for name, tensor in alone.items():
            torch.testing.assert_close(tensor, beside[name], rtol=0, atol=1e-9)


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


def test_generators_of_different_purposes_draw_different_numbers():
    keys = [(0, "order", 1), (0, "dropout", 1, 0), (0, "dropout", 1, 1), (1, "order", 1), (0, "order", 2)]
    draws = {tuple(torch.randperm(100, generator=training.make_generator(*key)).tolist()) for key in keys}
    assert len(draws) == len(keys)


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


def test_nesterov_goes_with_one_cycle(digits):
    experiment = Experiment(optimizer="sgd", nesterov=True, lr=0.1, lr_scheduler="one_cycle", batch_size=20, epochs=2)
    assert learning_rates(experiment, digits)[0][0][1] == pytest.approx(0.95)


# ---------------------------------------------------------------------------------------------------------------------
# Divergence


def test_a_run_that_diverges_is_stopped_and_reaches_no_other_run(digits, monkeypatch):
    experiment = Experiment(model="cnn1", norm="ghost", dropout=0.1, batch_size=25, epochs=3, optimizer="sgd", lr=0.01)
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
