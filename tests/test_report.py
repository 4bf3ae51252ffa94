import re
from dataclasses import replace
from urllib.parse import quote, unquote

import numpy as np
import pytest
import torch

import records
import report
import studies
import train
from experiments import Experiment
from study import Claim, Entry, Study


def write(runs_dir, dataset, experiment, accuracies, epochs=15, table=records.SINGLE, title=None):
    description = records.describe(experiment, dataset)
    folder = records.open_folder(runs_dir, table, title or experiment.name, description)
    history = [dict.fromkeys(records.HISTORY, 1)]
    predictions = np.zeros((len(dataset.test), 10), dtype=np.float32)
    for seed, accuracy in enumerate(accuracies):
        result = dict(
            seed=seed,
            diverged=False,
            stop_reason="trained all epochs",
            epochs=epochs + seed if experiment.patience else epochs,
            parameters=94_154,
            train_accuracy=accuracy + 0.03,
            val_accuracy=accuracy + 0.01,
            test_accuracy=accuracy,
            sparsity=dict(zeros=0.125, small=0.5),
            seconds=12.345,
        )
        records.write_run(folder, records.Run(seed, result, history, {"w": torch.zeros(1)}, predictions))
    return folder


def rows_of(text):
    """The rows of all tables of experiments, in order: {column: cell}."""
    rows, header = [], None
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else None
        if cells is None:
            header = None
        elif header is None:
            header = cells
        elif header[0] == "experiment" and cells[0].strip(":-"):  # the line under the header has nothing else
            rows.append(dict(zip(header, cells, strict=True)))
    return rows


def test_the_table_says_what_the_records_say(tmp_path, clothes, digits, capsys):
    runs = tmp_path / "runs"
    write(runs, clothes, Experiment(model="mlp3", dataset="fashion_mnist_sample"), [0.88, 0.885, 0.875])
    write(runs, clothes, Experiment(dataset="fashion_mnist_sample", patience=3, epochs=20), [0.8, 0.81], epochs=10)
    write(runs, digits, Experiment(dataset="mnist_sample"), [0.9])
    report.main(["--runs-dir", str(runs), "--out", str(tmp_path / "report")])
    out = capsys.readouterr().out
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert text in out

    rows = {row["experiment"]: row for row in rows_of(text)}
    # Half-widths: s·t/√n with s = 0.5 and 0.707, t = 4.303 and 12.706, n = 3 and 2.
    expected = {
        "parameters": "94,154",
        "seeds": "3",
        "epochs": "15",
        "train %": "91.00 ± 1.24",
        "validation %": "89.00 ± 1.24",
        "test %": "88.00 ± 1.24",
        "train − test": "3.00 ± 0.00",
        "zeros %": "12.5 ± 0.0",
        "< 0.001 %": "50.0 ± 0.0",
        "seconds a run": "12.3",
    }
    row = rows["mlp3,dataset=fashion_mnist_sample"]
    assert {column: row[column] for column in expected} == expected
    stopped = rows["mlp1,dataset=fashion_mnist_sample,epochs=20,patience=3"]
    assert (stopped["seeds"], stopped["epochs"], stopped["test %"]) == ("2", "10.5 (10–11)", "80.50 ± 6.35")
    assert rows["mlp1,dataset=mnist_sample"]["test %"] == "90.00"
    assert text.count("## single: ") == 2, "data sets are never compared with each other"
    assert text.count("An embedded sample") == 2


def test_each_table_has_a_section_of_its_own_with_its_titles_in_order(tmp_path, digits, capsys):
    batch = Experiment(model="cnn3", dataset="mnist_sample")
    group = Experiment(model="cnn3", dataset="mnist_sample", norm="group")
    write(tmp_path, digits, group, [0.7])
    write(tmp_path, digits, batch, [0.8, 0.8], table="norms", title="plain")
    write(tmp_path, digits, group, [0.9], table="norms", title="groups, norm")
    report.main(["--runs-dir", str(tmp_path), "--out", str(tmp_path / "report")])
    out = capsys.readouterr().out
    headings = [line for line in out.splitlines() if line.startswith("## ")]
    assert headings == ["## norms: mnist_sample", "## single: mnist_sample"]
    assert [(row["experiment"], row["test %"]) for row in rows_of(out)] == [
        ("groups, norm", "90.00"),
        ("plain", "80.00 ± 0.00"),
        ("cnn3,dataset=mnist_sample,norm=group", "70.00"),
    ]


def test_what_was_left_out_is_named(tmp_path, digits, capsys):
    write(tmp_path, digits, Experiment(dataset="mnist_sample"), [0.9])
    broken = write(tmp_path, digits, Experiment(dataset="mnist_sample", l1=0.1), [0.9])
    (broken / "experiment.json").write_text("{")
    old = write(tmp_path, digits, Experiment(dataset="mnist_sample", l2=0.1), [0.9]) / "experiment.json"
    old.write_text(old.read_text().replace('"format": 2', '"format": 1'))
    report.main(["--runs-dir", str(tmp_path), "--out", str(tmp_path / "report")])
    out = capsys.readouterr().out
    assert f"Left out: {broken}" in out
    assert f"Left out: {old}: format 1, expected 2; another version wrote it" in out
    assert [row["experiment"] for row in rows_of(out)] == ["mlp1,dataset=mnist_sample"]


