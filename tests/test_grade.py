"""Every forgery is caught by its own check, also where the manifest's checksums were refreshed after it."""

import csv
import hashlib
import json
import shutil
import stat
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_report import write_nothing

import grade
import report
import studies
import train
from analysis import plots
from engine import records
from experiments import Experiment
from grading import checks, submission
from sources import downloading

ROOT = Path(__file__).resolve().parents[1]
NAMES = {name: f"mlp1,dataset=mnist_sample,epochs=2{name}" for name in ("", ",l1=0.001", ",l2=0.001")}
FIRST = f"runs/single/{NAMES['']}"
ONE_CYCLE = dict(optimizer="sgd", lr_scheduler="one_cycle")


@pytest.fixture(scope="module")
def handed_in(tmp_path_factory):
    """The folder of an honest submission of three experiments with two seeds each, unpacked."""
    folder = tmp_path_factory.mktemp("submission")
    runs, out = folder / "runs", folder / "report"
    words = ["--dataset", "mnist_sample", "--epochs", "2", "--seeds", "0-1", "--runs-dir", str(runs)]
    for settings in ([], ["--l1", "0.001"], ["--l2", "0.001"]):
        train.main([*words, *settings, "--jobs", "1"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "save", write_nothing)
        report.main(["--runs-dir", str(runs), "--out", str(out), "--bundle", str(folder / "submission.zip")])
    submission.unpack(folder / "submission.zip", folder / "unpacked")
    return folder / "unpacked"


@pytest.fixture
def unpacked(handed_in, tmp_path):
    return shutil.copytree(handed_in, tmp_path / "submission")


def refresh(folder):
    """Give the manifest the checksums of what is there now, as a forger would."""
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != submission.MANIFEST]
    found = {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    (folder / submission.MANIFEST).write_text(json.dumps(dict(format=2, files=found)))


def refresh_report(folder, monkeypatch):
    """Make the report anew of what the records say now."""
    monkeypatch.setattr(plots, "save", write_nothing)
    shutil.rmtree(folder / "report")
    report.main(["--runs-dir", str(folder / "runs"), "--out", str(folder / "report")])
    refresh(folder)


def failed(folder, capsys, *words):
    """{check: its line} of the checks that fail."""
    with pytest.raises(SystemExit) as caught:
        grade.main([str(folder), *words])
    assert caught.value.code == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAILED")]
    return {line.split()[1].rstrip(":"): line for line in lines}


def change(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def change_digit(path, figure):
    """Alter one digit of a figure of a result.json."""
    result = json.loads(path.read_text(encoding="utf-8"))
    result[figure] += 1e-4
    path.write_text(json.dumps(result), encoding="utf-8")


def test_an_honest_submission_passes_every_check_packed_and_unpacked(handed_in, capsys, tmp_path):
    for path in (handed_in, handed_in.parent / "submission.zip"):
        grade.main([str(path), "--seeds", "0-1", "--gradescope", str(tmp_path / "results.json")])
        lines = capsys.readouterr().out.splitlines()
        names = ["archive", "predictions", "weights", "originality", "report", "completeness"]
        assert [line.split()[:2] for line in lines[:6]] == [["passed", f"{name}:"] for name in names]
        assert lines[6] == grade.UNCHECKED
        assert lines[7] == f"{path}: 6 of 6 checks passed, 100 of 100 points"
        results = json.loads((tmp_path / "results.json").read_text())
        assert [each["name"] for each in results["tests"]] == names
        assert all(each["score"] == each["max_score"] > 0 for each in results["tests"])
        assert all(each["status"] == "passed" for each in results["tests"])


def test_the_archive_holds_report_records_weights_and_code(handed_in):
    files = {file.relative_to(handed_in).as_posix() for file in handed_in.rglob("*") if file.is_file()}
    expected = {
        "manifest.json",
        "report/report.md",
        "report/report.html",
        "report/tables/single,mnist_sample-accuracy.csv",
    }
    expected |= {
        f"{FIRST}/experiment.json",
        f"{FIRST}/seed-1/weights.pt",
        "code/train.py",
        "code/analysis/templates/style.css",
    }
    expected |= {"code/requirements.txt", "code/analysis/templates/style.css"}
    expected |= {"report/figures/single,mnist_sample-curves.pdf"}
    assert expected <= files


def test_every_tracked_file_of_code_is_packed():
    try:
        tracked = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the repository")
    code = {name for name in tracked.stdout.splitlines() if not name.startswith("tests/")}
    assert {"train.py", "engine/records.py", "studies/study.py"} <= code
    assert code <= submission.all_code().keys()
    assert {"analysis/templates/page.html", "README.md", "requirements.txt"} <= submission.all_code().keys()


@pytest.mark.parametrize("figure", ["test_accuracy", "test_loss"])
def test_a_test_figure_altered_by_a_digit_is_caught(figure, unpacked, capsys, monkeypatch):
    change_digit(unpacked / FIRST / "seed-0" / "result.json", figure)
    refresh_report(unpacked, monkeypatch)
    found = failed(unpacked, capsys)
    assert found.keys() == {"predictions"} if figure == "test_accuracy" else {"predictions"} <= found.keys()
    assert f"{NAMES['']} seed 0: {figure.replace('_', ' ')} is" in found["predictions"]


@pytest.mark.parametrize("figure", ["train_accuracy", "val_accuracy"])
def test_a_train_or_validation_figure_beyond_two_images_in_ten_thousand_is_caught(
    figure, unpacked, capsys, monkeypatch
):
    for _ in range(3):
        change_digit(unpacked / FIRST / "seed-1" / "result.json", figure)
    refresh_report(unpacked, monkeypatch)
    assert failed(unpacked, capsys).keys() == {"weights"}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"zeros": 0', '"zeros": 1', "sparsity and norms"),
        ('"parameters": 55050', '"parameters": 55051', "55,051 parameters"),
        ('"chosen_epoch": 2', '"chosen_epoch": 1', "by its settings and its history it ends after 2 and chooses 2"),
        ('"epochs": 2', '"epochs": 3', "3 epochs, 2 chosen, and a history of 2"),
        ('"seed": 0', '"seed": 7', "its result is that of seed 7"),
    ],
)
def test_other_figures_that_do_not_follow_are_caught(old, new, says, unpacked, capsys, monkeypatch):
    change(unpacked / FIRST / "seed-0" / "result.json", old, new)
    refresh_report(unpacked, monkeypatch)
    assert says in failed(unpacked, capsys)["weights"]


