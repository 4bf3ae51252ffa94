"""Records that no training made are left out and named before anything else reads them."""

import json
import math
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import FIRST, PLAIN, change_result, end_history, find_failures, override, refresh, write_runs

from engine import records
from experiments import Experiment
from grading.untrusted import LIMITS, Limits, read_runs


def again(seed):
    return f"train it again: python train.py --dataset mnist_sample --seeds {seed} --force"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (dict(test_accuracy=1.5), "test_accuracy is 1.5, expected 0 to 1"),
        (dict(val_accuracy=math.nan), "val_accuracy is 'nan', expected float"),
        (dict(test_loss=1e300), "test_loss is '1e+300', expected float"),
        (dict(epochs=10**400), "expected int"),
        (dict(layers=[]), "layers is empty, or "),
        (dict(layers=[dict(layer="0", weights=0, zeros=0, small=0)]), "or a layer in it has no weights"),
        (dict(versions={}), "versions torch is missing"),
    ],
)
def test_a_result_that_no_training_has_is_left_out_and_named_with_the_way_out(changes, says, runs, digits):
    folder = write_runs(runs, digits, PLAIN, [0.9, 0.8])
    change_result(folder / "seed-1", **changes)
    (record,), (problem,) = read_runs(runs)
    assert list(record.results) == [0]
    assert problem.startswith(f"{folder / 'seed-1' / 'result.json'}: ")
    assert says in problem
    assert problem.endswith(f"; {again(1)}")
    assert records.finished_seeds(folder) == [0, 1], "without --force its command would skip it"


def test_a_result_that_cannot_be_read_is_left_out_and_its_command_trains_it_again(runs, digits):
    folder = write_runs(runs, digits, PLAIN, [0.9, 0.8])
    change_result(folder / "seed-0", command="\ud800")
    (record,), (problem,) = read_runs(runs)
    assert list(record.results) == [1]
    assert "surrogates not allowed" in problem
    assert problem.endswith("; repeat the command that trained it")


def test_an_experiment_of_which_nothing_is_left_is_no_record_unless_a_run_diverged(runs, digits):
    folder = write_runs(runs, digits, PLAIN, [0.9, 0.8])
    change_result(folder / "seed-0", test_accuracy=2)
    change_result(folder / "seed-1", diverged=True, stop_reason="its loss was not finite", test_accuracy=2)
    end_history(folder / "seed-1")
    (record,), problems = read_runs(runs)
    assert (record.results, record.diverged, len(problems)) == ({}, {1: "its loss was not finite"}, 1)
    change_result(folder / "seed-1", diverged=False)
    found, problems = read_runs(runs)
    assert (found, len(problems)) == ([], 2)


@pytest.mark.parametrize("loss", ["nan", "inf", "-inf", "1e60"])
def test_a_run_is_taken_as_diverged_only_if_its_history_ends_so(loss, runs, digits):
    folder = write_runs(runs, digits, PLAIN, [0.9, 0.8])
    change_result(folder / "seed-1", diverged=True, stop_reason="its loss was not finite")
    (record,), (problem,) = read_runs(runs)
    assert (list(record.results), record.diverged) == ([0], {})
    assert "its last epoch's numbers are finite, but the run is said to have diverged" in problem
    assert problem.endswith(again(1))
    end_history(folder / "seed-1", loss)
    (record,), problems = read_runs(runs)
    assert (list(record.results), list(record.diverged), problems) == ([0], [1], [])
    change_result(folder / "seed-1", diverged=False)
    (record,), (problem,) = read_runs(runs)
    assert (list(record.results), "a number is not finite" in problem) == ([0], True)


