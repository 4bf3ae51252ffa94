import contextlib
import json
import re
import shlex
from dataclasses import fields, replace

import pytest
from helpers import parse_settings

import models
from experiments import MODELS, NORM_CHOICES, Experiment, join_settings, shorten
from sources.catalogue import SOURCES

# What stands for the settings of a model that are not given: (data set, settings, groups of its --norm group).
MODEL_DEFAULTS = {
    "mlp1": ("fashion_mnist", dict(norm="none", norm_position="before", dropout=0.0), dict(groups=4)),
    "mlp2": ("fashion_mnist", dict(norm="none", norm_position="before", dropout=0.0), dict(groups=4)),
    "mlp3": ("fashion_mnist", dict(norm="none", norm_position="before", dropout=0.0), dict(groups=4)),
    "mlp": ("fashion_mnist", dict(norm="none", norm_position="before", dropout=0.0), dict(groups=4)),
    "cnn1": ("mnist", dict(norm="batch", norm_position="before", dropout=0.0), dict(group_size=4)),
    "cnn2": ("mnist", dict(norm="batch", norm_position="after", dropout=0.01), dict(group_size=1)),
    "cnn3": ("mnist", dict(norm="batch", norm_position="after", dropout=0.04), dict(group_size=4)),
    "cnn4": ("mnist", dict(norm="batch", norm_position="before", dropout=0.0), dict(group_size=2)),
    "resnet": ("cifar10", dict(norm="batch", norm_position="after", dropout=0.1), dict(groups=2)),
    "resnet2": ("cifar10", dict(norm="batch", norm_position="before", dropout=0.0), dict(groups=4)),
}

# For each setting, an experiment in which it is not the default, with as few other settings as it needs.
EXAMPLES = dict(
    model=dict(model="cnn3"),
    hidden=dict(model="mlp", hidden=[300, 100]),
    dataset=dict(dataset="mnist"),
    split_seed=dict(split_seed=3),
    standardize=dict(standardize=True),
    crop_padding=dict(crop_padding=4),
    crop_mode=dict(crop_padding=4, crop_mode="reflect"),
    flip=dict(flip=True),
    rotation=dict(rotation=7.5),
    rotation_fill=dict(rotation=7.5, rotation_fill=1),
    affine_degrees=dict(affine_degrees=20.0),
    affine_translate=dict(affine_translate=0.1),
    affine_scale=dict(affine_scale=0.2),
    elastic=dict(elastic=0.7),
    interpolation=dict(rotation=7.5, interpolation="bilinear"),
    brightness=dict(brightness=0.3),
    contrast=dict(contrast=0.3),
    epochs=dict(epochs=20),
    batch_size=dict(batch_size=128),
    optimizer=dict(optimizer="adamw"),
    lr=dict(lr=0.022),
    lr_scheduler=dict(lr_scheduler="one_cycle"),
    lr_step_size=dict(lr_scheduler="step", lr_step_size=6),
    lr_gamma=dict(lr_scheduler="step", lr_step_size=6, lr_gamma=0.5),
    warmup=dict(warmup=2),
    clip_norm=dict(clip_norm=1.0),
    momentum=dict(optimizer="sgd", momentum=0.9),
    nesterov=dict(optimizer="sgd", momentum=0.9, nesterov=True),
    weight_decay=dict(weight_decay=0.001),
    l1=dict(l1=1e-05),
    l1_mode=dict(l1=1e-05, l1_mode="proximal"),
    l1_reduction=dict(l1=1e-05, l1_reduction="mean"),
    l2=dict(l2=0.001),
    l2_form=dict(l2=0.001, l2_form="norm"),
    penalize=dict(l2=0.001, penalize="all"),
    label_smoothing=dict(label_smoothing=0.1),
    mixup=dict(mixup=0.2),
    cutout=dict(cutout=8),
    channel_dropout=dict(model="cnn1", channel_dropout=0.1),
    max_norm=dict(max_norm=3.0),
    average=dict(average=0.999),
    dropout=dict(dropout=0.25),
    norm=dict(norm="layer"),
    norm_position=dict(norm="layer", norm_position="after"),
    groups=dict(norm="group", groups=2),
    group_size=dict(norm="group", group_size=4),
    ghost_splits=dict(norm="ghost", ghost_splits=4),
    freeze_gamma=dict(norm="batch", freeze_gamma=True),
    patience=dict(patience=3),
    monitor=dict(patience=3, monitor="val_accuracy"),
    min_delta=dict(patience=3, min_delta=0.01),
    start_from_epoch=dict(patience=3, start_from_epoch=5),
    restore=dict(patience=3, restore="last"),
)