def test_predictions_that_the_weights_do_not_make_are_caught(unpacked, capsys, monkeypatch):
    """The student makes better predictions up, and a record that follows from them."""
    from data import load
    from training import scores

    labels = load("mnist_sample", "unused").test.labels
    folder = unpacked / FIRST / "seed-0"
    with np.load(folder / "predictions.npz") as arrays:
        stored = arrays["log_probabilities"]
    wrong = np.flatnonzero(stored.argmax(1) != labels.numpy())[0]
    stored[wrong] = np.log(0.01 / 9)
    stored[wrong, labels[wrong]] = np.log(0.99)
    np.savez_compressed(folder / "predictions.npz", log_probabilities=stored)
    measured = scores(torch.from_numpy(stored).unsqueeze(1), labels)
    result = json.loads((folder / "result.json").read_text())
    result |= dict(test_accuracy=measured["accuracy"][0], test_loss=measured["loss"][0])
    (folder / "result.json").write_text(json.dumps(result))
    refresh_report(unpacked, monkeypatch)
    assert failed(unpacked, capsys).keys() == {"weights"}


def test_a_run_copied_as_another_seed_is_caught(unpacked, capsys, monkeypatch):
    shutil.copytree(unpacked / FIRST / "seed-1", unpacked / FIRST / "seed-2")
    change(unpacked / FIRST / "seed-2" / "result.json", '"seed": 1', '"seed": 2')
    refresh_report(unpacked, monkeypatch)
    found = failed(unpacked, capsys)
    assert found.keys() == {"originality"}
    assert "seed 2 has the weights of" in found["originality"]


def test_a_run_copied_as_another_experiment_is_caught(unpacked, capsys, monkeypatch):
    one, other = (unpacked / "runs" / "single" / NAMES[name] / "seed-0" for name in ("", ",l1=0.001"))
    shutil.rmtree(other)
    shutil.copytree(one, other)
    refresh_report(unpacked, monkeypatch)
    assert "originality" in failed(unpacked, capsys)


