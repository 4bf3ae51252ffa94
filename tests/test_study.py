import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import choose

import studies
import train
from engine import records
from experiments import Experiment, UserError
from studies import STUDIES
from studies.study import LONGEST_GROUP, LONGEST_TITLE, SINGLE, Claim, Entry, Study, join_words

ROOT = Path(__file__).resolve().parents[1]
MINE = dict(
    name="mine",
    asks="Does dropout help?",
    experiments={
        "plain": Entry("own", Experiment(model="mlp1")),
        "half": Entry("own", Experiment(model="mlp1", dropout=0.5)),
        "half again": Entry("own", Experiment(model="mlp1", dropout=0.5)),
        "groups": Entry("own", Experiment(model="mlp1", norm="group")),
    },
    baseline="plain",
)


def make_claim(**settings):
    words = dict(kind="own", says="it does", subject="half", against=("plain",), metric="test_accuracy")
    return Claim(**words | dict(direction="higher") | settings)


# ---------------------------------------------------------------------------------------------------------------------
# What a study may say


@pytest.mark.parametrize(
    "name", ["", "Mine", "my study", "my_study", "mine-", "-mine", "a/b", "mine,epochs=3", "..", "m\n", "con", "com1"]
)
def test_a_name_that_is_not_small_letters_digits_and_hyphens_is_refused(name):
    assert Study(**MINE | dict(name="my-2nd-study")).name == "my-2nd-study"
    with pytest.raises(ValueError, match=f"^{re.escape(repr(name))}: expected a study's name of lower-case letters"):
        Study(**MINE | dict(name=name))


@pytest.mark.parametrize(
    "title", ["a/b", "..", ".a", "a ", "a.", "a\\b", "a\n", 'a"', "what?", "x:y", "", "NUL", "aux.1", "a $_$"]
)
def test_a_title_that_cannot_name_a_folder_is_refused(title):
    entries = dict(plain=Entry("own", Experiment()))
    assert Study(name="mine", asks="?", experiments=entries, baseline="plain").experiments
    with pytest.raises(ValueError, match="expected a title that can be a folder's name, without"):
        Study("mine", "?", entries | {title: Entry("own", Experiment(l1=0.1))}, baseline="plain")


@pytest.mark.parametrize(
    ("title", "says"),
    [
        ("é" * 38, rf"expected a title of at most {LONGEST_TITLE} bytes, found 76$"),
        ("e\u0301te", r"expected 'éte', which looks the same but has other characters \(NFC\)$"),
        ("Plain", r"^'Plain' and 'plain': would be one folder on Windows and macOS; rename one$"),
    ],
)
def test_a_title_that_some_system_cannot_take_is_refused(title, says):
    entries = dict(plain=Entry("own", Experiment()))
    assert Study("mine", "?", entries | {"é" * 37: Entry("own", Experiment(l1=0.1))}, baseline="plain").experiments
    with pytest.raises(ValueError, match=says):
        Study("mine", "?", entries | {title: Entry("own", Experiment(l1=0.1))}, baseline="plain")


def test_a_study_over_two_data_sets_and_a_forgotten_comma_are_refused():
    entries = dict(a=Entry("own", Experiment()), b=Entry("own", Experiment(l1=0.1)))
    with pytest.raises(ValueError, match="experiments on fashion_mnist and mnist: expected one data set"):
        Study("mine", "?", entries | dict(c=Entry("own", Experiment(model="cnn1"))), "a")
    with pytest.raises(ValueError, match=r"compared with 'b', expected a tuple of titles, such as \('third',\)"):
        Study("mine", "?", entries, "a", (Claim("own", "…", "a", ("b"), "test_accuracy", "higher"),))


