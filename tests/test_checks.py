"""Every forgery is caught by its own check, even after the manifest's checksums were refreshed."""

import base64
import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import FIRST, HANDED_IN, change_result, change_text, end_history, find_failures, refresh, write_nothing

import data
import report
import training
from analysis import style
from engine import records, run_files
from engine.records import Record
from experiments import Experiment
from grading.checks import CHECKS, find_recorded
from grading.submission import GradeOptions, Submission
from studies import STUDIES
from training import measure

NOT_CHECKED = "not checked, because no finished run of what was requested is in the submission"
COMPLETENESS, RETRAINING = CHECKS["completeness"], CHECKS["retraining"]


def refresh_report(folder, monkeypatch):
    """Make the report of what the records say now, and refresh the manifest."""
    monkeypatch.setattr(style, "save_figure", write_nothing)
    shutil.rmtree(folder / "report")
    report.main(["--runs-dir", str(folder / "runs"), "--out", str(folder / "report")])
    refresh(folder)


def read_result(run_folder):
    return json.loads((run_folder / "result.json").read_text(encoding="utf-8"))


def test_a_check_is_declared_with_its_points_and_the_sentence_that_is_so_when_it_passes():
    points = dict(archive=10, predictions=20, weights=30, originality=10, report=20, completeness=10, retraining=10)
    assert {name: check.points for name, check in CHECKS.items()} == points
    assert list(CHECKS) == list(points), "in the order of grading"
    assert [check.about for check in CHECKS.values()][:5] == [
        "every file of the manifest is there with its checksum, and every record can be read",
        "the test metrics follow from the stored predictions",
        "weights, settings and history fit each other, and the predictions and metrics follow from them",
        "no two runs of different seeds or settings share weights",
        "report.md, report.html and the tables follow from the records",
    ]


@pytest.mark.parametrize(("check", "name"), [("weights", "weights.pt"), ("predictions", "predictions.npz")])
def test_what_a_check_needs_and_is_missing_fails_the_check(check, name, unpacked):
    (unpacked / FIRST / "seed-0" / name).unlink()
    assert find_failures(unpacked)[check].endswith(f"{FIRST}/seed-0/{name} is missing")


def test_weights_that_were_saved_again_cost_the_archive_alone(unpacked):
    path = unpacked / FIRST / "seed-0" / "weights.pt"
    torch.save(torch.load(path, weights_only=True), path.with_name("other.pt"))  # its name is part of the bytes
    path.with_name("other.pt").rename(path)
    assert find_failures(unpacked).keys() == {"archive"}


@pytest.mark.parametrize("name", ["mean", "classes"])
def test_what_is_said_of_the_data_and_is_not_so_is_named(name, unpacked):
    path = unpacked / FIRST / "experiment.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["dataset"][name] = [0.5] if name == "mean" else [f"digit {digit}" for digit in range(10)]
    path.write_text(json.dumps(content), encoding="utf-8")
    refresh(unpacked)
    problem = find_failures(unpacked)["weights"]
    assert f"its experiment.json describes another mnist_sample than is here: {name}" in problem


@pytest.mark.parametrize("metric", ["test_accuracy", "test_loss"])
def test_a_test_metric_altered_by_a_digit_is_caught(metric, unpacked, monkeypatch):
    folder = unpacked / FIRST / "seed-0"
    change_result(folder, **{metric: read_result(folder)[metric] + 1e-4})
    refresh_report(unpacked, monkeypatch)
    failures = find_failures(unpacked)
    assert failures.keys() == {"predictions"} if metric == "test_accuracy" else {"predictions"} <= failures.keys()
    assert f"{HANDED_IN} seed 0: {metric.replace('_', ' ')} is" in failures["predictions"]