def test_weights_of_another_run_are_caught(unpacked, capsys):
    folder = unpacked / FIRST
    shutil.copy(folder / "seed-0" / "weights.pt", folder / "seed-1" / "weights.pt")
    refresh(unpacked)
    assert {"weights", "originality"} <= failed(unpacked, capsys).keys()


def test_weights_of_another_network_are_caught(unpacked, capsys):
    torch.save({"1.weight": torch.zeros(3)}, unpacked / FIRST / "seed-0" / "weights.pt")
    refresh(unpacked)
    assert "the weights do not fit mlp1" in failed(unpacked, capsys)["weights"]


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
def test_a_report_that_does_not_follow_from_its_records_is_caught(file, old, new, unpacked, capsys):
    change(unpacked / "report" / file, old, new)
    refresh(unpacked)
    assert failed(unpacked, capsys).keys() == {"report"}


def test_a_number_in_a_table_is_caught(unpacked, capsys):
    path = unpacked / "report" / "tables" / "single,mnist_sample-accuracy.csv"
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    column = rows[0].index("test %")
    rows[1][column] = repr(float(rows[1][column]) + 0.001)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    refresh(unpacked)
    assert "the records give" in failed(unpacked, capsys)["report"]


def test_a_missing_seed_and_a_missing_experiment_are_named(unpacked, capsys):
    found = failed(unpacked, capsys, "--seeds", "0-3")
    assert found.keys() == {"completeness"}
    assert "seeds 2-3 missing" in found["completeness"]
    found = failed(unpacked, capsys, "--study", "fashion-mlp")
    assert found.pop("completeness") == "FAILED  completeness: fashion-mlp is not in it; there is single"
    assert set(found.values()) == {
        f"FAILED  {name}: not checked" for name in ("predictions", "weights", "originality", "report")
    }


def test_a_study_is_whole_with_all_experiments_its_settings_and_enough_seeds(tmp_path):
    def found(table, seeds, **settings):
        given = {name: value for name, value in settings.items() if name != "l1"}
        return [
            records.Record(
                tmp_path / table / title,
                replace(study.experiment(title, given), **settings),
                {},
                {seed: {} for seed in seeds},
            )
            for title in study.all_trained_as(given)
        ]

    def problems(found, table, seeds=None):
        return checks.completeness(found, table, settings if table == on_sample else {}, seeds).problems

    study, on_sample = studies.STUDIES["l1-path"], "l1-path,dataset=mnist_sample,epochs=3"
    settings = dict(dataset="mnist_sample", epochs=3)
    whole = found(on_sample, range(5, 10), **settings)
    assert problems(whole, on_sample) == problems(whole, on_sample, range(5, 8)) == []
    assert problems(whole, on_sample, [5, 11]) == [
        f"{on_sample}/{title}: seed 11 missing" for title in study.experiments
    ]
    assert problems(whole[1:], on_sample) == [f"{on_sample}/{whole[0].title} is missing"]
    assert problems(whole, "l1-path") == [f"l1-path is not in it; there is {on_sample}"]
    few = found(on_sample, range(4), **settings)
    assert problems([*few[:1], *whole[1:]], on_sample) == [
        f"{on_sample}/{few[0].title}: seeds 0-3, expected 5 seeds at least"
    ]
    shorter = found(on_sample, range(5), **settings | dict(epochs=2))
    wrong = [f"{on_sample}/{title} has other settings than the study" for title in study.experiments]
    shorter = [replace(record, folder=tmp_path / on_sample / record.title) for record in shorter]
    assert problems(shorter, on_sample) == wrong
    other = found(on_sample, range(5), **settings, l1=0.5)
    assert problems([*whole[:-1], other[-1]], on_sample) == [
        f"{on_sample}/{other[-1].title} has other settings than the study"
    ]


