import csv
import json
import re
import zipfile
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import made_up
import numpy as np
import pytest
from made_up import write_runs
from scipy import stats

import data
import report
import studies
import train
from analysis import plots
from engine import records
from experiments import Experiment, folder_name
from studies.study import Claim, Entry, Study

PLAIN = Experiment(dataset="mnist_sample")


def write_nothing(figure, path):
    """In place of `plots.save`, which takes a second a picture: the files, empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = [path.with_name(f"{path.name}.{kind}") for kind in ("png", "pdf")]
    for each in written:
        each.write_bytes(b"")
    return written


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Make a report of the records in `runs` and write it, without its pictures' content; its text."""
    monkeypatch.setattr(plots, "save", write_nothing)

    def make(*words):
        report.main(["--runs-dir", str(tmp_path / "runs"), "--out", str(tmp_path / "report"), *words])
        return (tmp_path / "report" / "report.md").read_text(encoding="utf-8")

    return make


def text_of(runs):
    """The report's text, for which no picture is drawn."""
    return report.make_document(runs, "unused").text


@pytest.fixture
def runs(tmp_path):
    return tmp_path / "runs"


def refused(make, capsys, *words):
    with pytest.raises(SystemExit) as caught:
        make(*words)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def rows_of(text, column):
    """{first cell: {column: cell}} of all tables that have a column."""
    rows, header = {}, None
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] if line.startswith("|") else None
        if cells is None:
            header = None
        elif header is None:
            header = cells
        elif column in header and cells[0].strip(":-"):  # the line under the header has nothing else
            rows.setdefault(cells[0], {}).update(zip(header, cells, strict=True))
    return rows


def test_the_tables_say_what_the_records_say(runs, clothes, digits):
    clothing = Experiment(model="mlp3", dataset="fashion_mnist_sample")
    write_runs(runs, clothes, clothing, [0.88, 0.885, 0.875])
    stopped = write_runs(runs, clothes, replace(clothing, patience=3, epochs=20), [0.8, 0.81], epochs=10)
    result = stopped / "seed-1" / "result.json"
    result.write_text(result.read_text().replace('"epochs": 10', '"epochs": 11'))
    write_runs(runs, digits, PLAIN, [0.9])
    text = text_of(runs)

    # Half-widths: s·t/√n with s = 0.5 and 0.707, t = 4.303 and 12.706, n = 3 and 2.
    row = rows_of(text, "test %")["mlp3,dataset=fashion\\_mnist\\_sample".replace("\\_", "_")]
    expected = {"seeds": "3", "epochs": "15", "train %": "91.00 ± 1.24", "validation %": "89.00 ± 1.24"}
    expected |= {"test %": "88.00 ± 1.24", "train − test": "3.00 ± 0.00"}
    assert {column: row[column] for column in expected} == expected
    row = rows_of(text, "zeros %")["mlp3,dataset=fashion_mnist_sample"]
    expected = {"parameters": "94,154", "test loss": "0.1200 ± 0.0124", "zeros %": "50.0 ± 0.0", "‖w‖": "2.0 ± 0.0"}
    expected |= {"< 0.001 %": "50.0 ± 0.0", "seconds a run": "12.3"}
    assert {column.replace("\\", ""): cell for column, cell in row.items()}.items() >= expected.items()
    row = rows_of(text, "test %")["mlp3,dataset=fashion_mnist_sample,epochs=20,patience=3"]
    assert (row["seeds"], row["epochs"], row["test %"]) == ("2", "10.5 (10–11)", "80.50 ± 6.35")
    assert rows_of(text, "test %")["mlp1,dataset=mnist_sample"]["test %"] == "90.00"
    assert text.count("## single: ") == 4, "a summary and a chapter for each data set, which are never compared"
    assert text.count("An embedded sample") == 2


