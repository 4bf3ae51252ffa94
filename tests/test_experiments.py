import argparse
import json
import shlex
from dataclasses import fields

import pytest

from experiments import Experiment, OneLineParser, add_flags, flag_of, from_arguments

SOME = [
    Experiment(),
    Experiment(model="mlp3", l1=0.001),
    Experiment(model="mlp", hidden=(300, 100), optimizer="sgd", lr=0.1, momentum=0.9, nesterov=True),
    Experiment(model="mlp", hidden=(), l1=1e-5, l1_mode="proximal", standardize=True),
    Experiment(dataset="mnist_sample", norm="batch", norm_position="after", dropout=0.25, batch_size=32, epochs=3),
    Experiment(patience=3, epochs=20, monitor="val_accuracy", min_delta=0.01, start_from_epoch=5, restore="last"),
    Experiment(optimizer="adamw", weight_decay=0.01, penalize="all", l2=0.1, split_seed=3),
]


def parse(words):
    parser = OneLineParser(prog="train.py")
    add_flags(parser)
    return from_arguments(parser.parse_args(words))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (dict(model="mlp9"), "--model mlp9: expected one of mlp1, mlp2, mlp3, mlp"),
        (dict(dataset="imagenet"), "--dataset imagenet: expected one of fashion_mnist"),
        (dict(l1=-1.0), "--l1 -1.0: expected a finite number at least 0"),
        (dict(l1=float("nan")), "--l1 nan: expected a finite number at least 0"),
        (dict(l2=float("inf")), "--l2 inf: expected a finite number at least 0"),
        (dict(weight_decay=-0.1), "--weight-decay -0.1: expected a finite number at least 0"),
        (dict(dropout=1.5), "--dropout 1.5: expected a finite number at least 0 and below 1"),
        (dict(dropout=1.0), "--dropout 1.0: expected a finite number at least 0 and below 1"),
        (dict(lr=0.0), "--lr 0.0: expected a finite number above 0"),
        (dict(epochs=0), "--epochs 0: expected a whole number at least 1"),
        (dict(epochs=1.5), "--epochs 1.5: expected a whole number at least 1"),
        (dict(batch_size=0), "--batch-size 0: expected a whole number at least 1"),
        (dict(patience=0), "--patience 0: expected a whole number at least 1"),
        (dict(patience=3, min_delta=-1.0), "--min-delta -1.0: expected a finite number at least 0"),
        (dict(patience=3, start_from_epoch=16), "--start-from-epoch 16: expected at most --epochs 15"),
        (dict(restore="last"), "--restore last: is a setting of early stopping and needs --patience"),
        (dict(monitor="val_accuracy"), "--monitor val_accuracy: is a setting of early stopping and needs --patience"),
        (dict(model="mlp3", hidden=(64,)), "--hidden 64: --model mlp3 has its own widths"),
        (dict(model="mlp"), "--hidden: --model mlp needs widths"),
        (dict(model="mlp", hidden=(64, 0)), "--hidden 64 0: expected a whole number at least 1"),
        (dict(model="mlp", hidden=(), dropout=0.5), "--dropout 0.5: acts on hidden layers, and --hidden names none"),
        (dict(momentum=0.9), "--momentum 0.9: goes with --optimizer sgd, not adam"),
        (dict(optimizer="sgd", nesterov=True), "--nesterov: needs --momentum above 0"),
        (dict(l1_mode="proximal"), "--l1-mode proximal: needs --l1 above 0"),
        (dict(penalize="all"), "--penalize all: needs --l1, --l2 or --weight-decay above 0"),
        (dict(norm_position="after"), "--norm-position after: needs a --norm other than none"),
        (dict(norm="batch", batch_size=1), "--batch-size 1: --norm batch needs at least 2 images"),
        (dict(split_seed=-1), "--split-seed -1: expected a whole number at least 0"),
        (dict(standardize=1), "--standardize 1: expected True or False"),
    ],
)
def test_an_impossible_value_is_refused_with_its_flag_and_the_range(settings, expected):
    with pytest.raises(ValueError, match=r"^--") as caught:
        Experiment(**settings)
    assert expected in str(caught.value)


def test_every_field_is_a_flag_with_a_help_text():
    parser = argparse.ArgumentParser()
    add_flags(parser)
    flags = {option: action for action in parser._actions for option in action.option_strings}
    for setting in fields(Experiment):
        assert flags[flag_of(setting.name)].help
        assert flags[flag_of(setting.name)].default == setting.default


@pytest.mark.parametrize("experiment", SOME, ids=lambda experiment: experiment.name)
def test_the_command_of_an_experiment_gives_it_back(experiment):
    assert parse(shlex.split(experiment.command)[2:]) == experiment


@pytest.mark.parametrize("experiment", SOME, ids=lambda experiment: experiment.name)
def test_an_experiment_survives_json(experiment):
    assert Experiment(**json.loads(json.dumps(experiment.to_dict()))) == experiment


def test_names_tell_what_differs_from_the_defaults():
    assert Experiment().name == "mlp1"
    assert Experiment(model="mlp3", l1=0.001).name == "mlp3,l1=0.001"
    assert Experiment(model="mlp3", dataset="fashion_mnist", l1=0.001).name == "mlp3,l1=0.001"
    sample = Experiment(model="mlp3", dataset="fashion_mnist_sample", l1=0.001)
    assert sample.name == "mlp3,dataset=fashion_mnist_sample,l1=0.001"
    assert Experiment(model="mlp", hidden=(300, 100)).name == "mlp,hidden=300-100"
    assert Experiment(model="mlp", hidden=()).name == "mlp,hidden=none"
    assert Experiment(standardize=True).name == "mlp1,standardize=true"


def test_whole_and_decimal_numbers_that_are_equal_are_one_experiment():
    assert Experiment(l1=1).name == Experiment(l1=1.0).name


def test_different_experiments_have_different_names_also_when_these_are_cut():
    long = dict(model="mlp", hidden=tuple(range(100, 150)), norm="batch", dropout=0.5)
    experiments = [*SOME, Experiment(**long, l1=0.1), Experiment(**long, l1=0.2)]
    names = {experiment.name for experiment in experiments}
    assert len(names) == len(experiments)
    assert all(len(name) <= 120 for name in names)


def test_the_baseline_has_no_regularization_and_the_same_network():
    experiment = Experiment(
        model="mlp3",
        l1=0.1,
        l1_mode="proximal",
        l2=0.1,
        weight_decay=0.1,
        dropout=0.5,
        patience=2,
        lr=0.01,
        norm="batch",
    )
    assert experiment.baseline() == Experiment(model="mlp3", lr=0.01, norm="batch")