# Every model with every normalization, with the settings that go with it, the model's defaults and others.
WITH_NORMS = [
    dict(model=model, norm=norm, **settings, **(dict(hidden=(16, 8)) if model == "mlp" else {}))
    for model in MODELS
    for norm in (None, *NORM_CHOICES)
    for settings in (
        {},
        dict(dropout=0.0),
        dict(dropout=0.5),
        *([] if norm in (None, "none") else [dict(norm_position="before"), dict(norm_position="after")]),
        *([] if norm in (None, "none") else [dict(freeze_gamma=True, norm_position="after", dropout=0.04)]),
        *([dict(groups=1), dict(groups=2), dict(group_size=1), dict(group_size=4)] if norm == "group" else []),
        *([dict(ghost_splits=1), dict(ghost_splits=2), dict(ghost_splits=8)] if norm == "ghost" else []),
    )
    if not (norm == "layer_chw" and model.startswith("mlp"))
]

TOGETHER = [
    {},
    dict(model="mlp3", l1=0.001),
    dict(model="mlp", hidden=()),
    dict(model="mlp", hidden=(), l1=1e-5, l1_mode="proximal", standardize=True),
    dict(model="mlp", hidden=(300, 100), optimizer="sgd", lr=0.1, momentum=0.9, nesterov=True),
    dict(optimizer="sgd", nesterov=True, lr_scheduler="one_cycle", lr=0.1),
    dict(patience=3, epochs=20, monitor="val_accuracy", min_delta=0.01, start_from_epoch=5, restore="last"),
    dict(optimizer="adamw", weight_decay=0.01, penalize="all", l2=0.1, l2_form="norm", l1=1, l1_reduction="mean"),
    dict(model="mlp3", dataset="mnist_sample", norm="batch", norm_position="after", dropout=0.25, batch_size=32),
    dict(model="cnn1", dataset="fashion_mnist", norm="ghost", ghost_splits=4, freeze_gamma=True, batch_size=256),
    dict(model="cnn2", norm="none", dropout=0.0, rotation=7, rotation_fill=1, brightness=0.4, contrast=0.4),
    dict(model="cnn3", optimizer="sgd", momentum=0.9, lr_scheduler="step", lr_step_size=6, lr_gamma=0.5),
    dict(model="resnet", crop_padding=4, crop_mode="reflect", flip=True, rotation=15, lr_scheduler="one_cycle"),
    dict(model="resnet", affine_degrees=20, affine_translate=0.1, affine_scale=0.1, norm="group", group_size=2),
    dict(model="cnn1", affine_scale=0.1, interpolation="bilinear"),
    dict(model="cnn4", elastic=0.7, interpolation="bilinear"),
    dict(model="mlp3", label_smoothing=0.1, mixup=1, max_norm=3, average=0.99, lr_scheduler="cosine", warmup=1),
    dict(model="cnn3", cutout=8, channel_dropout=0.1, dropout=0.0, clip_norm=1, optimizer="sgd", momentum=0.9),
]
MANY = {Experiment(**settings) for settings in [*EXAMPLES.values(), *WITH_NORMS, *TOGETHER]}


def settings_of(model):
    """Return the fewest settings that a model needs."""
    return dict(model=model, hidden=(16, 8)) if model == "mlp" else dict(model=model)


# ---------------------------------------------------------------------------------------------------------------------
# Refusals

