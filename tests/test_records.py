import json
import math
import shlex
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import choose, make_result, override, read_files

import data
from engine import files, folder_names, records, run_files
from engine.files import RecordError
from experiments import Experiment, join_settings, shorten
from studies import STUDIES
from studies.study import LONGEST_GROUP, SINGLE, Study
from training import Run

EXPERIMENT = Experiment(dataset="mnist_sample", l1=0.001, epochs=2)
NORMS = STUDIES["mnist-norms"].with_overrides(dict(dataset="mnist_sample", epochs=2))


@pytest.fixture
def description(digits):
    return records.describe(EXPERIMENT, digits, EXPERIMENT.name)


@pytest.fixture
def folder(tmp_path, description):
    folder = tmp_path / "single" / EXPERIMENT.name
    records.open_folder(folder, description)
    return folder


def open_title(runs_dir, dataset, title, study=NORMS):
    """Open the folder of an experiment of a study, and return it."""
    folder = runs_dir / study.group / title
    experiment = study.experiments[title].experiment
    records.open_folder(folder, records.describe(experiment, dataset, title, study.name, study.overrides))
    return folder


def make_run(seed, accuracy=0.5, diverged=False, stop_reason="trained all 2 epochs"):
    rows = [
        dict.fromkeys(run_files.HISTORY, 0.1) | dict(seed=seed, epoch=epoch, val_loss=1 / epoch) for epoch in (1, 2)
    ]
    weights = {"1.weight": torch.full((2, 3), float(seed))}
    result = make_result(seed, accuracy, diverged=diverged, stop_reason=stop_reason)
    return Run(seed, result, rows, weights, np.eye(4, 3, dtype=np.float32))


def test_what_was_written_is_read_back(folder):
    run = make_run(3)
    path = records.write_run(folder, run)
    assert path == folder / "seed-3"
    assert run_files.read_history(path) == run.history
    assert torch.equal(run_files.read_weights(path)["1.weight"], run.weights["1.weight"])
    assert np.array_equal(run_files.read_log_probabilities(path), run.log_probabilities)
    (record,), problems = records.read_all(folder.parents[1])
    assert (record.experiment, record.results, problems) == (EXPERIMENT, {3: run.result}, [])
    assert (record.group, record.title) == ("single", EXPERIMENT.name)
    assert (record.study, record.overrides) == (None, {})
    assert record.run_folder(3) == path


def test_seeds_add_up_in_one_folder(folder, description):
    records.write_run(folder, make_run(10))
    records.open_folder(folder, description)
    records.write_run(folder, make_run(2))
    assert records.finished_seeds(folder) == [2, 10]


def test_only_whole_folders_with_their_own_names_are_left(folder):
    records.write_run(folder, make_run(0))
    records.write_run(folder, make_run(0, accuracy=0.75))
    assert sorted(path.name for path in folder.iterdir()) == ["experiment.json", "seed-0"]
    assert json.loads((folder / "seed-0" / "result.json").read_text())["test_accuracy"] == 0.75


def test_a_run_that_cannot_be_written_leaves_the_old_one(folder, monkeypatch):
    records.write_run(folder, make_run(0))

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full_disk)
    with pytest.raises(RecordError, match="No space left"):
        records.write_run(folder, make_run(0, accuracy=0.75))
    assert sorted(path.name for path in folder.iterdir()) == ["experiment.json", "seed-0"]
    assert json.loads((folder / "seed-0" / "result.json").read_text())["test_accuracy"] == 0.5