@pytest.mark.parametrize(
    ("metric", "split"),
    [("train_accuracy", "train"), ("val_accuracy", "validation"), ("train_loss", ""), ("val_loss", "")],
)
def test_a_train_or_validation_metric_is_caught_that_is_off_by_two_images(metric, split, unpacked, digits, monkeypatch):
    folder = unpacked / FIRST / "seed-1"
    change = 2 / len(getattr(digits, split)) if split else 0.01
    change_result(folder, **{metric: read_result(folder)[metric] + change})
    refresh_report(unpacked, monkeypatch)
    assert find_failures(unpacked).keys() == {"weights"}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"zeros": 0', '"zeros": 1', "sparsity and norms"),
        ('"parameters": 55050', '"parameters": 55051', "55,051 parameters"),
        ('"chosen_epoch": 2', '"chosen_epoch": 1', "settings and history give 2 epochs and choose epoch 2"),
        ('"epochs": 2', '"epochs": 3', "3 epochs, epoch 2 chosen, 2 rows of history"),
    ],
)
def test_other_metrics_that_do_not_follow_are_caught(old, new, says, unpacked, monkeypatch):
    change_text(unpacked / FIRST / "seed-0" / "result.json", old, new)
    refresh_report(unpacked, monkeypatch)
    assert says in find_failures(unpacked)["weights"]


def test_a_result_under_another_seed_than_its_own_is_caught(unpacked):
    change_result(unpacked / FIRST / "seed-0", seed=7)
    refresh(unpacked)
    assert f"{FIRST}/seed-0: result.json is of seed 7" in find_failures(unpacked)["archive"]


def read_whole(handed_in, seed=0):
    """Read all log-probabilities of a run; its submission holds some of them."""
    return run_files.read_log_probabilities(handed_in.parent / FIRST / f"seed-{seed}")


def store(folder, log_probabilities, labels, is_small):
    """Store predictions as an archive does, or all of them as earlier archives did."""
    np.savez_compressed(folder / "predictions.npz", log_probabilities=log_probabilities)
    if is_small:
        (folder / "predictions.npz").write_bytes(run_files.shrink_predictions(folder, labels))


@pytest.mark.parametrize("is_small", [True, False])
def test_predictions_that_the_weights_do_not_make_are_caught(is_small, unpacked, handed_in, monkeypatch):
    """The student makes better predictions up, and a record that follows from them."""
    labels = data.load("mnist_sample", "unused").test.labels
    folder, stored = unpacked / FIRST / "seed-0", read_whole(handed_in)
    wrong = np.flatnonzero(stored.argmax(1) != labels.numpy())[0]
    stored[wrong] = np.log(0.01 / 9)
    stored[wrong, labels[wrong]] = np.log(0.99)
    store(folder, stored, labels.numpy(), is_small)
    measured = measure(torch.from_numpy(stored).unsqueeze(1), labels)
    change_result(folder, test_accuracy=measured["accuracy"][0], test_loss=measured["loss"][0])
    refresh_report(unpacked, monkeypatch)
    assert find_failures(unpacked).keys() == {"weights"}


def test_a_submission_with_whole_predictions_passes_and_each_of_them_counts(unpacked, handed_in):
    labels, folder = data.load("mnist_sample", "unused").test.labels.numpy(), unpacked / FIRST / "seed-0"
    for seed in (0, 1):
        store(unpacked / FIRST / f"seed-{seed}", read_whole(handed_in, seed), labels, is_small=False)
    refresh(unpacked)
    assert find_failures(unpacked) == {}
    stored = read_whole(handed_in)
    stored[0, stored[0].argsort()[:2]] += 0.01  # the least probable classes, on which no metric depends
    store(folder, stored, labels, is_small=False)
    refresh(unpacked)
    assert find_failures(unpacked).keys() == {"weights"}


def test_a_more_probable_class_that_was_left_out_is_caught(unpacked, handed_in, monkeypatch):
    """What is stored is true, but the class that the run predicts is left out, and a wrong prediction looks right."""
    labels = data.load("mnist_sample", "unused").test.labels
    folder, whole = unpacked / FIRST / "seed-0", read_whole(handed_in)
    kept = np.zeros(whole.shape, bool)
    kept[np.arange(len(whole)), labels] = True
    np.savez_compressed(folder / "predictions.npz", kept=kept, log_probabilities=whole[kept])
    change_result(folder, test_accuracy=1.0)
    refresh_report(unpacked, monkeypatch)
    assert find_failures(unpacked).keys() == {"weights"}


def test_predictions_without_an_images_label_are_caught(unpacked, handed_in):
    labels = data.load("mnist_sample", "unused").test.labels.numpy()
    folder = unpacked / FIRST / "seed-0"
    store(folder, read_whole(handed_in), (labels + 1) % 10, is_small=True)
    refresh(unpacked)
    failures = find_failures(unpacked)
    assert "the stored predictions give inf" in failures["predictions"]
    assert failures.keys() == {"predictions"}


