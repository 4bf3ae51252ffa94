"""An honest submission loses no point to the program, the computer or the website that packed it again."""

import io
import json
import os
import shutil
import tarfile
import unicodedata
import zipfile
from pathlib import Path

import pytest
from helpers import FIRST, change_text, read_files, refresh, write_nothing

import report
from analysis import style
from analysis.document import render_page
from grading import scores
from grading.submission import GradeOptions

FULL = 90  # points without --study and --retrain
LITTER = {
    **dict.fromkeys(("__MACOSX/._my submission", "__MACOSX/report/._report.md", "report/._report.md"), b"\0\5\x16\7"),
    **dict.fromkeys((".DS_Store", "report/.DS_Store", "Thumbs.db", "runs/Desktop.ini", "code/engine/.DS_Store"), b"x"),
    **dict.fromkeys((".git/HEAD", ".git/refs/heads/main", ".gitignore", ".idea/workspace.xml", ".vscode/x"), b"x"),
    **dict.fromkeys((".venv/pyvenv.cfg", "venv/bin/a", "venv/bin/A", "venv/x/manifest.json", "venv/x/runs/a"), b"{}"),
    **dict.fromkeys(("code/__pycache__/train.cpython-311.pyc", ".mypy_cache/3.11/x", ".ruff_cache/x"), b"x"),
    **dict.fromkeys((".ipynb_checkpoints/essay-checkpoint.ipynb", "code/.pytest_cache/README.md"), b"x"),
}
ADDED = {
    "essay.pdf": b"%PDF-1.7 what I learned",
    "notebooks/first try.ipynb": b'{"cells": []}',
    "report/my figure.png": b"\x89PNG",
    "code/plot_more.py": b"print('more')\n",
    "runs/single/figure.png": b"\x89PNG",
}


