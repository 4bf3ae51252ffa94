import platform
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from engine import provenance
from grading import packing

ROOT = Path(__file__).resolve().parents[1]


def test_the_code_is_every_python_file_but_the_tests():
    files = provenance.code_files()
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        if path.relative_to(ROOT).parts[0] not in ("tests", "docs", "data", "runs", "report")
        and not any(part.startswith((".", "venv")) for part in path.relative_to(ROOT).parts)
    }
    assert files.keys() == expected
    assert {"train.py", "engine/records.py", "studies/__init__.py", "sources/catalogue.py"} <= files.keys()
    assert list(files) == sorted(files)
    assert all(files[name] == ROOT / name for name in files)


def test_what_jupyter_and_macos_leave_behind_is_no_code(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.setattr(packing, "ROOT", tmp_path)
    kept = ["train.py", "studies/mine.py", "analysis/templates/style.css"]
    litter = ["._train.py", "studies/.ipynb_checkpoints/mine-checkpoint.py", "analysis/templates/.DS_Store"]
    for name in [*kept, *litter]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert sorted(packing.all_code()) == sorted(kept)


def git(folder, *words):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True)


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_the_commit_is_that_of_the_folder_and_says_whether_it_was_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.git_commit() is None
    git(tmp_path, "init")
    (tmp_path / "train.py").write_text("first")
    git(tmp_path, "add", "train.py")
    git(tmp_path, "commit", "-m", "a commit")
    commit = provenance.git_commit()
    assert len(commit) == 40
    assert set(commit) <= set("0123456789abcdef")
    git(tmp_path, "tag", "v1")
    assert provenance.git_commit() == commit
    (tmp_path / "notes.txt").write_text("no code")
    assert provenance.git_commit() == commit
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "mine.py").write_text("added")
    assert provenance.git_commit() == f"{commit}-dirty"
    (tmp_path / "studies" / "mine.py").unlink()
    (tmp_path / "train.py").write_text("second")
    assert provenance.git_commit() == f"{commit}-dirty"


def test_without_git_there_is_no_commit(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance.git_commit() is None


def test_the_machine_is_described_with_its_versions():
    described = provenance.describe_machine("cpu")
    assert described["device"] == f"cpu ({platform.machine()})"
    assert described["threads"] == torch.get_num_threads() == 1
    assert described["versions"].keys() == {"python", "torch", "numpy"}
    assert described["versions"]["torch"] == torch.__version__
    assert described["platform"] == platform.platform()