def test_a_run_copied_as_another_seed_is_caught(unpacked, monkeypatch):
    shutil.copytree(unpacked / FIRST / "seed-1", unpacked / FIRST / "seed-2")
    change_result(unpacked / FIRST / "seed-2", seed=2)
    refresh_report(unpacked, monkeypatch)
    failures = find_failures(unpacked)
    assert failures.keys() == {"originality", "weights"}
    assert "seed 2 has the weights of" in failures["originality"]
    assert f"{HANDED_IN} seed 2: history.csv is not of seed 2" in failures["weights"]


def test_a_run_copied_as_another_experiment_is_caught(unpacked, monkeypatch):
    copied = unpacked / "runs" / "single" / f"{HANDED_IN},l1=0.001" / "seed-0"
    shutil.rmtree(copied)
    shutil.copytree(unpacked / FIRST / "seed-0", copied)
    refresh_report(unpacked, monkeypatch)
    assert "originality" in find_failures(unpacked)


def test_weights_of_another_run_are_caught(unpacked):
    folder = unpacked / FIRST
    shutil.copy(folder / "seed-0" / "weights.pt", folder / "seed-1" / "weights.pt")
    refresh(unpacked)
    assert {"weights", "originality"} <= find_failures(unpacked).keys()


def test_weights_of_another_network_are_caught(unpacked):
    torch.save({"1.weight": torch.zeros(3)}, unpacked / FIRST / "seed-0" / "weights.pt")
    refresh(unpacked)
    assert "seed-0/weights.pt: cannot be read" in find_failures(unpacked)["archive"]


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("report.md", "## Background", "## Backgrounds"),
        ("report.md", "over 2 seeds", "over 3 seeds"),
        ("report.html", "over 2 seeds", "over 3 seeds"),
        ("tables/single,mnist_sample-accuracy.csv", "seeds", "runs"),
        ("tables/single,mnist_sample-accuracy.tex", "seeds", "runs"),
    ],
)
def test_a_report_that_does_not_follow_from_its_records_is_caught(file, old, new, unpacked):
    change_text(unpacked / "report" / file, old, new)
    refresh(unpacked)
    assert find_failures(unpacked).keys() == {"report"}


def test_an_experiment_to_retrain_is_found_under_each_of_its_titles():
    def find(name, group, study, **overrides):
        return find_recorded(name, [Record(Path(group, "x"), Experiment(), {}, study=study, overrides=overrides)])

    assert find("mnist-dropout-ghost/BN", "mnist-dropout-ghost", "mnist-dropout-ghost") == "mnist-dropout-ghost/L2+BN"
    group = "recipe-fashion,epochs=3"
    assert find(f"{group}/60 epochs", group, "recipe-fashion", epochs=3) == f"{group}/cosine", "the same settings now"
    assert find("recipe-fashion/60 epochs", "recipe-fashion", "recipe-fashion") == "recipe-fashion/60 epochs"
    assert find("single/mlp1", "single", None) == "single/mlp1"


def test_a_cell_that_is_too_long_for_a_table_is_caught(unpacked):
    path = unpacked / "report" / "tables" / "single,mnist_sample-accuracy.csv"
    path.write_text(path.read_text(encoding="utf-8") + "9" * 2**18, encoding="utf-8")
    refresh(unpacked)
    assert "accuracy.csv: cannot be read (field larger than field limit" in find_failures(unpacked)["report"]


def test_a_report_that_would_take_all_memory_is_not_rendered(unpacked, monkeypatch):
    path = unpacked / "report" / "report.md"
    path.write_text(path.read_text(encoding="utf-8") + "a\n\n" * 400_000, encoding="utf-8")
    refresh(unpacked)
    monkeypatch.setattr("grading.differences.render_page", None)
    assert find_failures(unpacked) == {
        "report": "FAILED  report, −20 points: report.md is longer than records and notes can make it"
    }


def test_a_page_of_a_figure_that_is_named_very_often_is_not_rendered(unpacked, monkeypatch):
    embedded, encode = [], base64.b64encode
    monkeypatch.setattr(base64, "b64encode", lambda content: embedded.append(content) or encode(content))
    folder = unpacked / "report"
    (folder / "large.png").write_bytes(bytes(10**6))
    path = folder / "report.md"
    path.write_text(path.read_text(encoding="utf-8") + "\n\n![](large.png)" * 5_000, encoding="utf-8")
    refresh(unpacked)
    failure = find_failures(unpacked)["report"]
    assert failure == "FAILED  report, −20 points: report.html was not made from report.md", "its own text is taken"
    assert embedded.count(bytes(10**6)) == 1