def test_a_study_is_asked_for_as_its_folder_is_named_in_any_order():
    parser = grade.make_parser()
    folder = "mnist-norms,dataset=mnist_sample,flip=true,epochs=3"  # in the order of the fields of Experiment
    changes = dict(dataset="mnist_sample", epochs=3, flip=True)
    for words in (folder, "mnist-norms,epochs=3,flip=true,dataset=mnist_sample"):
        assert grade.study_asked(words, parser) == (folder, changes)
    assert grade.study_asked("mnist-norms,epochs=20", parser) == ("mnist-norms", {}), "its own"


def test_without_refreshed_checksums_every_change_is_seen_in_the_archive(unpacked, capsys):
    change_digit(unpacked / FIRST / "seed-0" / "result.json", "test_loss")
    (unpacked / FIRST / "seed-1" / "history.csv").unlink()
    (unpacked / "more.txt").write_text("")
    problems = submission.check_manifest(unpacked)
    assert problems == [
        "more.txt is not in the manifest",
        f"{FIRST}/seed-0/result.json was altered",
        f"{FIRST}/seed-1/history.csv is missing",
    ]
    assert "archive" in failed(unpacked, capsys)


def test_fresh_seeds_tell_a_plausible_record_from_one_that_is_too_good(unpacked, capsys):
    name = f"single/{NAMES['']}"
    grade.main([str(unpacked), "--retrain", name])
    assert "passed  retraining" in capsys.readouterr().out
    for seed in (0, 1):
        path = unpacked / FIRST / f"seed-{seed}" / "result.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | dict(test_accuracy=0.9999)))
    refresh(unpacked)
    assert "fresh seeds predict" in failed(unpacked, capsys, "--retrain", name)["retraining"]
    assert (
        '"single/none" is not in it; there is "single/'
        in failed(unpacked, capsys, "--retrain", "single/none")["retraining"]
    )


def test_copies_among_submissions_are_named_and_equal_training_alone_is_not(unpacked, handed_in, tmp_path, capsys):
    honest = shutil.copytree(handed_in, tmp_path / "honest")
    for path in honest.glob("runs/single/*/seed-*/result.json"):  # the same seeds on an equal machine
        path.write_text(json.dumps(json.loads(path.read_text()) | dict(seconds=1.5)))
    refresh(honest)
    table = tmp_path / "grades.csv"
    with pytest.raises(SystemExit):
        grade.main([str(handed_in), str(unpacked), str(honest), "--csv", str(table)])
    out = capsys.readouterr().out
    assert f"SHARED  {handed_in}: 6 runs, such as single/{NAMES['']} seed 0, shared with {unpacked} (equal" in out
    assert out.count("SHARED  ") == 2
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
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


def test_equal_weights_under_other_seeds_are_named_as_copies(unpacked, handed_in, tmp_path, capsys):
    renamed = shutil.copytree(handed_in, tmp_path / "renamed")
    for folder in list(renamed.glob("runs/single/*/seed-*")):
        path = folder / "result.json"
        seed = int(folder.name.removeprefix("seed-")) + 5
        path.write_text(json.dumps(json.loads(path.read_text()) | dict(seconds=1.5, seed=seed)))
        folder.rename(folder.with_name(f"seed-{seed}"))
    with pytest.raises(SystemExit):
        grade.main([str(handed_in), str(renamed)])
    assert capsys.readouterr().out.count(": 6 runs, such as") == 2


@pytest.mark.parametrize(
    ("one", "other", "may_be_equal"),
    [
        (dict(l2=0.001), dict(weight_decay=0.002), True),
        (dict(l2=0.001, optimizer="adamw"), dict(weight_decay=0.002, optimizer="adamw"), False),
        (dict(l2=0.001), dict(weight_decay=0.001), False),
        (dict(patience=3), dict(), True),
        (dict(epochs=20, patience=3, restore="last"), dict(epochs=15), True),
        (dict(norm="ghost", ghost_splits=1), dict(norm="batch"), True),
        (dict(norm="ghost", ghost_splits=2), dict(norm="batch"), False),
        (dict(lr=0.01), dict(), False),
        (dict(optimizer="sgd", epochs=20), dict(optimizer="sgd"), True),
        (ONE_CYCLE | dict(epochs=20), ONE_CYCLE, False),
    ],
)
def test_only_settings_whose_training_may_be_the_same_may_share_weights(one, other, may_be_equal):
    pair = [checks.as_trained(Experiment(**settings)) for settings in (one, other)]
    assert (pair[0] == pair[1]) == may_be_equal