def test_each_table_has_a_chapter_of_its_own_with_the_titles_in_the_studys_order(runs, digits):
    of_study = studies.STUDIES["mnist-norms"].experiments
    batch, group = (replace(of_study[title].experiment, dataset="mnist_sample") for title in ("BN", "GN"))
    write_runs(runs, digits, Experiment(model="cnn3", dataset="mnist_sample", norm="group"), [0.7])
    write_runs(runs, digits, batch, [0.8, 0.8], table="mnist-norms,dataset=mnist_sample", title="BN")
    write_runs(runs, digits, group, [0.9], table="mnist-norms,dataset=mnist_sample", title="GN")
    text = text_of(runs)
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings[:3] == [
        "## What was found",
        "## mnist-norms,dataset=mnist_sample: mnist_sample",
        "## single: mnist_sample",
    ]
    assert headings[3:] == ["## How to read the figures", "## Background", "## Provenance"]
    assert list(rows_of(text, "test %")) == ["GN", "BN", "cnn3,dataset=mnist_sample,norm=group"]


def test_a_study_with_many_changes_is_read_though_its_folders_name_is_cut(runs, digits):
    changes = dict(dataset="mnist_sample", epochs=10, batch_size=128, optimizer="sgd", lr=0.1, momentum=0.9)
    changes |= dict(lr_scheduler="step", lr_step_size=5, lr_gamma=0.25, split_seed=3, rotation=5.0)
    study, table = studies.STUDIES["fashion-mlp"], folder_name("fashion-mlp", changes)
    assert "rotation" not in table
    write_runs(runs, digits, study.experiment("third", changes), [0.9], table=table, title="third")
    text = text_of(runs)
    assert "--rotation 5.0" in text
    assert "--lr-gamma 0.25" in text
    assert rows_of(text, "kind")["third"]["settings that differ from those of third"] == "the same"


def test_a_folder_that_is_named_after_no_setting_holds_the_study(runs, digits):
    entry = studies.STUDIES["fashion-mlp"].experiments["third"]
    experiment = replace(entry.experiment, dataset="fashion_mnist_sample")
    write_runs(runs, digits, experiment, [0.9], table="fashion-mlp,name", title="third")
    with pytest.raises(records.RecordError, match="trained on mnist_sample"):
        text_of(runs)
    experiment = replace(entry.experiment, dataset="mnist_sample")
    write_runs(runs, digits, experiment, [0.9], table="fashion-mlp,command", title="third")
    assert "## fashion-mlp,command: mnist_sample" in text_of(runs)


def test_hand_typed_experiments_of_different_splits_are_not_compared(runs, digits):
    write_runs(runs, digits, PLAIN, [0.9])
    write_runs(runs, data.load("mnist_sample", "unused", 1), replace(PLAIN, split_seed=1), [0.8])
    text = text_of(runs)
    assert "## single: mnist_sample\n" in text
    assert "## single: mnist_sample, split with seed 1\n" in text
    assert "test − baseline" not in text


def test_what_diverged_is_not_called_untrained(runs, digits):
    study, table = studies.STUDIES["fashion-mlp"], "fashion-mlp,dataset=mnist_sample"
    third, simple = (study.experiment(title, dict(dataset="mnist_sample")) for title in ("third", "simple"))
    write_runs(runs, digits, third, [0.9] * 5, table=table, title="third")
    write_runs(runs, digits, simple, [0.9], table=table, title="simple", diverged=True, stop_reason="diverged: so")
    text = text_of(runs)
    assert "Every run diverged: simple." in text
    assert "--only second" in text
    assert "--only simple" not in text


def test_an_experiment_that_its_models_normalization_does_not_go_with_has_a_report(runs, digits):
    alone = Experiment(model="cnn1", dataset="mnist_sample", norm="layer", batch_size=1, l1=0.1)
    write_runs(runs, digits, alone, [0.9])
    assert f"`{replace(alone, l1=0.0).command}`" in text_of(runs)


