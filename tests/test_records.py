import json
import math
from dataclasses import replace

import made_up
import numpy as np
import pytest
import torch

import data
from engine import records
from experiments import Experiment

EXPERIMENT = Experiment(dataset="mnist_sample", l1=0.001, epochs=2)


@pytest.fixture
def description(digits):
    return records.describe(EXPERIMENT, digits)


@pytest.fixture
def folder(tmp_path, description):
    return records.open_folder(tmp_path, records.SINGLE, EXPERIMENT.name, description)


def make_run(seed, accuracy=0.5, diverged=False, stop_reason="trained all 2 epochs"):
    rows = [dict.fromkeys(records.HISTORY, 0.1) | dict(seed=seed, epoch=epoch, val_loss=1 / epoch) for epoch in (1, 2)]
    weights = {"1.weight": torch.full((2, 3), float(seed))}
    return records.Run(
        seed,
        made_up.result(seed, accuracy, diverged=diverged, stop_reason=stop_reason),
        rows,
        weights,
        np.eye(4, 3, dtype=np.float32),
    )


def test_what_was_written_is_read_back(folder):
    run = make_run(3)
    path = records.write_run(folder, run)
    assert path == folder / "seed-3"
    assert records.read_history(path) == run.history
    assert torch.equal(records.read_weights(path)["1.weight"], run.weights["1.weight"])
    assert np.array_equal(records.read_log_probabilities(path), run.log_probabilities)
    (record,), problems = records.read_all(folder.parents[1])
    assert (record.experiment, record.results, problems) == (EXPERIMENT, {3: run.result}, [])
    assert (record.table, record.title) == ("single", EXPERIMENT.name)


def test_seeds_add_up_in_one_folder(folder, tmp_path, description):
    records.write_run(folder, make_run(10))
    assert records.open_folder(tmp_path, records.SINGLE, EXPERIMENT.name, description) == folder
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
    with pytest.raises(records.RecordError, match="No space left"):
        records.write_run(folder, make_run(0, accuracy=0.75))
    assert sorted(path.name for path in folder.iterdir()) == ["experiment.json", "seed-0"]
    assert json.loads((folder / "seed-0" / "result.json").read_text())["test_accuracy"] == 0.5


def test_the_folder_is_named_by_table_and_title(tmp_path, description, digits):
    folder = records.open_folder(tmp_path, "mnist-norms,epochs=2", "LN, per pixel", description)
    assert folder == tmp_path / "mnist-norms,epochs=2" / "LN, per pixel"
    assert json.loads((folder / "experiment.json").read_text()) == json.loads(json.dumps(description))
    assert [path.name for path in folder.iterdir()] == ["experiment.json"]
    records.write_run(folder, make_run(0))
    (record,), problems = records.read_all(tmp_path)
    assert problems == []
    assert (record.table, record.title) == ("mnist-norms,epochs=2", "LN, per pixel")
    assert record.experiment == EXPERIMENT


def test_one_experiment_under_two_titles_is_two_records(tmp_path, folder, description):
    for title in ("L1+BN", "L1+L2+BN"):
        records.write_run(records.open_folder(tmp_path, "a-study", title, description), make_run(0))
    records.write_run(folder, make_run(0))
    found, problems = records.read_all(tmp_path)
    assert [(record.table, record.title) for record in found] == [
        ("a-study", "L1+BN"),
        ("a-study", "L1+L2+BN"),
        ("single", EXPERIMENT.name),
    ]
    assert problems == []


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
    "note": lambda description: {**description, "note": "x"},
}