def test_a_claim_that_compares_nothing_is_refused():
    with pytest.raises(ValueError, match=r"^claim 'it does': compared with \(\), expected a tuple of titles"):
        Study(**MINE, claims=(make_claim(against=()),))
    for constant, metric, expected in (
        (88.46, "test_accuracy", "compared with 88.46, expected a number from 0 to 1, such as 0.88 for 88 %"),
        (True, "zeros", "compared with True, expected a number from 0 to 1, such as 0.88 for 88 %"),
        (-2, "gap", "compared with -2, expected a number from -1 to 1"),
        (float("nan"), "test_loss", "compared with nan, expected a number from 0 to 1000000"),
    ):
        with pytest.raises(ValueError, match=f"^claim 'it does': {expected}$"):
            Study(**MINE, claims=(make_claim(against=constant, metric=metric),))
    with pytest.raises(ValueError, match=r"^claim 'it does': about no experiment, expected a title$"):
        Study(**MINE, claims=(make_claim(subject=()),))


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("seeds", 10.0, "a whole number of at least 1"),
        ("seeds", None, "a whole number of at least 1"),
        ("seeds", True, "a whole number of at least 1"),
        ("most_parameters", "8000", "a whole number of at least 1"),
        ("most_epochs", 2.5, "a whole number of at least 1"),
        ("mistakes", 10, r"two whole numbers above 0, such as \(10, 5\)"),
        ("most_parameters", 0, "a whole number of at least 1"),
        ("mistakes", (10, 0), r"two whole numbers above 0, such as \(10, 5\)"),
        ("mistakes", (10, 5, 2), r"two whole numbers above 0, such as \(10, 5\)"),
    ],
)
def test_numbers_of_a_study_that_are_not_whole_are_refused(setting, value, expected):
    with pytest.raises(ValueError, match=f"^{setting} is {re.escape(repr(value))}, expected {expected}$"):
        Study(**MINE | {setting: value})


def publish(**metrics):
    """Return the plain experiment with published metrics."""
    return dict(experiments=dict(plain=Entry("own", Experiment(), published=metrics)))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (dict(baseline="plan"), "'plan' is not one of the study's experiments: plain, half, half again, groups"),
        (dict(claims=[make_claim(subject="third")]), "claim 'it does': 'third' is not one of"),
        (dict(claims=[make_claim(subject=("half", "third"))]), "'third' is not one of"),
        (dict(claims=[make_claim(against=("plain", "third"))]), "'third' is not one of"),
        (dict(sweep=dict(third=("line", 1.0))), "sweep: 'third' is not one of"),
        (dict(mistakes_of=("third",)), "'third' is not one of"),
        (
            dict(claims=[make_claim(), make_claim(kind="as-run")]),
            "claim 'it does': 'as-run', expected one of as run, corrected",
        ),
        (dict(claims=[make_claim(metric="accuracy")]), "'accuracy', expected one of test_accuracy, test_loss"),
        (dict(claims=[make_claim(direction="better")]), "'better', expected one of higher, lower, not higher, same"),
        (
            dict(experiments=dict(plain=Entry("mine", Experiment()))),
            "'plain': 'mine', expected one of as run, corrected, control, own",
        ),
        (dict(experiments={}), "experiments is empty, expected at least one"),
        (dict(margin=0.0), "margin is 0.0, expected a share between 0 and 1, such as 0.005"),
        (publish(test_acuracy=0.9), "'plain', published: 'test_acuracy', expected one of test_accuracy, test_loss, "),
        (
            publish(test_accuracy=88),
            "'plain', published: test_accuracy 88, expected a number from 0 to 1, such as 0.88",
        ),
        (publish(zeros=30), "'plain', published: zeros 30, expected a number from 0 to 1, such as 0.88 for 88 %"),
        (publish(test_loss="0.3"), "'plain', published: test_loss '0.3', expected a number from 0 to 1000000"),
        (dict(experiments=dict(plain=Entry("own", Experiment(), None))), "'plain', note is None, expected a text"),
        (dict(claims=[make_claim(says=None)]), "claim None is None, expected a text"),
        (dict(claims=[make_claim(against=("plain", 50))]), "claim 'it does': compared with ('plain', 50), expected a"),
        (dict(asks=None), "asks is None, expected a text"),
        (dict(deviations="A claim."), "deviations is 'A claim.', expected a tuple of texts, with a comma after each"),
        (dict(sweep=dict(plain=0.1)), "sweep: 'plain' is 0.1, expected a line's name and a number above 0, such as"),
        (
            dict(sweep=dict(plain=("L1", 0))),
            "sweep: 'plain' has no place, because the axis is logarithmic; leave it out",
        ),
        (
            dict(sweep=dict(plain=("L1", -1))),
            "sweep: 'plain' is ('L1', -1), expected a line's name and a number above 0",
        ),
        (dict(sweep=[("plain", 1)]), "sweep is [('plain', 1)], expected a dict, such as {'weak': ('L1', 0.001)}"),
        (
            dict(experiments=dict(plain=Entry("own", Experiment(), "", 0.9))),
            "'plain', published is 0.9, expected a dict, such as dict(test_accuracy=0.88)",
        ),
        (
            dict(sweep={"plain": ("L1", 0.1), "half": ["L1", 0.1]}),
            "sweep: 'half' and 'plain' have the same place, ['L1', 0.1]",
        ),
    ],
)
def test_an_unknown_title_and_an_unknown_word_are_refused(settings, expected):
    claims = (make_claim(), make_claim(against=0.9), make_claim(subject=("half", "groups")))
    assert Study(**MINE, claims=claims).claims == claims
    with pytest.raises(ValueError, match=r"claim|not one of|'plain'|is empty|margin|expected") as caught:
        Study(**MINE | settings)
    assert expected in str(caught.value)


