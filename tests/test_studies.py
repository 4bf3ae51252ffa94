from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import pytest
from helpers import UNSAFE

import models
from engine import plan, remarks
from experiments import Experiment
from studies import STUDIES
from studies.study import CLAIM_METRICS, DIRECTIONS, KINDS, PUBLISHED_METRICS, SINGLE
from training import build_network

ENTRIES = [(name, title) for name, study in STUDIES.items() for title in study.experiments]
PUBLISHED = ("fashion-mlp", "mnist-l1-l2-ghost", "mnist-dropout-ghost", "mnist-norms", "cifar-norms")

# The published assignments, every setting that is not a default written out, as their code ran.

EARLY_STOPPING = dict(epochs=20, patience=3, monitor="val_loss", min_delta=0, restore="last")
MLP = dict(optimizer="adam", lr=0.001, lr_scheduler="constant", epochs=15, batch_size=64, penalize="weights")
MLP1, MLP2, MLP3 = ({"model": model, **MLP} for model in ("mlp1", "mlp2", "mlp3"))

JITTER = dict(standardize=True, brightness=0.1, contrast=0.1)
AFFINE = dict(affine_translate=0.1, affine_scale=0.1)
A1 = dict(model="cnn1", norm="batch", norm_position="before", dropout=0, epochs=25, batch_size=128, **JITTER, **AFFINE)
A1 |= dict(affine_degrees=10, optimizer="sgd", lr=0.022, momentum=0.9)
A1 |= dict(lr_scheduler="step", lr_step_size=6, lr_gamma=0.1)
A1_GHOST = A1 | dict(norm="ghost", ghost_splits=2, freeze_gamma=True, batch_size=256)
A2 = dict(
    model="cnn2", norm="batch", norm_position="after", dropout=0.01, epochs=25, batch_size=128, **JITTER, **AFFINE
)
A2 |= dict(rotation=7, rotation_fill=1, affine_degrees=20, optimizer="sgd", lr=0.1, momentum=0.9)
A2 |= dict(lr_scheduler="step", lr_step_size=5, lr_gamma=0.5)
A2_GHOST = A2 | dict(norm="ghost", ghost_splits=2)
L1, DECAY = dict(l1=0.0001, penalize="all"), dict(weight_decay=0.001, penalize="all")

B = dict(
    model="cnn3", norm="batch", norm_position="after", dropout=0.04, standardize=True, brightness=0.4, contrast=0.4
)
B |= dict(rotation=7, rotation_fill=1, epochs=20, batch_size=64, optimizer="sgd", lr=0.015, lr_scheduler="one_cycle")
C = dict(model="resnet", norm="batch", norm_position="after", dropout=0.1, standardize=True, crop_padding=4)
C |= dict(crop_mode="reflect", flip=True, rotation=15, epochs=20, batch_size=512, optimizer="sgd", lr=0.1)
C |= dict(lr_scheduler="one_cycle", weight_decay=0.0001, penalize="all")

AS_RUN = {
    ("fashion-mlp", "simple"): MLP1,
    ("fashion-mlp", "second"): MLP2,
    ("fashion-mlp", "third"): MLP3,
    ("fashion-mlp", "dropout"): MLP3 | dict(dropout=0.25),
    ("fashion-mlp", "early stopping"): MLP3 | EARLY_STOPPING,
    ("fashion-mlp", "batch norm"): MLP3 | dict(norm="batch", norm_position="after"),
    ("fashion-mlp", "L1"): MLP3 | dict(l1=0.001, l1_mode="subgradient", l1_reduction="sum"),
    ("fashion-mlp", "L2"): MLP3 | dict(l2=0.001, l2_form="norm"),
    ("fashion-mlp", "weight decay"): MLP3 | dict(weight_decay=0.001),
    ("mnist-l1-l2-ghost", "L1+BN"): A1 | L1,
    ("mnist-l1-l2-ghost", "L2+BN"): A1 | DECAY,
    ("mnist-l1-l2-ghost", "L1+L2+BN"): A1 | L1 | DECAY,
    ("mnist-l1-l2-ghost", "GBN"): A1_GHOST,
    ("mnist-l1-l2-ghost", "L1+L2+GBN"): A1_GHOST | L1 | DECAY,
    ("mnist-dropout-ghost", "L1+BN"): A2 | L1,
    ("mnist-dropout-ghost", "L2+BN"): A2 | dict(weight_decay=0),
    ("mnist-dropout-ghost", "L1+L2+BN"): A2 | L1,
    ("mnist-dropout-ghost", "GBN"): A2_GHOST,
    ("mnist-dropout-ghost", "L1+L2+GBN"): A2_GHOST | L1,
    ("mnist-norms", "BN+L1"): B | L1 | dict(l1_reduction="mean"),
    ("mnist-norms", "GN"): B | dict(norm="group", group_size=4),
    ("mnist-norms", "LN"): B | dict(norm="layer"),
    ("mnist-norms", "LN, per pixel"): B | dict(norm="layer_chw"),
    ("cifar-norms", "batch"): C,
    ("cifar-norms", "layer"): C | dict(norm="layer"),
    ("cifar-norms", "group"): C | dict(norm="group", groups=2),
}


