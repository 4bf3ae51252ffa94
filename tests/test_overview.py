import json
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import PLAIN, make_result, override, read_files, write_runs

import train
from engine import overview, records
from experiments import Experiment
from studies import STUDIES
from studies.study import Entry, Study


def row_of(table, title):
    (row,) = (line for line in table.splitlines() if line.startswith(f"{title}  "))
    return " ".join(row.split())


def finish(folder, seed, files=records.FILES):
    """Write files of a run that are enough to count as finished."""
    (folder / f"seed-{seed}").mkdir(parents=True)
    for file in files:
        (folder / f"seed-{seed}" / file).write_text(json.dumps(make_result(seed, 0.5)))


# ---------------------------------------------------------------------------------------------------------------------
# --list


def test_the_list_has_every_study_and_title_and_what_of_it_is_trained(tmp_path, capsys):
    for seed in (0, 1):
        finish(tmp_path / "fashion-mlp" / "L1", seed)
    finish(tmp_path / "fashion-mlp" / "L1", 7, records.FILES[:3])
    for title in ("L1", "L2"):
        finish(tmp_path / "fashion-mlp,dataset=fashion_mnist_sample" / title, 2)
    finish(tmp_path / "l1-path" / "no L1", 3)
    before = read_files(tmp_path)
    train.main(["--list", "--runs-dir", str(tmp_path)])
    out = capsys.readouterr().out
    starts = [out.index(f"{name}: {study.asks}\n") for name, study in STUDIES.items()]
    assert starts == sorted(starts)
    ends = [*starts[1:], len(out)]
    tables = {name: out[start:end] for name, start, end in zip(STUDIES, starts, ends, strict=True)}
    for name, study in STUDIES.items():
        for title, entry in study.experiments.items():
            assert row_of(tables[name], title).startswith(f"{title} {entry.kind} ")
    # seed 7 lacks a file
    assert row_of(tables["fashion-mlp"], "L1") == "L1 as run 94,154 seeds 0-1, seed 2 on fashion_mnist_sample"
    assert " 94,154 seed 2 on fashion_mnist_sample " in row_of(tables["fashion-mlp"], "L2")
    assert row_of(tables["l1-path"], "no L1") == "no L1 own 94,154 seed 3"
    assert out.count("seed 3") == 1
    assert "other settings" not in out
    assert row_of(tables["mnist-dropout-ghost"], "BN").endswith("the same settings as L2+BN")
    assert read_files(tmp_path) == before


def test_the_list_of_one_study_is_that_of_the_settings_beside_it(tmp_path, capsys):
    for title in ("no L1", "proximal 0.001"):
        for seed in (0, 1):
            finish(tmp_path / "l1-path,dataset=mnist_sample,epochs=2" / title, seed)
    where = ["--study", "l1-path", "--list", "--runs-dir", str(tmp_path)]
    train.main([*where, "--dataset", "mnist_sample", "--epochs", "2"])
    out = capsys.readouterr().out
    assert row_of(out, "no L1") == "no L1 own 94,154 seeds 0-1"
    assert row_of(out, "proximal 0.001") == "proximal 0.001 own 94,154 seeds 0-1"
    assert row_of(out, "proximal 0.003") == "proximal 0.003 own 94,154"
    assert "fashion-mlp" not in out
    assert "other settings" not in out
    train.main([*where, "--only", "no L1"])
    out = capsys.readouterr().out
    assert row_of(out, "no L1") == "no L1 own 94,154"  # nothing with the study's settings
    assert "proximal" not in out
    assert "\ntrained with other settings: dataset=mnist_sample,epochs=2\n" in out
    train.main(["--study", "mnist-norms", "--only", "LN", "--norm", "batch", "--list"])  # GN would not go with it
    assert row_of(capsys.readouterr().out, "LN").startswith("LN as run ")