def test_what_was_left_out_is_named(runs, digits):
    write_runs(runs, digits, PLAIN, [0.9])
    broken = write_runs(runs, digits, replace(PLAIN, l1=0.1), [0.9])
    (broken / "experiment.json").write_text("{")
    old = write_runs(runs, digits, replace(PLAIN, l2=0.1), [0.9]) / "experiment.json"
    old.write_text(old.read_text().replace('"format": 2', '"format": 1'))
    half = write_runs(runs, digits, replace(PLAIN, l2=0.2), [0.9, 0.8]) / "seed-1" / "result.json"
    half.write_text(half.read_text()[:100])
    diverged = write_runs(runs, digits, replace(PLAIN, l2=0.3), [0.9], diverged=True, stop_reason="diverged: so")
    text = text_of(runs)
    assert f"Left out: single/{broken.name}/experiment.json: cannot be read" in text
    assert f"Left out: single/{old.parent.name}/experiment.json: format 1, expected 2; another version wrote it" in text
    assert f"Left out: single/{half.parents[1].name}/seed-1/result.json: cannot be read" in text
    assert f"Left out: single/{diverged.name}/seed-0: diverged: so; it is part of no mean" in text
    assert text.rindex("Left out") < text.index("\n## single"), "on the first page, and printed with it"
    assert list(rows_of(text, "test %")) == [PLAIN.name, replace(PLAIN, l2=0.2).name]


def test_where_everything_was_left_out_the_reasons_are_told_in_one_line(runs, digits, made, capsys):
    old = write_runs(runs, digits, PLAIN, [0.9]) / "experiment.json"
    old.write_text(old.read_text().replace('"format": 2', '"format": 1'))
    assert "no finished run (single/mlp1,dataset=mnist_sample/experiment.json: format 1" in refused(made, capsys)


def test_without_a_run_the_report_says_how_to_make_one(tmp_path, made, capsys):
    assert "python train.py --study l1-path" in refused(made, capsys, "--study", "l1-path")
    assert "python train.py" in refused(made, capsys)
    assert not (tmp_path / "report").exists()


def test_a_report_folder_that_is_a_file_is_refused(tmp_path, runs, digits, made, capsys):
    write_runs(runs, digits, PLAIN, [0.9])
    (tmp_path / "report").write_text("")
    assert "--out" in refused(made, capsys)


ENTRIES = {
    "worse": Entry("as run", replace(PLAIN, l1=0.1), published=dict(test_accuracy=0.75)),
    "plain": Entry("control", PLAIN),
    "plain again": Entry("control", PLAIN),
    "never": Entry("corrected", replace(PLAIN, l1=0.2)),
}
CLAIMS = (
    Claim("as run", "L1 helps", "worse", ("plain",), "test_accuracy", "higher"),
    Claim("corrected", "less L1 helps", "never", ("plain",), "test_accuracy", "higher"),
)
WRONGS = dict(worse=(170, 180, 175, 185, 160), plain=(70, 77, 63, 70, 70))


@pytest.fixture
def mine(runs, digits, monkeypatch):
    """A study with claims, two of its experiments trained with five seeds."""
    study = Study("Does L1 help?", ENTRIES, "plain", CLAIMS, ("Nothing is like the original.",))
    monkeypatch.setitem(studies.STUDIES, "mine", study)
    for title, wrongs in WRONGS.items():
        accuracies = [1 - wrong / 700 for wrong in wrongs]
        folder = write_runs(runs, digits, ENTRIES[title].experiment, accuracies, table="mine", title=title)
        for seed, wrong in enumerate(wrongs):
            generator = np.random.default_rng(wrong)
            of_images = made_up.log_probabilities(
                digits.test.labels.numpy(), generator.choice(700, wrong, replace=False), generator
            )
            np.savez(folder / f"seed-{seed}" / "predictions.npz", log_probabilities=of_images)