def test_study_title_and_overrides_are_in_the_description(tmp_path, digits):
    folder = open_title(tmp_path, digits, "LN, per pixel")
    assert folder == tmp_path / "mnist-norms,dataset=mnist_sample,epochs=2" / "LN, per pixel"
    written = json.loads((folder / "experiment.json").read_text())
    assert (written["format"], written["study"], written["title"]) == (3, "mnist-norms", "LN, per pixel")
    assert written["overrides"] == dict(dataset="mnist_sample", epochs=2)
    assert [path.name for path in folder.iterdir()] == ["experiment.json"]
    records.write_run(folder, make_run(0))
    (record,), problems = records.read_all(tmp_path)
    assert problems == []
    assert (record.study, record.title, record.overrides) == ("mnist-norms", "LN, per pixel", NORMS.overrides)
    assert (record.group, record.experiment) == (NORMS.group, NORMS.experiments["LN, per pixel"].experiment)


def test_one_experiment_under_two_titles_is_two_records(tmp_path, folder, digits):
    for title in ("L1+BN", "L1+L2+BN"):
        other = tmp_path / "a-study" / title
        records.open_folder(other, records.describe(EXPERIMENT, digits, title, "a-study"))
        records.write_run(other, make_run(0))
    records.write_run(folder, make_run(0))
    recorded, problems = records.read_all(tmp_path)
    assert [(record.study, record.group, record.title) for record in recorded] == [
        ("a-study", "a-study", "L1+BN"),
        ("a-study", "a-study", "L1+L2+BN"),
        (None, "single", EXPERIMENT.name),
    ]
    assert problems == []
    assert [record.title for record in records.read_all(tmp_path, "a-study")[0]] == ["L1+BN", "L1+L2+BN"]
    assert records.read_all(tmp_path, "another") == ([], [])


OTHERS = {
    "dataset checksum": lambda description: {
        **description,
        "dataset": description["dataset"] | dict(checksum="0" * 64),
    },
    "dataset train": lambda description: {**description, "dataset": description["dataset"] | dict(train=3599)},
    "experiment lr": lambda description: {**description, "experiment": replace(EXPERIMENT, lr=0.5).to_dict()},
    "experiment norm": lambda description: {**description, "experiment": replace(EXPERIMENT, norm="batch").to_dict()},
    "experiment colour": lambda description: {**description, "experiment": EXPERIMENT.to_dict() | dict(colour="red")},
    "format": lambda description: {**description, "format": 1},
    "study": lambda description: {**description, "study": "mnist-norms"},
    "title": lambda description: {**description, "title": "GN"},
    "overrides epochs": lambda description: {**description, "overrides": dict(epochs=3)},
    "note": lambda description: {**description, "note": "x"},
}


@pytest.mark.parametrize(("name", "other"), OTHERS.items(), ids=OTHERS.keys())
def test_another_experiment_in_the_folder_is_refused_with_the_field_and_the_ways_out(name, other, folder, description):
    records.write_run(folder, make_run(0))
    (folder / "experiment.json").write_text(json.dumps(other(description)))
    before = read_files(folder)
    with pytest.raises(RecordError) as caught:
        records.open_folder(folder, description)
    message = str(caught.value)
    assert message.startswith(f"{folder / 'experiment.json'}: recorded with {name} ")
    assert message.endswith("; name another --runs-dir, or replace it with --force, which discards seed 0")
    assert "\n" not in message
    assert read_files(folder) == before


def test_a_record_of_an_earlier_version_that_lacked_settings_is_of_the_same_experiment(folder, description):
    path = folder / "experiment.json"
    recorded = json.loads(path.read_text())
    modern = ("warmup", "clip_norm", "label_smoothing", "mixup", "cutout", "channel_dropout", "max_norm", "average")
    for name in (*modern, "interpolation", "elastic"):
        del recorded["experiment"][name]
    path.write_text(json.dumps(recorded))
    records.open_folder(folder, description)
    assert records.read_description(path).experiment == EXPERIMENT


def test_the_refusal_tells_both_values(folder, digits):
    edited = records.describe(replace(EXPERIMENT, lr=0.5), digits, EXPERIMENT.name)
    with pytest.raises(RecordError, match=r": recorded with experiment lr 0\.001, now 0\.5; name another"):
        records.open_folder(folder, edited)


