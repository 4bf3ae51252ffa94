"""Gradescope's results.json: valid whatever was handed in, and without a score where the grader itself failed."""

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import FIRST, change_text, refresh

import grade
from grading import archives, scores
from grading.checks import CHECKS, Result
from grading.gradescope import MOST_CHARACTERS, MOST_LINES, STOPPED, join_lines, make_printable, telling_failures
from grading.scores import UNCHECKED, Graded

ROOT = Path(__file__).resolve().parents[1]
NAMES = ["archive", "predictions", "weights", "originality", "report", "completeness"]
POINTS = [CHECKS[name].points for name in NAMES]


def read_strictly(path):
    """Read results.json as a strict reader does, and check what holds for every such file."""

    def refuse(constant):
        pytest.fail(f"{constant} is not JSON")

    results = json.loads(path.read_bytes().decode("ascii"), parse_constant=refuse)
    for text in [results["output"], *(test["output"] for test in results.get("tests", ()))]:
        assert len(text) < 50_000
        assert all(character.isprintable() or character == "\n" for character in text)
    return results


def grade_for_gradescope(path, results, *words):
    """Grade a submission, and return the exit status and the content of results.json."""
    status = 0
    try:
        grade.main([str(path), "--gradescope", str(results), *map(str, words)])
    except SystemExit as end:
        status = end.code
    return status, read_strictly(results)


def pick_points(results):
    """Check the tests in results.json, and return the sum of their scores."""
    assert [test["name"] for test in results["tests"]] == NAMES
    assert [test["max_score"] for test in results["tests"]] == POINTS
    for test in results["tests"]:
        assert test["score"] in (0, test["max_score"])
        assert test["status"] == ("passed" if test["score"] else "failed")
        assert test["output"]
    return sum(test["score"] for test in results["tests"])


def test_the_results_have_a_test_for_each_check_and_name_what_costs_nothing(tmp_path):
    passed = Result("weights", 30, "the weights are right", [])
    failed = Result("report", 20, "the report is right", ["first", "second"])
    unmade = Result("originality", 10, "", ["not checked"], is_made=False)
    graded = Graded("one.zip", [passed, failed, unmade], remarks=["ignored: .git"])
    scores.write_gradescope(tmp_path / "results.json", graded)
    assert read_strictly(tmp_path / "results.json") == dict(
        output=f"ignored: .git\n{UNCHECKED}",
        tests=[
            dict(name="weights", score=30, max_score=30, status="passed", output="the weights are right"),
            dict(name="report", score=0, max_score=20, status="failed", output="first\nsecond"),
            dict(name="originality", score=0, max_score=10, status="failed", output="not checked"),
        ],
    )


def test_the_folder_of_gradescope_may_hold_the_files_or_the_archive(handed_in, tmp_path):
    archive = handed_in.parent / "submission.zip"
    holds_archive = tmp_path / "submission"
    holds_archive.mkdir()
    shutil.copy(archive, holds_archive / "my work.zip")
    (holds_archive / "essay.pdf").write_bytes(b"%PDF")
    for path in (handed_in, archive, holds_archive):
        status, results = grade_for_gradescope(path, tmp_path / "results.json", "--seeds", "0-1")
        assert (status, pick_points(results)) == (0, 100)


def spoil_result(folder):
    change_text(folder / FIRST / "seed-0" / "result.json", '"test_loss": ', '"test_loss": NaN, "was": ')
    refresh(folder)


def remove_all_files(folder):
    for path in folder.rglob("*"):
        if path.is_file() and path.name != "manifest.json":
            path.unlink()


def add_odd_names(folder):
    for name in ("\x1b[31mred", "a\nb", "\udcff", "x" * 250, "\u202ereversed"):
        (folder / name).write_text("")
        (folder / "report" / name).write_text("")
    refresh(folder)
    (folder / "report" / "\x1b[31mred").unlink()
    (folder / "report" / "\udcff").unlink()


def hand_in_two_archives(folder):
    shutil.rmtree(folder)
    folder.mkdir()
    for name in ("a.zip", "b.zip"):
        (folder / name).write_bytes(b"PK")


@pytest.mark.parametrize(
    ("spoil", "status", "points"),
    [
        (lambda folder: None, 0, 100),
        (spoil_result, 1, 10 + 20 + 30),  # without this run, also the report and completeness fail
        (remove_all_files, 1, 0),
        (add_odd_names, 1, 90),
        (hand_in_two_archives, 1, 0),
        (lambda folder: shutil.rmtree(folder) or folder.mkdir(), 1, 0),
        (lambda folder: (folder / "manifest.json").write_text('{"format": 1, "files": {}}'), 1, 0),
    ],
)
def test_whatever_was_handed_in_the_results_are_valid_and_have_the_same_most_points(
    spoil, status, points, unpacked, tmp_path
):
    spoil(unpacked)
    ended, results = grade_for_gradescope(unpacked, tmp_path / "results.json", "--seeds", "0-1")
    assert (ended, pick_points(results)) == (status, points)


