"""What submissions score: their points, what they share, and the files that tell other programs."""

import csv
import errno
import shutil

import pytest
import torch
from helpers import HANDED_IN, change_result, end_history, refresh

from engine import files, run_files
from experiments import UserError
from grading import scores
from grading.checks import CHECKS, Result
from grading.copies import Copy
from grading.scores import UNCHECKED, Graded
from grading.submission import GradeOptions


def read_csv(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def grade_all(*paths):
    all_graded = [scores.grade(path, GradeOptions()) for path in paths]
    scores.name_copies(all_graded)
    return all_graded


def test_a_mistake_of_the_grader_costs_no_other_submission(handed_in, monkeypatch):
    def fail(*_):
        raise AssertionError("line\nmore")

    with monkeypatch.context() as patch:
        patch.setattr(scores, "run_checks", fail)
        graded = scores.grade(handed_in, GradeOptions())
    assert graded.cannot == "grade.py failed on it (AssertionError: line)"
    assert scores.grade(handed_in, GradeOptions()).points == 90


def test_copies_among_submissions_are_named_and_equal_training_alone_is_not(unpacked, handed_in, tmp_path):
    honest = shutil.copytree(handed_in, tmp_path / "honest")
    for path in honest.glob("runs/single/*/seed-*"):  # the same seeds on an equal machine
        change_result(path, seconds=1.5)
    refresh(honest)
    all_graded = grade_all(handed_in, unpacked, honest)
    assert [len(graded.copies) for graded in all_graded] == [1, 1, 0]
    shared = f"6 runs, such as single/{HANDED_IN} seed 0, shared with {unpacked}"
    why = f"whose single/{HANDED_IN} seed 0 has the same weights (the same seed, settings and training time)"
    assert all_graded[0].copies == [f"{shared}, {why}"]
    scores.write_csv(tmp_path / "grades.csv", all_graded)
    rows = read_csv(tmp_path / "grades.csv")
    assert [row["submission"] for row in rows] == [str(handed_in), str(unpacked), str(honest)]
    assert f"shared with {unpacked}" in rows[0]["copies"]
    assert rows[2]["copies"] == ""
    assert [(row["points"], row["of"], row["seeds"]) for row in rows] == [
        ("90", "90", "seeds 0-1"),
        ("90", "90", "seeds 0-1"),
        ("70", "90", "seeds 0-1"),
    ]
    assert rows[0]["weights"] == "passed"
    assert rows[2]["report"] == "FAILED"
    assert rows[2]["problems"].startswith("report: report.md, line ")


@pytest.mark.parametrize(
    ("noise", "why"), [(0, "equal weights with different seeds"), (0.01, "correlation 1.00, which ")]
)
def test_weights_under_other_seeds_are_named_as_copies(noise, why, handed_in, tmp_path):
    renamed = shutil.copytree(handed_in, tmp_path / "renamed")
    for folder in list(renamed.glob("runs/single/*/seed-*")):
        seed = int(folder.name.removeprefix("seed-")) + 5
        change_result(folder, seconds=1.5, seed=seed)
        weights = run_files.read_weights(folder)
        noisy = {name: tensor + noise * tensor.std() * torch.randn(tensor.shape) for name, tensor in weights.items()}
        torch.save(noisy, folder / "weights.pt")
        folder.rename(folder.with_name(f"seed-{seed}"))
    refresh(renamed)
    for graded in grade_all(handed_in, renamed):
        (copy,) = graded.copies
        assert copy.startswith("6 runs, ")
        assert why in copy


def make_graded(**settings):
    passed = Result("weights", 30, "the weights are right", [])
    failed = Result("report", 20, "the report is right", ["first", "second"])
    unmade = Result("originality", 10, "", ["not checked"], is_made=False)
    return Graded("one.zip", [passed, failed, unmade], seeds={0, 1, 2}, **settings)


def test_runs_that_diverged_are_named_and_a_forged_one_costs(unpacked):
    run = next(unpacked.glob(f"runs/single/{HANDED_IN}/seed-0"))
    change_result(run, diverged=True, stop_reason="diverged: so")
    refresh(unpacked)
    forged = scores.grade(unpacked, GradeOptions())
    assert any("finite" in problem for result in forged.results for problem in result.problems)
    assert not any("diverged" in remark for remark in forged.remarks)
    end_history(run)
    refresh(unpacked)
    diverged = scores.grade(unpacked, GradeOptions())
    says = f"diverged, so only the end of their histories is checked: single/{HANDED_IN}, seed 0"
    assert says in diverged.remarks
    assert not any("finite" in problem for result in diverged.results for problem in result.problems)


def test_points_are_those_of_the_checks_that_passed_and_a_copy_costs_none():
    graded = make_graded()
    assert (graded.points, graded.most_points, graded.has_passed) == (30, 60, False)
    only_passed = Graded("one.zip", graded.results[:1])
    assert only_passed.has_passed
    only_passed.copies.append("shared")
    assert (only_passed.points, only_passed.has_passed) == (30, False)


def test_a_submission_alone_is_shown_check_by_check_and_one_of_many_in_a_line(capsys):
    scores.show(make_graded(remarks=["ignored: a"]), is_alone=True)
    assert capsys.readouterr().out.splitlines() == [
        "passed  weights: the weights are right",
        "FAILED  report, −20 points: first (and 1 more; --csv lists all)",
        "FAILED  originality, −10 points: not checked",
        UNCHECKED,
        "ignored: a",
        "one.zip: 1 of 3 checks passed, 30 of 60 points",
    ]
    scores.show(make_graded(remarks=["ignored: a", "code that differs: b"]), is_alone=False)
    assert capsys.readouterr().out.splitlines() == [
        "one.zip: 1 of 3 checks passed, 30 of 60 points; "
        "FAILED  report, −20 points: first (and 1 more; --csv lists all)",
        "  ignored: a",
        "  code that differs: b",
    ]
    scores.show(make_graded(cannot="no data"), is_alone=True)
    assert capsys.readouterr().out == "one.zip: not graded\n"


def test_the_csv_file_has_a_column_for_each_check(tmp_path):
    cannot = Graded("two.zip", cannot="mnist: not found")
    scores.write_csv(tmp_path / "grades.csv", [make_graded(other_code=["=a.py", "b.py"], remarks=["c", "d"]), cannot])
    first, second = read_csv(tmp_path / "grades.csv")
    assert list(first) == [
        *("submission", "points", "of", "seeds", *CHECKS, "problems", "copies", "code that differs", "remarks"),
    ]
    assert (first["weights"], first["report"], first["originality"], first["archive"]) == (
        "passed",
        "FAILED",
        "FAILED",
        "",
    )
    assert first["problems"] == "report: first; report: second", "nothing of what was not checked"
    assert (first["seeds"], first["code that differs"], first["remarks"]) == ("seeds 0-2", "'=a.py b.py", "c; d")
    assert (second["points"], second["of"], second["problems"]) == ("", "", "not graded: mnist: not found")


def test_a_file_that_cannot_be_written_is_said_so(tmp_path):
    (tmp_path / "grades.csv").mkdir()
    with pytest.raises(UserError, match=r"grades\.csv: cannot be written \(Is a directory\)"):
        scores.write_csv(tmp_path / "grades.csv", [])


def test_a_full_disk_leaves_the_rows_that_are_written(tmp_path, monkeypatch):
    table = tmp_path / "grades.csv"
    scores.write_csv(table, [make_graded()])
    before = table.read_text(encoding="utf-8")

    def fill(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "flush", fill)
    with pytest.raises(UserError, match=r"grades\.csv: cannot be written \(No space left on device\)"):
        scores.write_csv(table, [make_graded(), make_graded()])
    assert table.read_text(encoding="utf-8") == before
    assert list(tmp_path.iterdir()) == [table]


def test_a_run_that_many_share_is_told_in_two_lines_each(monkeypatch):
    monkeypatch.setattr(scores, "find_copies", lambda mine, theirs: [Copy("run 1", "run 2", "why")])
    class_ = [scores.Graded(name) for name in "abcd"]
    scores.name_copies(class_)
    first = "1 run, such as run 1, shared with b, whose run 2 has the same weights (why)"
    assert class_[0].copies == [first, "others shared: 1 with c, 1 with d"]
    assert [len(graded.copies) for graded in class_] == [2, 2, 2, 2]
