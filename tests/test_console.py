"""Consoles that lack characters, closed terminals, and the encoding of every file that the code opens."""

import ast
import contextlib
import io
import os
import shutil
import subprocess
import sys

import pytest
from helpers import cut_dataset, write_nothing

import benchmark
import data
import grade
import report
import train
from analysis import style
from engine import console, provenance, workers

CODE = {name: path.read_text(encoding="utf-8") for name, path in provenance.code_files().items()}
ENCODINGS = ("cp1252", "cp437", "cp949", "ascii")


# ---------------------------------------------------------------------------------------------------------------------
# Characters


@pytest.mark.parametrize(
    ("text", "encoding", "expected"),
    [
        ("seed 0 → 73.8 ± 1.9 %", "ascii", "seed 0 -> 73.8 +- 1.9 %"),
        ("seed 0 → 73.8 ± 1.9 %", "cp437", "seed 0 -> 73.8 ± 1.9 %"),
        ("λ·Σw², β₁ = ½", "ascii", "lambda*sum w^2, beta1 = 1/2"),
        ("Zoë’s 字\udcff", "ascii", "Zoe's \\u5b57\\udcff"),
        ("ά, Ω", "ascii", "alpha, \\u03a9"),
        ("字", "cp949", "字"),
    ],
)
def test_what_a_console_lacks_is_spelled(text, encoding, expected):
    assert text.encode(encoding, "spelled").decode(encoding) == expected


def test_every_character_of_the_code_has_a_spelling():
    used = {character for text in CODE.values() for character in text if not character.isascii()}
    assert used > set("→±−λ")
    assert [character for character in sorted(used) if "\\" in console.spell(character)] == []


@pytest.mark.skipif(os.name != "posix", reason="needs the exit statuses of POSIX")
@pytest.mark.parametrize(
    ("error", "status", "says"), [("KeyboardInterrupt", -2, "interrupted"), ("OSError", 1, "Trac")]
)
def test_ctrl_c_during_the_first_imports_is_a_line(error, status, says):
    ended = subprocess.run(
        [sys.executable, "-c", f"import engine.console; raise {error}"], capture_output=True, text=True
    )
    assert ended.returncode == status
    assert ended.stderr.strip().startswith(says)
    assert ("Traceback" in ended.stderr) == (error == "OSError")


def of(status):
    return lambda end: end.code == status


@pytest.fixture(scope="module")
def say_everything(digits, tmp_path_factory):
    """Return a function that runs every command at a console of some encoding, and returns what they print."""
    folder = tmp_path_factory.mktemp("résumé → 字")
    few_digits = cut_dataset(digits, train=300, validation=100, test=100)
    runs = ["--runs-dir", str(folder / "runs")]
    learning = ["--dataset", "mnist_sample", "--epochs", "1", "--seeds", "0-1", "--runs-at-once", "1", "--jobs", "1"]
    commands = [
        (train.main, [*learning, *runs, "--runs-at-once", "2", "--l1", "0.001"], None),
        (train.main, ["--help"], 0),
        (train.main, ["--list", "--study", "mnist-norms", *runs], None),
        (train.main, ["--summary", "--model", "cnn2"], None),
        (train.main, ["--summary", "--model", "cnn2", "--dataset", "cifar10"], 2),
        (report.main, [*runs, "--out", str(folder / "report"), "--bundle", str(folder / "submission.zip")], None),
        (report.main, ["--runs-dir", str(folder / "none")], 2),
        (grade.main, [str(folder / "submission.zip")], None),
        (benchmark.main, ["--out", str(folder / "none" / "±.json")], 2),
    ]

    def say(encoding):
        shutil.rmtree(folder / "runs", ignore_errors=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(data, "load", lambda *which: few_digits)
            patch.setattr(style, "save_figure", write_nothing)
            out, error = (io.TextIOWrapper(io.BytesIO(), encoding, write_through=True) for _ in range(2))
            error.isatty = lambda: True
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", error)
            for main, words, status in commands:
                ends = contextlib.nullcontext() if status is None else pytest.raises(SystemExit, check=of(status))
                with ends:
                    main(words)
        return [stream.buffer.getvalue().decode(encoding) for stream in (out, error)]

    return say


@pytest.fixture(scope="module")
def in_utf_8(say_everything):
    return say_everything("utf-8")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_command_says_the_same_at_every_console(encoding, say_everything, in_utf_8):
    out, error = say_everything(encoding)
    expected_out, expected_error = (text.encode(encoding, "spelled").decode(encoding) for text in in_utf_8)
    assert out == expected_out
    for text in (error, expected_error):
        assert "2/2" in text  # the bar
    lines, expected = ([line for line in text.splitlines() if "error: " in line] for text in (error, expected_error))
    assert lines == expected
    assert len(lines) == 3


def test_training_processes_spell_too():
    (found,) = workers.run_in_processes([lambda: (sys.stdout.errors, sys.stderr.errors)], jobs=1)
    assert found == ("spelled", "spelled")


# ---------------------------------------------------------------------------------------------------------------------
# Files


NO_FILES = ("os", "webbrowser", "tarfile", "archive", "entry")  # whose method `open` opens no file as text


def find_unencoded(text):
    """List the lines that open a text file in the encoding of the locale."""
    found = []
    for call in (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)):
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        of_os = isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", "") in NO_FILES
        mode = next((str(part.value) for part in call.args[1:2] if isinstance(part, ast.Constant)), "r")
        keywords = {keyword.arg for keyword in call.keywords}
        opens = name in ("open", "fdopen") and not of_os and "b" not in mode
        if (opens or name in ("read_text", "write_text") or "text" in keywords) and "encoding" not in keywords:
            found.append(call.lineno)
    return found


def test_every_text_file_is_opened_in_utf_8():
    assert {name: lines for name, text in CODE.items() if (lines := find_unencoded(text))} == {}


@pytest.mark.parametrize("line", ["open(path)", "path.read_text()", "path.write_text(text)", "run(words, text=True)"])
def test_a_file_in_the_encoding_of_the_locale_is_found(line):
    assert find_unencoded(line) == [1]
