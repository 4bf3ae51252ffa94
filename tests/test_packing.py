"""A submission is packed whole, and as small as what the grader recomputes allows."""

import os
import shutil
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import (
    FIRST,
    PLAIN,
    change_result,
    find_failures,
    override,
    write_nothing,
    write_own,
    write_report,
    write_runs,
)

import data
import report
from analysis import style
from experiments import Experiment
from grading import packing, untrusted
from grading.submission import SubmissionError

ROOT = Path(__file__).resolve().parents[1]


def list_packed(path):
    with zipfile.ZipFile(path) as archive:
        return [name for name in archive.namelist() if name.startswith("runs/")]


def test_the_archive_holds_report_records_weights_and_code(handed_in):
    files = {file.relative_to(handed_in).as_posix() for file in handed_in.rglob("*") if file.is_file()}
    assert files >= {
        "manifest.json",
        "report/report.md",
        "report/report.html",
        "report/tables/single,mnist_sample-accuracy.csv",
        "report/figures/single,mnist_sample-curves.pdf",
        f"{FIRST}/experiment.json",
        f"{FIRST}/seed-1/weights.pt",
        "code/train.py",
        "code/requirements.txt",
        "code/analysis/templates/style.css",
    }


def test_every_tracked_file_of_code_is_packed():
    try:
        tracked = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the repository")
    code = {
        name
        for name in tracked.stdout.splitlines()
        if not name.startswith(("tests/", "docs/")) and (ROOT / name).is_file()
    }
    assert {"train.py", "engine/records.py", "studies/study.py"} <= code
    assert code <= packing.all_code().keys()
    assert {"analysis/templates/page.html", "README.md", "requirements.txt"} <= packing.all_code().keys()


def test_one_study_is_packed_with_its_overrides_its_damaged_runs_and_those_that_diverged(tmp_path, runs, digits):
    on_sample = override("l1-path", epochs=3)
    title, entry = next(iter(on_sample.experiments.items()))
    folder = write_runs(runs, digits, entry.experiment, [0.9, 0.9, 0.9], on_sample, title)
    change_result(folder / "seed-1", diverged=True, stop_reason="its loss was not finite")
    (folder / "seed-2" / "result.json").write_text("{")
    (folder / "seed-2" / "weights.pt").unlink()
    other = override("mnist-norms")
    write_runs(runs, digits, other.experiments["GN"].experiment, [0.9], other, "GN")
    write_runs(runs, digits, PLAIN, [0.9])
    damaged = runs / "l1-path" / "damaged" / "experiment.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{")
    (runs / "notes.md").write_text("# Mine\n")
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "contents.txt").write_text("")
    packing.pack(tmp_path / "one.zip", tmp_path / "report", runs, "l1-path")
    of_run = ["history.csv", "predictions.npz", "result.json", "weights.pt"]
    packed = [f"runs/{on_sample.group}/{title}/experiment.json"]
    packed += [f"runs/{on_sample.group}/{title}/seed-{seed}/{name}" for seed in (0, 1, 2) for name in of_run]
    packed.remove(f"runs/{on_sample.group}/{title}/seed-2/weights.pt")
    assert list_packed(tmp_path / "one.zip") == sorted(
        [*packed, "runs/l1-path/damaged/experiment.json", "runs/notes.md"]
    )
    packing.pack(tmp_path / "all.zip", tmp_path / "report", runs)
    assert len(list_packed(tmp_path / "all.zip")) == len(packed) + 2 + 2 * 5


def test_predictions_travel_without_what_the_weights_give_again(handed_in, tmp_path):
    runs, small, whole = handed_in.parent / "runs", tmp_path / "small.zip", tmp_path / "whole.zip"
    found, _ = untrusted.read_runs(runs)
    labels = packing.read_labels(found, Path("unused"))
    assert set(labels) == {record.folder for record in found}
    for path, known in ((small, labels), (whole, None)):
        packing.pack(path, handed_in.parent / "report", runs, labels=known)
    with zipfile.ZipFile(small) as little, zipfile.ZipFile(whole) as much:
        sizes = {info.filename: (info.file_size, much.getinfo(info.filename).file_size) for info in little.infolist()}
        differ = {name for name in sizes if name != "manifest.json" and little.read(name) != much.read(name)}
    assert differ == {name for name in sizes if name.endswith("predictions.npz")}
    assert all(sizes[name][0] < sizes[name][1] / 4 for name in differ)
    for path in (small, whole):
        assert find_failures(path) == {}
    missing = dict(found[0].dataset, name="cifar10")
    assert packing.read_labels([replace(found[0], dataset=missing), found[1]], tmp_path / "none").keys() == {
        found[1].folder
    }