def experiment(name, title):
    return STUDIES[name].experiments[title].experiment


def differences(first, second):
    return {setting.name for setting in fields(first) if getattr(first, setting.name) != getattr(second, setting.name)}


def count_parameters(study, title):
    return models.count_parameters(
        plan.check_network(study.experiments[title].experiment, study, title, Path("unused"))
    )


# ---------------------------------------------------------------------------------------------------------------------
# What the studies say


@pytest.mark.parametrize(("name", "title"), AS_RUN)
def test_what_is_as_run_has_the_originals_settings(name, title):
    assert differences(experiment(name, title), Experiment(**AS_RUN[name, title])) == set()


def titles_by_study(pairs):
    """Return {name: its titles in their order} of (name, title)."""
    pairs = list(pairs)
    return {study: [title for name, title in pairs if name == study] for study, _ in pairs}


def test_every_experiment_as_run_is_among_those_above_and_has_published_metrics():
    as_run = [(name, title) for name, title in ENTRIES if STUDIES[name].experiments[title].kind == "as run"]
    assert titles_by_study(as_run) == titles_by_study(AS_RUN)
    assert {name for name, _ in as_run} == set(PUBLISHED)
    with_metrics = [(name, title) for name, title in ENTRIES if STUDIES[name].experiments[title].published]
    assert with_metrics == as_run


@pytest.mark.parametrize(("name", "title"), AS_RUN)
def test_published_metrics_are_fractions_and_positive_losses(name, title):
    published = STUDIES[name].experiments[title].published
    (train,) = published.keys() & {"train_accuracy", "running_train_accuracy"}
    assert "test_accuracy" in published.keys() <= set(PUBLISHED_METRICS)
    assert all(0.5 < published[metric] < 1 for metric in (train, "test_accuracy"))
    assert 0 < published.get("test_loss", 1) < 2
    assert 0 < published.get("epochs", 1) <= experiment(name, title).epochs


def test_published_metrics_of_each_study_are_those_of_the_write_up():
    def percent(name, title, metric="test_accuracy"):
        return round(100 * STUDIES[name].experiments[title].published[metric], 3)

    assert percent("fashion-mlp", "L1") == 82.43
    assert percent("fashion-mlp", "early stopping", "train_accuracy") == 90.52
    assert percent("mnist-l1-l2-ghost", "L1+BN") == 99.478
    assert percent("mnist-dropout-ghost", "GBN", "running_train_accuracy") == 98.22
    assert percent("mnist-norms", "GN") == 99.534
    assert percent("cifar-norms", "batch") == 72.524
    assert STUDIES["cifar-norms"].experiments["group"].published["test_loss"] == 0.8316


def test_where_weight_decay_was_zero_two_titles_are_one_training():
    study = STUDIES["mnist-dropout-ghost"]
    assert experiment("mnist-dropout-ghost", "L2+BN").weight_decay == 0
    assert study.trained_as["L1+L2+BN"] == study.trained_as["L1+BN"] == "L1+BN"
    assert study.trained_as["BN"] == study.trained_as["L2+BN"] == "L2+BN"
    alone = {title for title in study.experiments if study.trained_as[title] == title}
    assert study.experiments.keys() - alone == {"L1+L2+BN", "BN"}


@pytest.mark.parametrize("name", [name for name in STUDIES if name != "mnist-dropout-ghost"])
def test_elsewhere_every_title_is_a_different_training(name):
    assert STUDIES[name].trained_as == {title: title for title in STUDIES[name].experiments}


