import re
from dataclasses import fields

import pytest

import models
import studies
import train
import training
from engine import plan, records
from experiments import LONGEST_NAME, Experiment
from studies import STUDIES
from studies.study import DIRECTIONS, FIGURES, KINDS, Claim, Entry, Study

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


def differences(one, other):
    return {setting.name for setting in fields(one) if getattr(one, setting.name) != getattr(other, setting.name)}


# ---------------------------------------------------------------------------------------------------------------------
# What the studies say


@pytest.mark.parametrize(("name", "title"), AS_RUN)
def test_what_is_as_run_has_the_originals_settings(name, title):
    assert differences(experiment(name, title), Experiment(**AS_RUN[name, title])) == set()


def test_every_experiment_as_run_is_among_those_above_and_has_published_figures():
    as_run = [(name, title) for name, title in ENTRIES if STUDIES[name].experiments[title].kind == "as run"]
    assert as_run == list(AS_RUN)
    assert {name for name, _ in as_run} == set(PUBLISHED)
    with_figures = [(name, title) for name, title in ENTRIES if STUDIES[name].experiments[title].published]
    assert with_figures == as_run


@pytest.mark.parametrize(("name", "title"), AS_RUN)
def test_published_figures_are_fractions_and_positive_losses(name, title):
    published = STUDIES[name].experiments[title].published
    assert {"train_accuracy", "test_accuracy"} <= published.keys() <= set(FIGURES)
    assert all(0.5 < published[figure] < 1 for figure in ("train_accuracy", "test_accuracy"))
    assert 0 < published.get("test_loss", 1) < 2
    assert 0 < published.get("epochs", 1) <= experiment(name, title).epochs


def test_published_figures_of_each_study_are_those_of_the_write_up():
    def percent(name, title, figure="test_accuracy"):
        return round(100 * STUDIES[name].experiments[title].published[figure], 3)

    assert percent("fashion-mlp", "L1") == 82.43
    assert percent("fashion-mlp", "early stopping", "train_accuracy") == 90.52
    assert percent("mnist-l1-l2-ghost", "L1+BN") == 99.478
    assert percent("mnist-dropout-ghost", "GBN", "train_accuracy") == 98.22
    assert percent("mnist-norms", "GN") == 99.534
    assert percent("cifar-norms", "batch") == 72.524
    assert STUDIES["cifar-norms"].experiments["group"].published["test_loss"] == 0.8316


def test_where_weight_decay_was_zero_two_titles_are_one_training():
    study = STUDIES["mnist-dropout-ghost"]
    assert experiment("mnist-dropout-ghost", "L2+BN").weight_decay == 0
    assert study.trained_as("L1+L2+BN") == study.trained_as("L1+BN") == "L1+BN"
    assert study.trained_as("BN") == study.trained_as("L2+BN") == "L2+BN"
    alone = {title for title in study.experiments if study.trained_as(title) == title}
    assert study.experiments.keys() - alone == {"L1+L2+BN", "BN"}


@pytest.mark.parametrize("name", [name for name in STUDIES if name != "mnist-dropout-ghost"])
def test_elsewhere_every_title_is_a_training_of_its_own(name):
    assert [STUDIES[name].trained_as(title) for title in STUDIES[name].experiments] == list(STUDIES[name].experiments)


def test_a_squared_l2_and_twice_its_weight_decay_differ_in_nothing_else():
    squared, doubled = experiment("fashion-mlp", "L2, squared"), experiment("fashion-mlp", "weight decay, doubled")
    assert squared.l2_form == "square"
    assert doubled.weight_decay == 2 * squared.l2 > 0
    assert squared.optimizer == "adam"  # under adamw they would differ
    assert differences(squared, doubled) == {"l2", "weight_decay"}
    assert STUDIES["fashion-mlp"].trained_as("weight decay, doubled") == "weight decay, doubled"