def test_a_study_is_compared_with_its_baseline_and_its_claims_are_judged(tmp_path, runs, digits, mine):
    write_runs(runs, digits, replace(PLAIN, l2=0.5), [0.5], table="mine", title="another")
    report.main(["--runs-dir", str(runs), "--out", str(tmp_path / "report"), "--study", "mine"])
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    rows = rows_of(text, "test %")
    accuracies = {title: [100 - wrong / 7 for wrong in wrongs] for title, wrongs in WRONGS.items()}
    difference = np.mean(accuracies["worse"]) - np.mean(accuracies["plain"])
    assert rows["worse"]["published test %"] == "75.00"
    assert rows["worse"]["test − baseline"].startswith(f"−{-difference:.2f} ± ")
    assert (rows["worse"]["p"], rows["worse"]["n"]) == ("\\< 0.001", "5")
    assert rows["**plain**"]["test − baseline"] == rows["**plain**"]["p"] == ""
    again = rows["plain again (same settings as plain)"]
    assert again["test %"] == rows["**plain**"]["test %"]
    claims = rows_of(text, "verdict")
    assert claims["L1 helps"]["verdict"] == "contradicted"
    assert claims["L1 helps"]["compared"] == "worse − plain"
    half_width = float(claims["L1 helps"]["difference"].split("± ")[1])  # of 95 %, of the only comparison
    narrower = stats.t.ppf(0.95, 4) / stats.t.ppf(0.975, 4)
    assert float(claims["L1 helps"]["90 % ±"]) == pytest.approx(narrower * half_width, abs=0.01)
    assert claims["less L1 helps"]["verdict"] == "no finished run: never"
    assert re.search(
        rf"- \*worse\* lowers test accuracy by {-difference:.2f} ± \d\.\d\d points against \*plain\*, over 5 seeds; "
        r"the write-up says “L1 helps”: \*\*contradicted\*\*\.",
        text,
    )
    assert "By validation accuracy the best is *plain*, distinguishably above *worse*." in text
    assert "Not trained yet: `python train.py --study mine --only never`" in text
    assert "Left out: another, trained with other settings than the study has\n" in text, "train.py knows no such title"
    assert "- Nothing is like the original." in text
    assert rows_of(text, "kind")["worse"]["settings that differ from those of plain"] == "--l1 0.1"

    pictures = [unquote(link) for link in re.findall(r"!\[.+?\]\((.+?)\)", text)]
    kinds = ["forest", "samples", "curves", "seeds", "weights", "sparsity", "confusion", "classes", "mistakes-plain"]
    assert pictures == [f"figures/mine-{kind}.png" for kind in kinds]
    for each in pictures:
        assert all((tmp_path / "report" / each).with_suffix(kind).stat().st_size for kind in (".png", ".pdf"))
    with open(tmp_path / "report" / "tables" / "mine-accuracy.csv", newline="", encoding="utf-8") as file:
        first = next(row for row in csv.DictReader(file) if row["experiment"] == "worse")
    assert float(first["test %"]) == pytest.approx(np.mean(accuracies["worse"]))
    assert float(first["test − baseline"]) == pytest.approx(difference)


def test_an_experiment_of_a_study_that_was_edited_is_left_out_with_what_trains_it_anew(runs, digits, mine):
    path = runs / "mine" / "worse" / "experiment.json"
    path.write_text(path.read_text().replace('"l1": 0.1', '"l1": 0.2'))
    text = text_of(runs)
    assert "Left out: worse, trained with other settings than the study has: " in text
    assert "study has: `python train.py --study mine --only worse --force`" in text
    assert "Not trained yet: `python train.py --study mine --only never`" in text


def test_under_five_seeds_the_report_says_what_to_run(runs, digits):
    short = replace(studies.STUDIES["mnist-norms"].experiments["BN"].experiment, dataset="mnist_sample", epochs=3)
    write_runs(runs, digits, short, [0.9], table="mnist-norms,dataset=mnist_sample,epochs=3", title="BN")
    text = text_of(runs)
    assert (
        "Under five seeds intervals are wide, and with one there is no interval: "
        "`python train.py --study mnist-norms --dataset mnist_sample --epochs 3 --seeds 0-4`" in text
    )
    assert "±" not in rows_of(text, "test %")["BN"]["test %"]
    assert "The claims are not judged: the study was trained with other settings than its own" in text
    assert "verdict |" not in text