@pytest.mark.parametrize(("name", "other"), OTHERS.items(), ids=OTHERS.keys())
def test_another_experiment_in_the_folder_is_refused_with_the_field_and_the_ways_out(
    name, other, folder, tmp_path, description
):
    records.write_run(folder, make_run(0))
    (folder / "experiment.json").write_text(json.dumps(other(description)))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(records.RecordError) as caught:
        records.open_folder(tmp_path, records.SINGLE, EXPERIMENT.name, description)
    message = str(caught.value)
    assert message.startswith(f"{folder / 'experiment.json'}: recorded with {name} ")
    assert message.endswith("; name another --runs-dir, or let --force replace it")
    assert "\n" not in message
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_refusal_tells_both_values(folder, tmp_path, digits):
    edited = records.describe(replace(EXPERIMENT, lr=0.5), digits)
    with pytest.raises(records.RecordError, match=r": recorded with experiment lr 0\.001, now 0\.5; name another"):
        records.open_folder(tmp_path, records.SINGLE, EXPERIMENT.name, edited)


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_replace_replaces_another_experiment_and_its_runs_and_nothing_beside_it(other, folder, tmp_path, description):
    beside = records.open_folder(tmp_path, records.SINGLE, "beside", description)
    for seed in (0, 1):
        records.write_run(folder, make_run(seed))
        records.write_run(beside, make_run(seed))
    (folder / "experiment.json").write_text(json.dumps(other(description)))
    assert records.open_folder(tmp_path, records.SINGLE, EXPERIMENT.name, description, replace=True) == folder
    assert [path.name for path in folder.iterdir()] == ["experiment.json"]
    assert json.loads((folder / "experiment.json").read_text()) == json.loads(json.dumps(description))
    assert records.finished_seeds(beside) == [0, 1]
    assert records.open_folder(tmp_path, records.SINGLE, EXPERIMENT.name, description) == folder


def test_replace_leaves_the_same_experiment_and_its_runs_alone(folder, tmp_path, description):
    records.write_run(folder, make_run(0))
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}
    assert records.open_folder(tmp_path, records.SINGLE, EXPERIMENT.name, description, replace=True) == folder
    after = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}
    assert before == after


def test_replace_makes_a_folder_that_is_not_there(tmp_path, description):
    folder = records.open_folder(tmp_path, "a-study", "GN", description, replace=True)
    assert [path.name for path in folder.iterdir()] == ["experiment.json"]


def test_the_models_own_given_or_not_is_the_same_record(tmp_path, digits):
    experiment = Experiment(model="cnn1", dataset="mnist_sample")
    folder = records.open_folder(tmp_path, "a-study", "BN", records.describe(experiment, digits))
    given = replace(experiment, norm="batch", norm_position="before", dropout=0)
    assert records.open_folder(tmp_path, "a-study", "BN", records.describe(given, digits)) == folder
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
    description = records.describe(experiment, digits)
    folder = records.open_folder(tmp_path, records.SINGLE, experiment.name, description)
    records.write_run(folder, make_run(0))
    assert records.open_folder(tmp_path, records.SINGLE, experiment.name, description) == folder
    (record,), problems = records.read_all(tmp_path)
    assert (record.experiment, record.title, problems) == (experiment, experiment.name, [])
    assert json.loads((folder / "experiment.json").read_text())["experiment"].keys() == experiment.to_dict().keys()


def test_another_split_seed_is_another_experiment(digits, tmp_path, folder):
    experiment = Experiment(dataset="mnist_sample", l1=0.001, epochs=2, split_seed=1)
    description = records.describe(experiment, digits)
    assert records.open_folder(tmp_path, records.SINGLE, experiment.name, description) != folder
    with pytest.raises(records.RecordError, match="recorded with experiment split_seed 0, now 1"):
        records.open_folder(tmp_path, records.SINGLE, folder.name, description)


def test_a_runs_folder_that_is_a_file_is_refused(tmp_path, description):
    (tmp_path / "file").write_text("")
    for replace_it in (False, True):
        with pytest.raises(records.RecordError, match="--runs-dir"):
            records.open_folder(tmp_path / "file", records.SINGLE, EXPERIMENT.name, description, replace_it)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "cannot be read"),
        ("[]", "expected a JSON object"),
        ('{"format": 99}', "format 99, expected 2"),
        ('{"format": 1, "experiment": {"model": "mlp1"}}', "format 1, expected 2; another version wrote it"),
        ('{"experiment": {"model": "mlp1"}}', "format None, expected 2"),
        ('{"format": 2, "experiment": {"model": "mlp9"}, "dataset": {}}', "not an experiment of this version"),
        ('{"format": 2, "experiment": {"colour": "red"}, "dataset": {}}', "not an experiment of this version"),
        ('{"format": 2, "experiment": {"epochs": [1, 2]}, "dataset": {}}', "(--epochs 1 2: expected one number)"),
        ('{"format": 2, "experiment": {"groups": 4}, "dataset": {}}', "(--groups 4: goes with --norm group)"),
        ('{"format": 2, "experiment": {}, "dataset": {}}', "(dataset checksum is missing)"),
        ('{"format": 2}', "not an experiment of this version"),
        ('{"format": 2, "experiment": {"lr": 1' + "0" * 400 + '}, "dataset": {}}', "a whole number of 401 digits"),
    ],
)
def test_what_cannot_be_read_is_left_out_and_named(content, problem, folder, digits, tmp_path):
    records.write_run(folder, make_run(0))
    experiment = Experiment(dataset="mnist_sample")
    other = records.open_folder(tmp_path, records.SINGLE, experiment.name, records.describe(experiment, digits))
    records.write_run(other, make_run(1))
    (folder / "experiment.json").write_text(content)
    found, problems = records.read_all(tmp_path)
    assert [record.folder for record in found] == [other]
    assert len(problems) == 1
    assert problem in problems[0]
    assert problems[0].startswith(f"{folder / 'experiment.json'}: ")
    assert "\n" not in problems[0]