@pytest.mark.parametrize(
    ("name", "one", "other", "expected"),
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
def test_a_correction_changes_what_it_says_and_nothing_else(name, one, other, expected):
    assert differences(experiment(name, one), experiment(name, other)) == expected


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
    compared = {(claim.one, claim.others) for claim in study.claims}
    assert ("proximal 1e-05", ("subgradient 1e-05",)) in compared
    assert len(compared) == 6


def test_layer_normalization_per_pixel_has_the_parameters_that_its_note_names():
    entry = STUDIES["mnist-norms"].experiments["LN, per pixel"]
    network = plan.network_of("", entry.experiment)
    assert f"{models.parameter_count(network):,} parameters" in entry.note


# ---------------------------------------------------------------------------------------------------------------------
# What holds for every study, also for the next one


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
def test_the_words_of_a_study_are_known_and_its_figures_are_there_to_be_claimed(study):
    assert study.baseline in study.experiments
    assert {entry.kind for entry in study.experiments.values()} <= set(KINDS)
    assert study.asks.endswith(("?", "."))
    for claim in study.claims:
        assert claim.figure in FIGURES
        assert claim.direction in DIRECTIONS
        assert claim.kind in {entry.kind for entry in study.experiments.values()}
        titles = claim.others if isinstance(claim.others, tuple) else ()
        titles += (claim.one,) if isinstance(claim.one, str) else claim.one
        assert set(titles) <= study.experiments.keys()
        assert len(set(titles)) == len(titles)  # none is compared with itself
        assert titles or claim.others > 0


def test_a_corrected_claim_compares_different_trainings():
    compared = 0
    for study in STUDIES.values():
        for claim in study.claims:
            if claim.kind == "corrected" and isinstance(claim.others, tuple):
                assert study.trained_as(claim.one) not in map(study.trained_as, claim.others), claim.says
                compared += 1
    assert compared >= 15


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
def test_every_network_fits_its_images_and_any_data_may_be_had(study):
    for title, entry in study.experiments.items():
        assert entry.experiment.dataset is None  # so the sample can take its place
        network = plan.network_of(title, entry.experiment)
        assert models.parameter_count(network) > 5000


UNSAFE = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]|^[. ]|[. ]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.IGNORECASE)


@pytest.mark.parametrize(
    "name", ["a/b", "..", ".a", "a ", "a.", "nul", "a\\b", "a\n", 'a"', "what?", "x:y", "COM1.txt"]
)
def test_names_that_some_system_refuses_are_known_here(name):
    assert UNSAFE.search(name)


@pytest.mark.parametrize("title", ["a/b", "..", ".a", "a ", "a.", "a\\b", "a\n", 'a"', "what?", "x:y", ""])
def test_a_title_that_cannot_name_a_folder_is_refused(title):
    entries = dict(plain=Entry("own", Experiment()))
    assert Study(asks="?", experiments=entries, baseline="plain").experiments
    with pytest.raises(ValueError, match="expected a title that can be a folder's name anywhere"):
        Study(asks="?", experiments=entries | {title: Entry("own", Experiment(l1=0.1))}, baseline="plain")


def test_a_study_over_two_data_sets_and_a_forgotten_comma_are_refused():
    entries = dict(a=Entry("own", Experiment()), b=Entry("own", Experiment(l1=0.1)))
    with pytest.raises(ValueError, match="experiments on fashion_mnist and mnist: expected one data set"):
        Study("?", entries | dict(c=Entry("own", Experiment(model="cnn1"))), "a")
    with pytest.raises(ValueError, match=r"others 'b', expected titles, \('like this',\)"):
        Study("?", entries, "a", (Claim("own", "…", "a", ("b"), "test_accuracy", "higher"),))


@pytest.mark.parametrize("names", [list(STUDIES), *[list(study.experiments) for study in STUDIES.values()]])
def test_names_of_studies_and_titles_are_file_names_everywhere(names):
    assert not any(UNSAFE.search(name) for name in names)
    assert all(0 < len(name) <= LONGEST_NAME // 2 for name in names)
    assert len({name.casefold() for name in names}) == len(names)
    assert records.SINGLE not in names


# ---------------------------------------------------------------------------------------------------------------------
# A study of one's own


MINE = dict(
    asks="Does dropout help?",
    experiments={
        "plain": Entry("own", Experiment(model="mlp1")),
        "half": Entry("own", Experiment(model="mlp1", dropout=0.5)),
        "half again": Entry("own", Experiment(model="mlp1", dropout=0.5)),
        "groups": Entry("own", Experiment(model="mlp1", norm="group")),
    },
    baseline="plain",
)


def claim(**settings):
    words = dict(kind="own", says="it does", one="half", others=("plain",), figure="test_accuracy", direction="higher")
    return Claim(**words | settings)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (dict(baseline="plan"), "'plan' is none of the study's experiments: plain, half, half again, groups"),
        (dict(claims=[claim(one="third")]), "'third' is none of"),
        (dict(claims=[claim(one=("half", "third"))]), "'third' is none of"),
        (dict(claims=[claim(others=("plain", "third"))]), "'third' is none of"),
        (dict(claims=[claim(), claim(kind="as-run")]), "claim 'it does': 'as-run', expected one of as run, corrected"),
        (dict(claims=[claim(figure="accuracy")]), "'accuracy', expected one of test_accuracy, test_loss"),
        (dict(claims=[claim(direction="better")]), "'better', expected one of higher, lower, not higher, same"),
        (dict(experiments={}), "'plain' is none of the study's experiments"),
    ],
)
def test_a_title_that_is_not_there_and_a_word_that_means_nothing_are_refused(settings, expected):
    assert Study(**MINE, claims=(claim(), claim(others=0.9), claim(one=("half", "groups")))).claims
    with pytest.raises(ValueError, match=r"claim|none of") as caught:
        Study(**MINE | settings)
    assert expected in str(caught.value)