def test_a_squared_l2_and_twice_its_weight_decay_differ_in_nothing_else():
    squared, doubled = experiment("fashion-mlp", "L2, squared"), experiment("fashion-mlp", "weight decay, doubled")
    assert squared.l2_form == "square"
    assert doubled.weight_decay == 2 * squared.l2 > 0
    assert squared.optimizer == "adam"  # under adamw they would differ
    assert differences(squared, doubled) == {"l2", "weight_decay"}
    assert STUDIES["fashion-mlp"].trained_as["weight decay, doubled"] == "weight decay, doubled"


@pytest.mark.parametrize(
    ("name", "changed", "original", "expected"),
    [
        ("fashion-mlp", "L1, proximal", "L1", {"l1_mode"}),
        ("fashion-mlp", "L2, squared", "L2", {"l2_form"}),
        ("fashion-mlp", "early stopping, best", "early stopping", {"restore"}),
        ("mnist-l1-l2-ghost", "GBN, batch 128", "BN", {"norm", "ghost_splits"}),
        ("mnist-l1-l2-ghost", "L1+L2+GBN, batch 128", "L1+L2+BN", {"norm", "ghost_splits"}),
        ("mnist-l1-l2-ghost", "BN", "L1+BN", {"l1", "penalize"}),
        ("mnist-dropout-ghost", "L1+BN, 0.001", "L1+BN", {"l1"}),
        ("mnist-dropout-ghost", "L2+BN, true", "L2+BN", {"weight_decay", "penalize"}),
        ("mnist-dropout-ghost", "L1+L2+GBN, true", "L1+L2+BN, true", {"norm", "ghost_splits"}),
        ("mnist-norms", "BN+L1, sum", "BN+L1", {"l1_reduction"}),
        ("mnist-norms", "GN+L1, sum", "GN", {"l1", "penalize"}),
        ("cifar-norms", "batch, no decay", "batch", {"weight_decay", "penalize"}),
        ("cifar-norms", "batch+L2", "batch, no decay", {"weight_decay"}),
        ("cifar-norms", "batch+L1", "batch, no decay", {"l1"}),
    ],
)
def test_a_correction_changes_what_it_says_and_nothing_else(name, changed, original, expected):
    assert differences(experiment(name, changed), experiment(name, original)) == expected


def test_ghost_sizes_are_the_images_of_a_part():
    sizes = {title: experiment("ghost-size", title) for title in STUDIES["ghost-size"].experiments}
    assert list(sizes) == ["2", "4", "8", "16", "32", "64", "128"]
    assert sizes.pop("128") == Experiment(**A1)
    for title, ghost in sizes.items():
        assert ghost == Experiment(**A1 | dict(norm="ghost", ghost_splits=ghost.ghost_splits))
        assert ghost.batch_size / ghost.ghost_splits == int(title)


def test_the_path_of_l1_takes_both_ways_over_the_same_strengths():
    study = STUDIES["l1-path"]
    assert experiment("l1-path", "no L1") == Experiment(model="mlp3")
    path = {mode: [] for mode in ("subgradient", "proximal")}
    for title in study.experiments.keys() - {"no L1"}:
        mode, weight = title.split()
        assert experiment("l1-path", title) == Experiment(model="mlp3", l1=float(weight), l1_mode=mode)
        path[mode].append(float(weight))
    assert sorted(path["subgradient"]) == sorted(path["proximal"]) == [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3]
    compared = {(claim.subject, claim.against) for claim in study.claims}
    assert ("proximal 1e-05", ("subgradient 1e-05",)) in compared
    assert len(compared) == 6


def test_each_modern_setting_stands_alone_against_its_baseline():
    alone = {
        title: differences(experiment("modern", title), Experiment(model="mlp3")) for title in STUDIES["modern"].titles
    }
    assert alone == {
        "third": set(),
        "label smoothing": {"label_smoothing"},
        "mixup": {"mixup"},
        "cutout": {"cutout"},
        "max-norm": {"max_norm"},
        "dropout": {"dropout"},
        "dropout, max-norm": {"dropout", "max_norm"},
        "average": {"average"},
        "cosine": {"lr_scheduler"},
        "warm-up": {"warmup"},
        "clipping": {"clip_norm"},
    }
    study, plain = STUDIES["modern-cnn"], Experiment(model="cnn3", dropout=0.0)
    on_cnn = {title: differences(experiment("modern-cnn", title), plain) for title in study.titles}
    expected = dict(plain=set(), dropout={"dropout"}, cutout={"cutout"})
    assert on_cnn == expected | {"channel dropout": {"channel_dropout"}, "label smoothing": {"label_smoothing"}}
    assert experiment("modern-cnn", "channel dropout").channel_dropout == experiment("modern-cnn", "dropout").dropout
    assert (STUDIES["modern"].seeds, study.seeds) == (10, 5)