RANGES = [
    (
        dict(model="mlp9"),
        "--model mlp9: expected one of mlp1, mlp2, mlp3, mlp, cnn1, cnn2, cnn3, cnn4, resnet, resnet2",
    ),
    (dict(model=None), "--model: expected one of mlp1"),
    (dict(dataset="imagenet"), "--dataset imagenet: expected one of fashion_mnist, mnist, cifar10"),
    (dict(norm="instance"), "--norm instance: expected one of none, batch, ghost, layer, group, layer_chw"),
    (dict(norm="batch", norm_position="beside"), "--norm-position beside: expected one of before, after"),
    (dict(crop_padding=4, crop_mode="edge"), "--crop-mode edge: expected one of zero, reflect"),
    (dict(rotation=5, interpolation="cubic"), "--interpolation cubic: expected one of nearest, bilinear"),
    (dict(optimizer="lion"), "--optimizer lion: expected one of adam, adamw, sgd"),
    (dict(lr_scheduler="linear"), "--lr-scheduler linear: expected one of constant, step, cosine, one_cycle"),
    (dict(l1=1.0, l1_reduction="max"), "--l1-reduction max: expected one of sum, mean"),
    (dict(l2=1.0, l2_form="cube"), "--l2-form cube: expected one of square, norm"),
    (dict(l1=-1.0), "--l1 -1.0: expected a finite number, at least 0"),
    (dict(l1=float("nan")), "--l1 nan: expected a finite number, at least 0"),
    (dict(l1="0.1"), "--l1 '0.1': expected a finite number, at least 0"),
    (dict(l1=[0.1, 0.2]), "--l1 0.1 0.2: expected one number"),
    (dict(l2=float("inf")), "--l2 inf: expected a finite number, at least 0 and at most 1e+30"),
    (dict(l1=1e39), "--l1 1e+39: expected a finite number, at least 0 and at most 1e+30"),  # infinite as float32
    (dict(weight_decay=-0.1), "--weight-decay -0.1: expected a finite number, at least 0"),
    (dict(dropout=1.5), "--dropout 1.5: expected a finite number, at least 0 and below 1"),
    (dict(dropout=1.0), "--dropout 1.0: expected a finite number, at least 0 and below 1"),
    (dict(lr=0.0), "--lr 0.0: expected a finite number, above 0"),
    (dict(lr=True), "--lr: expected a finite number, above 0"),
    (dict(lr_scheduler="step", lr_step_size=0), "--lr-step-size 0: expected a whole number, at least 1"),
    (dict(lr_scheduler="step", lr_step_size=2, lr_gamma=0), "--lr-gamma 0.0: expected a finite number, above 0"),
    (dict(epochs=0), "--epochs 0: expected a whole number, at least 1"),
    (dict(epochs=1.5), "--epochs 1.5: expected a whole number, at least 1"),
    (dict(epochs=True), "--epochs: expected a whole number, at least 1"),
    (dict(epochs=None), "--epochs: expected a whole number, at least 1"),
    (dict(epochs=(3, 4)), "--epochs 3 4: expected one number"),
    (dict(batch_size=0), "--batch-size 0: expected a whole number, at least 1"),
    (dict(patience=0), "--patience 0: expected a whole number, at least 1"),
    (dict(patience=3, min_delta=-1.0), "--min-delta -1.0: expected a finite number, at least 0"),
    (dict(patience=3, start_from_epoch=16), "--start-from-epoch 16: expected at most --epochs 15"),
    (dict(crop_padding=17), "--crop-padding 17: expected a whole number, at least 0 and at most 16"),
    (dict(rotation=181), "--rotation 181.0: expected a finite number, at least 0 and at most 180"),
    (dict(rotation=1, rotation_fill=256), "--rotation-fill 256: expected a whole number, at least 0 and at most 255"),
    (dict(affine_degrees=-1), "--affine-degrees -1.0: expected a finite number, at least 0 and at most 180"),
    (dict(affine_translate=1.1), "--affine-translate 1.1: expected a finite number, at least 0 and at most 1"),
    (dict(elastic=-0.1), "--elastic -0.1: expected a finite number, at least 0 and at most 32"),
    (dict(affine_scale=1), "--affine-scale 1.0: expected a finite number, at least 0 and below 1"),
    (dict(brightness=-0.1), "--brightness -0.1: expected a finite number, at least 0"),
    (dict(contrast=-0.1), "--contrast -0.1: expected a finite number, at least 0"),
    (dict(warmup=0), "--warmup 0: expected a whole number, at least 1"),
    (dict(clip_norm=0), "--clip-norm 0.0: expected a finite number, above 0"),
    (dict(label_smoothing=0), "--label-smoothing 0.0: expected a finite number, above 0 and below 1"),
    (dict(label_smoothing=1), "--label-smoothing 1.0: expected a finite number, above 0 and below 1"),
    (dict(mixup=0), "--mixup 0.0: expected a finite number, above 0 and at most 1000"),
    (dict(mixup=1001), "--mixup 1001.0: expected a finite number, above 0 and at most 1000"),
    (dict(cutout=0), "--cutout 0: expected a whole number, at least 1 and at most 32"),
    (dict(cutout=33), "--cutout 33: expected a whole number, at least 1 and at most 32"),
    (dict(cutout=8.0), "--cutout 8.0: expected a whole number, at least 1 and at most 32"),
    (dict(model="cnn1", channel_dropout=1), "--channel-dropout 1.0: expected a finite number, above 0 and below 1"),
    (dict(max_norm=-1), "--max-norm -1.0: expected a finite number, above 0"),
    (dict(average=1), "--average 1.0: expected a finite number, above 0 and below 1"),
    (dict(norm="group", groups=0), "--groups 0: expected a whole number, at least 1"),
    (dict(norm="group", group_size=0), "--group-size 0: expected a whole number, at least 1"),
    (dict(norm="ghost", ghost_splits=3), "--ghost-splits 3: does not divide --batch-size 64 into parts of 2 or more"),
    (dict(norm="ghost", ghost_splits=64), "--ghost-splits 64: does not divide --batch-size 64"),
    (dict(norm="ghost", batch_size=33), "--ghost-splits 2: does not divide --batch-size 33"),
    (dict(norm="ghost", ghost_splits=0), "--ghost-splits 0: expected a whole number, at least 1"),
    (dict(model="mlp", hidden=(64, 0)), "--hidden 64 0: expected a whole number, at least 1 and at most 4096"),
    (dict(model="mlp", hidden=(4097,)), "--hidden 4097: expected a whole number, at least 1 and at most 4096"),
    (dict(model="mlp", hidden=64), "--hidden 64: expected a list of numbers"),
    (dict(split_seed=-1), "--split-seed -1: expected a whole number, at least 0"),
    (dict(split_seed=2**32), "--split-seed 4294967296: expected a whole number, at least 0 and at most 4294967295"),
    (dict(standardize=1), "--standardize 1: expected True or False"),
    (dict(flip=None), "--flip: expected True or False"),
    (dict(norm="batch", freeze_gamma="no"), "--freeze-gamma no: expected True or False"),
]

