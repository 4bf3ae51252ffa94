"""Remarks on an experiment before it trains; what is called idle is compared with training."""

import pytest
import torch
from helpers import cut_dataset

import training
from engine.remarks import describe_penalties, list_idle
from experiments import Experiment

IDLE = [
    (dict(lr_scheduler="step", lr_step_size=4), "--lr-step-size 4 is not reached in --epochs 4"),
    (dict(patience=3, restore="last"), "--patience 3 ends no run before --epochs 4"),
    (dict(patience=1, start_from_epoch=3, restore="last"), "--patience 1 ends no run before --epochs 4"),
    (dict(norm="ghost", ghost_splits=25), "--ghost-splits 25 makes 12 parts of a batch of 24 images"),
    (dict(rotation=2), "--rotation 2 moved no pixel in 256 draws"),
    (dict(affine_translate=0.017, interpolation="nearest"), "--affine-translate 0.017 moved no pixel in 256 draws"),
    (
        dict(affine_degrees=1, affine_scale=0.005),
        "--affine-degrees 1 and --affine-scale 0.005 moved no pixel in 256 draws",
    ),
    (dict(elastic=0.05), "--elastic 0.05 moved no pixel in 256 draws"),
]
BUSY = [
    dict(lr_scheduler="step", lr_step_size=3),
    dict(patience=2, restore="last"),
    dict(norm="ghost", ghost_splits=2),
    dict(lr_scheduler="one_cycle", optimizer="sgd"),
    dict(rotation=2, interpolation="bilinear"),
    dict(rotation=9),
    dict(affine_translate=0.05),
    dict(elastic=1),
]


@pytest.fixture
def small(digits):
    return cut_dataset(digits, train=124, validation=100, test=100)


def train_with(small, **settings):
    (run,) = training.train(Experiment(**dict(dataset="mnist_sample", epochs=4, batch_size=50) | settings), [0], small)
    return run.weights


@pytest.mark.parametrize(("settings", "says"), IDLE, ids=str)
def test_what_is_said_to_have_no_effect_has_none(settings, says, small):
    experiment = Experiment(dataset="mnist_sample", epochs=4, batch_size=50, **settings)
    assert list_idle(experiment, small) == [says]
    if experiment.norm != "ghost":  # of which only the last batch is whole
        plain, idle = train_with(small), train_with(small, **settings)
        assert all(torch.equal(plain[name], idle[name]) for name in plain)


@pytest.mark.parametrize("settings", BUSY, ids=str)
def test_nothing_is_said_of_settings_that_have_an_effect(settings, small):
    assert list_idle(Experiment(**dict(dataset="mnist_sample", epochs=4, batch_size=50) | settings), small) == []


def test_one_cycle_of_few_steps_is_named(small):
    settings = dict(lr_scheduler="one_cycle", optimizer="sgd", epochs=1)
    (line,) = list_idle(Experiment(**settings, batch_size=50), small)
    assert line == "--lr-scheduler one_cycle cannot rise and fall in 3 steps"
    assert list_idle(Experiment(**settings, batch_size=32), small) == []


def test_what_the_penalties_act_on_is_said_where_there_are_any():
    def describe(**settings):
        experiment = Experiment(model="cnn1", **settings)
        return describe_penalties(experiment, training.build_network(experiment, (1, 28, 28), 10, seed=0))

    assert describe() == []
    assert describe(penalize="all", l1=0.1) == describe(penalize="all", weight_decay=0.1)
    (of_weights,), (of_all,) = describe(l2=0.1), describe(l2=0.1, penalize="all")
    assert of_weights.endswith(" tensors (--penalize weights)")
    assert of_all.endswith(" tensors (--penalize all)")
    assert of_weights.split(" parameters")[0] != of_all.split(" parameters")[0]
