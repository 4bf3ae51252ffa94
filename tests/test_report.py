import math

import numpy as np
import pytest
import torch
from scipy import stats

import records
import report
from compare import mean_interval
from experiments import Experiment


def test_the_interval_is_students():
    values = [88.0, 88.5, 87.5, 88.2, 88.9]
    average, half_width = mean_interval(values)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert average == pytest.approx(np.mean(values))
    assert (average - half_width, average + half_width) == pytest.approx((low, high))


def test_one_seed_has_no_interval():
    average, half_width = mean_interval([88.0])
    assert average == 88.0
    assert math.isnan(half_width)


def write(runs_dir, dataset, experiment, accuracies, epochs=15, table=records.SINGLE, title=None):
    description = records.describe(experiment, dataset)
    folder = records.open_folder(runs_dir, table, title or experiment.name, description)
    for seed, accuracy in enumerate(accuracies):
        result = dict(
            seed=seed,
            epochs=epochs + seed if experiment.patience else epochs,
            parameters=94_154,
            train_accuracy=accuracy + 0.03,
            val_accuracy=accuracy + 0.01,
            test_accuracy=accuracy,
            sparsity=dict(zeros=0.125, small=0.5),
            seconds=12.345,
        )
        records.write_run(folder, records.Run(seed, result, [], {"w": torch.zeros(1)}, np.zeros((1, 10))))
    return folder


def test_the_table_says_what_the_records_say(tmp_path, clothes, digits, capsys):
    runs = tmp_path / "runs"
    write(runs, clothes, Experiment(model="mlp3", dataset="fashion_mnist_sample"), [0.88, 0.885, 0.875])
    write(runs, clothes, Experiment(dataset="fashion_mnist_sample", patience=3, epochs=20), [0.8, 0.81], epochs=10)
    write(runs, digits, Experiment(dataset="mnist_sample"), [0.9])
    report.main(["--runs-dir", str(runs), "--out", str(tmp_path / "report")])
    out = capsys.readouterr().out
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert text in out

    cells = {}
    for line in text.splitlines():
        if line.startswith("| mlp"):
            experiment, *rest = (cell.strip() for cell in line.strip("|").split("|"))
            cells[experiment] = rest
    # Half-widths: s·t/√n with s = 0.5 and 0.707, t = 4.303 and 12.706, n = 3 and 2.
    figures = (
        "94,154 | 3 | 15 | 91.00 ± 1.24 | 89.00 ± 1.24 | 88.00 ± 1.24 | 3.00 ± 0.00 | 12.5 ± 0.0 | 50.0 ± 0.0 | 12.3"
    )
    assert cells["mlp3,dataset=fashion_mnist_sample"] == figures.split(" | ")
    assert cells["mlp1,dataset=fashion_mnist_sample,epochs=20,patience=3"][1:3] == ["2", "10.5 (10–11)"]
    assert cells["mlp1,dataset=fashion_mnist_sample,epochs=20,patience=3"][5] == "80.50 ± 6.35"
    assert cells["mlp1,dataset=mnist_sample"][5] == "90.00"
    assert text.count("## single: ") == 2, "data sets are never compared with each other"
    assert text.count("An embedded sample") == 2


def test_each_study_has_a_table_of_its_own_with_its_titles(tmp_path, digits, capsys):
    batch = Experiment(model="cnn3", dataset="mnist_sample")
    group = Experiment(model="cnn3", dataset="mnist_sample", norm="group")
    write(tmp_path, digits, group, [0.7])
    write(tmp_path, digits, batch, [0.8, 0.8], table="mnist-norms", title="BN")
    write(tmp_path, digits, group, [0.9], table="mnist-norms", title="GN, per pixel")
    report.main(["--runs-dir", str(tmp_path), "--out", str(tmp_path / "report")])
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith(("## ", "| "))]
    titles = [row[0].strip("| ") for row in rows]
    counted = [
        *("## mnist-norms: mnist_sample", "experiment", "BN", "GN, per pixel"),
        *("## single: mnist_sample", "experiment", "cnn3,dataset=mnist_sample,norm=group"),
    ]
    assert titles == counted
    assert [row[6].strip() for row in rows if len(row) > 1] == ["test %", "80.00 ± 0.00", "90.00", "test %", "70.00"]


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
    assert out.count("| mlp1") == 1


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
