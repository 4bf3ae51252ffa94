import os
import re
import shlex
import textwrap
from pathlib import Path

import pytest

import benchmark
import grade
import models
import report
import studies
import train
import training
from engine import provenance, records
from experiments import MODELS, Experiment
from sources import catalogue

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PROGRAMS = {"train.py": train, "report.py": report, "grade.py": grade, "benchmark.py": benchmark}
PARSERS = {name: program.make_parser for name, program in PROGRAMS.items()}
LINES = re.findall(r"^ {4}(\S[^\n#]*)", TEXT, re.MULTILINE)  # those of commands, without comments
COMMANDS = [command.strip() for line in LINES for command in line.split("&&") if re.match(r" *python \w+\.py", command)]

DASKS = {"--nworkers", "--nthreads", "--memory-limit", "--no-dashboard"}  # flags of its workers
JOB = {"1": "GN", "SLURM_ARRAY_TASK_ID": "3"}  # what a job is given


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


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_one_that_its_program_takes(command, monkeypatch):
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)
    _, program, *words = shlex.split(os.path.expandvars(command))
    args = PARSERS[program]().parse_args(words)
    if program == "train.py":
        asked, _ = train.what_is_asked(args)
        assert asked
        assert train.parse_seeds(args.seeds)


def test_the_first_command_trains_and_the_last_program_reports():
    assert COMMANDS[:2] == ["python train.py --model mlp3 --l1 0.001", "python report.py"]


def test_every_flag_that_is_named_is_one_of_a_program_or_of_the_tests(pytestconfig):
    flags = {option for make in PARSERS.values() for action in make()._actions for option in action.option_strings}
    flags |= {f"--{name}" for name in ("kills", "mutations", "studies") if pytestconfig.getoption(name)}
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", TEXT)) - flags == DASKS


def test_the_flags_of_dask_are_those_of_its_workers():
    worker = pytest.importorskip("distributed.cli.dask_worker", reason="needs requirements-cluster.txt")
    assert {option for flag in worker.main.params for option in [*flag.opts, *flag.secondary_opts]} >= DASKS


def test_every_model_is_in_the_table_with_its_parameters():
    rows = dict(re.findall(r"^\| `(\w+)` (\|.*\|)$", TEXT, re.MULTILINE))
    assert set(MODELS) <= rows.keys()
    for model in set(MODELS) - {"mlp"}:
        experiment = Experiment(model=model)
        source = catalogue.SOURCES[experiment.default_dataset]
        network = training.textbook_network(experiment, source, seed=0)
        assert f"| {models.parameter_count(network):,} |" in rows[model], model


def test_every_file_is_in_the_table():
    files = {name for name in provenance.code_files() if not name.endswith("__init__.py")}
    named = set(re.findall(r"`([\w/]+\.py)`(?=[^\n]*\|)", TEXT))
    assert files - named == {"sources/make_samples.py"}
    assert named - files == {"studies/__init__.py"}


def test_every_link_leads_to_a_file():
    links = re.findall(r"\]\((?!https?:)([^)#]+)", TEXT)
    assert links
    assert all((ROOT / link).exists() for link in links)


def test_the_study_of_ones_own_is_one(monkeypatch):
    block = re.search(r"\n(    STUDIES\[.+?\n    \))\n", TEXT, re.DOTALL).group(1)
    monkeypatch.setattr(studies, "STUDIES", dict(studies.STUDIES))
    exec(textwrap.dedent(block), vars(studies))
    study = studies.STUDIES["wide-or-not"]
    assert list(study.experiments) == ["narrow", "wide"]
    assert study.experiments[study.claims[0].one].experiment.hidden == (512,)