def test_a_claim_names_its_titles():
    assert make_claim().titles == ("half", "plain")
    assert make_claim(against=0.9).titles == ("half",)
    assert make_claim(subject=("half", "groups"), against=("plain",)).titles == ("half", "groups", "plain")


def test_more_epochs_than_a_study_allows_are_refused_and_left_out():
    assert Study(**MINE, most_epochs=15).most_epochs == 15  # the default
    says = "--epochs 15: mine allows at most 14"
    with pytest.raises(ValueError, match=f"^'plain': {says}$"):
        Study(**MINE, most_epochs=14)
    longer = Study(**MINE, most_epochs=15).with_overrides(dict(epochs=16))
    assert not longer.experiments  # a record can have any overrides, so they raise nothing
    with pytest.raises(UserError, match=r"^plain: cannot be trained with these settings \(--epochs 16: mine allows"):
        longer.choose(None)


# ---------------------------------------------------------------------------------------------------------------------
# Overrides


def test_settings_that_a_study_has_already_are_no_overrides():
    norms = STUDIES["mnist-norms"]

    def overrides(**settings):
        return norms.with_overrides(settings).overrides

    assert overrides() == {}
    assert overrides(epochs=20, batch_size=64, lr=0.015, dropout=0.04, dataset="mnist") == {}
    assert norms.with_overrides({}) == norms.with_overrides(dict(epochs=20)) == norms
    assert overrides(epochs=3, batch_size=64) == dict(epochs=3)
    assert overrides(dataset="mnist_sample") == dict(dataset="mnist_sample")
    assert overrides(norm="batch") == dict(norm="batch")  # some have another norm
    assert overrides(rotation=7) == {}  # 7 and 7.0 are equal


def test_a_data_set_that_was_named_is_no_override_but_has_to_be_found():
    norms = STUDIES["mnist-norms"]
    named = norms.with_overrides(dict(dataset="mnist"))
    assert {entry.experiment.dataset for entry in norms.experiments.values()} == {None}, "a sample may stand in"
    assert {entry.experiment.dataset for entry in named.experiments.values()} == {"mnist"}
    assert (named.group, named.overrides, named.deviations) == ("mnist-norms", {}, norms.deviations)
    assert named.experiments["GN"].published == norms.experiments["GN"].published


@pytest.mark.parametrize("settings", [dict(model="cnn3"), dict(epochs=3, hidden=())])
def test_the_networks_of_a_study_cannot_be_overridden(settings):
    with pytest.raises(ValueError, match=r"^--(model|hidden): a study has its own networks"):
        STUDIES["mnist-norms"].with_overrides(settings)