@pytest.mark.parametrize("text", ["=1+1", " =1+1", "a line\n", "a\u2028b", "a\x85", "\x1b[2J", "x" * 10_001])
@pytest.mark.parametrize("name", ["command", "stop_reason", "commit", "torch"])
def test_a_text_that_cannot_stand_in_a_line_or_a_cell_is_named(name, text, runs, digits):
    folder = write_runs(runs, digits, PLAIN, [0.9, 0.8])
    change_result(folder / "seed-1", **(dict(versions=dict(torch=text)) if name == "torch" else {name: text}))
    (record,), (problem,) = read_runs(runs)
    assert list(record.results) == [0]
    assert f"seed-1/result.json: {name} is {text[:40]!r}, expected a line of at most 10,000 characters" in problem


def test_a_run_that_diverged_says_so_in_one_line(runs, digits):
    folder = write_runs(runs, digits, PLAIN, [0.9, 0.8])
    change_result(folder / "seed-1", diverged=True, stop_reason="diverged\n# A heading")
    end_history(folder / "seed-1")
    (record,), (problem,) = read_runs(runs)
    assert (list(record.results), record.diverged) == ([0], {})
    assert "stop_reason is 'diverged\\n# A heading', expected a line" in problem


def test_a_network_of_more_weights_than_a_file_can_hold_is_not_built(runs, digits):
    large = Experiment(model="mlp", hidden=(4096,) * 3, dataset="mnist_sample")
    folder = write_runs(runs, digits, large, [0.9])
    (record,), problems = read_runs(runs)
    assert (record.experiment, problems) == (large, []), "one's own runs may be large"
    found, (problem,) = read_runs(runs, limits=LIMITS)
    assert found == []
    weights = 784 * 4096 + 2 * 4096**2 + 4096 * 10
    assert problem.startswith(
        f"{folder / 'experiment.json'}: not an experiment of this version (hidden asks for {weights:,}"
    )


def test_a_network_of_very_many_layers_is_not_built(runs, digits):
    path = write_runs(runs, digits, Experiment(model="mlp", hidden=(2,), dataset="mnist_sample"), [0.9])
    path.rename(runs / "single" / "deep")
    description = json.loads((runs / "single" / "deep" / "experiment.json").read_text())
    description |= dict(study="deep", title="deep")
    description["experiment"]["hidden"] = [1] * 101
    (runs / "single" / "deep" / "experiment.json").write_text(json.dumps(description))
    (runs / "single").rename(runs / "deep")
    found, (problem,) = read_runs(runs, limits=LIMITS)
    assert found == []
    assert "hidden has 101 widths, and grade.py takes at most 100" in problem


@pytest.mark.parametrize(
    ("dataset", "says"),
    [
        (dict(name="mnist2"), "dataset name is 'mnist2', expected one of fashion_mnist, "),
        (dict(test="700"), "dataset test is '700', expected int"),
        (dict(checksum=[]), "dataset checksum is '[]', expected str"),
    ],
)
def test_a_data_set_of_other_types_or_an_unknown_one_is_left_out_and_named(dataset, says, runs, digits):
    on_sample = override("mnist-norms")
    path = write_runs(runs, digits, on_sample.experiments["GN"].experiment, [0.9], on_sample, "GN") / "experiment.json"
    description = json.loads(path.read_text())
    description["dataset"] |= dataset
    if "name" in dataset:
        description["experiment"]["dataset"] = None  # which names the model's own
    path.write_text(json.dumps(description))
    found, (problem,) = read_runs(runs)
    assert found == []
    assert problem.startswith(f"{path}: not an experiment of this version (")
    assert says in problem


@pytest.mark.parametrize("value", [4, "3", None, [3], {"a": 1}])
def test_overrides_that_the_experiment_does_not_have_are_left_out_and_named(value, runs, digits):
    study = override("mnist-norms", epochs=3)
    path = write_runs(runs, digits, study.experiments["GN"].experiment, [0.9], study, "GN") / "experiment.json"
    assert len(read_runs(runs)[0]) == 1
    description = json.loads(path.read_text())
    description["overrides"]["epochs"] = value
    path.write_text(json.dumps(description))
    found, (problem,) = read_runs(runs)
    assert found == []
    assert "overrides epochs is " in problem
    assert problem.endswith(", its settings have 3)")