def zip_files(path, files, change=lambda name: name):
    """Write a zip archive of {name: content} and return its path."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(change(name), content)
    return path


def write_files(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def make_powershell_archive(files, place):
    """Pack as Compress-Archive of Windows PowerShell 5: backslashes, folders of their own, no flag for UTF-8."""
    folders = {parent.as_posix() for name in files for parent in Path(name).parents if parent != Path()}
    with zipfile.ZipFile(place / "powershell.zip", "w") as archive:
        for name in sorted(folders):
            archive.writestr(f"{name}/".replace("/", "\\"), b"")
        for name, content in files.items():
            archive.writestr(name.replace("/", "\\"), content)
    return place / "powershell.zip"


def make_unpacked_backslashes(files, place):
    """Unpack a PowerShell archive as programs do that take a backslash for a letter: no folders, odd names."""
    if os.name == "nt":
        pytest.skip("no file name of Windows contains a backslash")
    return write_files(place / "loose", {name.replace("/", "\\"): content for name, content in files.items()})


def make_tar(files, place, first="./", mode="w:gz"):
    """Pack as `tar czf submission.tar.gz .` does."""
    with tarfile.open(place / "submission.tar.gz", mode) as archive:
        folder = tarfile.TarInfo(first)
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in files.items():
            member = tarfile.TarInfo(f"{first}{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return place / "submission.tar.gz"


class Unflagged(zipfile.ZipInfo):
    """A member of a zip archive whose name is UTF-8 and not said to be, so that readers take it for code page 437."""

    def _encodeFilenameFlags(self):
        return self.filename.encode(), self.flag_bits & ~0x800


def make_zip_without_utf8_flag(files, place):
    path = zip_files(place / "unflagged.zip", files, Unflagged)
    with zipfile.ZipFile(path) as archive:
        assert not set(files) <= set(archive.namelist())
    return path


def decompose(name):
    return unicodedata.normalize("NFD", name)


REPACKINGS = {
    "as it was": lambda files, place: zip_files(place / "submission.zip", files),
    "loose files": lambda files, place: write_files(place / "loose", files),
    "PowerShell 5": make_powershell_archive,
    "PowerShell 5, unpacked with names as they are": make_unpacked_backslashes,
    "in a folder": lambda files, place: zip_files(place / "one.zip", files, "my submission/{}".format),
    "in three folders": lambda files, place: zip_files(place / "three.zip", files, "a/b c/ü/{}".format),
    "in folders, unpacked": lambda files, place: write_files(place / "loose" / "a" / "b", files).parents[1],
    "tar.gz": make_tar,
    "tar": lambda files, place: make_tar(files, place, mode="w"),
    "tar.gz of the folder": lambda files, place: make_tar(files, place, "my submission/"),
    "zip in a zip": lambda files, place: zip_files(
        place / "again.zip", {"submission.zip": zip_files(place / "submission.zip", files).read_bytes()}
    ),
    "the archive in a folder": lambda files, place: (
        zip_files(write_files(place / "handed in", ADDED) / "x.zip", files).parent
    ),
    "zip in folders in a zip": lambda files, place: zip_files(
        place / "again.zip", {"anna/hand in/my.zip": zip_files(place / "submission.zip", files).read_bytes()}
    ),
    "macOS names": lambda files, place: zip_files(place / "macos.zip", files, decompose),
    "macOS names, unpacked": lambda files, place: write_files(
        place / "loose", {decompose(name): content for name, content in files.items()}
    ),
    "names without the flag of UTF-8": make_zip_without_utf8_flag,
    "with what systems and tools keep": lambda files, place: zip_files(place / "litter.zip", files | LITTER),
    "with what systems and tools keep, unpacked": lambda files, place: write_files(place / "loose", files | LITTER),
    "with litter beside the folder": lambda files, place: zip_files(
        place / "beside.zip", {f"my submission/{name}": content for name, content in files.items()} | LITTER
    ),
    "with files of the student's own": lambda files, place: zip_files(place / "added.zip", files | ADDED),
    "with files beside the folder": lambda files, place: zip_files(
        place / "beside.zip", {f"my submission/{name}": content for name, content in files.items()} | ADDED
    ),
    "with an archive of the student's own": lambda files, place: zip_files(
        place / "added.zip", files | {"more data.zip": zip_files(place / "data.zip", ADDED).read_bytes()}
    ),
}


@pytest.fixture(scope="session")
def honest(handed_in, tmp_path_factory):
    """The files of an honest submission, {name: content}; two names have letters that systems spell differently."""
    folder = shutil.copytree(handed_in, tmp_path_factory.mktemp("honest") / "submission")
    (folder / "report" / "größe.png").write_bytes(b"x")
    (folder / "report" / "grève 가.png").write_bytes(b"x")
    refresh(folder)
    return {path.as_posix(): content for path, content in read_files(folder).items()}


@pytest.mark.parametrize("way", REPACKINGS)
def test_a_submission_packed_in_another_way_has_all_points(way, honest, tmp_path):
    graded = grade_files(honest, tmp_path, REPACKINGS[way])
    assert [str(result) for result in graded.results if result.problems] == []
    assert graded.points == FULL


def grade_files(files, place, pack=REPACKINGS["as it was"]):
    return scores.grade(pack(files, place), GradeOptions())


def find_failing(graded):
    return {result.name for result in graded.results if result.problems}


# ---------------------------------------------------------------------------------------------------------------------
# What is added, changed or ignored is named


def test_what_a_student_added_and_what_is_ignored_is_named(honest, tmp_path):
    graded = grade_files(honest | ADDED | LITTER, tmp_path)
    assert graded.points == FULL
    added, ignored = graded.remarks
    assert added == f"not in the manifest, so not looked at: {', '.join(sorted(ADDED))}"
    assert ignored.startswith("ignored, as systems and tools keep them: .DS_Store, .git, .gitignore, .idea, ")
    assert ignored.endswith(" more files")


def test_what_lies_beside_an_archive_is_named(honest, tmp_path):
    folder = tmp_path / "ann"
    folder.mkdir()
    REPACKINGS["as it was"](honest, folder)
    (folder / "essay.pdf").write_bytes(b"%PDF")
    graded = scores.grade(folder, GradeOptions())
    assert graded.points == FULL
    assert "beside the archive, so not looked at: essay.pdf" in graded.remarks


def test_a_submission_without_code_is_graded_and_remarked(honest, tmp_path):
    graded = grade_files({name: content for name, content in honest.items() if not name.startswith("code/")}, tmp_path)
    assert "holds no code" in graded.remarks


def test_runs_that_were_added_count_nowhere(honest, tmp_path):
    """Neither as runs, as seeds or as copies, nor in the report."""
    names = [name for name in honest if name.startswith(f"{FIRST}/seed-0/")]
    files = dict(honest)
    for seed in (0, 7):
        for name in names:
            content = honest[name].replace(b'"seed": 0', f'"seed": {seed}'.encode())
            files[name.replace("seed-0", f"seed-{seed}").replace("single", "single" if seed else "other")] = content
    graded = grade_files(files, tmp_path)
    assert (graded.points, graded.seeds, len(graded.traces)) == (FULL, {0, 1}, 6)
    assert graded.remarks[0].startswith("not in the manifest, so not looked at: runs/other/mlp1,")
    asked = scores.grade(tmp_path / "submission.zip", GradeOptions(seeds=[0, 1, 7]))
    assert find_failing(asked) == {"completeness"}


TEXT = (".py", ".md", ".html", ".json", ".csv", ".tex", ".txt", ".css")


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_other_line_endings_cost_nothing_and_are_named(ending, honest, tmp_path):
    """As Git with core.autocrlf, editors and file transfers change them, in records, too; history.csv has \\r\\n."""
    lines = {
        name: content.replace(b"\r\n", b"\n").replace(b"\n", ending) if name.endswith(TEXT) else content
        for name, content in honest.items()
    }
    changed = f"{FIRST}/seed-0/{'result.json' if ending == bytes((13, 10)) else 'history.csv'}"
    assert lines[changed] != honest[changed]
    graded = grade_files(lines, tmp_path)
    assert (find_failing(graded), graded.points, graded.other_code) == (set(), FULL, [])
    (remark,) = graded.remarks
    assert remark.startswith("taken with the line endings with which they were packed: ")
    name = f"{FIRST}/seed-0/history.csv"
    lines[name] = lines[name].replace(b"1", b"2", 1)
    assert "archive" in find_failing(grade_files(lines, tmp_path))


@pytest.fixture(scope="module")
def with_notes(handed_in, tmp_path_factory):
    """The files of a submission whose report has the student's notes."""
    folder = shutil.copytree(handed_in, tmp_path_factory.mktemp("notes") / "submission")
    (folder / "runs" / "notes.md").write_text("# Mine\n\nI.\n---\n## Conclusions\n\nWhat I found.\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "save_figure", write_nothing)
        report.main(["--runs-dir", str(folder / "runs"), "--out", str(folder / "report")])
    refresh(folder)
    return folder


def test_changed_notes_cost_nothing_and_are_named(with_notes, honest, tmp_path):
    folder = shutil.copytree(with_notes, tmp_path / "submission")
    assert scores.grade(folder, GradeOptions()).points == FULL
    (folder / "runs" / "notes.md").write_text("# My better title\n")
    graded = scores.grade(folder, GradeOptions())
    assert (find_failing(graded), graded.points) == (set(), FULL)
    assert graded.remarks == ["runs/notes.md was changed after the report was made, which has the earlier text"]
    added = grade_files(honest | {"runs/notes.md": b"# Mine\n"}, tmp_path)
    assert (added.points, added.remarks) == (FULL, ["not in the manifest, so not looked at: runs/notes.md"])


@pytest.mark.parametrize("opening", ["<!--\n\n", "```\n\n", "<details>\n\n"])
def test_text_before_the_report_cannot_hide_it(opening, with_notes, tmp_path):
    folder = shutil.copytree(with_notes, tmp_path / "submission")
    (folder / "runs" / "notes.md").unlink()
    path = folder / "report" / "report.md"
    found = path.read_text(encoding="utf-8")
    path.write_text(f"# Mine\n\n## What we found\n\n99.9 %\n\n{opening}{found}", encoding="utf-8")
    (folder / "report" / "report.html").write_text(render_page(path.read_text(), path.parent), encoding="utf-8")
    refresh(folder)
    graded = scores.grade(folder, GradeOptions())
    assert find_failing(graded) == {"report"}
    (problem,) = next(result.problems for result in graded.results if result.name == "report")
    assert problem.startswith("report.md begins with a code block, comment or HTML element that is not closed")


def test_changed_notes_hide_no_other_change_of_the_report(with_notes, tmp_path):
    folder = shutil.copytree(with_notes, tmp_path / "submission")
    (folder / "runs" / "notes.md").write_text("# My better title\n")
    change_text(folder / "report" / "report.md", "over 2 seeds", "over 3 seeds")
    lines = (folder / "report" / "report.md").read_text(encoding="utf-8").splitlines()
    number = next(number for number, line in enumerate(lines, 1) if "over 3 seeds" in line)
    graded = scores.grade(folder, GradeOptions())
    assert find_failing(graded) == {"archive", "report"}
    (problem, *_) = next(result.problems for result in graded.results if result.name == "report")
    assert problem.startswith(f"report.md, line {number} is ")


def test_a_manifest_cannot_leave_out_a_checksum(honest, tmp_path):
    manifest = json.loads(honest["manifest.json"])
    for digest in ("", None):
        manifest["files"]["code/train.py"] = digest
        graded = grade_files(honest | {"manifest.json": json.dumps(manifest).encode()}, tmp_path)
        assert graded.results[0].problems == ["code/train.py was altered"]


def test_what_is_missing_or_altered_costs(honest, tmp_path):
    for name in ("report/figures/single,mnist_sample-curves.pdf", "code/train.py"):
        missing = {other: content for other, content in honest.items() if other != name}
        for files in (missing, honest | {name: b"altered"}):
            assert find_failing(grade_files(files, tmp_path)) == {"archive"}


# ---------------------------------------------------------------------------------------------------------------------
# What is no submission is refused in a line


def refuse(files, place, pack=REPACKINGS["as it was"]):
    graded = grade_files(files, place, pack)
    assert graded.points == 0
    (problem,) = graded.results[0].problems
    assert "\n" not in problem
    return problem


def test_several_submissions_in_one_are_refused_and_named(honest, tmp_path):
    inside = {f"old/{name}": content for name, content in honest.items()}
    says = "holds 2 submissions, expected one: manifest.json, old/manifest.json"
    assert refuse(honest | inside, tmp_path) == says
    beside = {f"new/{name}": content for name, content in honest.items()}
    says = "holds 2 submissions, expected one: new/manifest.json, old/manifest.json"
    assert refuse(inside | beside, tmp_path, REPACKINGS["loose files"]) == says
    website = {"website/manifest.json": b"{}"}
    assert grade_files(honest | website, tmp_path).points == FULL, "another program's"
    archive = {"submission.zip": zip_files(tmp_path / "one.zip", honest).read_bytes()}
    assert grade_files(archive | website, tmp_path).points == FULL, "beside the archive"


def test_several_archives_without_a_submission_and_archives_without_end_are_refused(honest, tmp_path):
    content = zip_files(tmp_path / "one.zip", honest).read_bytes()
    says = "holds 2 archives, expected one: a.zip, b.zip"
    assert refuse({"a.zip": content, "b.zip": content}, tmp_path) == says
    for _ in range(3):
        content = zip_files(tmp_path / "one.zip", {"again.zip": content}).read_bytes()
    assert refuse({"again.zip": content}, tmp_path) == "an archive in an archive, 3 times"


def test_a_folder_or_an_archive_of_something_else_is_refused(tmp_path):
    assert refuse(ADDED, tmp_path) == "manifest.json is missing: expected a submission made by report.py --bundle"
    (tmp_path / "empty").mkdir()
    assert refuse({}, tmp_path, lambda files, place: place / "empty").startswith(
        "holds no files, expected a submission"
    )