def test_overrides_apply_to_every_experiment_or_leave_it_out_with_the_reason():
    study = Study(**MINE)
    assert study.experiments["half"] == MINE["experiments"]["half"]
    shorter = study.with_overrides(dict(epochs=2))
    assert shorter.experiments["half"].experiment == Experiment(model="mlp1", dropout=0.5, epochs=2)
    assert (list(shorter.experiments), shorter.left_out) == (list(study.experiments), {})
    grouped = study.with_overrides(dict(groups=2))
    assert grouped.experiments.keys() == {"groups"}
    assert grouped.left_out.keys() == {"plain", "half", "half again"}
    assert grouped.titles == ("groups", "plain", "half", "half again")
    assert study.titles == shorter.titles == tuple(MINE["experiments"])
    why = "plain: cannot be trained with these settings (--groups 2: needs --norm group)"
    assert grouped.left_out["plain"] == f"{why}; leave them out, or name other experiments with --only"
    alone = Study(**MINE | dict(experiments=dict(plain=MINE["experiments"]["plain"])))
    assert alone.with_overrides(dict(groups=2)).left_out == dict(plain=f"{why}; leave them out")


def test_a_study_with_overrides_keeps_its_words_but_nothing_of_the_original():
    study = STUDIES["mnist-norms"]
    assert study.deviations
    changed = study.with_overrides(dict(epochs=3))
    for name in ("name", "asks", "baseline", "claims", "margin", "sweep", "mistakes_of", "left_out"):
        assert getattr(changed, name) == getattr(study, name)
    assert changed.deviations == ()
    assert {title: (entry.kind, entry.note, entry.published) for title, entry in changed.experiments.items()} == {
        title: (entry.kind, entry.note, {}) for title, entry in study.experiments.items()
    }
    assert study.overrides == {}
    assert study.experiments["GN"].published, "the study itself is as it was"


def test_overrides_add_up_in_the_order_of_the_settings():
    settings = dict(epochs=3, flip=True, dataset="mnist_sample")
    study = STUDIES["mnist-norms"].with_overrides(settings)
    assert list(study.overrides.items()) == [("dataset", "mnist_sample"), ("flip", True), ("epochs", 3)]
    one_by_one = STUDIES["mnist-norms"]
    for name, value in settings.items():
        one_by_one = one_by_one.with_overrides({name: value})
    assert one_by_one == study
    assert study.with_overrides(dict(epochs=2)).overrides == settings | dict(epochs=2)


def test_groups_by_number_replace_groups_by_size_and_the_other_way_round():
    by_size, by_number = STUDIES["mnist-norms"], STUDIES["cifar-norms"]
    group_norm = by_size.experiments["GN"].experiment
    assert group_norm.group_size == 4
    by_two = by_size.with_overrides(dict(groups=2)).experiments["GN"].experiment
    assert by_two == Experiment(**group_norm.to_dict() | dict(groups=2, group_size=None))
    assert by_number.experiments["group"].experiment.groups == 2
    assert by_number.with_overrides(dict(group_size=4)).experiments["group"].experiment.groups is None
    both = by_size.with_overrides(dict(groups=2, group_size=4))
    assert both.left_out["GN"].startswith("GN: cannot be trained with these settings (")


# ---------------------------------------------------------------------------------------------------------------------
# Which training a title stands for


def test_titles_with_the_same_settings_are_trained_as_the_first():
    study = Study(**MINE)
    assert study.trained_as == {"plain": "plain", "half": "half", "half again": "half", "groups": "groups"}
    without_dropout = study.with_overrides(dict(dropout=0.0)).trained_as
    assert without_dropout == {"plain": "plain", "half": "plain", "half again": "plain", "groups": "groups"}
    with_l1 = STUDIES["l1-path"].with_overrides(dict(l1=0.5)).trained_as
    assert with_l1["subgradient 0.003"] == "no L1"
    assert with_l1["proximal 0.003"] == "proximal 1e-05"