EXCLUDED = [
    (dict(model="mlp"), "--model mlp: needs --hidden with widths, such as --hidden 128 64, or --hidden alone"),
    (dict(model="mlp3", hidden=(64,)), "--hidden 64: needs --model mlp; the other networks have fixed widths"),
    (dict(model="cnn1", hidden=()), "--hidden: needs --model mlp; the other networks have fixed widths"),
    (dict(model="mlp", hidden=(), dropout=0.5), "--dropout 0.5: acts on hidden layers, and --hidden names none"),
    (dict(model="mlp", hidden=(), norm="layer"), "--norm layer: acts on hidden layers, and --hidden names none"),
    # Optimizers and learning rates
    (dict(momentum=0.9), "--momentum 0.9: needs --optimizer sgd"),
    (dict(optimizer="adamw", momentum=0.9), "--momentum 0.9: needs --optimizer sgd"),
    (
        dict(optimizer="sgd", momentum=0.9, lr_scheduler="one_cycle"),
        "--momentum 0.9: one_cycle sets the momentum itself; leave it out",
    ),
    (dict(optimizer="sgd", nesterov=True), "--nesterov: needs --momentum above 0"),
    (dict(nesterov=True), "--nesterov: needs --optimizer sgd"),
    (dict(nesterov=True, lr_scheduler="one_cycle"), "--nesterov: needs --optimizer sgd"),
    (dict(lr_scheduler="step"), "--lr-scheduler step: needs --lr-step-size, such as 5"),
    (dict(lr_step_size=3), "--lr-step-size 3: needs --lr-scheduler step"),
    (dict(lr_scheduler="one_cycle", lr_step_size=3), "--lr-step-size 3: needs --lr-scheduler step"),
    (dict(lr_gamma=0.5), "--lr-gamma 0.5: needs --lr-scheduler step"),
    (dict(lr_scheduler="one_cycle", lr_gamma=0.5), "--lr-gamma 0.5: needs --lr-scheduler step"),
    (dict(warmup=15), "--warmup 15: needs more --epochs than that"),
    (dict(epochs=3, warmup=3, lr_scheduler="cosine"), "--warmup 3: needs more --epochs than that"),
    *(
        (dict(warmup=2, lr_scheduler=name, **settings), "--warmup 2: needs --lr-scheduler constant or cosine")
        for name, settings in (("step", dict(lr_step_size=5)), ("one_cycle", {}))
    ),
    (dict(lr_scheduler="cosine", lr_step_size=3), "--lr-step-size 3: needs --lr-scheduler step"),
    # Other regularization
    (dict(mixup=0.2, batch_size=1), "--mixup 0.2: needs a second image in each batch, so --batch-size of at least 2"),
    (
        dict(average=0.9, l1=0.1, l1_mode="proximal"),
        "--average 0.9: its weights are never exactly zero; leave out --l1-mode proximal",
    ),
    *(
        (
            dict(channel_dropout=0.1, **settings_of(model)),
            "--channel-dropout 0.1: needs the channels of a CNN; an MLP takes --dropout",
        )
        for model in ("mlp1", "mlp2", "mlp3", "mlp")
    ),
    # Penalties
    (dict(l1_mode="proximal"), "--l1-mode proximal: needs --l1 above 0"),
    (dict(l2=0.1, l1_mode="proximal"), "--l1-mode proximal: needs --l1 above 0"),
    (dict(l1_reduction="mean"), "--l1-reduction mean: needs --l1 above 0"),
    (dict(l2=0.1, l1_reduction="mean"), "--l1-reduction mean: needs --l1 above 0"),
    (dict(l1=0.1, l1_mode="proximal", l1_reduction="mean"), "--l1-reduction mean: needs --l1-mode subgradient"),
    (dict(l2_form="norm"), "--l2-form norm: needs --l2 above 0"),
    (dict(l1=0.1, weight_decay=0.1, l2_form="norm"), "--l2-form norm: needs --l2 above 0"),
    (dict(penalize="all"), "--penalize all: needs --l1, --l2 or --weight-decay above 0"),
    # Augmentation
    (dict(crop_mode="reflect"), "--crop-mode reflect: needs --crop-padding above 0"),
    (dict(rotation_fill=1), "--rotation-fill 1: needs --rotation above 0"),
    (dict(affine_degrees=20, rotation_fill=1), "--rotation-fill 1: needs --rotation above 0"),
    *(
        (
            settings | dict(interpolation="bilinear"),
            "--interpolation bilinear: needs --rotation, --affine-degrees, --affine-scale or --elastic above 0",
        )
        for settings in ({}, dict(crop_padding=2, flip=True), dict(affine_translate=0.1))
    ),
    # Normalization
    (dict(norm_position="after"), "--norm-position after: needs a --norm other than none"),
    (dict(model="cnn1", norm="none", norm_position="after"), "--norm-position after: needs a --norm other than none"),
    (dict(model="cnn2", norm="none", norm_position="before"), "--norm-position before: needs a --norm other than none"),
    (dict(freeze_gamma=True), "--freeze-gamma: needs a --norm other than none"),
    (dict(model="resnet", norm="none", freeze_gamma=True), "--freeze-gamma: needs a --norm other than none"),
    (dict(norm="batch", batch_size=1), "--batch-size 1: --norm batch needs at least 2 images to average over"),
    (dict(norm="ghost", batch_size=1), "--batch-size 1: --norm ghost needs at least 2 images to average over"),
    (dict(model="cnn1", batch_size=1), "--batch-size 1: --norm batch needs at least 2 images to average over"),
    (dict(ghost_splits=2), "--ghost-splits 2: needs --norm ghost"),
    (dict(model="cnn1", ghost_splits=4), "--ghost-splits 4: needs --norm ghost"),
    (dict(norm="group", ghost_splits=4), "--ghost-splits 4: needs --norm ghost"),
    (dict(groups=4), "--groups 4: needs --norm group"),
    (dict(model="resnet", groups=2), "--groups 2: needs --norm group"),
    (dict(norm="layer", groups=1), "--groups 1: needs --norm group"),
    (dict(group_size=4), "--group-size 4: needs --norm group"),
    (dict(model="cnn1", group_size=4), "--group-size 4: needs --norm group"),
    (dict(norm="group", groups=2, group_size=4), "--group-size 4: excludes --groups 2; name one of them"),
    (dict(model="cnn1", norm="group", groups=2, group_size=4), "--group-size 4: excludes --groups 2"),
    *(
        (
            dict(norm="layer_chw", **settings_of(model)),
            f"--norm layer_chw: needs images in the hidden layers; --model {model} takes --norm layer",
        )
        for model in ("mlp1", "mlp2", "mlp3", "mlp")
    ),
    # Early stopping
    (dict(restore="last"), "--restore last: needs --patience, as every setting of early stopping does"),
    (dict(monitor="val_accuracy"), "--monitor val_accuracy: needs --patience, as every setting of early stopping does"),
    (dict(min_delta=0.1), "--min-delta 0.1: needs --patience, as every setting of early stopping does"),
    (dict(start_from_epoch=2), "--start-from-epoch 2: needs --patience, as every setting of early stopping does"),
]