def test_where_everything_was_left_out_the_reasons_are_told_in_one_line(tmp_path, digits, capsys):
    old = write(tmp_path, digits, Experiment(dataset="mnist_sample"), [0.9]) / "experiment.json"
    old.write_text(old.read_text().replace('"format": 2', '"format": 1'))
    with pytest.raises(SystemExit) as caught:
        report.main(["--runs-dir", str(tmp_path), "--out", str(tmp_path / "report")])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert f"no finished run ({old}: format 1, expected 2" in error
    assert error.count("\n") == 1


def test_without_a_run_the_report_says_how_to_make_one(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        report.main(["--runs-dir", str(tmp_path / "none"), "--out", str(tmp_path / "report")])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "python train.py" in error
    assert not (tmp_path / "report").exists()


def test_a_report_folder_that_is_a_file_is_refused(tmp_path, digits, capsys):
    write(tmp_path / "runs", digits, Experiment(dataset="mnist_sample"), [0.9])
    (tmp_path / "report").write_text("")
    with pytest.raises(SystemExit) as caught:
        report.main(["--runs-dir", str(tmp_path / "runs"), "--out", str(tmp_path / "report")])
    assert caught.value.code == 2
    assert "--out" in capsys.readouterr().err


def test_a_study_is_compared_with_its_baseline_and_its_claims_are_judged(tmp_path, digits, capsys, monkeypatch):
    plain = Experiment(dataset="mnist_sample")
    entries = {
        "worse": Entry("as run", replace(plain, l1=0.1), published=dict(test_accuracy=0.75)),
        "plain": Entry("control", plain),
        "plain again": Entry("control", plain),
        "never": Entry("corrected", replace(plain, l1=0.2)),
    }
    claims = (
        Claim("as run", "L1 helps", "worse", ("plain",), "test_accuracy", "higher"),
        Claim("corrected", "less L1 helps", "never", ("plain",), "test_accuracy", "higher"),
    )
    study = Study("Does L1 help?", entries, "plain", claims, ("Nothing is like the original.",))
    monkeypatch.setitem(studies.STUDIES, "mine", study)
    for title, wrongs in (("worse", (170, 180, 175, 185, 160)), ("plain", (70, 77, 63, 70, 70))):
        folder = write(
            tmp_path,
            digits,
            entries[title].experiment,
            [1 - wrong / 700 for wrong in wrongs],
            table="mine",
            title=title,
        )
        for seed, wrong in enumerate(wrongs):
            predicted = digits.test.labels.clone()
            predicted[torch.randperm(700, generator=torch.Generator().manual_seed(wrong))[:wrong]] += 1
            log_probabilities = torch.nn.functional.one_hot(predicted % 10, 10).float().numpy()
            np.savez(folder / f"seed-{seed}" / "predictions.npz", log_probabilities=log_probabilities)
    write(tmp_path, digits, replace(plain, l2=0.5), [0.5], table="mine", title="another")
    report.main(["--runs-dir", str(tmp_path), "--out", str(tmp_path / "report"), "--study", "mine"])
    lines = capsys.readouterr().out.splitlines()
    cells = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:]] for line in lines if "|" in line
    }

    accuracies = [
        np.array([1 - wrong / 700 for wrong in wrongs]) for wrongs in ((170, 180, 175, 185, 160), (70, 77, 63, 70, 70))
    ]
    assert cells["worse"][6] == "75.00"
    assert cells["worse"][7].startswith(f"−{100 * -(accuracies[0] - accuracies[1]).mean():.2f} [−")
    assert cells["worse"][7].endswith("], n 5")
    assert cells["worse"][8] == "0.000"
    assert cells["plain again (same settings as plain)"][5:8] == [cells["plain"][5], "", ""]
    assert cells["L1 helps"][0] == "as run"
    assert cells["L1 helps"][3] == "contradicted"
    assert cells["less L1 helps"][3] == "not trained: never"
    text = "\n".join(lines)
    assert "Not trained yet: `python train.py --study mine --only never`" in text
    assert "Left out: another, trained with other settings than the study has" in text
    assert "- Nothing is like the original." in text
    pictures = [unquote(link) for link in re.findall(r"!\[.+?\]\((.+?)\)", text)]
    assert pictures == [f"figures/mine-{kind}.png" for kind in ("forest", "curves", "seeds")]
    assert all(
        (tmp_path / "report" / each).with_suffix(kind).stat().st_size for each in pictures for kind in (".png", ".pdf")
    )