def test_a_run_that_lacks_a_file_is_not_finished(folder):
    for file in records.FILES:
        path = records.write_run(folder, make_run(0))
        assert records.finished_seeds(folder) == [0]
        (path / file).unlink()
        assert records.finished_seeds(folder) == []
        assert f"{path}: {file} missing" in records.read_all(folder.parents[1])[1][0]


def test_the_old_run_comes_back_if_the_new_one_cannot_take_its_place(folder, monkeypatch):
    records.write_run(folder, make_run(0))
    rename = records.os.rename

    def fail_for_the_new_one(source, target):
        if target == folder / "seed-0" and not str(source).endswith("-old"):
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(records.os, "rename", fail_for_the_new_one)
    with pytest.raises(records.RecordError, match="Input/output error"):
        records.write_run(folder, make_run(0, accuracy=0.75))
    assert sorted(path.name for path in folder.iterdir()) == ["experiment.json", "seed-0"]
    assert json.loads((folder / "seed-0" / "result.json").read_text())["test_accuracy"] == 0.5


def test_settings_that_were_edited_are_noticed(folder, tmp_path):
    records.write_run(folder, make_run(0))
    path = folder / "experiment.json"
    path.write_text(path.read_text().replace('"lr": 0.001', '"lr": 0.1'))
    found, problems = records.read_all(tmp_path)
    assert found == []
    assert "its settings or its folder's name were changed" in problems[0]


def test_in_a_study_the_folders_name_says_nothing_about_the_settings(folder, tmp_path):
    records.write_run(folder, make_run(0))
    folder.parent.rename(tmp_path / "a-study")
    (tmp_path / "a-study" / folder.name).rename(tmp_path / "a-study" / "L1")
    (record,), problems = records.read_all(tmp_path)
    assert (record.title, record.experiment, problems) == ("L1", EXPERIMENT, [])


LARGE = ['{"epochs": 1' + "0" * digits + "}" for digits in (400, 5000)]  # no float, and no number that Python reads


@pytest.mark.parametrize("content", ['{"seed": ', "{}", "[]", *LARGE, "[" * 100_000], ids=lambda content: content[:12])
def test_a_damaged_result_is_left_out_and_named(content, folder, tmp_path):
    for seed in (0, 1):
        records.write_run(folder, make_run(seed))
    (folder / "seed-1" / "result.json").write_text(content)
    (record,), problems = records.read_all(tmp_path)
    assert list(record.results) == [0]
    assert "seed-1" in problems[0]
    assert "the command that trained it trains it anew" in problems[0]
    assert 1 not in records.finished_seeds(folder)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (dict(test_accuracy=1.5), "test_accuracy is 1.5, expected 0 to 1"),
        (dict(val_accuracy=math.nan), "val_accuracy is 'nan', expected float"),
        (dict(test_loss=1e300), "test_loss is '1e+300', expected float"),
        (dict(layers=[]), "layers has none with weights"),
        (dict(layers=[dict(layer="0", weights=0, zeros=0, small=0)]), "or one without"),
        (dict(command="\ud800"), "surrogates not allowed"),
    ],
)
def test_figures_that_no_training_has_are_left_out_and_named(changes, says, folder, tmp_path):
    path = records.write_run(folder, make_run(0))
    (path / "result.json").write_text(json.dumps(make_run(0).result | changes))
    found, (problem,) = records.read_all(tmp_path)
    assert found == []
    assert says in problem