def test_a_data_set_that_the_teacher_lacks_costs_no_point_and_the_others_are_graded(
    handed_in, unpacked, tmp_path, capsys, monkeypatch
):
    for path in unpacked.glob("runs/single/*/experiment.json"):
        change(path, '"name": "mnist_sample"', '"name": "mnist"')
        change(path, '"dataset": "mnist_sample"', '"dataset": "mnist"')
        path.parent.rename(path.parent.with_name(path.parent.name.replace("mnist_sample", "mnist")))
    monkeypatch.setattr(downloading, "reach", lambda urls: dict.fromkeys(urls, "no network"))
    table, nowhere = tmp_path / "grades.csv", tmp_path / "nowhere"
    nowhere.mkdir()
    with pytest.raises(SystemExit) as caught:
        grade.main([str(unpacked), str(handed_in), "--csv", str(table), "--data-dir", str(nowhere)])
    assert caught.value.code == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"grade.py: error: not graded: {unpacked}: mnist: not found in {nowhere}")
    assert f"{unpacked}: not graded\n{handed_in}: 5 of 5 checks passed, 90 of 90 points" in said.out
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["points"] for row in rows] == ["", "90"]
    assert rows[0]["problems"].startswith("not graded: mnist: not found")
    with pytest.raises(SystemExit):
        grade.main([str(unpacked), "--gradescope", str(tmp_path / "results.json"), "--data-dir", str(nowhere)])
    assert not (tmp_path / "results.json").exists()


def test_a_submission_that_a_computer_packed_again_passes(handed_in, tmp_path, capsys):
    again = tmp_path / "again"
    shutil.copytree(handed_in, again / "my submission")
    for litter in ("my submission/.DS_Store", "my submission/report/._report.md", "__MACOSX/._my submission"):
        (again / litter).parent.mkdir(exist_ok=True)
        (again / litter).write_text("")
    grade.main([shutil.make_archive(str(tmp_path / "again"), "zip", again)])
    assert "5 of 5 checks passed" in capsys.readouterr().out


def test_a_submission_of_another_version_is_told_so_once(unpacked, capsys):
    change(unpacked / submission.MANIFEST, '"format": 2', '"format": 1')
    found = failed(unpacked, capsys)
    assert "another version of this toolkit made it: format 1, expected 2" in found.pop("archive")
    assert all(line.endswith(": not checked") for line in found.values())


def test_a_record_that_cannot_be_read_fails_the_archive(unpacked, capsys):
    (unpacked / FIRST / "seed-0" / "result.json").write_text("{")
    refresh(unpacked)
    assert failed(unpacked, capsys)["archive"].startswith(
        f"FAILED  archive: {FIRST}/seed-0/result.json: cannot be read"
    )


def test_code_that_differs_is_named_and_costs_nothing(unpacked, capsys):
    change(unpacked / "code" / "training.py", "optimizer.step()", "optimizer.step(); cheat()")
    (unpacked / "code" / "analysis" / "tables.py").unlink()
    (unpacked / "code" / "more.py").write_text("")
    refresh(unpacked)
    grade.main([str(unpacked)])
    out = capsys.readouterr().out
    assert "its code, which is not run, is not as it is here: analysis/tables.py, more.py, training.py\n" in out
    assert "90 of 90 points" in out


def test_a_submission_named_twice_is_graded_once_and_no_copy_of_itself(handed_in, capsys):
    grade.main([str(handed_in), str(handed_in / ".." / handed_in.name)])
    assert capsys.readouterr().out.count("5 of 5 checks passed") == 1


def test_what_is_graded_when_ctrl_c_ends_it_is_kept(handed_in, unpacked, tmp_path, capsys, monkeypatch):
    plain = grade.grade

    def until_interrupted(path, args):
        if path == unpacked:
            raise KeyboardInterrupt
        return plain(path, args)

    monkeypatch.setattr(grade, "grade", until_interrupted)
    table = tmp_path / "grades.csv"
    with pytest.raises(SystemExit) as caught:
        grade.main([str(handed_in), str(unpacked), "--csv", str(table)])
    assert caught.value.code == 130
    assert "interrupted: 1 of 2 submissions are graded" in capsys.readouterr().err
    assert len(table.read_text(encoding="utf-8").splitlines()) == 2