def test_settings_that_a_study_has_already_are_no_change():
    norms = STUDIES["mnist-norms"]
    assert norms.changes({}) == {}
    assert norms.changes(dict(epochs=20, batch_size=64, lr=0.015, dropout=0.04, dataset="mnist")) == {}
    assert norms.changes(dict(epochs=3, batch_size=64)) == dict(epochs=3)
    assert norms.changes(dict(dataset="mnist_sample")) == dict(dataset="mnist_sample")
    assert norms.changes(dict(norm="batch")) == dict(norm="batch")  # some have another one
    assert norms.changes(dict(rotation=7)) == {}  # 7 and 7.0 are one


@pytest.mark.parametrize("settings", [dict(model="cnn3"), dict(epochs=3, hidden=())])
def test_the_networks_of_a_study_are_its_own(settings):
    with pytest.raises(ValueError, match=r"^--(model|hidden): a study has its own networks"):
        STUDIES["mnist-norms"].changes(settings)


def test_changes_apply_to_every_experiment_or_are_refused_by_title():
    study = Study(**MINE)
    assert study.experiment("half", {}) == MINE["experiments"]["half"].experiment
    assert study.experiment("half", dict(epochs=2)) == Experiment(model="mlp1", dropout=0.5, epochs=2)
    with pytest.raises(ValueError, match=r"^plain: does not go with what was given: --groups 2: goes with --norm"):
        study.experiment("plain", dict(groups=2))


def test_titles_with_the_same_settings_are_trained_as_the_first():
    study = Study(**MINE)
    assert [study.trained_as(title) for title in study.experiments] == ["plain", "half", "half", "groups"]
    without = dict(dropout=0.0)
    assert [study.trained_as(title, without) for title in ("plain", "half", "half again")] == ["plain"] * 3
    with_l1 = dict(l1=0.5)
    assert STUDIES["l1-path"].trained_as("subgradient 0.003", with_l1) == "no L1"
    assert STUDIES["l1-path"].trained_as("proximal 0.003", with_l1) == "proximal 1e-05"


def test_groups_by_number_take_the_place_of_groups_by_size_and_the_other_way_round():
    by_size, by_number = STUDIES["mnist-norms"], STUDIES["cifar-norms"]
    assert by_size.experiments["GN"].experiment.group_size == 4
    assert by_size.experiment("GN", dict(groups=2)) == Experiment(
        **{**by_size.experiments["GN"].experiment.to_dict(), "groups": 2, "group_size": None}
    )
    assert by_number.experiments["group"].experiment.groups == 2
    assert by_number.experiment("group", dict(group_size=4)).groups is None
    with pytest.raises(ValueError, match="GN: does not go with what was given"):
        by_size.experiment("GN", dict(groups=2, group_size=4))


def test_one_that_does_not_go_with_the_changes_is_nobodys_first():
    norms = STUDIES["mnist-norms"]
    with pytest.raises(ValueError, match=r"^GN: does not go with"):
        norms.trained_as("GN", dict(norm="batch"))
    assert norms.trained_as("LN", dict(norm="batch")) == "LN"  # GN stands before it
    assert norms.trained_as("BN", dict(norm="batch")) == "LN"


def test_ten_lines_are_a_study_that_trains(tmp_path, monkeypatch, capsys):
    study = Study(
        asks="Does dropout help a small network?",
        experiments={
            "plain": Entry("own", Experiment(model="mlp1", batch_size=256, epochs=1)),
            "half": Entry("own", Experiment(model="mlp1", batch_size=256, epochs=1, dropout=0.5), "of each layer"),
        },
        baseline="plain",
        claims=(Claim("own", "dropout costs accuracy", "half", ("plain",), "train_accuracy", "lower"),),
    )
    monkeypatch.setitem(studies.STUDIES, "mine", study)
    where = ["--study", "mine", "--runs-dir", str(tmp_path), "--dataset", "mnist_sample"]
    for title in study.experiments:
        train.main([*where, "--seeds", "0", "--threads", "1", "--only", title])
    found, problems = records.read_all(tmp_path)
    assert problems == []
    assert {record.title: record.experiment.dropout for record in found} == {"plain": 0, "half": 0.5}
    assert {record.table for record in found} == {"mine,dataset=mnist_sample"}
    scores = {record.title: record.results[0]["train_accuracy"] for record in found}
    assert 0.3 < scores["half"] < scores["plain"]
    capsys.readouterr()
    train.main([*where, "--list"])
    assert len(re.findall(r"^(plain|half) +own .* seed 0", capsys.readouterr().out, flags=re.MULTILINE)) == 2


@pytest.mark.parametrize(("name", "title"), [("mnist-l1-l2-ghost", "L1+L2+GBN"), ("mnist-norms", "BN+L1")])
def test_penalties_of_the_originals_act_on_every_parameter_that_is_trained(name, title, digits):
    settings = experiment(name, title)
    network = training.textbook_network(settings, digits, seed=0)
    about = " ".join(plan.penalized(settings, network))
    trained = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    assert f"penalized: {trained:,} of {models.parameter_count(network):,}" in about