def test_an_archive_that_is_none_has_valid_results(tmp_path):
    path = tmp_path / "x.zip"
    path.write_bytes(b"garbage")
    status, results = grade_for_gradescope(path, tmp_path / "results.json", "--seeds", "0-1")
    assert (status, pick_points(results)) == (1, 0)


def test_texts_are_printable_and_of_bounded_length():
    assert make_printable("a\x1b[0m\n\udcff\u202e é–…") == r"a\x1b[0m\n\udcff\u202e é–…"
    assert len(make_printable("x" * 10**6)) == MOST_CHARACTERS + 1
    lines = join_lines(["x"] * 10**5).splitlines()
    assert (len(lines), lines[-1]) == (MOST_LINES + 1, "and 99,980 more")


# ---------------------------------------------------------------------------------------------------------------------
# The grader's own failures


def make_disk_full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def have_a_bug(*_):
    raise ZeroDivisionError("of our own")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--seeds", "4-0"], "the range 4-0 falls"),
        (["--study", "fashion"], "--study fashion: expected one of"),
        (["--sedes", "0-4"], "unrecognized arguments: --sedes 0-4; did you mean --seeds?"),
        (["--data-dir", "nowhere"], "--data-dir nowhere: there is no such folder"),
        (["--csv"], "argument --csv: expected one argument"),
        (["--retrain", "L1"], '--retrain "L1": expected STUDY/TITLE'),
    ],
)
def test_a_wrong_flag_gives_no_score_and_is_told(words, says, handed_in, tmp_path):
    status, results = grade_for_gradescope(handed_in, tmp_path / "results.json", *words)
    assert status == 2
    assert list(results) == ["output"]
    assert results["output"].startswith("Not graded: the grader failed, which is no fault of this submission. ")
    assert says in results["output"]


def test_a_submission_that_is_not_there_gives_no_score(tmp_path):
    status, results = grade_for_gradescope(tmp_path / "none", tmp_path / "results.json")
    assert (status, list(results)) == (2, ["output"])


@pytest.mark.parametrize(("owner", "function"), [(archives.shutil, "copyfileobj"), (scores, "read_submission")])
def test_a_full_disk_gives_no_score(owner, function, handed_in, tmp_path, monkeypatch):
    monkeypatch.setattr(owner, function, make_disk_full)
    status, results = grade_for_gradescope(handed_in, tmp_path / "results.json")
    assert (status, list(results)) == (2, ["output"])
    assert "No space left on device; 0 of 1 submissions are graded" in results["output"]


@pytest.mark.parametrize(
    ("name", "replacement"),
    [
        ("analysis.tables.Table.write", make_disk_full),
        ("grading.differences.tempfile", SimpleNamespace(TemporaryDirectory=make_disk_full, gettempdir=lambda: "tmp")),
    ],
)
def test_a_disk_that_is_full_once_the_report_is_recomputed_gives_no_score(
    name, replacement, handed_in, tmp_path, monkeypatch
):
    monkeypatch.setattr(name, replacement)
    status, results = grade_for_gradescope(handed_in, tmp_path / "results.json")
    assert (status, list(results)) == (2, ["output"])
    assert "cannot be written (No space left on device), so no report can be checked" in results["output"]


def test_a_mistake_in_this_code_gives_no_score_and_keeps_its_traceback(handed_in, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scores, "run_checks", have_a_bug)
    status, results = grade_for_gradescope(handed_in, tmp_path / "results.json")
    assert (status, list(results)) == (2, ["output"])
    assert results["output"].endswith("grade.py failed on it (ZeroDivisionError: of our own)")
    assert "in have_a_bug\n" in capsys.readouterr().err


def test_ctrl_c_and_a_kill_give_no_score(handed_in, tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    monkeypatch.setattr(scores, "grade", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    status, results = grade_for_gradescope(handed_in, path)
    assert (status, list(results)) == (130, ["output"])
    path.unlink()
    code = f"import os, grade; grade.flags.check_output = lambda *_: os._exit(9); grade.main({[str(handed_in)]} + "
    code += f"['--gradescope={path}'])"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 9
    assert list(read_strictly(path)) == ["output"]
    assert STOPPED in path.read_text()


def test_results_that_are_written_are_kept_when_something_fails_later(tmp_path):
    path = tmp_path / "results.json"

    @telling_failures(["x.zip", "--gradescope", str(path)])
    def write_and_fail():
        scores.write_gradescope(path, Graded("x.zip", [Result("weights", 30, "right", [])]))
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        write_and_fail()
    assert "tests" in read_strictly(path)


@pytest.mark.parametrize("words", [[], ["--gradescope"], ["--gradescope", "all.csv"], ["--gradescope", ""]])
def test_without_a_json_file_nothing_is_written(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with telling_failures(["x.zip", *words]):
        pass
    assert list(tmp_path.iterdir()) == []