def test_a_number_in_a_table_is_caught(unpacked):
    path = unpacked / "report" / "tables" / "single,mnist_sample-accuracy.csv"
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    column = rows[0].index("test %")
    rows[1][column] = repr(float(rows[1][column]) + 0.001)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    refresh(unpacked)
    assert f"{path.name}, line 2, test %: {rows[1][column]}, the records" in find_failures(unpacked)["report"]


def test_long_lines_are_quoted_where_they_begin_to_differ(unpacked):
    path = unpacked / "report" / "report.md"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    number = next(number for number, line in enumerate(lines) if len(line) > 200)
    line = lines[number]
    lines[number] = f"{line[:150]}altered{line[150:]}"
    path.write_text("".join(lines), encoding="utf-8")
    refresh(unpacked)
    found, _, expected = find_failures(unpacked)["report"].partition(", the records give ")
    assert f"is '…{line[120:150]}altered" in found
    assert expected.startswith(f"'…{line[120:150]}{line[150:160]}")
    lines[number] = f"{line.rstrip()} and more\n"
    path.write_text("".join(lines), encoding="utf-8")
    refresh(unpacked)
    assert f"is '…{line.rstrip()[-30:]} and more', the records" in find_failures(unpacked)["report"]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (Path.unlink, "report.md is missing"),
        (lambda path: path.write_text("no heading"), "the report cannot be read ("),
        (lambda path: path.write_bytes(b"\xff\xfe"), "the report cannot be read ('utf-8' codec"),
    ],
)
def test_a_report_that_cannot_be_read_is_said_so(spoil, says, unpacked):
    for name in ("report.md", "report.html"):
        spoil(unpacked / "report" / name)
    refresh(unpacked)
    failures = find_failures(unpacked)
    assert failures.keys() == {"report"}
    assert failures["report"].startswith(f"FAILED  report, −20 points: {says}")


def test_a_report_of_a_study_that_is_unknown_here_is_not_compared(unpacked):
    folder = unpacked / "runs" / "our-study" / "plain"
    shutil.copytree(unpacked / FIRST, folder)
    description = json.loads((folder / "experiment.json").read_text())
    (folder / "experiment.json").write_text(json.dumps(description | dict(study="our-study", title="plain")))
    refresh(unpacked)
    says = "our-study: studies/ has no such study here, so the report cannot be checked"
    way_out = "read the submission's code/studies/, and copy its file to studies/"
    assert find_failures(unpacked) == dict(report=f"FAILED  report, −20 points: {says}; {way_out}")


def test_a_missing_seed_and_a_missing_experiment_are_named(unpacked):
    failures = find_failures(unpacked, seeds=[0, 1, 2, 3])
    assert failures.keys() == {"completeness"}
    assert "seeds 2-3 missing" in failures["completeness"]
    failures = find_failures(unpacked, study=STUDIES["fashion-mlp"])
    assert (
        failures.pop("completeness")
        == "FAILED  completeness, −10 points: the submission has no fashion-mlp, only single"
    )
    points = dict(predictions=20, weights=30, originality=10, report=20)
    assert failures == {name: f"FAILED  {name}, −{lost} points: {NOT_CHECKED}" for name, lost in points.items()}


