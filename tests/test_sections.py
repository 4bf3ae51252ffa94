import json
from dataclasses import replace

from helpers import PLAIN, override, read_rows, write_report, write_runs

from experiments import Experiment


def test_the_tables_say_what_the_records_say(runs, clothes, digits):
    clothing = Experiment(model="mlp3", dataset="fashion_mnist_sample")
    write_runs(runs, clothes, clothing, [0.88, 0.885, 0.875])
    stopped = write_runs(runs, clothes, replace(clothing, patience=3, epochs=20), [0.8, 0.81], epochs=10)
    result = stopped / "seed-1" / "result.json"
    result.write_text(result.read_text().replace('"epochs": 10', '"epochs": 11'))
    write_runs(runs, digits, PLAIN, [0.9])
    text = write_report(runs)

    # Half-widths: s·t/√n with s = 0.5 and 0.707, t = 4.303 and 12.706, n = 3 and 2.
    row = read_rows(text, "test %")["mlp3"]
    expected = {"seeds": "3", "epochs": "15", "train %": "91.00 ± 1.24", "validation %": "89.00 ± 1.24"}
    expected |= {"test %": "88.00 ± 1.24", "train − test": "3.00 ± 0.00"}
    assert {column: row[column] for column in expected} == expected
    row = read_rows(text, "zeros %")["mlp3"]
    expected = {"parameters": "94,154", "test loss": "0.1200 ± 0.0124", "zeros %": "50.0 ± 0.0", "‖w‖": "2.0 ± 0.0"}
    expected |= {"small %": "50.0 ± 0.0", "seconds a run": "12.3"}
    assert {column.replace("\\", ""): cell for column, cell in row.items()}.items() >= expected.items()
    row = read_rows(text, "test %")["mlp3,epochs=20,patience=3"]
    assert (row["seeds"], row["epochs"], row["test %"]) == ("2", "10.5 (10–11)", "80.50 ± 6.35")
    assert read_rows(text, "test %")["mlp1,dataset=mnist_sample"]["test %"] == "90.00"
    assert text.count("## single: ") == 4, "a summary and a chapter for each data set, which are never compared"
    assert text.count("An embedded sample") == 2


def test_each_table_has_a_chapter_of_its_own_with_the_titles_in_the_studys_order(runs, digits):
    study = override("mnist-norms")
    batch, group = (study.experiments[title].experiment for title in ("BN", "GN"))
    write_runs(runs, digits, Experiment(model="cnn3", dataset="mnist_sample", norm="group"), [0.7])
    write_runs(runs, digits, batch, [0.8, 0.8], study=study, title="BN")
    write_runs(runs, digits, group, [0.9], study=study, title="GN")
    text = write_report(runs)
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings[:3] == [
        "## What was found",
        "## mnist-norms,dataset=mnist_sample: mnist_sample",
        "## single: mnist_sample",
    ]
    assert headings[3:] == ["## How to read the report", "## Background", "## Provenance"]
    assert list(read_rows(text, "test %")) == ["GN", "BN", "cnn3,dataset=mnist_sample,norm=group"]


def test_what_was_left_out_is_named(runs, digits):
    write_runs(runs, digits, PLAIN, [0.9])
    broken = write_runs(runs, digits, replace(PLAIN, l1=0.1), [0.9])
    (broken / "experiment.json").write_text("{")
    old = write_runs(runs, digits, replace(PLAIN, l2=0.1), [0.9]) / "experiment.json"
    old.write_text(old.read_text().replace('"format": 3', '"format": 1'))
    half = write_runs(runs, digits, replace(PLAIN, l2=0.2), [0.9, 0.8]) / "seed-1" / "result.json"
    half.write_text(half.read_text()[:100])
    diverged = write_runs(runs, digits, replace(PLAIN, l2=0.3), [0.9] * 200, diverged=True, stop_reason="diverged: so")
    text = write_report(runs)
    assert f"Left out: single/{broken.name}/experiment.json: cannot be read" in text
    assert (
        f"Left out: single/{old.parent.name}/experiment.json: format 1, expected 2 or 3; another version wrote it"
        in text
    )
    assert f"Left out: single/{half.parents[1].name}/seed-1/result.json: cannot be read" in text
    assert f"Left out: single/{diverged.name}, seeds 0-199: diverged: so; they are part of no mean" in text
    assert text.rindex("Left out") < text.index("\n## single"), "on the first page, and printed with it"
    assert list(read_rows(text, "test %")) == ["mlp1", "mlp1,l2=0.2"]


def test_provenance_says_with_what_everything_was_trained(runs, digits):
    write_runs(runs, digits, PLAIN, [0.8, 0.9])
    result = next(runs.glob("*/*/seed-1/result.json"))
    change = dict(commit=f"{'12345abcde' * 4}-dirty", finished="2026-01-02T03:04:05+00:00")
    result.write_text(json.dumps(json.loads(result.read_text()) | change))
    text = write_report(runs)
    row = read_rows(text, "device")["single"]
    assert (row["seeds"], row["device"], row["commit"]) == ("0-1", "cpu", "abc, 12345abcde-dirty")
    assert row["finished"].endswith("2026-01-02")
    assert row["minutes, all seeds"] == "0.4"
    assert "Trained with torch 2." in text
    assert f"SHA-256 of mnist_sample: `{digits.checksum}`" in text
    assert "    python train.py --model mlp3" in text