def test_the_refusal_of_a_studys_experiment_names_its_title_and_what_force_discards(tmp_path, digits):
    folder = open_title(tmp_path, digits, "LN, per pixel")
    edited = records.describe(EXPERIMENT, digits, "LN, per pixel", "mnist-norms", NORMS.overrides)
    for seeds, lost in (((), "no finished run"), ((0, 1, 4), "seeds 0-1,4, checkpoint-5-9.pt")):
        for seed in seeds:
            records.write_run(folder, make_run(seed))
            (folder / "checkpoint-5-9.pt").touch()
        with pytest.raises(RecordError) as caught:
            records.open_folder(folder, edited)
        assert str(caught.value).endswith(f'replace it with --only "LN, per pixel" --force, which discards {lost}')


def test_what_force_discards_is_said_before_it_is_discarded(folder, digits, monkeypatch, capsys):
    for seed in (0, 1):
        records.write_run(folder, make_run(seed))
    monkeypatch.setattr(shutil, "rmtree", lambda _: pytest.fail(capsys.readouterr().out))
    with pytest.raises(pytest.fail.Exception) as caught:
        records.open_folder(folder, records.describe(replace(EXPERIMENT, lr=0.5), digits, EXPERIMENT.name), True)
    why = "recorded with experiment lr 0.001, now 0.5"
    assert str(caught.value) == f"{EXPERIMENT.name}: {why}; discarded by --force: seeds 0-1\n"


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_replace_replaces_another_experiment_and_its_runs_and_nothing_beside_it(other, folder, tmp_path, description):
    beside = tmp_path / "single" / "beside"
    records.open_folder(beside, description)
    for seed in (0, 1):
        records.write_run(folder, make_run(seed))
        records.write_run(beside, make_run(seed))
    (folder / "experiment.json").write_text(json.dumps(other(description)))
    records.open_folder(folder, description, replace=True)
    assert [path.name for path in folder.iterdir()] == ["experiment.json"]
    assert json.loads((folder / "experiment.json").read_text()) == json.loads(json.dumps(description))
    assert records.finished_seeds(beside) == [0, 1]
    records.open_folder(folder, description)


def test_an_experiment_in_a_linked_folder_is_replaced_in_its_place(tmp_path, digits, description):
    place, link = tmp_path / "elsewhere", tmp_path / "single" / EXPERIMENT.name
    records.open_folder(place, description)
    records.write_run(place, make_run(0))
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(place)
    records.open_folder(link, records.describe(replace(EXPERIMENT, lr=0.5), digits, EXPERIMENT.name), replace=True)
    assert link.is_symlink()
    assert [path.name for path in place.iterdir()] == ["experiment.json"]


def test_what_force_did_not_discard_to_the_end_is_not_taken_for_the_new_experiment(folder, digits, monkeypatch):
    for seed in (0, 1):
        records.write_run(folder, make_run(seed))
    edited = records.describe(replace(EXPERIMENT, lr=0.5), digits, EXPERIMENT.name)
    delete = shutil.rmtree

    def delete_once(path):
        delete(path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", delete_once)
        with pytest.raises(KeyboardInterrupt):
            records.open_folder(folder, edited, replace=True)
    assert len(records.finished_seeds(folder)) == 1
    with pytest.raises(RecordError, match=r"recorded with experiment lr 0.001, now 0.5"):
        records.open_folder(folder, edited)
    records.open_folder(folder, edited, replace=True)
    assert records.finished_seeds(folder) == []


def test_replace_leaves_the_same_experiment_and_its_runs_alone(folder, description):
    def read_with_times():
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}

    records.write_run(folder, make_run(0))
    before = read_with_times()
    records.open_folder(folder, description, replace=True)
    assert read_with_times() == before