def test_no_title_is_trained_as_one_that_does_not_go_with_the_overrides():
    norms = STUDIES["mnist-norms"].with_overrides(dict(groups=2))
    assert {"BN", "LN"} <= norms.left_out.keys()
    assert norms.trained_as == {title: title for title in ("GN", "GN+L1, sum")}


def test_a_norm_beside_a_study_replaces_what_went_with_the_norms_of_its_experiments():
    norms = STUDIES["mnist-norms"].with_overrides(dict(norm="batch"))
    assert norms.left_out == {}
    batch = norms.experiments["GN"].experiment
    assert (batch.norm, batch.groups, batch.group_size) == ("batch", None, None)
    assert norms.trained_as["LN"] == "GN", "the first with these settings"
    kept = STUDIES["mnist-norms"].with_overrides(dict(norm="group")).experiments["GN"].experiment
    assert kept == STUDIES["mnist-norms"].experiments["GN"].experiment


def test_the_baseline_is_the_studys_under_the_title_that_it_is_trained_under():
    study = Study(**MINE | dict(baseline="half again"))
    assert {study.baseline_of(title) for title in study.experiments} == {"half"}
    left_out = Study(**MINE).with_overrides(dict(groups=2))
    assert left_out.baseline_of("groups") == "plain", "also where it does not go with the overrides"


# ---------------------------------------------------------------------------------------------------------------------
# Names on disk and commands


def test_the_group_is_named_after_the_study_and_its_overrides():
    norms = STUDIES["mnist-norms"]
    assert norms.group == "mnist-norms"
    changed = norms.with_overrides(dict(epochs=3, dataset="mnist_sample"))
    assert changed.group == "mnist-norms,dataset=mnist_sample,epochs=3"
    many = dict(rotation=9.0, rotation_fill=2, brightness=0.5, contrast=0.5, lr=0.02, crop_padding=1, flip=True, l1=0.1)
    groups = {norms.with_overrides(many | dict(split_seed=seed)).group for seed in (1, 2)}
    assert {len(group) for group in groups} == {LONGEST_GROUP}
    assert len(groups) == 2


def test_the_command_trains_the_study_with_its_overrides():
    study = STUDIES["mnist-norms"].with_overrides(dict(epochs=3, flip=True))
    command = study.command("--only", "no norm", "--seeds", "0-9")
    assert command == 'python train.py --study mnist-norms --flip --epochs 3 --only "no norm" --seeds 0-9'
    asked, titles = choose(shlex.split(command)[2:])
    assert (asked, titles) == (study, ["no norm"])
    assert Study(**MINE).command() == "python train.py --study mine"


@pytest.mark.parametrize(
    ("word", "joined"),
    [
        ("GN", "GN"),
        ("", '""'),
        ("LN, per pixel", '"LN, per pixel"'),
        ("Ann's runs", '"Ann\'s runs"'),
        (r"C:\my runs", r'"C:\my runs"'),
        ("C:\\my runs\\", "'C:\\my runs\\'"),  # a closing quote after a backslash would be part of the word
        ("100 $HOME", "'100 $HOME'"),
        ("100 %PATH%", "'100 %PATH%'"),
    ],
)
def test_words_are_quoted_for_every_shell_where_one_way_serves_all(word, joined):
    assert join_words("train.py", word) == f"train.py {joined}"
    assert shlex.split(joined) == [word]


def test_experiments_typed_by_hand_are_a_study_without_claims_and_with_a_baseline_each():
    plain, with_l1, alone = Experiment(), Experiment(l1=0.1), Experiment(model="mlp3", dropout=0.5)
    typed = {experiment.name: experiment for experiment in (plain, with_l1, alone)}
    study = Study.typed_by_hand(typed)
    assert (study.name, study.group, study.claims, study.overrides) == (SINGLE, SINGLE, (), {})
    assert {title: entry.experiment for title, entry in study.experiments.items()} == typed
    assert study.is_single
    assert not Study(**MINE).is_single
    assert {title: study.baseline_of(title) for title in study.experiments} == {
        "mlp1": "mlp1",
        "mlp1,l1=0.1": "mlp1",
        "mlp3,dropout=0.5": "mlp3",  # which is not among them
    }
    on_two_data_sets = {"mlp1": plain, "mlp1,dataset=mnist": replace(plain, dataset="mnist")}
    assert list(Study.typed_by_hand(on_two_data_sets).experiments) == list(on_two_data_sets)


