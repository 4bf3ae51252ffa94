"""Everything in the documents that a program can check: commands, flags, files, links, tables, snippets and calls."""

import ast
import csv
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from helpers import choose, write_nothing

import benchmark
import grade
import models
import report
import train
import training
from analysis import style
from docs import simulate_looks
from engine import flags, provenance, records
from experiments import MODELS, Experiment
from grading.checks import CHECKS
from sources.catalogue import SOURCES
from studies import STUDIES

ROOT = provenance.ROOT
DOCUMENTS = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for pattern in ("*.md", "docs/*.md", "docs/results/*.md", "sources/samples/*.md")
    for path in sorted(ROOT.glob(pattern))
}
TEXT = "\n".join(DOCUMENTS.values())
README, CONTRIBUTING = DOCUMENTS["README.md"], DOCUMENTS["CONTRIBUTING.md"]
ARCHITECTURE = DOCUMENTS["docs/architecture.md"]
CODE = {name for name in provenance.code_files() if not name.endswith("__init__.py")} | {"studies/__init__.py"}

PARSERS = {
    "train.py": train.make_train_parser,
    "report.py": report.make_report_parser,
    "grade.py": grade.make_grade_parser,
    "benchmark.py": benchmark.make_benchmark_parser,
}
OWN_STUDY = "wide-or-not"  # is in no file of ours
DASKS = {"--nworkers", "--nthreads", "--memory-limit", "--no-dashboard"}  # flags of its workers
TOOLS = {"--check", "--no-deps", "--signal"}  # flags of ruff, pip and Slurm
JOB = {"1": "GN", "SLURM_ARRAY_TASK_ID": "3"}  # what a job is given


def list_commands(text):
    """Every command on an indented line, without its comment."""
    lines = re.findall(r"^ {4}(\S[^\n#]*)", text, re.MULTILINE)
    return [command.strip() for line in lines for command in line.split("&&")]


COMMANDS = [
    command
    for command in [*list_commands(TEXT), *re.findall(r"`(python \w+\.py[^`]*)`", TEXT)]
    if re.match(r"python3? \w+\.py", command) and OWN_STUDY not in command
]


@pytest.mark.parametrize(("name", "most"), [("README.md", 200), ("CONTRIBUTING.md", 60)])
def test_the_first_documents_are_short(name, most):
    assert len(DOCUMENTS[name].splitlines()) <= most


@pytest.mark.parametrize("name", DOCUMENTS)
def test_no_line_is_long(name):
    lines = DOCUMENTS[name].splitlines()
    if name != "README.md":
        lines = [line for line in lines if not line.startswith(("|", "    "))]  # these cannot be broken
    assert [line for line in lines if len(line) > 120] == []


# ---------------------------------------------------------------------------------------------------------------------
# Commands


@pytest.mark.parametrize("command", dict.fromkeys(COMMANDS))
def test_every_command_is_one_that_its_program_takes(command, monkeypatch):
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)
    _, program, *words = shlex.split(os.path.expandvars(command))
    if words == ["--help"]:
        return
    args = PARSERS[program]().parse(words)
    if program == "train.py":
        study, titles = choose(words)
        assert titles
        assert set(titles) <= study.experiments.keys()
        assert flags.choose_seeds(args, study)
    if program == "grade.py":
        assert args.retrain is None or grade.read_retrain(args.retrain)
        assert args.study is None or grade.read_study(args.study)


def test_two_commands_are_all_set_up():
    assert list_commands(README)[:5] == [
        "pip install -r requirements.txt",
        "python train.py --model mlp3 --l1 0.001",
        "python report.py",
        "pip install -r requirements.txt",
        "python -m pytest",
    ]


def test_every_flag_that_is_named_is_one_of_a_program_or_of_the_tests(pytestconfig):
    known = {option for make in PARSERS.values() for action in make()._actions for option in action.option_strings}
    known |= {f"--{name}" for name in ("kills", "mutations", "studies") if pytestconfig.getoption(name)}
    known |= set(simulate_looks.make_simulation_parser()._option_string_actions)
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", TEXT)) - known == DASKS | TOOLS


def test_the_flags_of_dask_are_those_of_its_workers():
    worker = pytest.importorskip("distributed.cli.dask_worker", reason="needs requirements-cluster.txt")
    assert {option for flag in worker.main.params for option in [*flag.opts, *flag.secondary_opts]} >= DASKS


def test_a_contributor_types_what_ci_runs():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    commands = list_commands(CONTRIBUTING)
    assert commands[-1] == "python -m pytest"
    assert [line for line in script if line in commands] == commands[:-1]
    assert script[-1] == "pip install -r requirements.txt && python -m pytest"


# ---------------------------------------------------------------------------------------------------------------------
# Snippets


def find_snippet(word):
    (snippet,) = [text for text in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if word in text]
    return snippet