def test_replace_makes_a_folder_that_does_not_exist(tmp_path, description):
    records.open_folder(tmp_path / "a-study" / "GN", description, replace=True)
    assert [path.name for path in (tmp_path / "a-study" / "GN").iterdir()] == ["experiment.json"]


def test_a_models_default_given_or_not_is_the_same_record(tmp_path, digits):
    experiment = Experiment(model="cnn1", dataset="mnist_sample")
    folder = tmp_path / "a-study" / "BN"
    records.open_folder(folder, records.describe(experiment, digits, "BN", "a-study"))
    given = replace(experiment, norm="batch", norm_position="before", dropout=0)
    records.open_folder(folder, records.describe(given, digits, "BN", "a-study"))
    records.write_run(folder, make_run(0))
    assert records.read_all(tmp_path)[0][0].experiment == experiment


@pytest.mark.parametrize(
    "settings",
    [
        dict(model="mlp", hidden=()),
        dict(model="mlp", hidden=(8, 4), norm="group"),
        dict(model="resnet", norm="ghost", ghost_splits=4, freeze_gamma=True),
        dict(model="cnn2", norm="group", l1=0.1, l1_reduction="mean", l2=0.1, l2_form="norm", penalize="all"),
        dict(model="cnn3", lr_scheduler="step", lr_step_size=3, lr_gamma=0.5, optimizer="sgd", momentum=0.9),
        dict(model="cnn1", norm="none", crop_padding=4, crop_mode="reflect", rotation=7, rotation_fill=1, flip=True),
    ],
)
def test_every_setting_is_recorded_and_read_back(settings, tmp_path, digits):
    experiment = Experiment(dataset="mnist_sample", **settings)
    description = records.describe(experiment, digits, experiment.name)
    folder = tmp_path / "single" / experiment.name
    records.open_folder(folder, description)
    records.write_run(folder, make_run(0))
    records.open_folder(folder, description)
    (record,), problems = records.read_all(tmp_path)
    assert (record.experiment, record.title, problems) == (experiment, experiment.name, [])
    assert json.loads((folder / "experiment.json").read_text())["experiment"].keys() == experiment.to_dict().keys()


def test_another_split_seed_is_another_experiment(digits, folder):
    experiment = replace(EXPERIMENT, split_seed=1)
    assert experiment.name != EXPERIMENT.name
    with pytest.raises(RecordError, match="recorded with experiment split_seed 0, now 1"):
        records.open_folder(folder, records.describe(experiment, digits, EXPERIMENT.name))


def test_a_runs_folder_that_is_a_file_is_refused(tmp_path, description):
    (tmp_path / "file").write_text("")
    for replace_it in (False, True):
        with pytest.raises(RecordError, match="--runs-dir"):
            records.open_folder(tmp_path / "file" / "single" / EXPERIMENT.name, description, replace_it)


