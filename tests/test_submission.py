"""A submission is packed whole, and what was altered, added or taken away afterwards is seen."""

import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from helpers import FIRST, PLAIN, change_result, change_text, find_failures, override, read_files, refresh, write_runs

from grading import submission
from grading.submission import GradeOptions, SubmissionError, read_submission

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
    assert code <= submission.all_code().keys()
    assert {"analysis/templates/page.html", "README.md", "requirements.txt"} <= submission.all_code().keys()


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
    submission.pack(tmp_path / "one.zip", tmp_path / "report", runs, "l1-path")
    of_run = ["history.csv", "predictions.npz", "result.json", "weights.pt"]
    packed = [f"runs/{on_sample.group}/{title}/experiment.json"]
    packed += [f"runs/{on_sample.group}/{title}/seed-{seed}/{name}" for seed in (0, 1, 2) for name in of_run]
    packed.remove(f"runs/{on_sample.group}/{title}/seed-2/weights.pt")
    assert list_packed(tmp_path / "one.zip") == sorted(
        [*packed, "runs/l1-path/damaged/experiment.json", "runs/notes.md"]
    )
    submission.pack(tmp_path / "all.zip", tmp_path / "report", runs)
    assert len(list_packed(tmp_path / "all.zip")) == len(packed) + 2 + 2 * 5


def test_an_archive_that_cannot_be_written_is_said_so_and_leaves_nothing(tmp_path, runs):
    with pytest.raises(SubmissionError, match=r"none/one\.zip: cannot be written"):
        submission.pack(tmp_path / "none" / "one.zip", tmp_path, runs)
    assert list(tmp_path.iterdir()) == []


def test_without_refreshed_checksums_every_change_is_seen_in_the_archive(unpacked, tmp_path):
    change_result(unpacked / FIRST / "seed-0", test_loss=0.5)
    (unpacked / FIRST / "seed-1" / "history.csv").unlink()
    (unpacked / "more.txt").write_text("")
    read = read_submission(unpacked, tmp_path / "workshop", GradeOptions())
    assert read.damage == [f"{FIRST}/seed-0/result.json was altered", f"{FIRST}/seed-1/history.csv is missing"]
    assert read.remarks == ["not in the manifest, so not looked at: more.txt"]
    assert "archive" in find_failures(unpacked)


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 3}', '{"format": 3, "files": []}', "[" * 100_000])
def test_a_manifest_that_is_none_is_said_so_and_costs_the_archive_alone(content, unpacked):
    (unpacked / "manifest.json").write_text(content)
    says = "FAILED  archive: manifest.json cannot be read: expected a submission made by report.py --bundle"
    assert find_failures(unpacked) == dict(archive=says)
    (unpacked / "manifest.json").unlink()
    assert find_failures(unpacked) == dict(archive=says.replace("cannot be read", "is missing"))


def test_a_submission_of_another_version_is_told_so_once(unpacked):
    change_text(unpacked / "manifest.json", '"format": 3', '"format": 1')
    failures = find_failures(unpacked)
    assert "made by another version of this toolkit: format 1, expected 2 or 3" in failures.pop("archive")
    assert all(": not checked, because no finished run of what" in line for line in failures.values())


def test_a_record_that_cannot_be_read_fails_the_archive(unpacked):
    (unpacked / FIRST / "seed-0" / "result.json").write_text("{")
    refresh(unpacked)
    assert find_failures(unpacked)["archive"].startswith(f"FAILED  archive: {FIRST}/seed-0/result.json: cannot be read")


def test_a_submission_without_a_finished_run_fails(unpacked):
    shutil.rmtree(unpacked / "runs")
    refresh(unpacked)
    failures = find_failures(unpacked)
    assert failures["archive"] == "FAILED  archive: the submission contains no finished run"
    assert failures["report"].startswith("FAILED  report: not checked, because no finished run")


def test_code_that_differs_is_listed(unpacked):
    change_text(unpacked / "code" / "training.py", "optimizer.step()", "optimizer.step(); cheat()")
    (unpacked / "code" / "analysis" / "tables.py").unlink()
    (unpacked / "code" / "more.py").write_text("")
    assert submission.find_differing_code(unpacked) == ["analysis/tables.py", "more.py", "training.py"]
    shutil.rmtree(unpacked / "code")
    assert submission.find_differing_code(unpacked) == [], "none was handed in"


@pytest.mark.parametrize("cut", [0, 10, 500, -30])
def test_what_is_no_archive_or_half_of_one_is_answered_with_a_line(cut, handed_in, tmp_path):
    path = tmp_path / "half.zip"
    path.write_bytes((handed_in.parent / "submission.zip").read_bytes()[:cut])
    failures = find_failures(path)
    assert "empty, cut off, or not a zip archive" in failures["archive"]
    assert failures["report"].startswith("FAILED  report: not checked, because no finished run")
    assert len(failures) == 5, "no check that was not made gives points"


def test_a_submission_is_read_from_its_archive_as_from_its_folder(handed_in, tmp_path):
    for number, path in enumerate((handed_in.parent / "submission.zip", handed_in)):
        read = read_submission(path, tmp_path / str(number), GradeOptions())
        assert [seed for _, seed, _ in read.runs] == [0, 1] * 3
        assert read.damage == read.unreadable == read.other_code == read.remarks == []
        assert read_files(read.folder) == read_files(handed_in)