@pytest.mark.parametrize(
    ("dataset", "says"),
    [
        (dict(name="mnist2"), "dataset name is 'mnist2', expected one of fashion_mnist, "),
        (dict(test="700"), "dataset test is '700', expected int"),
        (dict(checksum=[]), "dataset checksum is '[]', expected str"),
    ],
)
def test_a_data_set_of_other_types_or_an_unknown_one_is_left_out_and_named(
    dataset, says, folder, tmp_path, description
):
    records.write_run(folder, make_run(0))
    described = description | dict(dataset=description["dataset"] | dataset)
    (folder / "experiment.json").write_text(json.dumps(described))
    found, (problem,) = records.read_all(tmp_path)
    assert found == []
    assert says in problem


def test_a_folder_that_is_named_after_a_seed_in_another_way_is_named(folder, tmp_path):
    records.write_run(folder, make_run(0)).rename(folder / "seed-00")
    assert "expected a folder named after its seed" in records.read_all(tmp_path)[1][0]


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(2, 3, dtype=torch.float16),
        torch.ones(2, 3, dtype=torch.complex64),
        torch.ones(2, 3).to_sparse(),
        torch.ones(2, 3, device="meta"),
        torch.nn.Parameter(torch.ones(2, 3)),
        torch.ones(1, 3).expand(2, 3),
        [1.0],
        torch.ones(5),
    ],
    ids=lambda tensor: f"{type(tensor).__name__} {getattr(tensor, 'dtype', '')}",
)
def test_weights_that_are_no_plain_tensors_or_of_other_layers_are_refused(tensor, folder):
    path = records.write_run(folder, make_run(0))
    layers = [dict(layer="1", weights=6)]
    assert records.read_weights(path, layers)["1.weight"].shape == (2, 3)
    torch.save({"1.weight": tensor}, path / "weights.pt")
    with pytest.raises(records.RecordError, match=r"weights.pt: cannot be read .+; train it anew with --force"):
        records.read_weights(path, layers)
    torch.save({"1.weight": torch.ones(2, 3), 5: torch.ones(1)}, path / "weights.pt")
    with pytest.raises(records.RecordError, match="expected named plain tensors"):
        records.read_weights(path, layers)
    torch.save({"2.weight": torch.ones(2, 3)}, path / "weights.pt")
    with pytest.raises(records.RecordError, match=r"'1\.weight'"):
        records.read_weights(path, layers)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_predictions_that_are_not_finite_are_refused(value, folder):
    run = make_run(0)
    run.log_probabilities[1, 2] = value
    with pytest.raises(records.RecordError, match="a log-probability is not finite"):
        records.read_log_probabilities(records.write_run(folder, run))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (dict(epoch=3), "its epochs do not count from 1"),
        (dict(val_loss=math.nan), "a figure is not finite"),
        (dict(train_accuracy=1e300), "a figure is not finite"),
        (dict(lr="x"), "could not convert"),
    ],
)
def test_a_history_that_is_none_is_refused(changes, says, folder):
    run = make_run(0)
    run.history[1] |= changes
    with pytest.raises(records.RecordError, match=says):
        records.read_history(records.write_run(folder, run))


def test_a_run_that_is_no_record_is_a_line_and_leaves_the_old_one(folder):
    records.write_run(folder, make_run(0))
    run = make_run(0)
    run.history[0]["colour"] = "red"
    with pytest.raises(records.RecordError, match="--force trains it anew"):
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


def test_figures_that_are_no_numbers_are_null_however_deep_and_the_rest_is_as_it_was(folder):
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
    assert records.finished_seeds(folder) == []
    found, problems = records.read_all(tmp_path)
    assert found == []
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


def test_a_damaged_description_names_the_way_out_and_force_takes_it(folder, tmp_path, description):
    records.write_run(folder, make_run(0))
    (folder / "experiment.json").write_text("{garbage")
    with pytest.raises(records.RecordError, match=r"cannot be read .+ or let --force replace it"):
        records.open_folder(tmp_path, records.SINGLE, folder.name, description)
    assert records.finished_seeds(folder) == [0]
    assert records.open_folder(tmp_path, records.SINGLE, folder.name, description, replace=True) == folder
    assert records.finished_seeds(folder) == []