def test_the_snippet_loads_a_runs_weights_and_gives_its_accuracy(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    train.main(shlex.split("--model mlp3 --l1 0.001 --dataset fashion_mnist_sample --epochs 1 --seeds 0"))
    (record,), _ = records.read_all(Path("runs"))
    capsys.readouterr()

    # The snippet names the full data set and the folder of its runs; here the sample plays the part of both.
    record.folder.rename(record.folder.with_name("mlp3,l1=0.001"))
    exec(find_snippet("load_state_dict").replace('"fashion_mnist"', '"fashion_mnist_sample"'), {})
    assert capsys.readouterr().out == f"test accuracy {record.results[0]['test_accuracy']:.4f}\n"


def test_a_study_of_ones_own_is_one_more_file(tmp_path):
    shutil.copytree(ROOT / "studies", tmp_path / "studies")
    for folder in ("sources", "engine"):
        (tmp_path / folder).mkdir()
    files = (
        "sources/__init__.py",
        "sources/catalogue.py",
        "engine/__init__.py",
        "engine/console.py",
        "engine/flags.py",
        "engine/seeds.py",
    )
    for name in ("train.py", "experiments.py", *files):
        shutil.copy(ROOT / name, tmp_path / name)
    (path,) = re.findall(r"such as `(studies/\w+\.py)`", README)
    (tmp_path / path).write_text(find_snippet("Study("), encoding="utf-8")
    (command,) = [command for command in list_commands(README) if re.match(f"python .*{OWN_STUDY}", command)]
    _, _, *words = shlex.split(command)
    code = "import sys, train; args = train.make_train_parser().parse(); "
    code += "study, titles = train.flags.choose_experiments({}, args.study, args.only)"
    code += "; print(titles, study.experiments[study.claims[0].subject].experiment.hidden, 'torch' in sys.modules)"
    process = subprocess.run([sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True)
    assert (process.stdout, process.stderr) == ("['narrow', 'wide'] (512,) False\n", "")


# ---------------------------------------------------------------------------------------------------------------------
# Files and links


def test_every_link_leads_to_a_file_and_its_heading():
    links = [(name, link) for name, text in DOCUMENTS.items() for link in re.findall(r"\]\((?!https?:)([^)]+)", text)]
    assert ("README.md", "docs/report.png") in links
    for name, link in links:
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path
        assert target.is_file(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}, link


def test_the_picture_of_a_report_is_small():
    picture = (ROOT / "docs" / "report.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) <= 200_000


def test_every_file_that_is_named_is_there():
    named = set(re.findall(r"`([\w./]+\.(?:py|md|txt))`", TEXT))
    written = {"report.md", "contents.txt", "notes.md", "runs/notes.md", "studies/wide_or_not.py"}  # by users
    assert {name for name in named - written if not (ROOT / name).exists()} == set()


def test_every_file_of_the_code_is_in_the_tables_of_the_architecture():
    named = re.findall(r"^\| `([\w/]+\.py)` \| [^|]+ \|$", ARCHITECTURE, re.MULTILINE)
    assert set(named) <= CODE
    assert {name for name in CODE - set(named) if not name.startswith("studies/")} == set(), (
        "a study may be a teacher's"
    )


def test_the_readme_has_the_map():
    (part,) = re.findall(r"\n## Where to look\n(.*)", README, re.DOTALL)
    expected = {name if "/" not in name else f"{name.partition('/')[0]}/" for name in CODE}
    assert set(re.findall(r"`(\w+(?:\.py|/))`", part)) == expected | {"train.py"}


# ---------------------------------------------------------------------------------------------------------------------
# Tables


def test_every_model_is_in_the_table_with_its_convolutions_and_parameters():
    rows = dict(re.findall(r"^\| `(\w+)` (\|.*\|)$", README, re.MULTILINE))
    assert set(MODELS) <= rows.keys()
    for model in set(MODELS) - {"mlp"}:
        experiment = Experiment(model=model)
        source = SOURCES[experiment.dataset_name]
        network = training.build_network(experiment, source.shape, len(source.classes), seed=0)
        assert f"| {models.count_parameters(network):,} |" in rows[model], model
        if model in models.CNNS:
            convolutions = sum(isinstance(layer, torch.nn.Conv2d) for layer in network.modules())
            assert f"| {convolutions} convolutions," in rows[model], model


def test_every_published_study_is_in_the_table_with_its_experiments():
    row = r"^\| `([\w-]+)` \| [^|]+ \| (\d+)[^|]* \| (\d+) seeds, [\dh ]+ min \|$"
    rows = re.findall(row, README, re.MULTILINE)
    assert len(rows) == 12
    for name, count, seeds in rows:
        assert int(count) == len(set(STUDIES[name].trained_as.values())), name
        assert int(seeds) == STUDIES[name].seeds, name


REDONE = ("fashion-mlp", "mnist-l1-l2-ghost", "mnist-dropout-ghost", "mnist-norms", "cifar-norms")  # assignments


def test_the_results_are_those_of_the_published_reports():
    results = DOCUMENTS["docs/results/README.md"]
    lines = [line.split("|")[1:-1] for line in results.partition("## How many")[0].splitlines() if line[:1] == "|"]
    summary = {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}
    for study in REDONE:
        tables = ROOT / "docs" / "results" / study / "tables"
        claims = [row for row in read_csv(tables / f"{study}-claims.csv") if row["claim"]]
        for claim in claims:
            as_run, corrected = summary[claim["claim"]]
            verdict, _, difference = (as_run if claim["kind"] == "as run" else corrected).partition(", ")
            assert verdict == claim["verdict"].partition(":")[0], claim
            if difference:  # empty where nothing is compared, or with several experiments
                places = len(difference.partition(" ±")[0].partition(".")[2])
                of_report = f"{float(claim['difference']):+.{places}f} ± {float(claim['difference ±']):.{places}f}"
                assert difference.replace("−", "-").startswith(of_report), claim


def test_the_published_metrics_lie_where_the_published_reports_say():
    part = DOCUMENTS["docs/results/README.md"].partition("## The published metrics")[2].partition("\n- ")[0]
    shown, of_study, lies = {}, "", Counter()
    for line in part.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if "±" in line and len(cells) == 7:
            shown[of_study, cells[0]] = cells[1:]
        elif cells:
            of_study = cells[0].strip("*`")
    for study in REDONE:
        for row in read_csv(ROOT / "docs" / "results" / study / "tables" / f"{study}-published.csv"):
            is_accuracy = "accuracy" in row["metric"]
            lies[is_accuracy, row["published is"]] += 1
            if is_accuracy:
                start = 0 if row["metric"].startswith("test") else 3
                where = f"{float(row['from']):.2f} to {float(row['to']):.2f}"
                where += "" if row["published is"] == "inside" else f": **{row['published is']}**"
                ours = f"{float(row['ours']):.2f} ± {float(row['ours ±']):.2f}"
                expected = [ours, f"{float(row['published']):.2f}", where]
                assert shown[study, row["experiment"]][start : start + 3] == expected, row
    assert lies == {
        (True, "inside"): 43,
        (True, "below"): 2,
        (True, "above"): 7,
        (False, "inside"): 16,
        (False, "below"): 2,
    }
    assert 2 * len(shown) == 52


@pytest.mark.parametrize("study", ["modern", "modern-cnn"])
def test_the_claims_about_newer_regularizers_are_those_of_the_published_reports(study):
    part = DOCUMENTS["docs/results/README.md"].partition(f"`python train.py --study {study}`")[2]
    part = part.partition("`python train.py --study ")[0]
    rows = re.findall(r"^\| (.+?) \| (\S+) ± (\S+) \| (.+) \|$", part, re.MULTILINE)
    shown = {re.sub(r" \(.*?\)", "", claim): tuple(cells) for claim, *cells in rows}
    for claim in read_csv(ROOT / "docs" / "results" / study / "tables" / f"{study}-claims.csv"):
        difference = f"{float(claim['difference']):+.2f}".replace("-", "−"), f"{float(claim['difference ±']):.2f}"
        assert shown[claim["claim"]] == (*difference, claim["verdict"].partition(":")[0])


def test_the_sizes_of_ghost_batches_are_those_of_the_published_report():
    part = (
        DOCUMENTS["docs/results/README.md"].partition("`python train.py --study ghost-size`")[2].partition("\n## ")[0]
    )
    tables = ROOT / "docs" / "results" / "ghost-size" / "tables"
    shown = [[cell.strip() for cell in line.split("|")[1:-1]] for line in part.splitlines() if "±" in line[:30]]
    for cells, row in zip(shown, read_csv(tables / "ghost-size-accuracy.csv"), strict=True):
        means = [f"{float(row[name]):.2f} ± {float(row[f'{name} ±']):.2f}" for name in ("train %", "test %")]
        name = "test − baseline"
        difference = f"{float(row[name]):+.2f} ± {float(row[f'{name} ±']):.2f}" if row[name] else ""
        assert cells == [row["experiment"], *means, difference.replace("-", "−")]
    against_128, against_2 = read_csv(tables / "ghost-size-claims.csv")
    assert against_128["verdict"] == "no practical difference"
    for claim in (against_128, against_2):
        difference = f"{float(claim['difference']):.2f} ± {float(claim['difference ±']):.2f}".replace("-", "−")
        assert difference in part.replace("\n", " ")


@pytest.mark.parametrize("study", ["recipe-fashion", "recipe-mnist", "recipe-cifar"])
def test_the_steps_of_a_recipe_are_those_of_the_published_report(study):
    tables = ROOT / "docs" / "results" / study / "tables"
    part = DOCUMENTS["docs/results/recipes.md"].partition(f"python train.py --study {study}\n")[2]
    rows = [line.split("|")[1:-1] for line in part.partition("\n## ")[0].splitlines() if "±" in line]
    shown = [[cell.strip().strip("*").replace("−", "-") for cell in row] for row in rows if len(row) == 5]
    start = "this step helps: "
    claims = {row["claim"]: row for row in read_csv(tables / f"{study}-claims.csv")}
    differences = {claim.removeprefix(start): row for claim, row in claims.items() if claim.startswith(start)}
    assert differences
    for row in read_csv(tables / f"{study}-accuracy.csv"):
        (step, _, accuracy, difference, verdict), *shown = shown
        assert (step, accuracy) == (row["experiment"], f"{float(row['test %']):.2f} ± {float(row['test % ±']):.2f}")
        if claim := differences.pop(step, None):
            assert difference == f"{float(claim['difference']):+.2f} ± {float(claim['difference ±']):.2f}", step
            assert verdict == claim["verdict"].partition(":")[0], step
    assert (shown, differences) == ([], {})


def read_csv(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_check_is_in_the_table_with_its_points():
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \|", DOCUMENTS["docs/grading.md"], re.MULTILINE)
    assert rows == [(check.name, str(check.points)) for check in CHECKS.values()]


def test_every_data_set_is_in_the_table():
    rows = re.findall(r"^\| (`\w+`.*?) \| [\d,]+ / ", DOCUMENTS["docs/conventions.md"], re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == set(SOURCES)


# ---------------------------------------------------------------------------------------------------------------------
# The architecture


def list_imports(path):
    """The files of ours that a file imports, as paths below the root."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [name for alias in node.names for name in (node.module, f"{node.module}.{alias.name}")]
    paths = [name.replace(".", "/") for name in names]
    return {name for path in paths for name in (f"{path}.py", f"{path}/__init__.py") if (ROOT / name).is_file()}


def test_the_picture_shows_every_import():
    (picture,) = re.findall(r"```mermaid\n(.*?)```", ARCHITECTURE, re.DOTALL)
    labels = re.findall(r'(\w+)\["([^"]+)"\]', picture)
    node_of = {name: node for node, label in labels for name in label.split("<br>")}
    arrows = set(re.findall(r"^ +(\w+)\S* --> (\w+)", picture, re.MULTILINE))

    def place(name):
        return node_of.get(name) or node_of[f"{name.partition('/')[0]}/"]

    pairs = {
        (place(name), place(other)) for name, path in provenance.code_files().items() for other in list_imports(path)
    }
    imports = {(importer, imported) for importer, imported in pairs if importer != imported}
    assert arrows <= imports
    following = set(arrows)
    while more := {(a, d) for a, b in following for c, d in arrows if b == c} - following:
        following |= more
    assert imports <= following
    assert all(node != other for node, other in following if (other, node) in following)


def test_the_way_of_l1_is_the_one_it_takes(tmp_path, monkeypatch, capsys):
    steps = re.findall(r"^\d+\. (\*\*)?`([\w.]+)`(?:\*\*)? in `([\w/]+\.py)`", ARCHITECTURE, re.MULTILINE)
    names, called, stacks = {}, {}, []
    backward = torch.Tensor.backward

    def name_of(code):
        if code not in names:
            path = Path(code.co_filename)
            is_ours = path.is_relative_to(ROOT) and not path.is_relative_to(ROOT / "tests")
            names[code] = (code.co_qualname, path.relative_to(ROOT).as_posix()) if is_ours else None
        return names[code]

    def note(frame, event, _):
        if event == "call" and (name := name_of(frame.f_code)):
            called[name] = None  # in the order of the first calls

    def note_stack(*args, **kwargs):
        frame, stack = sys._getframe(), []
        while frame := frame.f_back:
            stack.append(name_of(frame.f_code))
        stacks.append([name for name in reversed(stack) if name])
        return backward(*args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "backward", note_stack)
    monkeypatch.setattr(style, "save_figure", write_nothing)
    monkeypatch.chdir(tmp_path)
    sys.setprofile(note)
    try:
        train.main(shlex.split("--model mlp3 --l1 0.001 --dataset fashion_mnist_sample --epochs 1 --seeds 0"))
        report.main(["--data-dir", str(tmp_path)])
    finally:
        sys.setprofile(None)
    way = [(function, file) for _, function, file in steps]
    assert [name for name in called if name in way] == way
    frames = [(function, file) for bold, function, file in steps if bold]
    assert stacks[0] == frames
    assert len(frames) <= 6
    assert "--l1 0.001" in (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