def describe_in_json(form=3, **parts):
    described = dict(format=form, study=None, title=EXPERIMENT.name, overrides={}, experiment={}, dataset={})
    return json.dumps(described | parts)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "cannot be read"),
        ("[]", "expected a JSON object"),
        ('{"format": 99}', "format 99, expected 2 or 3"),
        ('{"format": 1, "experiment": {"model": "mlp1"}}', "format 1, expected 2 or 3; another version wrote it"),
        ('{"experiment": {"model": "mlp1"}}', "format None, expected 2 or 3"),
        ('{"format": [2], "experiment": {}}', "format [2], expected 2 or 3"),
        *(
            case
            for form in (2, 3)
            for case in (
                (describe_in_json(form, experiment=dict(model="mlp9")), "not an experiment of this version"),
                (describe_in_json(form, experiment=dict(colour="red")), "not an experiment of this version"),
                (describe_in_json(form, experiment=dict(epochs=[1, 2])), "(--epochs 1 2: expected one number)"),
                (describe_in_json(form, experiment=dict(groups=4)), "(--groups 4: needs --norm group)"),
                (describe_in_json(form, experiment=None), "not an experiment of this version"),
                (describe_in_json(form), "not an experiment of this version ('name')"),
                (
                    describe_in_json(form, experiment=dict(dataset="mnist"), dataset=dict(name="cifar10")),
                    "(of mnist, trained on cifar10)",
                ),
                (f'{{"format": {form}}}', "not an experiment of this version"),
                (describe_in_json(form, experiment=dict(lr=10**400)), "(int too large to convert to float)"),
                (
                    describe_in_json(form).replace("{}", '{"lr": 1' + "0" * 5000 + "}"),
                    "cannot be read (Exceeds the limit",
                ),
            )
        ),
        ('{"format": 3, "experiment": {}, "dataset": {}}', "not an experiment of this version ('study')"),
        (describe_in_json(title=5), "(study None and title 5, expected words)"),
        (describe_in_json(study=5), "(study 5 and title"),
        (describe_in_json(study=["mnist-norms"]), "(study ['mnist-norms'] and title"),
        (describe_in_json(overrides=None), "not an experiment of this version"),
        (describe_in_json(overrides="epochs"), "not an experiment of this version"),
        (describe_in_json(overrides=dict(colour="red")), "(overrides of colour, which a study does not take)"),
        (describe_in_json(overrides=dict(model="mlp3")), "(overrides of model, which a study does not take)"),
        (describe_in_json(overrides=dict(hidden=[3])), "(overrides of hidden, which a study does not take)"),
    ],
    ids=lambda text: text[:60],
)
def test_what_cannot_be_read_is_left_out_and_named(content, problem, folder, digits, tmp_path):
    records.write_run(folder, make_run(0))
    readable = tmp_path / "single" / "mlp1,dataset=mnist_sample"
    records.open_folder(readable, records.describe(Experiment(dataset="mnist_sample"), digits, readable.name))
    records.write_run(readable, make_run(1))
    (folder / "experiment.json").write_text(content)
    recorded, problems = records.read_all(tmp_path)
    assert [record.folder for record in recorded] == [readable]
    assert len(problems) == 1
    assert problem in problems[0]
    assert problems[0].startswith(f"{folder / 'experiment.json'}: ")
    assert "\n" not in problems[0]
    assert records.read_all(tmp_path, "mnist-norms") == ([], []), "a problem of another study is not this one's"


def test_runs_without_a_description_are_named(folder, tmp_path):
    records.write_run(folder, make_run(0))
    (folder / "experiment.json").unlink()
    path = folder / "experiment.json"
    assert records.read_all(tmp_path) == ([], [f"{path}: missing; the command that trained its runs writes it again"])


def test_a_run_that_lacks_a_file_is_not_finished(folder):
    for file in records.FILES:
        path = records.write_run(folder, make_run(0))
        assert records.finished_seeds(folder) == [0]
        (path / file).unlink()
        assert records.finished_seeds(folder) == []
        assert f"{path}: {file} missing" in records.read_all(folder.parents[1])[1][0]


def test_the_old_run_comes_back_if_the_new_one_cannot_take_its_place(folder, monkeypatch):
    records.write_run(folder, make_run(0))
    rename = files.os.rename

    def fail_for_the_new_one(source, target):
        if target == folder / "seed-0" and not str(source).endswith("-old"):
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(files.os, "rename", fail_for_the_new_one)
    with pytest.raises(RecordError, match="Input/output error"):
        records.write_run(folder, make_run(0, accuracy=0.75))
    assert sorted(path.name for path in folder.iterdir()) == ["experiment.json", "seed-0"]
    assert json.loads((folder / "seed-0" / "result.json").read_text())["test_accuracy"] == 0.5


def test_settings_that_were_edited_are_noticed(folder, tmp_path):
    records.write_run(folder, make_run(0))
    path = folder / "experiment.json"
    path.write_text(path.read_text().replace('"lr": 0.001', '"lr": 0.1'))
    recorded, problems = records.read_all(tmp_path)
    assert recorded == []
    assert "its settings or its folder's name were changed" in problems[0]