def test_one_study_is_read_alone(runs, digits):
    on_sample = override("mnist-norms")
    write_runs(runs, digits, on_sample.experiments["GN"].experiment, [0.9], on_sample, "GN")
    write_runs(runs, digits, PLAIN, [0.9])
    assert [record.title for record in read_runs(runs, "mnist-norms")[0]] == ["GN"]
    assert len(read_runs(runs)[0]) == 2


def test_runs_that_expand_beyond_the_limits_are_left_out_before_they_are_read(runs, digits):
    folder = write_runs(runs, digits, PLAIN, [0.9, 0.8, 0.7, 0.6, 0.5])
    assert read_runs(runs, limits=LIMITS)[1] == []
    np.savez_compressed(folder / "seed-0" / "predictions.npz", log_probabilities=np.zeros((9000, 10), np.float32))
    torch.save({"0.weight": torch.ones(1).expand(10**9)}, folder / "seed-1" / "weights.pt")
    plain = folder / "seed-2" / "weights.pt"
    torch.save({"0.weight": torch.zeros(10**6)}, plain)
    shared = torch.zeros(10**5)
    torch.save({"0.weight": shared, "1.weight": shared[:]}, folder / "seed-4" / "weights.pt")
    compressed = folder / "compressed.zip"
    with zipfile.ZipFile(plain) as stored, zipfile.ZipFile(compressed, "w", zipfile.ZIP_DEFLATED) as archive:
        for member in stored.infolist():
            archive.writestr(member.filename, stored.read(member))
    compressed.rename(plain)
    (record,), problems = read_runs(runs, limits=Limits(predictions=100_000))
    assert list(record.results) == [3]
    assert [problem.replace(f"{folder}/", "").partition("; ") for problem in problems] == [
        ("seed-0/predictions.npz: cannot be read (expected at most 100,000 bytes)", "; ", again(0)),
        ("seed-1/weights.pt: cannot be read (its tensors have more numbers than the file holds)", "; ", again(1)),
        ("seed-2/weights.pt: cannot be read (expected weights that are not compressed)", "; ", again(2)),
        ("seed-4/weights.pt: cannot be read (expected only named plain tensors of float32 or int64)", "; ", again(4)),
    ]
    (record,), problems = read_runs(runs)
    assert list(record.results) == [3]
    assert "predictions.npz: cannot be read (float32 (9000, 10), expected float32 (700, 10))" in problems[0]


@pytest.mark.parametrize("name", ["predictions.npz", "weights.pt"])
@pytest.mark.parametrize("kept", [0, 200, None], ids=["empty", "cut", "of a later version"])
def test_what_cannot_be_measured_as_an_archive_is_left_out_by_its_reader(name, kept, runs, digits):
    path = write_runs(runs, digits, PLAIN, [0.9]) / "seed-0" / name
    content = bytearray(path.read_bytes())
    if kept is None:
        content[content.rfind(b"PK\x01\x02") + 6] = 99  # the version of zip that a member needs
    path.write_bytes(content[:kept])
    found, (problem,) = read_runs(runs, limits=LIMITS)
    assert found == []
    says = "zip file version 9.9" if kept is None else "File is not a zip file"
    assert problem == f"{path}: cannot be read ({says}); {again(0)}"


def test_predictions_that_are_compressed_without_bounds_are_left_out_before_they_are_read(runs, digits):
    path = write_runs(runs, digits, PLAIN, [0.9]) / "seed-0" / "predictions.npz"
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    found, problems = read_runs(runs, limits=LIMITS)
    assert found == []
    assert problems == [f"{path}: cannot be read (compressed in another way than by NumPy and torch); {again(0)}"]