def test_the_setting_is_the_one_that_was_trained(runs, digits):
    changed = dict(dataset="mnist_sample", epochs=3)
    experiment = replace(studies.STUDIES["fashion-mlp"].experiments["third"].experiment, **changed)
    write_runs(runs, digits, experiment, [0.9], table="fashion-mlp,dataset=mnist_sample,epochs=3", title="third")
    text = text_of(runs)
    assert "The baseline is third: mlp3 by adam with learning rate 0.001, batches of 64, 3 epochs at most." in text
    assert "By hand: `python train.py --model mlp3 --dataset mnist_sample --epochs 3`" in text
    settings = rows_of(text, "kind")
    assert settings["early stopping, best"]["settings that differ from those of third"] == "--patience 3"


def test_a_study_whose_baseline_does_not_go_with_the_changes_has_a_report(runs, digits):
    changed = replace(
        studies.STUDIES["mnist-norms"].experiments["GN"].experiment, groups=2, group_size=None, dataset="mnist_sample"
    )
    write_runs(runs, digits, changed, [0.9], table="mnist-norms,dataset=mnist_sample,groups=2", title="GN")
    text = text_of(runs)
    assert "The baseline is BN, which does not go with what was changed. GN: cnn3 by sgd" in text
    assert rows_of(text, "kind")["GN"]["settings that differ from those of GN"] == "the same"
    assert "BN" not in rows_of(text, "kind")


def test_what_cannot_be_told_apart_is_not_called_a_change(runs, digits):
    write_runs(runs, digits, PLAIN, [0.8, 0.9])
    write_runs(runs, digits, replace(PLAIN, l1=0.1), [0.9, 0.8])
    write_runs(runs, digits, replace(PLAIN, l1=0.2), [0.7])
    text = text_of(runs)
    assert "l1=0.1* shows no distinguishable change of test accuracy, +0.00 ± " in text
    assert "l1=0.2* changes test accuracy by −10.00 points against *mlp1,dataset=mnist_sample*, in one seed" in text
    assert "with too few seeds in common to tell them apart" in text


def test_a_baseline_is_known_by_its_settings_and_not_by_its_folder(runs, digits):
    write_runs(runs, digits, PLAIN, [0.8, 0.9], table="backup", title="my own")
    write_runs(runs, digits, replace(PLAIN, l1=0.1), [0.5, 0.6], table="backup", title="with L1")
    text = text_of(runs)
    assert "is not trained yet" not in text
    assert "*with L1* lowers" in text or "*with L1* shows no distinguishable change" in text
    assert "against *my own*" in text


def test_titles_that_changes_make_the_same_are_rows_of_one_training(runs, digits):
    changed = replace(studies.STUDIES["l1-path"].experiments["no L1"].experiment, l1=0.5, dataset="mnist_sample")
    write_runs(runs, digits, changed, [0.9], table="l1-path,dataset=mnist_sample,l1=0.5", title="no L1")
    text = text_of(runs)
    assert "subgradient 0.003 (same settings as no L1)" in rows_of(text, "test %")
    assert "--l1 0.5 --only 'proximal 1e-05'`" in text, "the one training that is missing"


def test_edited_settings_that_are_of_no_network_are_a_line(runs, digits, made, capsys):
    experiment = Experiment(model="cnn1", dataset="mnist_sample", norm="group")
    folder = write_runs(runs, digits, experiment, [0.9], table="mine", title="GN")
    path = folder / "experiment.json"
    path.write_text(path.read_text().replace('"group_size": 4', '"group_size": 7'))
    assert f"{path}: --group-size 7: does not divide the" in refused(made, capsys)