def test_a_renamed_folder_is_a_problem_in_one_line(folder, tmp_path, digits):
    records.write_run(folder, make_run(0))
    renamed = folder.rename(folder.with_name("mlp1"))
    of_study = open_title(tmp_path, digits, "GN")
    records.write_run(of_study, make_run(0))
    swapped = of_study.rename(of_study.with_name("LN"))
    recorded, problems = records.read_all(tmp_path)
    assert recorded == []
    changed, name = "its settings or its folder's name were changed", EXPERIMENT.name
    assert problems == [
        f"{swapped / 'experiment.json'}: holds GN; {changed}: if only the name, name it GN, else move it away",
        f"{renamed / 'experiment.json'}: holds {name}; {changed}: if only the name, name it {name}, else move it away",
    ]


def test_a_copy_of_what_was_typed_by_hand_may_have_any_name(folder, tmp_path):
    records.write_run(folder, make_run(0))
    copied = tmp_path / "backup" / "my first"
    shutil.copytree(folder, copied)
    recorded, problems = records.read_all(tmp_path)
    assert [(record.group, record.title, record.study) for record in recorded] == [
        ("backup", "my first", None),
        ("single", EXPERIMENT.name, None),
    ]
    assert problems == []


UNREADABLE = ['{"seed": ', "[]", '{"epochs": 1' + "0" * 5000 + "}", "[" * 100_000]


@pytest.mark.parametrize("content", UNREADABLE, ids=lambda content: content[:12])
def test_a_damaged_result_is_left_out_and_named(content, folder, tmp_path):
    for seed in (0, 1):
        records.write_run(folder, make_run(seed))
    (folder / "seed-1" / "result.json").write_text(content)
    (record,), problems = records.read_all(tmp_path)
    assert list(record.results) == [0]
    assert "seed-1" in problems[0]
    assert problems[0].endswith("; repeat the command that trained it")
    assert 1 not in records.finished_seeds(folder)


def test_a_run_that_was_copied_or_renamed_to_another_seed_is_left_out_and_named(folder, tmp_path):
    for seed in (0, 1):
        records.write_run(folder, make_run(seed))
    shutil.copytree(folder / "seed-0", folder / "seed-8")
    (folder / "seed-1").rename(folder / "seed-9")
    (record,), problems = records.read_all(tmp_path)
    assert list(record.results) == records.finished_seeds(folder) == [0]
    why = "the folder was renamed or copied: name it after its seed, or move it away"
    assert problems == [
        f"{folder / 'seed-8'}: result.json is of seed 0; {why}",
        f"{folder / 'seed-9'}: result.json is of seed 1; {why}",
    ]


def test_the_group_of_a_study_that_was_copied_or_renamed_is_left_out_and_named_once(tmp_path, digits):
    for title in ("GN", "LN"):
        records.write_run(open_title(tmp_path, digits, title), make_run(0))
    shutil.copytree(tmp_path / NORMS.group, tmp_path / "mnist-norms-old")
    recorded, problems = records.read_all(tmp_path)
    assert [record.group for record in recorded] == [NORMS.group] * 2
    why = f"holds records of {NORMS.group}; the folder was renamed or copied: name it {NORMS.group}, or move it away"
    assert problems == [f"{tmp_path / 'mnist-norms-old'}: {why}"]


def test_a_group_with_a_shortened_name_is_read(tmp_path, digits):
    scales = dict(affine_translate=0.1, affine_scale=0.1, brightness=0.2, contrast=0.2)
    study = override("mnist-norms", **scales, epochs=20_000, batch_size=500, lr=1e-9, flip=True)
    assert len(study.group) == LONGEST_GROUP
    records.write_run(open_title(tmp_path, digits, "GN", study), make_run(0))
    (record,), problems = records.read_all(tmp_path)
    assert (record.group, problems) == (study.group, [])