def test_weights_that_only_torchs_own_reader_could_unpack_are_left_out_before_they_are_read(runs, digits, monkeypatch):
    folder = write_runs(runs, digits, PLAIN, [0.9])
    path = folder / "seed-0" / "weights.pt"
    with zipfile.ZipFile(path) as stored:
        members = {member.filename: stored.read(member) for member in stored.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    content, start = bytearray(path.read_bytes()), -1
    while (start := content.find(b"PK\1\2", start + 1)) >= 0:
        content[start + 6] = 99  # the version that is needed to unpack it, which torch does not look at
    path.write_bytes(content)
    assert torch.load(path, weights_only=True)
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("reads it"))
    found, problems = read_runs(runs, limits=LIMITS)
    assert found == []
    assert problems == [f"{path}: cannot be read (zip file version 9.9); {again(0)}"]


@pytest.mark.parametrize("name", ["weights.pt", "predictions.npz"])
def test_a_damaged_file_is_named_in_the_same_words_with_limits_and_without(name, runs, digits):
    path = write_runs(runs, digits, PLAIN, [0.9]) / "seed-0" / name
    path.write_bytes(path.read_bytes()[:100])
    of_report, of_grader = (read_runs(runs, limits=limits)[1] for limits in (None, LIMITS))
    assert of_report == of_grader == [f"{path}: cannot be read (File is not a zip file); {again(0)}"]


def test_runs_that_cannot_be_read_fail_the_check_of_the_archive_alone_and_are_left_out(unpacked):
    np.save(unpacked / "lone.npy", np.zeros((700, 10), np.float32))
    (unpacked / "lone.npy").rename(unpacked / FIRST / "seed-0" / "predictions.npz")
    (unpacked / FIRST / "seed-1" / "weights.pt").write_bytes(b"garbage")
    refresh(unpacked)
    failures = find_failures(unpacked)
    assert "seed-0/predictions.npz: cannot be read" in failures["archive"]
    assert failures["archive"].endswith(" (and 1 more; --csv lists all)")
    assert failures.keys() == {"archive", "report"}, "the report was made when they could be read"


def test_a_submission_with_expanded_weights_fails_and_none_of_its_checks_reads_them(unpacked):
    path = unpacked / FIRST / "seed-0" / "weights.pt"
    torch.save({name: tensor[:1].expand(10**7, *tensor.shape[1:]) for name, tensor in torch.load(path).items()}, path)
    refresh(unpacked)
    failures = find_failures(unpacked)
    assert failures.keys() == {"archive", "report"}
    assert f"{FIRST}/seed-0/weights.pt: cannot be read" in failures["archive"]


DAMAGED = {
    "history.csv": lambda path: path.write_text("seed,epoch\n"),
    "weights.pt": lambda path: path.write_bytes(path.read_bytes()[:40]),
    "predictions.npz": lambda path: np.savez(path, log_probabilities=np.zeros((700, 9), np.float32)),
}


@pytest.mark.parametrize("file", DAMAGED)
def test_a_run_with_a_damaged_file_is_left_out_with_the_command_that_trains_it_again(file, runs, digits):
    study = override("mnist-norms", epochs=2)
    folder = write_runs(runs, digits, study.experiments["GN"].experiment, [0.9, 0.8], study, "GN")
    alone = write_runs(runs, digits, replace(PLAIN, l1=0.001, epochs=2), [0.9])
    assert read_runs(runs)[1] == []
    for path in (folder / "seed-1" / file, alone / "seed-0" / file):
        DAMAGED[file](path)
    (record,), problems = read_runs(runs)
    assert list(record.results) == [0]
    by_hand = "--dataset mnist_sample --epochs 2 --l1 0.001 --seeds 0 --force"
    of_study = "--study mnist-norms --dataset mnist_sample --epochs 2 --only GN --seeds 1 --force"
    for problem, path, words in zip(problems, (folder / "seed-1", alone / "seed-0"), (of_study, by_hand), strict=True):
        assert problem.startswith(f"{path / file}: cannot be read (")
        assert problem.endswith(f"; train it again: python train.py {words}")
        assert problem.count("\n") == 0