@pytest.mark.parametrize(("settings", "expected"), RANGES)
def test_an_impossible_value_is_refused_with_its_flag_and_the_range(settings, expected):
    with pytest.raises(ValueError, match=rf"^{re.escape(expected)}"):
        Experiment(**settings)


@pytest.mark.parametrize(("settings", "expected"), EXCLUDED)
def test_settings_that_exclude_each_other_are_refused_with_a_flag_and_the_reason(settings, expected):
    with pytest.raises(ValueError, match=rf"^{re.escape(expected)}"):
        Experiment(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        dict(batch_size=1),
        dict(batch_size=1, norm="layer"),
        dict(batch_size=8, norm="ghost", ghost_splits=4),
        dict(model="cnn1", batch_size=1, norm="group"),
        dict(optimizer="sgd", nesterov=True, lr_scheduler="one_cycle"),
        dict(lr_scheduler="step", lr_step_size=3, lr_gamma=1.5),
        dict(l1=0.1, l1_mode="proximal", l2=0.1, l2_form="norm"),
        dict(weight_decay=0.1, penalize="all"),
        dict(start_from_epoch=15, patience=1),
        dict(warmup=14),
        dict(warmup=2, lr_scheduler="cosine", optimizer="sgd", momentum=0.9, nesterov=True),
        dict(mixup=1000, cutout=32, batch_size=2),
        dict(model="mlp", hidden=(), label_smoothing=0.1, mixup=0.2, max_norm=1.0, average=0.9, clip_norm=1.0),
        dict(crop_padding=16, rotation=180, rotation_fill=255, affine_degrees=180, affine_translate=1),
        dict(model="mlp", hidden=(4096,)),
    ],
)
def test_what_goes_together_or_lies_on_the_bound_is_taken(settings):
    experiment = Experiment(**settings)
    assert {name: getattr(experiment, name) for name in settings} == settings