# ---------------------------------------------------------------------------------------------------------------------
# A study of your own


def test_ten_lines_are_a_study_that_trains(tmp_path, monkeypatch, capsys):
    study = Study(
        name="mine",
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
    recorded, problems = records.read_all(tmp_path)
    assert problems == []
    assert {record.title: record.experiment.dropout for record in recorded} == {"plain": 0, "half": 0.5}
    assert {record.group for record in recorded} == {"mine,dataset=mnist_sample"}
    assert {(record.study, *record.overrides.items()) for record in recorded} == {("mine", ("dataset", "mnist_sample"))}
    accuracies = {record.title: record.results[0]["train_accuracy"] for record in recorded}
    assert 0.3 < accuracies["half"] < accuracies["plain"]
    capsys.readouterr()
    train.main([*where, "--list"])
    assert len(re.findall(r"^(plain|half) +own .* seed 0", capsys.readouterr().out, flags=re.MULTILINE)) == 2


@pytest.fixture
def project(tmp_path):
    """Copy the part of the project that a command needs before it imports torch."""
    (tmp_path / "engine").mkdir()
    engine = [f"engine/{name}.py" for name in ("__init__", "console", "flags", "seeds")]
    for file in ("experiments.py", "train.py", *engine):
        shutil.copy(ROOT / file, tmp_path / file)
    for folder in ("studies", "sources"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("samples", "__pycache__"))
    return tmp_path


def run_python(project, *words):
    """Run Python with the standard library alone: (exit status, stdout, stderr)."""
    command = [sys.executable, "-S", "-B", *words]
    environment = os.environ | dict(PYTHONPATH="")
    finished = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    return finished.returncode, finished.stdout, finished.stderr


STUDY_FILE = """\
from experiments import Experiment, UserError
from studies._shared import HALF
from studies.study import Claim, Entry, Study

MINE = Study(
    name="does-it-help",
    asks="Does dropout help?",
    experiments={
        "plain": Entry("own", Experiment()),
        "half": Entry("own", HALF),
    },
    baseline="plain",
    claims=(Claim("own", "it does", "half", ("plain",), "test_accuracy", "higher"),),
)
"""
SHARED_FILE = "from experiments import Experiment\n\nHALF = Experiment(dropout=0.5)\n"


def test_a_file_in_studies_is_found_without_editing_another(project):
    (project / "studies" / "mine.py").write_text(STUDY_FILE)
    (project / "studies" / "_shared.py").write_text(SHARED_FILE)
    (project / "studies" / "._mine.py").write_bytes(b"\0")  # macOS leaves such files
    printed = run_python(project, "-c", "import studies; print(list(studies.STUDIES))")
    assert printed[0] == 0, printed
    assert set(eval(printed[1])) == {*STUDIES, "does-it-help"}
    status, text, error = run_python(project, "train.py", "--help")
    assert (status, error) == (0, "")
    assert ",does-it-help," in text
    status, _, error = run_python(project, "train.py", "--study", "does-it-help", "--only", "third")
    assert status == 2
    assert error == 'train.py: error: --only third: expected experiments of does-it-help: "plain", "half"\n'


def test_a_file_of_studies_whose_name_cannot_be_imported_is_named(project):
    (project / "studies" / "my.own.py").write_text(STUDY_FILE)
    status, printed, error = run_python(project, "train.py", "--list")
    assert (status, printed) == (2, "")
    assert error == "error: studies/my.own.py: cannot be imported; rename it, without a dot before .py\n"


def test_a_study_imported_from_another_file_is_defined_once(project):
    (project / "studies" / "mine.py").write_text(
        "from dataclasses import replace\nfrom studies.mnist_norms import MNIST_NORMS\n\n"
        'ALMOST = replace(MNIST_NORMS, name="almost-the-same", baseline="GN")\n'
    )
    status, text, error = run_python(project, "-c", "import studies; print(*sorted(studies.STUDIES))")
    assert (status, error) == (0, "")
    assert text.split() == sorted([*STUDIES, "almost-the-same"])


def replaced(old, new):
    assert old in STUDY_FILE
    return STUDY_FILE.replace(old, new).replace("from studies._shared import HALF", "HALF = Experiment(dropout=0.5)")


def unexpected(kind, keyword):
    return f"TypeError: {kind}.__init__() got an unexpected keyword argument '{keyword}'"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (replaced("experiments={", "experiments=(("), ", line 11: SyntaxError: closing parenthesis '}' does not match"),
        (replaced("baseline=", "basline="), f", line 5: {unexpected('Study', 'basline')}; did you mean baseline?\n"),
        (
            replaced("Experiment())", "Experiment(l_1=1))"),
            f", line 9: {unexpected('Experiment', 'l_1')}; did you mean l1?",
        ),
        (replaced("Experiment())", "Experiment(colour=1))"), f", line 9: {unexpected('Experiment', 'colour')}\n"),
        (
            replaced('"plain": Entry("own", ', '"plain": Entry("own", nota='),
            f", line 9: {unexpected('Entry', 'nota')}; did you",
        ),
        (replaced("Experiment())", "dict(1, colour=1))"), ", line 9: TypeError: "),
        (
            replaced('"half", ("plain",)', '"third", ("plain",)'),
            ", line 5: claim 'it does': 'third' is not one of the study's exp",
        ),
        (replaced('"test_accuracy"', '"accuracy"'), ", line 5: claim 'it does': 'accuracy', expected one of test_acc"),
        (replaced("Experiment())", "Experiment(l1=-1))"), ", line 9: --l1 -1.0: expected a finite number, at least 0"),
        (replaced("does-it-help", "Does it help?"), ", line 5: 'Does it help?': expected a study's name of lower"),
        (replaced("Experiment()", "Experimant()"), ", line 9: NameError: name 'Experimant' is not defined"),
        ("\nimport turch\n", ", line 2: ModuleNotFoundError: No module named 'turch'"),
        ("def study():\n    raise OSError('a\\nb')\n\n\nstudy()\n", ", line 2: OSError: a b"),
        ("a\0b", ": SyntaxError: source code string cannot contain null bytes"),
        ("THIRD = 3\n", ": defines no Study; write NAME = Study(...), or move it away"),
        (
            replaced('Entry("own", Experiment())', "Experiment()"),
            ", line 5: 'plain': expected an Entry, such as Entry('own', Experiment()), found Experiment\n",
        ),
        (
            replaced('"higher"),)', '"higher"))'),
            ", line 5: claims: expected a tuple of Claim(...), with a comma after each",
        ),
        (replaced("claims=(Claim", 'claims=("it does", Claim'), ", line 5: claims: expected a tuple of Claim(...)"),
        (
            replaced("does-it-help", "mnist-norms"),
            ": the name 'mnist-norms' is taken by studies/mnist_norms.py; use another name",
        ),
        (
            replaced("does-it-help", "single"),
            ": the name 'single' is taken by experiments typed by hand; use another name",
        ),
    ],
    ids=lambda text: "" if "\n" in text else text[:40],
)
def test_a_mistake_in_a_file_of_studies_is_one_line_that_names_the_place(text, expected, project):
    check_mistake(project, text, expected, "train.py", "--study", "mnist-norms")


@pytest.mark.parametrize("words", [("-c", "import studies"), ("train.py", "--help")])
def test_a_mistake_in_a_file_of_studies_is_named_whatever_is_asked_for(words, project):
    check_mistake(project, "THIRD = 3\n", ": defines no Study; write NAME = Study(", *words)


def check_mistake(project, text, expected, *words):
    (project / "studies" / "nine.py").write_text(text)
    status, printed, error = run_python(project, *words)
    assert (status, printed) == (2, "")
    assert error.startswith(f"error: studies/nine.py{expected}")
    assert error.count("\n") == 1
