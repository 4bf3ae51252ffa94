"""The command that grades: what it prints, writes and refuses, and its exit status."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import FIRST, change_text, end_with, refresh, refuse

import grade
from engine import flags
from experiments import UserError
from grading import archives, scores
from grading.scores import UNCHECKED

FORMAT_2 = Path(__file__).with_name("format_2") / "submission.zip"
CHECKED = ["archive", "predictions", "weights", "originality", "report"]


def test_an_honest_submission_passes_every_check_packed_and_unpacked(handed_in, capsys, tmp_path):
    for path in (handed_in, handed_in.parent / "submission.zip"):
        grade.main([str(path), "--seeds", "0-1", "--gradescope", str(tmp_path / "results.json")])
        lines = capsys.readouterr().out.splitlines()
        names = [*CHECKED, "completeness"]
        assert [line.split()[:2] for line in lines[:6]] == [["passed", f"{name}:"] for name in names]
        assert lines[5] == "passed  completeness: seeds 0-1: all there"
        assert lines[6] == UNCHECKED
        assert lines[7:] == [f"{path}: 6 of 6 checks passed, 100 of 100 points"]
        results = json.loads((tmp_path / "results.json").read_text())
        assert [test["name"] for test in results["tests"]] == names
        assert all(test["score"] == test["max_score"] > 0 for test in results["tests"])
        assert all(test["status"] == "passed" for test in results["tests"])


def test_all_but_the_report_of_a_submission_of_format_2_passes(capsys):
    """Its runs are read and checked as ever; but reports have other sentences now, and verdicts after another rule."""
    lines = end_with(1, grade.main, [FORMAT_2], capsys).out.splitlines()
    outcomes = [
        ["FAILED" if name == "report" else "passed", "report," if name == "report" else f"{name}:"] for name in CHECKED
    ]
    assert [line.split()[:2] for line in lines[:5]] == outcomes
    assert lines[-1] == f"{FORMAT_2}: 4 of 5 checks passed, 70 of 90 points"


def test_a_check_that_fails_is_told_by_line_and_exit_status(unpacked, capsys):
    change_text(unpacked / "report" / "report.md", "## Background", "## Backgrounds")
    refresh(unpacked)
    lines = end_with(1, grade.main, [unpacked], capsys).out.splitlines()
    assert lines[4].startswith("FAILED  report, −20 points: report.md, line ")
    assert lines[-1] == f"{unpacked}: 4 of 5 checks passed, 70 of 90 points"


def test_code_that_differs_is_named_and_costs_nothing(unpacked, capsys):
    (unpacked / "code" / "more.py").write_text("")
    refresh(unpacked)
    grade.main([str(unpacked)])
    out = capsys.readouterr().out
    assert "code that differs from the grader's or is missing (not run): more.py\n" in out
    assert "90 of 90 points" in out


def test_a_retrained_experiment_is_told_with_its_prediction_interval(handed_in, capsys):
    name = FIRST.removeprefix("runs/")
    grade.main([str(handed_in), "--retrain", name])
    about = (
        f"passed  retraining: {name}: the recorded test accuracies lie in the prediction interval of 5 fresh seeds, "
    )
    assert about in capsys.readouterr().out


def test_shared_runs_are_told_and_fail_though_they_cost_no_points(handed_in, unpacked, tmp_path, capsys):
    table = tmp_path / "grades.csv"
    out = end_with(1, grade.main, [handed_in, unpacked, "--csv", table], capsys).out
    assert f"SHARED  {handed_in}: 6 runs, such as single/mlp1," in out
    assert out.count("SHARED  ") == 2
    assert out.count("90 of 90 points") == 2
    assert table.read_text(encoding="utf-8").count("90,90") == 2


def test_a_data_set_that_the_grader_lacks_costs_no_point_and_the_others_are_graded(
    handed_in, unpacked, tmp_path, capsys, offline
):
    for path in unpacked.glob("runs/single/*/experiment.json"):
        path.write_text(path.read_text(encoding="utf-8").replace("mnist_sample", "mnist"), encoding="utf-8")
        path.parent.rename(path.parent.with_name(path.parent.name.replace("mnist_sample", "mnist")))
    refresh(unpacked)
    table, results, nowhere = tmp_path / "grades.csv", tmp_path / "results.json", tmp_path / "nowhere"
    nowhere.mkdir()
    said = end_with(2, grade.main, [unpacked, handed_in, "--csv", table, "--data-dir", nowhere], capsys)
    assert said.err.startswith(f"grade.py: error: not graded: {unpacked}: mnist: not found (looked at ")
    assert f"in and below {nowhere}" in said.err
    assert f"{unpacked}: not graded\n{handed_in}: 5 of 5 checks passed, 90 of 90 points" in said.out
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["points"] for row in rows] == ["", "90"]
    assert rows[0]["problems"].startswith("not graded: mnist: not found")
    end_with(2, grade.main, [unpacked, "--gradescope", results, "--data-dir", nowhere], capsys)
    failure = json.loads(results.read_text())
    assert list(failure) == ["output"]
    assert "mnist: not found (looked at" in failure["output"]


def test_a_submission_named_twice_is_graded_once_and_no_copy_of_itself(handed_in, capsys):
    grade.main([str(handed_in), str(handed_in / ".." / handed_in.name)])
    assert capsys.readouterr().out.count("5 of 5 checks passed") == 1


def test_what_is_graded_when_ctrl_c_ends_it_is_kept(handed_in, unpacked, tmp_path, capsys, monkeypatch):
    plain, table = scores.grade, tmp_path / "grades.csv"

    def until_interrupted(path, options):
        if path == unpacked:
            assert len(table.read_text(encoding="utf-8").splitlines()) == 2, "if this process were killed"
            raise KeyboardInterrupt
        return plain(path, options)

    monkeypatch.setattr(scores, "grade", until_interrupted)
    said = end_with(130, grade.main, [handed_in, unpacked, "--csv", table], capsys).err
    assert "interrupted: 1 of 2 submissions are graded" in said
    assert len(table.read_text(encoding="utf-8").splitlines()) == 2


def test_copies_are_in_the_table_though_nobody_reads_the_output(handed_in, unpacked, tmp_path, monkeypatch):
    table = tmp_path / "grades.csv"

    def fail(*_, **__):
        raise BrokenPipeError

    monkeypatch.setattr(scores, "show_copies", fail)
    with pytest.raises(SystemExit):
        grade.main([str(handed_in), str(unpacked), "--csv", str(table)])
    with open(table, newline="", encoding="utf-8") as file:
        assert ["shared with" in row["copies"] for row in csv.DictReader(file)] == [True, True]


def test_each_output_is_written_though_another_fails(handed_in, tmp_path, capsys, monkeypatch):
    def fail(path, all_graded):
        raise UserError(f"{path}: cannot be written (No space left on device)")

    monkeypatch.setattr(scores, "write_csv", fail)
    results = tmp_path / "results.json"
    words = [handed_in, "--csv", tmp_path / "grades.csv", "--gradescope", results]
    said = end_with(2, grade.main, words, capsys).err
    assert "grades.csv: cannot be written" in said
    assert "tests" in json.loads(results.read_text(encoding="utf-8"))


def test_an_unpacked_submission_is_not_a_folder_of_submissions(unpacked):
    flags.find_submissions([unpacked, unpacked.parent], are_of_a_class=True)  # the second as if packed again
    (unpacked / "submission.zip").write_bytes(b"")
    (unpacked / "data.zip").write_bytes(b"")
    assert flags.find_submissions([unpacked], are_of_a_class=True) == [unpacked]


def test_a_folder_of_several_archives_costs_its_author_alone(handed_in, tmp_path, capsys):
    for name in ("one.zip", "two.zip"):
        (tmp_path / "both").mkdir(exist_ok=True)
        (tmp_path / "both" / name).write_bytes((handed_in.parent / "submission.zip").read_bytes())
    out = end_with(1, grade.main, [tmp_path / "both", handed_in], capsys).out
    assert f"{tmp_path / 'both'}: 0 of 5 checks passed, 0 of 90 points" in out
    assert "holds 2 archives, expected one: one.zip, two.zip" in out
    assert f"{handed_in}: 5 of 5 checks passed, 90 of 90 points" in out


def test_a_file_that_may_not_be_read_costs_no_point_and_the_others_are_graded(
    handed_in, unpacked, tmp_path, capsys, monkeypatch
):
    def refuse(path):
        if Path(path) == unpacked / "report" / "report.md":
            raise PermissionError(13, "Permission denied", str(path))
        return open(path, "rb")

    monkeypatch.setattr(archives, "io", SimpleNamespace(FileIO=refuse))  # no permission stops root
    said = end_with(2, grade.main, [unpacked, handed_in], capsys)
    why = f"{unpacked / 'report' / 'report.md'}: cannot be read (Permission denied); change its permissions"
    assert said.err == f"grade.py: error: not graded: {unpacked}: {why}\n"
    assert f"{handed_in}: 5 of 5 checks passed, 90 of 90 points" in said.out


def test_patterns_that_no_shell_resolved_name_submissions(tmp_path):
    for name in ("b.zip", "a.zip", "[1].zip"):
        (tmp_path / name).write_bytes(b"")
    pattern, literal = tmp_path / "?.zip", tmp_path / "[1].zip"
    found = flags.find_submissions([pattern, literal], are_of_a_class=True)
    assert found == [tmp_path / "a.zip", tmp_path / "b.zip", literal]
    with pytest.raises(UserError, match=r"\*\.tar: not found; expected a submission"):
        flags.find_submissions([tmp_path / "*.tar"], are_of_a_class=True)


def test_a_study_is_asked_for_as_its_folder_is_named_in_any_order():
    folder = "mnist-norms,dataset=mnist_sample,flip=true,epochs=3"  # in the order of the fields of Experiment
    overrides = dict(dataset="mnist_sample", epochs=3, flip=True)
    for words in (folder, "mnist-norms,epochs=3,flip=true,dataset=mnist_sample"):
        study = grade.read_study(words)
        assert (study.group, study.overrides) == (folder, overrides)
    own = grade.read_study("mnist-norms,epochs=20")
    assert (own.group, own.overrides) == ("mnist-norms", {}), "it has 20 epochs anyway"


def test_the_experiment_to_retrain_is_named_by_its_studys_folder_in_any_order():
    folder = "mnist-norms,dataset=mnist_sample,epochs=3"
    for words in (folder, "mnist-norms,epochs=3,dataset=mnist_sample"):
        assert grade.read_retrain(f"{words}/GN") == f"{folder}/GN"
    assert grade.read_retrain("mnist-norms,epochs=20/GN") == "mnist-norms/GN", "it has 20 epochs anyway"
    assert grade.read_retrain("single/mlp3,epochs=2") == "single/mlp3,epochs=2"


def test_a_study_of_which_no_experiment_can_be_trained_is_refused():
    with pytest.raises(UserError, match=r"--study mnist-norms,batch_size=1,norm=batch: .+ needs at least 2 images"):
        grade.read_study("mnist-norms,batch_size=1,norm=batch")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["none.zip"], "none.zip: not found; expected a submission.zip or its unpacked folder"),
        (["loop.zip"], "loop.zip: not found"),
        (["handed_in", "--seeds", "4-0"], "the range 4-0 falls"),
        (["handed_in", "handed_in", "--gradescope", "x.json"], "takes one submission, found 2"),
        (["class/*/*.zip", "--gradescope", "x.json"], "takes one submission, found 2"),
        (["--csv", "one.zip", "handed_in"], "expected a file with a name that ends in .csv"),
        (["--gradescope", "one.zip", "handed_in"], "expected a file with a name that ends in .json"),
        (["--csv", "none/all.csv", "handed_in"], "there is no folder"),
        (["handed_in", "--study", ""], "--study : expected one of cifar-norms, "),
        (["handed_in", "--seeds", ""], "--seeds : expected seeds such as 0-4"),
        (["handed_in", "--study", "fashion"], "--study fashion: expected one of cifar-norms, fashion-mlp, "),
        (["handed_in", "--study", "ghostsize"], "; did you mean ghost-size?"),
        (
            ["handed_in", "--study", "fashion-mlp,epoch=2"],
            "--study fashion-mlp,epoch=2: 'epoch' is not a setting; did you mean epochs?",
        ),
        (["handed_in", "--study", "fashion-mlp,foo=3"], "--study fashion-mlp,foo=3: 'foo' is not a setting\n"),
        (["handed_in", "--study", "fashion-mlp,"], "--study fashion-mlp,: '' is not a setting"),
        (["handed_in", "--study", "fashion-mlp,epochs=two"], "fashion-mlp,epochs=two: argument --epochs: invalid int"),
        (["handed_in", "--study", "fashion-mlp,flip=no"], "--study fashion-mlp,flip=no: argument --flip: "),
        (["handed_in", "--study", "fashion-mlp,epochs=0"], "--epochs 0: expected"),
        (["handed_in", "--study", "fashion-mlp,model=mlp1"], "a study has its own networks"),
        (["handed_in", "--data-dir", "no data"], "no data: there is no such folder"),
        (["handed_in", "--retrain", "L1"], "expected STUDY/TITLE, where STUDY is one of cifar-norms, fashion-mlp, "),
        (
            ["handed_in", "--retrain", "mnist-norms,epoch=3/GN"],
            "--retrain mnist-norms,epoch=3: 'epoch' is not a setting; did you mean epochs?",
        ),
        (["handed_in", "--retrain", "fashion-mlp/L3"], 'expected an experiment of fashion-mlp: "simple", '),
        (["."], ".: is a folder of submissions; name the submissions: *\n"),
        (["class"], "class: is a folder of submissions; name the submissions: class/*\n"),
        (["unpacked"], "unpacked: is a folder of submissions; name the submissions: unpacked/*\n"),
        ([""], "argument SUBMISSION: expected a path, found an empty text"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_arguments_are_refused_in_one_line(words, says, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "handed_in").mkdir()
    for name in (
        "submission.zip",
        "class/a/one.zip",
        "class/b/two.zip",
        "unpacked/a/manifest.json",
        "unpacked/b/manifest.json",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "loop.zip").symlink_to("loop.zip")
    line = f"{refuse(grade.main, words, capsys)}\n"
    assert line.startswith("grade.py: error: ")
    assert says in line
