"""Submissions of several people as one folder of runs: what is taken, and what is left out by name."""

import shutil

import pytest
from helpers import (
    HANDED_IN,
    PLAIN,
    change_result,
    change_text,
    end_history,
    end_with,
    refresh,
    refuse,
    write_nothing,
    write_runs,
)

import report
import train
from analysis import style
from engine import records
from grading import scores
from grading.pool import make_pool
from grading.scores import Graded, grade_submission
from grading.submission import GradeOptions, read_submission


@pytest.fixture(scope="module")
def other_seeds(tmp_path_factory):
    """Make a second person's submission: one of the experiments, with seeds 1-3, of which the first has seed 1."""
    folder = tmp_path_factory.mktemp("second")
    runs, archive = folder / "runs", folder / "second.zip"
    words = ["--dataset", "mnist_sample", "--epochs", "2", "--runs-dir", str(runs), "--jobs", "1"]
    train.main([*words, "--seeds", "1-3"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "save_figure", write_nothing)
        report.main(["--runs-dir", str(runs), "--out", str(folder / "report"), "--bundle", str(archive)])
    return archive


def test_the_seeds_of_two_people_become_one_folder_of_runs(handed_in, other_seeds, tmp_path):
    first = shutil.copytree(handed_in, tmp_path / "first")
    pool = make_pool([first, other_seeds], tmp_path / "pool", GradeOptions())
    experiment = "single", HANDED_IN
    assert {key[2]: giver for key, giver in pool.givers.items() if key[:2] == experiment} == {
        0: "first",
        1: "first",
        2: "second",
        3: "second",
    }
    assert pool.left_out == ["second: single, seed 1: first gave the same seeds"]
    found, problems = records.read_all(tmp_path / "pool")
    assert problems == []
    assert {record.title: sorted(record.results) for record in found}[HANDED_IN] == [0, 1, 2, 3]
    assert len(found) == 3
    assert first.is_dir(), "what was handed in stays"


def test_a_run_that_diverged_takes_no_others_place(handed_in, other_seeds, tmp_path):
    first = shutil.copytree(handed_in, tmp_path / "first")
    run = first / "runs" / "single" / HANDED_IN / "seed-1"
    change_result(run, diverged=True, stop_reason="diverged: so")
    end_history(run)
    report.main(["--runs-dir", str(first / "runs"), "--out", str(first / "report")])
    refresh(first)
    for people in ([first, other_seeds], [other_seeds, first]):
        pool = make_pool(people, tmp_path / people[0].name / "pool", GradeOptions())
        assert pool.givers["single", HANDED_IN, 1] == "second"
        found, _ = records.read_all(tmp_path / people[0].name / "pool")
        (record,) = (record for record in found if record.title == HANDED_IN)
        assert (sorted(record.results), record.diverged) == ([0, 1, 2, 3], {})
        replaced = f"first: single/{HANDED_IN}, seed 1: diverged; that of second is taken"
        taken = "first: single, seed 1: second gave the same seeds"
        assert pool.left_out == [replaced if people[0] == first else taken]


def test_copies_and_forgeries_are_left_out_by_name(handed_in, tmp_path):
    first, copy, forged = (shutil.copytree(handed_in, tmp_path / name) for name in ("first", "copy", "forged"))
    change_result(next(forged.glob("runs/single/*/seed-1")), test_accuracy=0.99)
    refresh(forged)
    broken = tmp_path / "broken.zip"
    broken.write_bytes(b"no archive")
    pool = make_pool([first, copy, forged, broken, first], tmp_path / "pool", GradeOptions())
    assert set(pool.givers.values()) == {"first"}
    assert [line.partition(":")[0] for line in pool.left_out] == ["copy", "forged", "broken"]
    assert "shared with first" in pool.left_out[0]
    assert "fails the check of predictions" in pool.left_out[1]
    assert "not a zip, tar or tar.gz archive" in pool.left_out[2]


def test_one_persons_own_data_set_leaves_only_this_person_out(handed_in, other_seeds, tmp_path, monkeypatch):
    def grade(submission, person):
        if person == "first":
            return Graded(person, cannot="cells.npz: not found")
        return grade_submission(submission, person)

    first = shutil.copytree(handed_in, tmp_path / "first")
    monkeypatch.setattr(scores, "grade_submission", grade)
    pool = make_pool([first, other_seeds], tmp_path / "pool", GradeOptions())
    assert set(pool.givers.values()) == {"second"}
    assert pool.left_out == ["first: cannot be checked: cells.npz: not found"]


def test_a_submission_on_which_this_toolkit_fails_leaves_only_this_person_out(
    handed_in, other_seeds, tmp_path, monkeypatch
):
    def read(path, *args):
        if path.name == "first":
            raise KeyError("forged")
        return read_submission(path, *args)

    first = shutil.copytree(handed_in, tmp_path / "first")
    monkeypatch.setattr(scores, "read_submission", read)
    pool = make_pool([first, other_seeds], tmp_path / "pool", GradeOptions())
    assert set(pool.givers.values()) == {"second"}
    assert pool.left_out == ["first: cannot be checked: grade.py failed on it (KeyError: 'forged')"]


def test_of_one_study_nobody_elses_runs_are_pooled_or_named(handed_in, other_seeds, tmp_path):
    first = shutil.copytree(handed_in, tmp_path / "first")
    pool = make_pool([first, other_seeds], tmp_path / "pool", GradeOptions(), "fashion-mlp")
    assert (pool.givers, str(pool)) == ({}, "0 runs of 0 people")
    assert pool.left_out == [f"{person}: has no run of fashion-mlp" for person in ("first", "second")]


def test_a_persons_name_is_neither_a_formula_nor_several_lines(tmp_path):
    for name in ('=HYPERLINK("x").zip', "two\nlines.zip"):
        (tmp_path / name).write_bytes(b"no archive")
    pool = make_pool(sorted(tmp_path.iterdir()), tmp_path / "pool", GradeOptions())
    assert [line.partition(": ")[0] for line in pool.left_out] == ['\'=HYPERLINK("x")', r"two\nlines"]


def test_the_same_name_from_two_folders_is_two_people(handed_in, other_seeds, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = shutil.copytree(handed_in, tmp_path / "a" / "submission")
    second = shutil.copyfile(other_seeds, tmp_path / "b" / "submission.zip")
    pool = make_pool([first, second], tmp_path / "pool", GradeOptions())
    assert set(pool.givers.values()) == {"a/submission", "b/submission"}, "a folder and an archive"
    third = shutil.copyfile(other_seeds, tmp_path / "a" / "submission.zip")
    pool = make_pool([second, third], tmp_path / "again", GradeOptions())
    assert set(pool.givers.values()) == {"b/submission"}
    assert pool.left_out[0].startswith("a/submission: ")


def test_the_command_writes_one_report_of_all(handed_in, other_seeds, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(style, "save_figure", write_nothing)
    first = shutil.copytree(handed_in, tmp_path / "first")
    report.main(["--pool", str(first), str(other_seeds), "--out", str(tmp_path / "class")])
    shown = capsys.readouterr().out
    assert "pooled 8 runs of 2 people" in shown
    assert "Left out: second: single, seed 1: first gave the same seeds" in shown
    text = (tmp_path / "class" / "report.md").read_text(encoding="utf-8")
    assert "### People and machines" in text
    assert "first: 0-1; second: 2-3" in text
    assert "--seeds 4`" in text, "a seed that nobody gave yet"
    assert "--seeds 4-6`" in text


def test_when_every_submission_is_left_out_their_reasons_are_the_answer(tmp_path, capsys):
    (tmp_path / "ann.zip").write_bytes(b"no archive")
    captured = end_with(2, report.main, ["--pool", tmp_path / "ann.zip", "--out", tmp_path / "class"], capsys)
    says = "report.py: error: --pool: no run of any submission can be taken (ann: fails the check of"
    assert captured.err.startswith(says)
    assert captured.out == ""


def test_pooled_runs_may_be_shown_beside_ones_own(tmp_path, digits, capsys):
    (tmp_path / "ann.zip").write_bytes(b"no archive")
    write_runs(tmp_path / "runs", digits, PLAIN, [0.9])
    words = ["--pool", tmp_path / "ann.zip", "--runs-dir", tmp_path / "runs", "--against", tmp_path / "runs"]
    assert "no run of any submission can be taken" in refuse(report.main, [*words, "--out", tmp_path / "class"], capsys)
    assert "is the folder of records" in refuse(report.main, [*words, "--out", tmp_path / "runs"], capsys)


def test_a_person_is_named_without_the_archives_ending(tmp_path):
    for name in ("ann.zip", "BEN.ZIP", "Cleo.tar.gz", "dan"):
        (tmp_path / name).write_bytes(b"no archive")
    pool = make_pool(sorted(tmp_path.iterdir()), tmp_path / "pool", GradeOptions())
    assert sorted(line.partition(":")[0] for line in pool.left_out) == ["BEN", "Cleo", "ann", "dan"]


def test_a_folder_of_submissions_is_refused(tmp_path, capsys):
    for name in ("ann", "ben"):
        (tmp_path / f"{name}.zip").write_bytes(b"")
    says = f"{tmp_path}: is a folder of submissions; name the submissions: {tmp_path / '*'}"
    line = refuse(report.main, ["--pool", tmp_path, "--out", tmp_path / "class"], capsys)
    assert line == f"report.py: error: {says}"


def test_a_submission_that_is_missing_is_one_line(tmp_path, capsys):
    words = ["--pool", tmp_path / "none.zip", "--out", tmp_path / "class"]
    assert "none.zip: not found" in refuse(report.main, words, capsys)
    assert not (tmp_path / "class").exists()


def test_an_experiment_with_other_settings_than_the_study_has_is_not_pooled(tmp_path, monkeypatch):
    """Its settings were edited before it was trained, and its report says so, so that no check fails."""
    monkeypatch.setattr(style, "save_figure", write_nothing)
    runs, archive = tmp_path / "runs", tmp_path / "ann.zip"
    study = ["--study", "fashion-mlp", "--dataset", "fashion_mnist_sample", "--epochs", "1"]
    train.main([*study, "--only", "third", "dropout", "--seeds", "0", "--runs-dir", str(runs), "--jobs", "1"])
    (edited,) = runs.glob("*/dropout/experiment.json")
    change_text(edited, '"dropout": 0.25', '"dropout": 0.5')
    report.main(["--runs-dir", str(runs), "--out", str(tmp_path / "report"), "--bundle", str(archive)])
    pool = make_pool([archive], tmp_path / "pool", GradeOptions())
    assert [title for _, title, _ in pool.givers] == ["third"]
    (line,) = pool.left_out
    assert line.startswith("ann: fashion-mlp,")
    assert line.endswith("/dropout: other settings or other data than the others have")
