import re
import shlex
from pathlib import Path

import pytest

import experiments
import records
import train

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_snippet_loads_a_runs_weights_and_gives_its_accuracy(tmp_path, monkeypatch, capsys):
    (snippet,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    train.main(shlex.split("--model mlp3 --l1 0.001 --dataset fashion_mnist_sample --epochs 1 --seeds 0"))
    (record,), _ = records.read_all("runs")
    capsys.readouterr()

    # The snippet names the full data set and the folder of its runs; here the sample plays the part of both.
    record.folder.rename(record.folder.with_name("mlp3,l1=0.001"))
    exec(snippet.replace('"fashion_mnist"', '"fashion_mnist_sample"'), {})
    assert capsys.readouterr().out == f"test accuracy {record.results[0]['test_accuracy']:.4f}\n"


@pytest.mark.parametrize("command", re.findall(r"^ {4}(python train\.py[^\n#]*)", TEXT, re.MULTILINE))
def test_every_command_is_one_that_train_takes(command):
    args = train.make_parser().parse_args(shlex.split(command)[2:])
    experiments.from_arguments(args)
    train.parse_seeds(args.seeds)


def test_every_file_is_in_the_table():
    assert {path.name for path in ROOT.glob("*.py")} == set(re.findall(r"`(\w+\.py)`(?=[^\n]*\|)", TEXT))