def test_a_network_above_the_studys_limit_does_not_stop_the_list(tmp_path, capsys):
    small = replace(STUDIES["fashion-mlp"], most_parameters=60_000)
    overview.print_study(small, ["simple", "second"], tmp_path, tmp_path)
    out = capsys.readouterr().out
    assert row_of(out, "simple").startswith("simple as run 55,050")
    assert row_of(out, "second").startswith("second as run refused")


def test_a_sample_that_stood_in_is_listed_with_the_other_overrides(tmp_path, capsys):
    finish(tmp_path / "mnist-norms,dataset=mnist_sample,epochs=3" / "GN", 4)
    where = ["--study", "mnist-norms", "--only", "GN", "--epochs", "3", "--list", "--runs-dir", str(tmp_path)]
    train.main(where)
    assert "seed 4 on mnist_sample" in capsys.readouterr().out
    train.main([*where, "--dataset", "mnist_sample"])
    out = capsys.readouterr().out
    assert "seed 4" in out
    assert "on mnist_sample" not in out
    train.main([*where, "--dataset", "mnist"])
    assert "seed 4 on mnist_sample" in capsys.readouterr().out  # mnist is its data set anyway


def test_what_was_trained_with_other_settings_is_listed_as_such(tmp_path, digits, capsys):
    study = override("l1-path", epochs=2)
    edited = {"no L1": study.experiments["no L1"].experiment, "proximal 0.001": PLAIN}
    for title, experiment in edited.items():
        write_runs(tmp_path, digits, experiment, [0.9, 0.9], study, title)
    damaged = write_runs(tmp_path, digits, PLAIN, [0.9], study, "proximal 0.003")
    (damaged / "experiment.json").write_text("{")
    where = ["--study", "l1-path", "--list", "--runs-dir", str(tmp_path)]
    train.main([*where, "--dataset", "mnist_sample", "--epochs", "2"])
    out = capsys.readouterr().out
    assert row_of(out, "no L1") == "no L1 own 94,154 seeds 0-1"
    assert row_of(out, "proximal 0.001").endswith(" seeds 0-1 (edited since; --force replaces them)")
    assert row_of(out, "proximal 0.003").endswith(" seed 0 (experiment.json cannot be used)")


def test_a_title_that_is_named_twice_is_listed_once(tmp_path, capsys):
    train.main(["--study", "l1-path", "--only", "no L1", "no L1", "--list", "--runs-dir", str(tmp_path)])
    assert capsys.readouterr().out.count("no L1") == 1


# ---------------------------------------------------------------------------------------------------------------------
# --summary


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("empty_folder")
def test_the_summary_lists_the_layers_and_trains_nothing(capsys):
    train.main(["--model", "mlp3", "--norm", "batch", "--summary"])
    out = capsys.readouterr().out
    assert out.startswith("mlp3,norm=batch: 95,050 parameters a run\nlayer ")
    assert "50,240" in out


@pytest.mark.usefixtures("empty_folder")
def test_the_summary_of_a_study_has_the_layers_of_every_experiment(capsys):
    train.main(["--study", "mnist-norms", "--summary"])
    out = capsys.readouterr().out
    titles = [line.split(":")[0] for line in out.splitlines() if line.endswith("parameters a run")]
    assert titles == list(STUDIES["mnist-norms"].experiments)
    assert "LN, per pixel: 44,712 parameters a run" in out
    train.main(["--study", "mnist-norms", "--only", "LN", "--norm", "batch", "--summary"])
    (heading,) = (line for line in capsys.readouterr().out.splitlines() if "a run" in line)
    assert heading.startswith("LN: ")


def test_the_summary_has_the_shape_that_leaves_each_layer(capsys):
    study = Study("small", "?", {"regression": Entry("own", Experiment(model="mlp", hidden=()))}, "regression")
    overview.print_summary(study, study.experiments, Path("unused"))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "regression: 7,850 parameters a run",
        "layer shape out parameters",
        "images 1×28×28",
        "Flatten 784",
        "Linear 10 7,850",
    ]