def test_what_was_trained_has_curves_and_a_sweep_where_the_study_has_one(tmp_path, digits, capsys):
    words = ["--study", "l1-path", "--only", "no L1", "proximal 0.001", "--dataset", "mnist_sample", "--epochs", "1"]
    train.main([*words, "--seeds", "0", "--runs-dir", str(tmp_path)])
    report.main(["--runs-dir", str(tmp_path), "--out", str(tmp_path / "report")])
    names = [path.name for path in sorted((tmp_path / "report" / "figures").glob("*.png"))]
    assert names == [
        f"l1-path,dataset=mnist_sample,epochs=1-{kind}.png" for kind in ("curves", "forest", "seeds", "sweep")
    ]
    text = capsys.readouterr().out
    assert all(f"(figures/{quote(name)})" in text for name in names)


@pytest.mark.parametrize("file", ["predictions.npz", "history.csv"])
def test_a_damaged_file_is_answered_with_one_line(file, tmp_path, capsys):
    words = ["--dataset", "mnist_sample", "--epochs", "1", "--seeds", "0", "--runs-dir", str(tmp_path)]
    for settings in ([], ["--l1", "0.1"]):
        train.main([*words, *settings])
    for path in tmp_path.glob(f"single/*/seed-0/{file}"):
        path.write_bytes(path.read_bytes()[:40])
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        report.main(["--runs-dir", str(tmp_path), "--out", str(tmp_path / "report")])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert f"{file}: cannot be read" in error
    assert error.count("\n") == 1


def test_with_other_settings_than_its_own_a_study_is_not_judged(tmp_path, digits, capsys):
    batch = Experiment(model="cnn3", dataset="mnist_sample")
    write(tmp_path, digits, batch, [0.8], table="mnist-norms,dataset=mnist_sample", title="BN")
    report.main(["--runs-dir", str(tmp_path), "--out", str(tmp_path / "report")])
    out = capsys.readouterr().out
    assert (
        "The claims are not judged: the study was trained with other settings than its own (dataset=mnist_sample)."
        in out
    )
    assert "verdict |" not in out


def test_where_the_test_images_cannot_be_read_nothing_is_compared(tmp_path, digits, capsys):
    folder = write(tmp_path, digits, Experiment(dataset="mnist_sample"), [0.8])
    write(tmp_path, digits, Experiment(dataset="mnist_sample", l1=0.1), [0.8])
    for path in folder.parent.glob("*/experiment.json"):
        path.write_text(path.read_text().replace(digits.checksum, "0" * 64))
    report.main(["--runs-dir", str(tmp_path), "--out", str(tmp_path / "report")])
    assert "The test images could not be read, so nothing is compared: mnist_sample in" in capsys.readouterr().out


def test_a_single_experiment_is_compared_with_itself_unregularized(tmp_path, digits, capsys):
    plain = Experiment(dataset="mnist_sample")
    write(tmp_path, digits, replace(plain, l1=0.1), [0.8, 0.7])
    report.main(["--runs-dir", str(tmp_path), "--out", str(tmp_path / "report")])
    command = "`python train.py --dataset mnist_sample`"
    expected = f"`mlp1,dataset=mnist_sample`, the baseline of some of them, is not trained yet: {command}"
    assert expected in capsys.readouterr().out


def test_the_students_notes_open_and_close_the_report_and_survive_it(tmp_path, digits, capsys):
    write(tmp_path, digits, Experiment(dataset="mnist_sample"), [0.8])
    words = ["--runs-dir", str(tmp_path), "--out", str(tmp_path / "report")]
    report.main(words)
    out = capsys.readouterr().out
    assert out.startswith("# Report\n")
    assert f"write `{tmp_path / 'notes.md'}`" in out

    own = "# Mine\n\nA. Student\n\n---\n\n## Conclusions\n\nIt <b>depends</b>.\n"
    (tmp_path / "notes.md").write_text(own, encoding="utf-8")
    for _ in range(2):
        report.main(words)
        out = capsys.readouterr().out
        assert out.startswith("# Mine\n\nA. Student\n\n## single: mnist_sample")
        assert "## Conclusions\n\nIt <b>depends</b>.\n\nwritten to" in out
        assert out.count("# Report") == 0
    html = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "<title>Mine</title>" in html
    assert "It &lt;b&gt;depends&lt;/b&gt;." in html
    assert html.count("data:image/png;base64,") == 2
    assert (tmp_path / "notes.md").read_text(encoding="utf-8") == own


def test_notes_that_are_no_text_are_refused(tmp_path, digits, capsys):
    write(tmp_path, digits, Experiment(dataset="mnist_sample"), [0.8])
    (tmp_path / "notes.md").write_bytes(b"\xff\xfe")
    with pytest.raises(SystemExit) as caught:
        report.main(["--runs-dir", str(tmp_path), "--out", str(tmp_path / "report")])
    assert caught.value.code == 2
    assert "notes.md: cannot be read" in capsys.readouterr().err
