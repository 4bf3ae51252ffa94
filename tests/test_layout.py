"""Tests of the layout: which files there are, how long they may be, and that imports point one way."""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = {"train", "report", "grade", "benchmark"}
CHAPTERS = {"augmentation", "data", "early_stopping", "experiments", "models", "regularizers", "side_by_side"}
FOLDERS = {"studies", "sources", "engine", "analysis", "grading"}
OURS = COMMANDS | CHAPTERS | FOLDERS | {"training"}

# What a file or folder may import. The first match counts, so a file's entry stands before its folder's.
ALLOWED: dict[str, set[str]] = {
    "sources.catalogue": set(),
    "sources": {"experiments"},  # for UserError only
    "experiments": {"sources.catalogue"},
    "augmentation": set(),
    "models": set(),
    "regularizers": set(),
    "early_stopping": set(),
    "data": {"sources"},
    "side_by_side": {"models"},
    "studies": {"experiments"},
    "training": CHAPTERS,
    "engine.console": set(),
    "engine.seeds": {"experiments"},
    "engine.flags": {"experiments", "studies", "sources.catalogue", "engine.console", "engine.seeds"},
    "engine": CHAPTERS | {"training", "studies", "sources"},
    "analysis": CHAPTERS
    | {"training", "studies", "sources", "engine.records", "engine.run_files", "engine.files", "engine.seeds"},
    "grading": CHAPTERS | {"training", "studies", "sources", "engine", "analysis"},
    **dict.fromkeys(COMMANDS, OURS - COMMANDS),
}
DESCRIBE = (
    "experiments",
    "studies",
    "sources.catalogue",
    "engine.flags",
    "engine.seeds",
    "engine.console",
)  # imported by commands before they parse
LATE = {  # imports inside functions
    ("engine.cluster", "distributed"),  # need not be installed
    ("engine.speed", "resource"),  # POSIX alone has it
    ("data", "sklearn"),  # 70 MB and a second that worker processes do not need
}
HEAVY = {"torch", "torchvision", "numpy", "scipy", "sklearn", "matplotlib", "joblib", "tqdm", "tabulate", "jinja2"}

FILES = {
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): path
    for pattern in ("*.py", *(f"{folder}/**/*.py" for folder in FOLDERS))
    for path in ROOT.glob(pattern)
}


def find_imports(text):
    """Yield (full name of the imported module, whether inside a function) for each import in a module's text."""
    tree = ast.parse(text)
    inside = {id(node) for top in ast.walk(tree) if isinstance(top, ast.FunctionDef) for node in ast.walk(top)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                is_file = name in FILES or f"{name}.__init__" in FILES
                yield (name if is_file else node.module), id(node) in inside


def is_below(name, roots):
    """Tell whether a module is one of the roots or lies below a root."""
    return any(name == root or name.startswith(f"{root}.") for root in roots)


def find_violations(module, text):
    """List the imports of a module that break the rule."""
    allowed = next(allowed for root, allowed in ALLOWED.items() if is_below(module, [root]))
    folder = module.partition(".")[0]
    found = []
    for name, is_inside in find_imports(text):
        if name.partition(".")[0] in OURS and not is_below(name, allowed | {folder} - COMMANDS):
            found.append(f"{module} imports {name}")
        if is_inside and module not in COMMANDS and (module, name.partition(".")[0]) not in LATE:
            found.append(f"{module} imports {name} inside a function")
        if is_below(module, DESCRIBE) and name.partition(".")[0] in HEAVY:
            found.append(f"{module} imports {name}, which would delay --help")
    return found


@pytest.mark.parametrize("module", sorted(FILES))
def test_imports_point_one_way(module):
    assert find_violations(module, FILES[module].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("models", "import regularizers"),
        ("sources.catalogue", "from experiments import UserError"),
        ("data", "from studies import STUDIES"),
        ("training", "from engine import records"),
        ("engine.plan", "from analysis.compare import Comparison"),
        ("analysis.findings", "from engine.workers import train_unit"),
        ("analysis.findings", "from engine import workers"),
        ("analysis.sections", "import grading.checks"),
        ("grading.checks", "import report"),
        ("grading.checks", "from train import parse_seeds"),
        ("benchmark", "import train"),
        ("studies.study", "import torch"),
        ("studies.mine", "from numpy import array"),
        ("experiments", "def f():\n    import os"),
        ("engine.records", "def f():\n    import torch"),
    ],
)
def test_a_planted_violation_is_found(module, line):
    assert len(find_violations(module, line)) == 1
    assert find_violations(module, "import os\nfrom pathlib import Path") == []


def test_only_main_of_a_command_imports_late():
    for command in COMMANDS:
        tree = ast.parse(FILES[command].read_text(encoding="utf-8"))
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            late = [node for node in ast.walk(function) if isinstance(node, ast.Import | ast.ImportFrom)]
            assert not late or function.name == "main", f"{command}.{function.name}"


def test_the_top_has_the_commands_and_the_chapters():
    assert {path.stem for path in ROOT.glob("*.py")} == COMMANDS | CHAPTERS | {"training"}


@pytest.mark.parametrize("module", sorted(FILES))
def test_no_file_is_too_long(module):
    most = 180 if module in COMMANDS else 380 if module == "experiments" else 350
    assert len(FILES[module].read_text(encoding="utf-8").splitlines()) <= most


def test_constants_of_one_name_exist_once():
    places = defaultdict(list)
    for module, path in FILES.items():
        for statement in ast.parse(path.read_text(encoding="utf-8")).body:
            targets = [
                target for target in getattr(statement, "targets", [getattr(statement, "target", None)]) if target
            ]
            names = {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
            for name in names:
                if name.isupper():
                    places[name].append(module)
    assert "EPOCHS" in places
    assert {name: modules for name, modules in places.items() if len(modules) > 1} == {}


def test_a_folder_says_what_it_is_for():
    for folder in FOLDERS:
        tree = ast.parse(FILES[f"{folder}.__init__"].read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), folder
        assert len(tree.body) == 1 or folder == "studies", folder