# ---------------------------------------------------------------------------------------------------------------------
# Archives that are not to be trusted


def packed(path, **members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("name", ["../out", "/out", "a/../../out", "C:out", "a\\..\\..\\out"])
def test_a_path_that_leads_outside_is_refused_and_nothing_is_written_there(name, tmp_path, capsys):
    path = tmp_path / "in" / "evil.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, "x")
    assert "not a path inside it" in failed(path, capsys)["archive"]
    with pytest.raises(submission.SubmissionError):
        submission.unpack(path, tmp_path / "in" / "unpacked")
    assert not list(tmp_path.rglob("*out*"))


def test_a_link_is_refused(tmp_path, capsys, unpacked):
    path = tmp_path / "link.zip"
    with zipfile.ZipFile(path, "w") as archive:
        member = zipfile.ZipInfo("manifest.json")
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(member, "/etc/passwd")
    assert "is a link" in failed(path, capsys)["archive"]
    (unpacked / "more").symlink_to(tmp_path)
    assert "more is a link" in failed(unpacked, capsys)["archive"]


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(submission, "MOST_BYTES", 1000)
    path = packed(tmp_path / "bomb.zip", **{"a.txt": b"0" * 1001})
    assert "holds more than" in failed(path, capsys)["archive"]
    monkeypatch.setattr(submission, "MOST_FILES", 1)
    assert "holds more than" in failed(packed(tmp_path / "many.zip", a="", b=""), capsys)["archive"]


def test_a_file_twice_is_refused(tmp_path, capsys):
    path = tmp_path / "twice.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", "1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a", "2")
    assert "is twice in it" in failed(path, capsys)["archive"]


@pytest.mark.parametrize("cut", [0, 10, 500, -30])
def test_what_is_no_archive_or_half_of_one_is_answered_with_a_line(cut, handed_in, tmp_path, capsys):
    path = tmp_path / "half.zip"
    path.write_bytes((handed_in.parent / "submission.zip").read_bytes()[:cut])
    found = failed(path, capsys)
    assert "empty, cut off, or not a zip archive" in found["archive"]
    assert found["report"] == "FAILED  report: not checked"
    assert len(found) == 5, "no check that was not made gives points"


def test_bad_arguments_are_refused_in_one_line(handed_in, tmp_path, capsys):
    for words, says in (
        ([str(tmp_path / "none.zip")], "not found"),
        ([str(handed_in), "--seeds", "4-0"], "the range 4-0 falls"),
        ([str(handed_in), str(handed_in), "--gradescope", "x.json"], "takes one submission, found 2"),
        (["--csv", str(tmp_path / "one.zip"), str(handed_in)], "expected a name that ends in .csv"),
        (["--gradescope", str(tmp_path / "one.zip"), str(handed_in)], "expected a name that ends in .json"),
        (["--csv", str(tmp_path / "none" / "all.csv"), str(handed_in)], "there is no folder"),
        ([str(handed_in), "--study", "fashion"], "--study fashion: expected one of fashion-mlp, "),
        ([str(handed_in), "--study", "fashion-mlp,epoch=2"], "unrecognized arguments: --epoch=2"),
        ([str(handed_in), "--study", "fashion-mlp,epochs=two"], "--epochs: invalid int value: 'two'"),
        ([str(handed_in), "--study", "fashion-mlp,epochs=0"], "--epochs 0: expected"),
        ([str(handed_in), "--study", "fashion-mlp,model=mlp1"], "a study has its own networks"),
        ([str(handed_in), "--data-dir", str(tmp_path / "no data")], "no data: there is no such folder"),
        ([str(handed_in), "--retrain", "L1"], "expected STUDY/TITLE, with one of fashion-mlp, "),
        ([str(handed_in), "--retrain", "fashion-mlp/L3"], 'fashion-mlp has no such experiment, but "simple", '),
        ([str(handed_in.parent)], f"holds archives; name them: {handed_in.parent / '*.zip'}"),
    ):
        with pytest.raises(SystemExit) as caught:
            grade.main(words)
        assert caught.value.code == 2
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1