def test_a_study_is_whole_with_all_experiments_its_settings_and_enough_seeds():
    def make(study, seeds, **changes):
        return [
            Record(
                Path(study.group) / title,
                replace(entry.experiment, dataset=entry.experiment.dataset_name, **changes),
                {},
                study.name,
                results={seed: {} for seed in seeds},
            )
            for title, entry in study.experiments.items()
        ]

    def problems(found, study=None, seeds=None):
        study = study or on_sample
        return COMPLETENESS.run(Submission(Path("unpacked"), GradeOptions(study=study, seeds=seeds), found)).problems

    plain = STUDIES["l1-path"]
    on_sample = plain.with_overrides(dict(dataset="mnist_sample", epochs=3))
    group = on_sample.group
    whole = make(on_sample, range(5, 10))
    assert problems(whole) == problems(whole, seeds=range(5, 8)) == []
    assert problems(whole, seeds=[5, 11]) == [f"{group}/{title}: seed 11 missing" for title in plain.experiments]
    assert problems(whole[1:]) == [f"{group}/{whole[0].title} is missing"]
    assert problems(whole, plain) == [f"the submission has no l1-path, only {group}"]
    few = make(on_sample, range(4))
    assert problems([*few[:1], *whole[1:]]) == [f"{group}/{few[0].title}: seeds 0-3, expected at least 5 seeds"]
    wrong = [f"{group}/{title} has other settings than the study" for title in plain.experiments]
    assert problems(make(on_sample, range(5), epochs=2)) == wrong
    diverged = [replace(each, results={}, diverged=dict.fromkeys(range(5), "diverged")) for each in whole]
    half = len(whole) // 2
    assert problems([*diverged[:half], *whole[half:]]) == []
    runs = 5 * len(whole)
    says = f"{5 * (half + 1)} of {runs} runs diverged, expected at most half"
    assert problems([*diverged[: half + 1], *whole[half + 1 :]]) == [says]
    other = make(on_sample, range(5), l1=0.5)
    assert problems([*whole[:-1], other[-1]]) == [f"{group}/{other[-1].title} has other settings than the study"]


def test_a_whole_study_is_said_with_its_name_and_seeds():
    study = STUDIES["l1-path"]
    options = GradeOptions(study=study, seeds=[0, 1, 3])
    found = [
        Record(
            Path(study.group) / title,
            replace(entry.experiment, dataset=entry.experiment.dataset_name),
            {},
            results={seed: {} for seed in (0, 1, 3)},
        )
        for title, entry in study.experiments.items()
    ]
    says = "passed  completeness: every experiment of l1-path, seeds 0-1,3: all there"
    assert str(COMPLETENESS.run(Submission(Path("unpacked"), options, found))) == says


def test_fresh_seeds_tell_a_plausible_record_from_one_that_is_too_good(unpacked):
    name = f"single/{HANDED_IN}"
    assert "retraining" not in find_failures(unpacked, retrain=name)
    for seed in (0, 1):
        change_result(unpacked / FIRST / f"seed-{seed}", test_accuracy=0.9999)
    refresh(unpacked)
    assert "fresh seeds predict" in find_failures(unpacked, retrain=name)["retraining"]
    failures = find_failures(unpacked, retrain="single/none")
    assert 'the submission has no "single/none", only "single/' in failures["retraining"]


@pytest.mark.parametrize("is_edited", [True, False])
def test_only_the_studys_own_settings_are_trained(is_edited, digits, monkeypatch):
    study = STUDIES["l1-path"].with_overrides(dict(dataset="mnist_sample"))
    (title, entry), *_ = study.experiments.items()
    experiment = replace(entry.experiment, **(dict(epochs=10**6) if is_edited else {}))
    described = records.describe(experiment, digits, title)["dataset"]
    record = Record(Path(study.group) / title, experiment, described, study.name, study.overrides, results={0: {}})
    trained = []
    monkeypatch.setattr(training, "train", lambda experiment, seeds, dataset: trained.extend(seeds) or [])
    options = GradeOptions(retrain=f"{study.group}/{title}")
    (problem,) = RETRAINING.run(Submission(Path("unpacked"), options, [record])).problems
    assert ("has other settings than the study" in problem) == is_edited
    assert trained == ([] if is_edited else [1, 2, 3, 4, 5])


def test_seeds_that_diverge_again_are_no_fresh_seeds_and_predict_nothing(unpacked, monkeypatch):
    trained, plain = [], training.train
    change_result(unpacked / FIRST / "seed-1", diverged=True)
    end_history(unpacked / FIRST / "seed-1")
    refresh(unpacked)

    def train(experiment, seeds, dataset):
        trained.extend(seeds)
        return plain(replace(experiment, optimizer="sgd", lr=1e9), seeds, dataset)

    monkeypatch.setattr(training, "train", train)
    failure = find_failures(unpacked, retrain=f"single/{HANDED_IN}")["retraining"]
    assert "cannot be compared: of 5 fresh seeds 0 did not diverge" in failure
    assert set(trained).isdisjoint({0, 1})