@pytest.mark.parametrize("is_single", [True, False])
def test_a_folder_with_a_longer_name_of_an_earlier_version_keeps_it(is_single, tmp_path, digits):
    long = dict(dataset="mnist_sample", epochs=2, batch_size=100, optimizer="adamw", lr=0.0123456, weight_decay=0.25)
    study = (
        Study.typed_by_hand({"mlp1": Experiment()})
        if is_single
        else override("mnist-norms", **long, flip=True, standardize=True)
    )
    experiment = Experiment(model="mlp3", **long) if is_single else study.experiments["GN"].experiment
    today = folder_names.locate(tmp_path, study, "GN", experiment)
    earlier = tmp_path / SINGLE / shorten(experiment.whole_name, 120) if is_single else None
    earlier = earlier or tmp_path / shorten(join_settings(study.name, study.overrides), 120) / "GN"
    about = () if is_single else (study.name, study.overrides)
    assert today != earlier
    records.open_folder(earlier, records.describe(experiment, digits, earlier.name, *about))
    records.write_run(earlier, make_run(0))

    assert folder_names.locate(tmp_path, study, "GN", experiment) == earlier
    (record,), problems = records.read_all(tmp_path)
    assert (record.folder, problems) == (earlier, [])
    assert (record.group, record.title) == (today.parent.name, today.name)

    records.open_folder(today, records.describe(experiment, digits, today.name, *about))
    records.write_run(today, make_run(1))
    (record,), problems = records.read_all(tmp_path)
    assert problems == [f"{earlier}: the same experiment as {today}; move its runs there"] or (
        problems == [f"{today}: the same experiment as {earlier}; move its runs there"]
    )


def test_a_folder_that_is_named_after_a_seed_in_another_way_is_named(folder, tmp_path):
    records.write_run(folder, make_run(0)).rename(folder / "seed-00")
    assert "expected a folder named after its seed" in records.read_all(tmp_path)[1][0]


def test_a_run_that_is_no_record_is_a_line_and_leaves_the_old_one(folder):
    records.write_run(folder, make_run(0))
    run = make_run(0)
    run.history[0]["colour"] = "red"
    with pytest.raises(RecordError, match="--force trains it again"):
        records.write_run(folder, run)
    assert sorted(path.name for path in folder.iterdir()) == ["experiment.json", "seed-0"]


def test_a_run_that_diverged_is_left_out_and_named_but_finished(folder, tmp_path):
    records.write_run(folder, make_run(0))
    records.write_run(folder, make_run(1, float("nan"), diverged=True, stop_reason="the loss became NaN"))
    (record,), problems = records.read_all(tmp_path)
    assert list(record.results) == [0]
    assert record.diverged == {1: "the loss became NaN"}
    assert problems == []
    assert records.finished_seeds(folder) == [0, 1]


def test_metrics_that_are_not_finite_are_null_however_deep_and_the_rest_is_as_it_was(folder):
    run = make_run(0)
    run.result |= dict(
        penalty=float("inf"), layers=[dict(l1_norm=float("nan"), zeros=3)], sparsity=dict(zeros=-math.inf)
    )
    text = (records.write_run(folder, run) / "result.json").read_text()
    written = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert written == run.result | dict(penalty=None, layers=[dict(l1_norm=None, zeros=3)], sparsity=dict(zeros=None))


def test_unfinished_folders_are_not_seen(folder, tmp_path):
    (folder / ".seed-0-abc").mkdir()
    (folder / "seed-x").mkdir()
    (folder / "seed-x" / "result.json").write_text("{}")
    (folder / "seed-5").mkdir()
    (folder / "seed-5" / "history.csv").write_text("seed,epoch\n")
    (folder / "seed-6").mkdir()  # empty, so an archive would lose it
    shutil.copytree(folder, tmp_path / ".old" / folder.name)
    shutil.copytree(folder, folder.with_name(".old"))
    assert records.finished_seeds(folder) == []
    recorded, problems = records.read_all(tmp_path)
    assert recorded == []
    assert [problem.split(":")[0] for problem in problems] == [str(folder / "seed-5"), str(folder / "seed-x")]


