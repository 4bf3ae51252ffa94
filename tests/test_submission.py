"""What was altered, added or taken away after a submission was packed is seen."""

import shutil
from dataclasses import replace

import pytest
from helpers import (
    FIRST,
    change_result,
    change_text,
    find_failures,
    read_files,
    refresh,
)

from grading import submission
from grading.submission import GradeOptions, read_submission
from grading.untrusted import LIMITS


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
    says = "FAILED  archive, −10 points: manifest.json cannot be read: expected a submission made by report.py --bundle"
    assert find_failures(unpacked) == dict(archive=says)


def test_a_manifest_that_is_missing_costs_the_archive_alone(unpacked):
    (unpacked / "manifest.json").unlink()
    says = "FAILED  archive, −10 points: manifest.json is missing: expected a submission made by report.py --bundle"
    assert find_failures(unpacked) == dict(archive=says)


def test_a_submission_of_another_version_is_told_so_once(unpacked):
    change_text(unpacked / "manifest.json", '"format": 3', '"format": 1')
    failures = find_failures(unpacked)
    assert "made by another version of this toolkit: format 1, expected 2 or 3" in failures.pop("archive")
    assert {"predictions", "weights", "originality", "report"} == failures.keys()
    assert all(": not checked, because no finished run is in the submission" in line for line in failures.values())


def test_a_record_that_cannot_be_read_fails_the_archive(unpacked):
    (unpacked / FIRST / "seed-0" / "result.json").write_text("{")
    refresh(unpacked)
    assert find_failures(unpacked)["archive"].startswith(
        f"FAILED  archive, −10 points: {FIRST}/seed-0/result.json: cannot be read"
    )


def test_a_submission_without_a_finished_run_fails(unpacked):
    shutil.rmtree(unpacked / "runs")
    refresh(unpacked)
    failures = find_failures(unpacked)
    assert failures["archive"] == "FAILED  archive, −10 points: the submission contains no finished run"
    assert failures["report"].startswith("FAILED  report, −20 points: not checked, because no finished run")


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
    says = "cut off, or not a zip, tar or tar.gz archive" if cut else "half.zip: an empty file, expected an archive"
    assert says in failures["archive"]
    assert failures["report"].startswith("FAILED  report, −20 points: not checked, because no finished run")
    assert len(failures) == 5, "no check that was not made gives points"


def test_a_submission_is_read_from_its_archive_as_from_its_folder(handed_in, tmp_path):
    for number, path in enumerate((handed_in.parent / "submission.zip", handed_in)):
        read = read_submission(path, tmp_path / str(number), GradeOptions())
        assert [seed for _, seed, _ in read.runs] == [0, 1] * 3
        assert read.damage == read.unreadable == read.other_code == read.remarks == []
        assert read_files(read.folder) == read_files(handed_in)


@pytest.mark.parametrize(("name", "most"), [("result.json", LIMITS.json), ("history.csv", LIMITS.csv)])
def test_a_record_that_would_fill_the_memory_is_not_taken(name, most, unpacked, tmp_path):
    path = unpacked / FIRST / "seed-0" / name
    path.write_bytes(path.read_bytes() + b" " * most)
    refresh(unpacked)
    found = read_submission(unpacked, tmp_path / "workshop", GradeOptions())
    assert found.damage == [f"{FIRST}/seed-0/{name} has more than {most:,} bytes"]


def test_a_file_of_zeros_is_not_unpacked(unpacked, tmp_path):
    limits = replace(LIMITS, file=(unpacked / "manifest.json").stat().st_size)
    (unpacked / "report" / "report.md").write_bytes(bytes(limits.file + 1))
    found = read_submission(unpacked, tmp_path / "workshop", GradeOptions(), limits)
    assert f"report/report.md has more than {limits.file:,} bytes" in found.damage
    assert not (found.folder / "report" / "report.md").exists()