# ---------------------------------------------------------------------------------------------------------------------
# The model's defaults


def test_every_model_has_defaults():
    assert MODEL_DEFAULTS.keys() == set(MODELS)


@pytest.mark.parametrize("model", MODELS)
def test_a_models_default_makes_the_same_experiment_whether_it_is_given_or_not(model):
    _, settings, groups = MODEL_DEFAULTS[model]
    experiment = Experiment(**settings_of(model))
    assert {name: getattr(experiment, name) for name in settings} == settings
    for names in ([], ["norm"], ["dropout"], ["norm", "norm_position"], list(settings)):
        given = Experiment(**settings_of(model), **{name: settings[name] for name in names})
        assert (given, given.name, given.command) == (experiment, experiment.name, experiment.command)

    grouped = Experiment(**settings_of(model), norm="group")
    assert dict(groups=grouped.groups, group_size=grouped.group_size) == dict(groups=None, group_size=None) | groups
    given = Experiment(**settings_of(model), norm="group", **groups)
    assert (given, given.name, given.command) == (grouped, grouped.name, grouped.command)

    ghosts = Experiment(**settings_of(model), norm="ghost")
    assert ghosts.ghost_splits == 2
    assert ghosts == Experiment(**settings_of(model), norm="ghost", ghost_splits=2)


def test_what_a_model_does_not_have_stays_none():
    experiment = Experiment(model="cnn1")
    assert (experiment.groups, experiment.group_size, experiment.ghost_splits) == (None, None, None)
    assert (experiment.hidden, experiment.dataset, experiment.lr_step_size) == (None, None, None)
    with_groups, with_size = (
        Experiment(model="cnn1", norm="group", groups=2),
        Experiment(model="resnet", norm="group", group_size=2),
    )
    assert (with_groups.groups, with_groups.group_size) == (2, None)
    assert (with_size.groups, with_size.group_size) == (None, 2)


@pytest.mark.parametrize("model", MODELS)
def test_every_model_has_a_data_set_whose_images_it_takes_with_its_default_groups(model):
    dataset, _, groups = MODEL_DEFAULTS[model]
    experiment = Experiment(**settings_of(model), norm="group")
    assert experiment.dataset_name == dataset
    assert experiment.dataset is None, "whether it can be had shows later"
    assert Experiment(**settings_of(model), dataset="mnist_sample").dataset_name == "mnist_sample"
    settings = settings_of(model) | groups
    network = models.build_network(shape=SOURCES[dataset].shape, seed=0, norm="group", **settings)
    assert models.count_parameters(network)