def test_the_data_sets_description_is_recorded(description, digits):
    assert description["dataset"]["checksum"] == digits.checksum == data.load("mnist_sample", "unused").checksum
    assert description["dataset"]["mean"] == list(digits.mean)
    assert (description["dataset"]["train"], description["dataset"]["test"]) == (3600, 700)


def test_a_run_whose_result_cannot_be_read_is_not_finished(folder):
    for seed in (0, 1):
        records.write_run(folder, make_run(seed))
    (folder / "seed-1" / "result.json").write_text("garbage")
    assert records.finished_seeds(folder) == [0]


@pytest.mark.parametrize("force", [False, True])
def test_a_damaged_description_costs_no_run(force, folder, description):
    records.write_run(folder, make_run(0))
    path = folder / "experiment.json"
    path.write_text("{garbage")
    with pytest.raises(RecordError, match=r"cannot be read .+; move it away, and this command .+ keeps seed 0$"):
        records.open_folder(folder, description, replace=force)
    path.rename(folder / "garbage")
    records.open_folder(folder, description, replace=force)
    assert records.finished_seeds(folder) == [0]
    assert records.read_description(path).experiment == EXPERIMENT


def test_a_run_in_the_place_of_another_seed_is_refused_before_a_new_run_replaces_it(folder, description):
    records.write_run(folder, make_run(3))
    (folder / "seed-3").rename(folder / "seed-5")
    with pytest.raises(RecordError, match=r"seed-5: result.json is of seed 3; .+, or move it away$"):
        records.open_folder(folder, description)
    (folder / "seed-5").rename(folder / "seed-3")
    records.open_folder(folder, description)
    assert records.finished_seeds(folder) == [3]


# ---------------------------------------------------------------------------------------------------------------------
# Damaged files, and the command that trains an experiment


def test_a_record_names_the_command_that_trains_it(tmp_path, digits, folder):
    of_study = records.read_description(open_title(tmp_path, digits, "LN, per pixel") / "experiment.json")
    study, titles = choose(shlex.split(of_study.command("--seeds", "3"))[2:])
    assert (study, titles) == (NORMS, ["LN, per pixel"])
    by_hand = records.read_description(folder / "experiment.json")
    study, (title,) = choose(shlex.split(by_hand.command("--seeds", "3"))[2:])
    assert study.experiments[title].experiment == EXPERIMENT


@pytest.mark.parametrize("study", [None, ""])
def test_a_record_of_no_study_is_none_of_the_study_whose_folder_it_lies_in(study, tmp_path, digits):
    """Or a forger could take the verdicts from a report."""
    folder = open_title(tmp_path, digits, "GN", override("mnist-norms"))
    records.write_run(folder, make_run(0))
    path = folder / "experiment.json"
    description = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(description | dict(study=study)), encoding="utf-8")
    found, (problem,) = records.read_all(tmp_path)
    assert found == []
    assert "of no study, in a folder of mnist-norms" in problem or "holds records of" in problem


@pytest.mark.parametrize("name", ["a\nb", "a $x$", "a\udcffb"])
def test_a_name_that_cannot_stand_in_a_report_is_refused(name, folder):
    strange = folder.rename(folder.with_name(name))
    with pytest.raises(RecordError, match="a name that cannot stand in a report; rename the folder"):
        records.read_description(strange / "experiment.json")


def test_a_group_of_any_name_has_files_with_short_names(tmp_path):
    record = records.Record(tmp_path / ("a" * 240) / "mlp1", Experiment(), dict(name="mnist"))
    assert len(record.group) == LONGEST_GROUP