def test_what_was_trained_has_every_picture_and_what_an_earlier_report_left_goes(tmp_path, runs, made):
    words = ["--study", "l1-path", "--only", "no L1", "proximal 0.001", "--dataset", "mnist_sample", "--epochs", "1"]
    train.main([*words, "--seeds", "0", "--runs-dir", str(runs)])
    made()
    name = "l1-path,dataset=mnist_sample,epochs=1"
    kinds = ["classes", "confusion", "curves", "forest", "mistakes-no L1", "samples", "seeds", "sparsity", "sweep"]
    kinds += ["weights"]
    pictures = tmp_path / "report" / "figures"
    assert sorted(path.name for path in pictures.glob("*.png")) == sorted(f"{name}-{kind}.png" for kind in kinds)
    assert len(list((tmp_path / "report" / "tables").glob("*.tex"))) == 6

    (pictures / "own.png").write_bytes(b"")
    train.main(["--dataset", "mnist_sample", "--epochs", "1", "--seeds", "0", "--runs-dir", str(runs)])
    (runs / name).rename(tmp_path / "away")
    made()
    left = {path.name for path in pictures.glob("*.png")}
    assert "own.png" in left, "what no report wrote stays"
    assert not any(path.startswith("l1-path") for path in left)
    assert "single,mnist_sample-seeds.png" in left


@pytest.mark.parametrize("file", ["predictions.npz", "history.csv", "weights.pt"])
def test_a_damaged_file_is_answered_with_one_line(file, runs, made, capsys):
    words = ["--dataset", "mnist_sample", "--epochs", "1", "--seeds", "0", "--runs-dir", str(runs)]
    for settings in ([], ["--l1", "0.1"]):
        train.main([*words, *settings])
    for path in runs.glob(f"single/*/seed-0/{file}"):
        path.write_bytes(path.read_bytes()[:40])
    capsys.readouterr()
    assert f"{file}: cannot be read" in refused(made, capsys)


def test_where_the_test_images_cannot_be_read_nothing_is_compared(runs, digits):
    folder = write_runs(runs, digits, PLAIN, [0.8])
    write_runs(runs, digits, replace(PLAIN, l1=0.1), [0.8])
    for path in folder.parent.glob("*/experiment.json"):
        path.write_text(path.read_text().replace(digits.checksum, "0" * 64))
    assert "The test images could not be read, so nothing is compared: mnist_sample in" in text_of(runs)


def test_a_single_experiment_is_compared_with_itself_unregularized(runs, digits):
    write_runs(runs, digits, replace(PLAIN, l1=0.1), [0.8, 0.7])
    text = text_of(runs)
    assert "*mlp1,dataset=mnist_sample,l1=0.1* has a test accuracy of 75.00 ± 63.53 % over 2 seeds." in text
    missing = "`mlp1,dataset=mnist_sample`, the baseline of *mlp1,dataset=mnist_sample,l1=0.1*, is not trained yet: "
    assert f"{missing}`python train.py --dataset mnist_sample`" in text
    few = "Under five seeds intervals are wide, and with one there is no interval: "
    command = "python train.py --dataset mnist_sample --l1"
    assert f"{few}`{command} 0.1 --seeds 0-4`\n" in text
    write_runs(runs, digits, replace(PLAIN, l1=0.2), [0.8])
    text = text_of(runs)
    assert "the baseline of *mlp1,dataset=mnist_sample,l1=0.1* and 1 more, is not trained yet" in text
    assert f"{few}`{command} 0.1 --seeds 0-4`, `{command} 0.2 --seeds 0-4`\n" in text


def test_runs_without_their_experiment_are_named_and_go_into_the_bundle(runs, digits, made, capsys, tmp_path):
    write_runs(runs, digits, PLAIN, [0.8])
    lost = write_runs(runs, digits, replace(PLAIN, l1=0.1), [0.8])
    (lost / "experiment.json").unlink()
    bundle = tmp_path / "all.zip"
    report.main(["--runs-dir", str(runs), "--out", str(tmp_path / "out"), "--bundle", str(bundle)])
    assert f"Left out: single/{lost.name}/experiment.json: missing; the command" in capsys.readouterr().out
    assert f"runs/single/{lost.name}/seed-0/result.json" in zipfile.ZipFile(bundle).namelist()


def test_what_is_not_finished_is_said_and_not_in_the_report(runs, digits, made, capsys, tmp_path):
    folder = write_runs(runs, digits, PLAIN, [0.8])
    for seeds in ("5-6", "7-9"):
        (folder / f"checkpoint-{seeds}.pt").write_bytes(b"")
    report.main(["--runs-dir", str(runs), "--out", str(tmp_path / "out")])
    assert capsys.readouterr().out.count(f"begun, and not in the report: {folder}; its command, typed again,") == 1
    assert "checkpoint" not in text_of(runs).partition("## Background")[0]