def test_data_sets_are_those_that_can_be_loaded():
    (choices,) = (setting.metadata["choices"] for setting in fields(Experiment) if setting.name == "dataset")
    assert choices == tuple(SOURCES)
    assert {"fashion_mnist", "mnist", "cifar10", "fashion_mnist_sample", "mnist_sample"} == set(SOURCES)


# ---------------------------------------------------------------------------------------------------------------------
# Names, commands and JSON


def test_every_setting_has_an_example():
    assert [*EXAMPLES] == [setting.name for setting in fields(Experiment)]


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_setting_that_is_not_the_default_is_in_name_and_command(name):
    settings, value = EXAMPLES[name], EXAMPLES[name][name]
    experiment = Experiment(**settings)
    assert parse_settings(shlex.split(experiment.command)[2:]) == settings
    shown = "true" if value is True else "300-100" if name == "hidden" else value
    assert (value if name == "model" else f"{name}={shown}") in experiment.name.split(",")
    assert experiment.whole_name.count("=") == len(settings.keys() - {"model"})


def test_an_experiment_comes_back_from_its_command_from_json_and_from_replace():
    for experiment in MANY:
        assert Experiment(**parse_settings(shlex.split(experiment.command)[2:])) == experiment, experiment.name
        assert Experiment(**json.loads(json.dumps(experiment.to_dict()))) == experiment, experiment.name
        assert replace(experiment) == experiment, experiment.name


def test_nothing_in_a_command_could_be_left_out_and_the_name_has_it_all():
    def experiment_of(settings):
        with contextlib.suppress(ValueError):
            return Experiment(**settings)

    for experiment in MANY:
        given = parse_settings(shlex.split(experiment.command)[2:])
        assert experiment_of(given) == experiment
        for name in given:
            assert experiment_of({key: value for key, value in given.items() if key != name}) != experiment, name
        assert experiment.whole_name.count("=") == len(given.keys() - {"model"})


def test_the_models_data_set_is_left_out_of_the_name_and_of_the_command_too():
    named, unnamed = Experiment(model="cnn1", dataset="mnist"), Experiment(model="cnn1")
    assert named != unnamed, "a data set that was named is never replaced by a sample"
    assert (named.name, named.command) == (unnamed.name, unnamed.command) == ("cnn1", "python train.py --model cnn1")


def test_different_experiments_have_different_names_and_commands_also_when_names_are_cut():
    long = dict(model="mlp", hidden=tuple(range(100, 150)), norm="batch", dropout=0.5)
    experiments = {*MANY, Experiment(**long, l1=0.1), Experiment(**long, l1=0.2)}
    assert len(experiments) > 200
    assert len({experiment.name for experiment in experiments}) == len(experiments)
    assert len({experiment.command for experiment in experiments}) == len(experiments)
    assert max(len(experiment.name) for experiment in experiments) == 94


def test_a_name_is_a_file_name_everywhere():
    for experiment in MANY:
        assert re.fullmatch(r"[a-z0-9_=.,+-]+", experiment.name)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (dict(), "mlp1"),
        (dict(model="mlp3", l1=0.001), "mlp3,l1=0.001"),
        (dict(model="mlp3", dataset="fashion_mnist", l1=0.001), "mlp3,l1=0.001"),
        (dict(model="mlp3", dataset="mnist", l1=0.001), "mlp3,dataset=mnist,l1=0.001"),
        (dict(model="cnn1", dataset="mnist"), "cnn1"),
        (dict(model="cnn1", dataset="fashion_mnist"), "cnn1,dataset=fashion_mnist"),
        (dict(model="resnet", dataset="cifar10", l1=1e-5), "resnet,l1=1e-05"),
        (dict(model="mlp", hidden=(300, 100)), "mlp,hidden=300-100"),
        (dict(model="mlp", hidden=()), "mlp,hidden=none"),
        (dict(standardize=True), "mlp1,standardize=true"),
        (dict(model="cnn2", dropout=0), "cnn2,dropout=0.0"),
        (dict(model="cnn2", dropout=0.01, norm="batch", norm_position="after"), "cnn2"),
        (dict(model="cnn1", norm="none"), "cnn1,norm=none"),
        (dict(model="cnn1", norm="group", group_size=4), "cnn1,norm=group"),
        (dict(model="cnn1", norm="group", groups=2), "cnn1,norm=group,groups=2"),
        (dict(model="resnet", norm="ghost", ghost_splits=4), "resnet,norm=ghost,ghost_splits=4"),
    ],
)
def test_names_say_what_differs_from_the_models_defaults(settings, name):
    assert Experiment(**settings).name == name