@pytest.mark.parametrize(
    ("name", "published", "limits"),
    [
        ("recipe-fashion", 0.8846, (120_000, None, 10)),
        ("recipe-mnist", 0.9957, (8_000, 20, 5)),
        ("recipe-cifar", 0.7327, (50_000, 20, 5)),
    ],
)
def test_each_step_of_a_recipe_changes_what_its_note_says_and_is_compared_with_the_one_before(name, published, limits):
    study = STUDIES[name]
    for before, step in pairwise(study.titles):
        changed = differences(experiment(name, step), experiment(name, before))
        changed -= {setting for setting in changed if getattr(experiment(name, step), setting) is None}  # left out
        words = study.experiments[step].note.split()
        assert changed == {word[2:].replace("-", "_") for word in words if word.startswith("--")}, step
        assert any((claim.subject, claim.against) == (step, (before,)) for claim in study.claims), step
    assert {claim.against for claim in study.claims if claim.subject == study.titles[-1]} >= {published}
    assert (study.most_parameters, study.most_epochs, study.seeds) == limits
    assert max(count_parameters(study, title) for title in study.titles) <= study.most_parameters


def test_layer_normalization_per_pixel_has_the_parameters_that_its_note_names():
    study = STUDIES["mnist-norms"]
    assert f"{count_parameters(study, 'LN, per pixel'):,} parameters" in study.experiments["LN, per pixel"].note


# ---------------------------------------------------------------------------------------------------------------------
# What holds for every study, also for the next one


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
def test_the_words_of_a_study_are_known_and_its_claims_speak_of_metrics_and_of_its_experiments(study):
    assert study.baseline in study.experiments
    assert {entry.kind for entry in study.experiments.values()} <= set(KINDS)
    assert study.asks.endswith(("?", "."))
    for claim in study.claims:
        assert claim.metric in CLAIM_METRICS
        assert claim.direction in DIRECTIONS
        assert claim.kind in {entry.kind for entry in study.experiments.values()}
        assert set(claim.titles) <= study.experiments.keys()
        assert len(set(claim.titles)) == len(claim.titles)  # none is compared with itself
        assert isinstance(claim.against, tuple) or claim.against > 0
        assert claim.titles


def test_a_corrected_claim_compares_different_trainings():
    compared = 0
    for study in STUDIES.values():
        for claim in study.claims:
            if claim.kind == "corrected" and isinstance(claim.against, tuple):
                trained_against = [study.trained_as[title] for title in claim.against]
                assert study.trained_as[claim.subject] not in trained_against, claim.says
                compared += 1
    assert compared >= 15


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
def test_every_network_fits_its_images_and_any_data_may_be_had(study):
    for title, entry in study.experiments.items():
        assert entry.experiment.dataset is None  # so the sample can take its place
        assert count_parameters(study, title) > 5000


@pytest.mark.parametrize(
    "name", ["a/b", "..", ".a", "a ", "a.", "nul", "a\\b", "a\n", 'a"', "what?", "x:y", "COM1.txt"]
)
def test_names_that_some_system_refuses_are_known_here(name):
    assert UNSAFE.search(name)


@pytest.mark.parametrize("names", [list(STUDIES), *[list(study.experiments) for study in STUDIES.values()]])
def test_names_of_studies_and_titles_are_file_names_everywhere(names):
    assert not any(UNSAFE.search(name) for name in names)
    assert all(0 < len(name) <= 25 for name in names)
    assert len({name.casefold() for name in names}) == len(names)
    assert SINGLE not in names


@pytest.mark.parametrize(("name", "title"), [("mnist-l1-l2-ghost", "L1+L2+GBN"), ("mnist-norms", "BN+L1")])
def test_penalties_of_the_originals_act_on_every_parameter_that_is_trained(name, title, digits):
    penalized = experiment(name, title)
    network = build_network(penalized, digits.shape, len(digits.classes), seed=0)
    (line,) = remarks.describe_penalties(penalized, network)
    trained = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    assert f"penalized: {trained:,} of {models.count_parameters(network):,}" in line