def test_the_students_notes_open_and_close_the_report_and_survive_it(tmp_path, runs, digits, made):
    write_runs(runs, digits, PLAIN, [0.8])
    text = text_of(runs)
    assert text.startswith("# Report\n")
    assert "write `notes.md` beside the runs" in text

    own = "# Mine\n\nA. Student\n\n---\n\n## Conclusions\n\nIt <b>depends</b>.\n"
    (runs / "notes.md").write_text(own, encoding="utf-8")
    for _ in range(2):
        text = made()
        assert text.startswith("# Mine\n\nA. Student\n\n## What was found")
        assert text.endswith("## Conclusions\n\nIt <b>depends</b>.\n")
        assert "# Report" not in text
    html = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "<title>Mine</title>" in html
    assert "It &lt;b&gt;depends&lt;/b&gt;." in html
    assert html.count("data:image/png;base64,") == text.count("![")
    assert (runs / "notes.md").read_text(encoding="utf-8") == own


def test_notes_that_are_no_text_are_refused(runs, digits, made, capsys):
    write_runs(runs, digits, PLAIN, [0.8])
    (runs / "notes.md").write_bytes(b"\xff\xfe")
    assert "notes.md: cannot be read" in refused(made, capsys)


def test_characters_that_html_and_markdown_know_are_shown_as_they_are(runs, digits, made, monkeypatch, tmp_path):
    study = Study("Is <i>it</i> *so*?", {"A & B, _x_": Entry("own", PLAIN)}, "A & B, _x_")
    monkeypatch.setitem(studies.STUDIES, "mine", study)
    write_runs(runs, digits, PLAIN, [0.8], table="mine", title="A & B, _x_")
    made()
    html = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "A &amp; B, _x_" in html
    assert "<i>" not in html
    assert "Is &lt;i&gt;it&lt;/i&gt; *so*?" in html


def test_the_page_can_be_opened_at_once(runs, digits, monkeypatch, tmp_path, capsys):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or len(opened) == 1)
    monkeypatch.setattr("analysis.document.Document.write", lambda *_: None)
    write_runs(runs, digits, PLAIN, [0.8])
    words = ["--runs-dir", str(runs), "--out", str(tmp_path / "report"), "--open"]
    report.main(words)
    out = capsys.readouterr()
    assert opened == [(tmp_path / "report" / "report.html").as_uri()]
    assert out.err == ""
    assert "| experiment" not in out.out, "the tables are in the files"
    report.main(words)
    assert "no browser was found; open " in capsys.readouterr().err


def test_provenance_says_with_what_everything_was_trained(runs, digits):
    write_runs(runs, digits, PLAIN, [0.8, 0.9])
    result = next(runs.glob("*/*/seed-1/result.json"))
    change = dict(commit=f"{'12345abcde' * 4}-dirty", finished="2026-01-02T03:04:05+00:00")
    result.write_text(json.dumps(json.loads(result.read_text()) | change))
    text = text_of(runs)
    row = rows_of(text, "device")["single"]
    assert (row["seeds"], row["device"], row["commit"]) == ("0-1", "cpu", "12345abcde-dirty … abc")
    assert row["finished"].endswith("2026-01-02")
    assert row["minutes, all seeds"] == "0.4"
    assert "Trained with torch 2." in text
    assert f"SHA-256 of mnist_sample: `{digits.checksum}`" in text
    assert "    python train.py --model mlp3" in text


@pytest.mark.parametrize("name", ["train.py", "none"])
def test_a_bundle_must_be_named_as_an_archive(name, runs, digits, made, capsys):
    write_runs(runs, digits, PLAIN, [0.8])
    before = Path(name).read_bytes() if Path(name).exists() else None
    assert f"--bundle {name}: expected a name that ends in .zip" in refused(made, capsys, "--bundle", name)
    assert (Path(name).read_bytes() if Path(name).exists() else None) == before