def test_whole_and_decimal_numbers_that_are_equal_are_one_experiment():
    whole, decimal = Experiment(l1=1, rotation=7), Experiment(l1=1.0, rotation=7.0)
    assert (whole, whole.name, whole.command) == (decimal, decimal.name, decimal.command)


def test_lists_are_taken_as_tuples():
    experiment = Experiment(model="mlp", hidden=[64, 32])
    assert experiment.hidden == (64, 32)
    assert experiment == Experiment(model="mlp", hidden=(64, 32))


@pytest.mark.parametrize(
    ("first", "settings", "name"),
    [
        ("mnist-norms", {}, "mnist-norms"),
        ("mnist-norms", dict(epochs=3, dataset="mnist_sample"), "mnist-norms,epochs=3,dataset=mnist_sample"),
        ("a", dict(hidden=(), flip=True, standardize=False), "a,hidden=none,flip=true,standardize=false"),
        ("x" * 94, {}, "x" * 94),
    ],
)
def test_a_folders_name_is_a_word_and_the_settings(first, settings, name):
    assert shorten(join_settings(first, settings)) == name


def test_a_name_that_is_too_long_is_cut_and_stays_different_from_others():
    whole = [join_settings("x" * 95, dict(epochs=epochs)) for epochs in (1, 2)]
    first, second = map(shorten, whole)
    assert len(first) == len(second) == 94
    assert first != second
    assert re.fullmatch(r"x{85}-[0-9a-f]{8}", first)


def test_the_whole_name_is_not_cut():
    long = Experiment(model="mlp", hidden=tuple(range(100, 150)), l1=0.1)
    assert long.whole_name == f"mlp,hidden={'-'.join(map(str, range(100, 150)))},l1=0.1"
    assert long.name == shorten(long.whole_name) != long.whole_name
    assert Experiment(l1=0.1).whole_name == Experiment(l1=0.1).name == "mlp1,l1=0.1"


# ---------------------------------------------------------------------------------------------------------------------
# Other experiments made from one


def test_replace_changes_one_setting_and_keeps_the_rest():
    experiment = Experiment(model="cnn2", epochs=25, rotation=7, rotation_fill=1)
    assert replace(experiment, l1=0.1) == Experiment(model="cnn2", epochs=25, rotation=7, rotation_fill=1, l1=0.1)
    assert replace(experiment, norm="none").norm_position == "after"
    assert replace(experiment, norm="none") == Experiment(
        model="cnn2", epochs=25, rotation=7, rotation_fill=1, norm="none"
    )
    assert replace(experiment, norm="group").group_size == 1
    assert replace(experiment, norm="ghost").ghost_splits == 2
    assert replace(replace(experiment, dropout=0.5), dropout=None) == experiment
    assert replace(replace(experiment, norm="group"), norm=None, group_size=None) == experiment
    with pytest.raises(ValueError, match=r"^--rotation-fill 1: needs --rotation above 0"):
        replace(experiment, rotation=0)


KEPT = dict(dataset="mnist_sample", lr=0.01, optimizer="sgd", momentum=0.9, epochs=30, rotation=7, standardize=True)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "settings",
    [
        dict(l1=0.1, l1_mode="proximal", l2=0.1, l2_form="norm", weight_decay=0.1, penalize="all"),
        dict(l1=0.1, l1_reduction="mean", dropout=0.5),
        dict(dropout=0.0, norm="none"),
        dict(norm="group", groups=2, norm_position="before"),
        dict(norm="group", group_size=2, norm_position="after", freeze_gamma=True),
        dict(norm="ghost", ghost_splits=4, freeze_gamma=True),
        dict(patience=2, monitor="val_accuracy", min_delta=0.1, start_from_epoch=2, restore="last"),
        dict(label_smoothing=0.1, mixup=0.2, cutout=8, max_norm=3.0, average=0.99),
    ],
)
def test_the_baseline_has_the_models_defaults_without_regularization(settings, model):
    experiment = Experiment(**settings_of(model), **KEPT, **settings)
    assert experiment.baseline() == Experiment(**settings_of(model), **KEPT)
    assert experiment.baseline().baseline() == experiment.baseline()


def test_the_baseline_keeps_the_learning_rate_and_the_clipping_and_drops_channel_dropout():
    kept = dict(model="cnn1", lr_scheduler="cosine", warmup=2, clip_norm=1.0)
    assert Experiment(**kept, channel_dropout=0.1).baseline() == Experiment(**kept)