def test_a_submission_is_packed_again_from_its_unpacked_folder(handed_in, tmp_path):
    found, problems = untrusted.read_runs(handed_in / "runs")
    assert problems == []
    labels = packing.read_labels(found, Path("unused"))
    packing.pack(tmp_path / "again.zip", handed_in / "report", handed_in / "runs", labels=labels)
    with zipfile.ZipFile(tmp_path / "again.zip") as archive:
        for name in list_packed(tmp_path / "again.zip"):
            assert archive.read(name) == (handed_in / name).read_bytes()
    assert write_report(handed_in / "runs") == write_report(handed_in.parent / "runs")


def test_files_older_than_zip_are_packed(handed_in, tmp_path, monkeypatch):
    runs = shutil.copytree(handed_in / "runs", tmp_path / "runs")
    for path in runs.rglob("*.json"):
        os.utime(path, (0, 0))
    packing.pack(tmp_path / "old.zip", handed_in / "report", runs)
    assert list_packed(tmp_path / "old.zip") == list_packed(handed_in.parent / "submission.zip")


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        (untrusted.Limits(file=200_000), r"weights\.pt has 2\d\d,\d\d\d bytes, .* at most 200,000$"),
        (untrusted.Limits(json=1_000), r"experiment\.json has \d,\d\d\d bytes, .* at most 1,000$"),
        (untrusted.Limits(files=20), r": \d+ files, and a submission has at most 20; pack one study of several alone"),
        (untrusted.Limits(bytes=200_000), "at most 200,000 bytes, unpacked; pack one study of several alone"),
    ],
)
def test_what_the_grader_would_not_take_is_refused_before_anything_is_written(
    handed_in, tmp_path, monkeypatch, limits, why
):
    monkeypatch.setattr(packing, "LIMITS", limits)
    with pytest.raises(SubmissionError, match=why):
        packing.pack(tmp_path / "large.zip", handed_in / "report", handed_in / "runs")
    assert list(tmp_path.iterdir()) == []


def test_an_archive_that_cannot_be_written_is_said_so_and_leaves_nothing(tmp_path, runs):
    with pytest.raises(SubmissionError, match=r"none/one\.zip: cannot be written"):
        packing.pack(tmp_path / "none" / "one.zip", tmp_path, runs)
    assert list(tmp_path.iterdir()) == []


def test_predictions_that_are_packed_whole_are_named(runs, digits, tmp_path, monkeypatch, capsys):
    write_runs(runs, digits, PLAIN, [0.9])
    monkeypatch.setattr(style, "save_figure", write_nothing)
    monkeypatch.setattr(packing, "read_labels", lambda found, data_dir: {})
    report.main(["--runs-dir", str(runs), "--out", str(tmp_path / "report"), "--bundle", str(tmp_path / "all.zip")])
    shown = capsys.readouterr()
    assert "packed with all log-probabilities, as the data are not here: mlp1," in shown.out
    assert shown.err.startswith("WARNING: the data of mlp1,")
    assert shown.err.endswith("grade.py fails the report; name their folder with --data-dir and pack again\n")


def test_labels_are_those_of_the_content_that_an_experiment_was_trained_on(runs, tmp_path):
    for model, seed in (("mlp1", 0), ("mlp2", 1)):
        write_own(tmp_path / "cells.npz", count=10, seed=seed)
        write_runs(runs, data.load("cells.npz", tmp_path), Experiment(model=model, dataset="cells.npz"), [0.9])
    found, _ = untrusted.read_runs(runs)
    labels = packing.read_labels(found, tmp_path)
    assert [folder.name for folder in labels] == ["mlp2,dataset=cells.npz"], "the content of mlp1 is gone"
