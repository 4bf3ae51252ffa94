import json

import pytest
from helpers import cut_dataset, end_with, refuse

import benchmark
import data
from engine import speed, workers


@pytest.fixture
def seconds(digits, monkeypatch):
    """Make the loops return known seconds; the arithmetic is counted for some images of the MNIST sample."""
    few = cut_dataset(digits, train=300, validation=100, test=100)
    monkeypatch.setattr(data, "load", lambda *which: few)
    monkeypatch.setattr(speed, "time_plain_loop", lambda *which: 8.0)
    monkeypatch.setattr(speed, "time_ours", lambda plan, device: 2.0 if len(plan.units) == 1 else 1.0)
    monkeypatch.setattr(speed, "time_layers", lambda plan: 0.5)
    monkeypatch.setattr(speed, "measure_rate", lambda: 1e9)
    monkeypatch.setattr(speed, "compare_late_epoch", lambda dataset: 1.0)


@pytest.mark.usefixtures("seconds")
@pytest.mark.parametrize("model", ["mlp1", "cnn1"])
def test_the_table_has_the_limits_that_layers_and_arithmetic_set(model, tmp_path, capsys):
    out = tmp_path / "result.json"
    benchmark.main(["--model", model, "--dataset", "mnist_sample", "--rounds", "1", "--out", str(out)])
    shown = capsys.readouterr().out
    assert "| ours, one seed " in shown
    assert "| the linear layers and convolutions alone " in shown
    assert "| their arithmetic, at the rate of a large matrix product " in shown
    found = json.loads(out.read_text())["seconds_per_run_epoch"]
    limit = {"mlp1": 0.079, "cnn1": 1.82}[model]
    arithmetic = pytest.approx(limit, rel=0.01)
    assert found == dict(plain=8.0, one_seed=2.0, several_seeds=1.0, layers=0.5, arithmetic=arithmetic)


@pytest.mark.parametrize(
    ("out", "says"),
    [
        (".", ": expected a file with a name that ends in .json"),
        ("result", ": expected a file with a name that ends in .json"),
        ("nowhere/result.json", ": there is no folder "),
    ],
)
def test_a_result_that_cannot_be_written_is_refused_before_anything_is_measured(out, says, tmp_path, capsys):
    line = refuse(benchmark.main, ["--out", tmp_path / out], capsys)
    assert line.startswith(f"benchmark.py: error: --out {tmp_path / out}{says}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("seconds")
def test_ctrl_c_is_a_line(tmp_path, capsys, monkeypatch):
    def interrupt(*which):
        raise KeyboardInterrupt

    monkeypatch.setattr(speed, "time_plain_loop", interrupt)
    error = end_with(130, benchmark.main, ["--out", tmp_path / "result.json"], capsys).err
    plans, rest = error.splitlines()[:2], error.splitlines()[2:]
    assert all(line.startswith("ours: ") for line in plans)
    assert rest == ["round 1 of 3", "", "interrupted: nothing is written"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("model", "has_channels"), [("mlp1", False), ("cnn1", True)])
def test_the_prices_of_all_settings_are_a_table(model, has_channels, digits, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(data, "load", lambda *which: cut_dataset(digits, train=64, validation=100, test=100))
    out = tmp_path / "result.json"
    benchmark.main(["--model", model, "--dataset", "mnist_sample", "--settings", "--rounds", "1", "--out", str(out)])
    prices = json.loads(out.read_text())["times_as_long"]
    shown = capsys.readouterr().out
    assert all(f"| {name} " in shown and ratio > 0 for name, ratio in prices.items())
    assert len(prices) == len(benchmark.PRICED) - (not has_channels)
    assert ("channel_dropout=0.1" in prices) == has_channels


def test_prices_are_not_measured_on_a_gpu(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(workers, "check_device", lambda device: None)
    for words, says in (
        (["--device", "cuda"], "--device cuda: --settings measures the seconds of the CPU; leave one of the two out"),
        (["--epochs", "4"], "--epochs 4: --settings always trains 2 epochs; leave one of the two out"),
    ):
        line = refuse(benchmark.main, ["--settings", *words, "--out", tmp_path / "result.json"], capsys)
        assert line == f"benchmark.py: error: {says}"
