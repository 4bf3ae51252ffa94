import argparse
import ast
import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from helpers import parse_settings, refuse

import grade
import report
import train
from engine import flags
from experiments import Experiment, default_of, flag_of

ROOT = Path(__file__).resolve().parents[1]

# Every flag of train.py, by the groups of its --help. Adding or removing one means editing this list, too.
TRAIN_FLAGS = {
    "options": ["--help"],
    "network": ["--model", "--hidden", "--dropout"],
    "data": [
        *("--dataset", "--split-seed", "--standardize", "--crop-padding", "--crop-mode", "--flip", "--rotation"),
        *("--rotation-fill", "--affine-degrees", "--affine-translate", "--affine-scale", "--elastic"),
        *("--interpolation", "--brightness", "--contrast"),
    ],
    "optimization": [
        *("--epochs", "--batch-size", "--optimizer", "--lr", "--lr-scheduler", "--lr-step-size", "--lr-gamma"),
        *("--warmup", "--clip-norm", "--momentum", "--nesterov"),
    ],
    "penalties": ["--weight-decay", "--l1", "--l1-mode", "--l1-reduction", "--l2", "--l2-form", "--penalize"],
    "other regularization": [
        *("--label-smoothing", "--mixup", "--cutout", "--channel-dropout", "--max-norm", "--average"),
    ],
    "normalization": ["--norm", "--norm-position", "--groups", "--group-size", "--ghost-splits", "--freeze-gamma"],
    "early stopping": ["--patience", "--monitor", "--min-delta", "--start-from-epoch", "--restore"],
    "what to train, where and how": [
        *("--seeds", "--study", "--only", "--list", "--summary", "--data-dir", "--runs-dir", "--force", "--device"),
        *("--jobs", "--threads", "--runs-at-once", "--cluster", "--until-decided", "--most-seeds"),
    ],
}


def actions_of(parser):
    return {option: action for action in parser._actions for option in action.option_strings}


# ---------------------------------------------------------------------------------------------------------------------
# Settings


def test_every_field_is_a_flag_with_a_help_text_that_names_its_default():
    parser = argparse.ArgumentParser()
    flags.add_settings(parser)
    actions = actions_of(parser)
    assert len(actions) == 2 + len(fields(Experiment))  # -h and --help too
    for setting in fields(Experiment):
        action = actions[flag_of(setting.name)]
        assert action.help
        if setting.default is not None and not isinstance(setting.default, bool):
            assert action.help.endswith(f"(default: {setting.default})")
        assert default_of(setting.name) == setting.default
    assert "--ghost-splits INT" in parser.format_help()


def test_only_settings_that_were_given_are_among_the_arguments():
    assert parse_settings([]) == {}
    assert parse_settings(["--lr", "0.001", "--hidden"]) == dict(lr=0.001, hidden=[])
    given = parse_settings(["--flip", "--norm", "none", "--hidden", "8", "4"])
    assert given == dict(flip=True, norm="none", hidden=[8, 4])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--norm", "instance"], "argument --norm: invalid choice: 'instance'"),
        (["--groups", "two"], "argument --groups: invalid int value: 'two'"),
        (["--rotation", "x"], "argument --rotation: invalid float value: 'x'"),
        (["--colour"], "unrecognized arguments: --colour"),
        (["a\nb"], "unrecognized arguments: a b"),
        (["a\udcffb"], "'a\\udcffb': expected text in UTF-8"),
    ],
)
def test_a_mistake_on_the_command_line_is_answered_with_one_line(words, message, capsys):
    assert refuse(parse_settings, words, capsys).startswith(f"train.py: error: {message}")


# ---------------------------------------------------------------------------------------------------------------------
# The flags of train.py


def test_a_list_and_a_summary_are_not_asked_for_at_once(capsys):
    says = "train.py: error: argument --summary: not allowed with argument --list"
    assert refuse(train.main, ["--list", "--summary"], capsys) == says


@pytest.mark.parametrize("instead", ["--list", "--summary"])
@pytest.mark.parametrize("words", [["--seeds", "0"], ["--force"], ["--jobs", "2"], ["--cluster", "tcp://a:1"]])
def test_what_a_list_or_a_summary_has_no_use_for_is_refused(instead, words, capsys):
    says = f"train.py: error: {words[0]}: {instead} trains nothing; leave one of the two out"
    assert refuse(train.main, [instead, *words], capsys) == says


def test_every_flag_of_train_py_is_in_the_list_above_in_its_group():
    groups = train.make_train_parser()._action_groups
    flags_of_groups = {
        group.title: [action.option_strings[-1] for action in group._group_actions]
        for group in groups
        if group._group_actions
    }
    assert {title: sorted(names) for title, names in flags_of_groups.items()} == {
        title: sorted(names) for title, names in TRAIN_FLAGS.items()
    }
    assert list(flags_of_groups) == list(TRAIN_FLAGS)


def test_help_shows_the_settings_in_groups_after_the_description_and_before_the_examples(capsys):
    with pytest.raises(SystemExit) as caught:
        train.make_train_parser().parse(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    parts = [
        *("usage: train.py ", "\nTrain one experiment or a whole study, several seeds side by side. "),
        *(f"\n{group}:\n" for group in TRAIN_FLAGS),
        *("\nexamples:\n", "  python train.py --study mnist-norms  "),
    ]
    starts = [text.index(part) for part in parts]
    assert starts == sorted(starts)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--weight_decay", "--weight-decay"),
        ("--weight_decay=0.1", "--weight-decay"),
        ("--drop-out", "--dropout"),
        ("--Dropout", "--dropout"),
        ("--batchsize", "--batch-size"),
        ("--seed", "--seeds"),
        ("--mod", "--model"),
        ("--mod=mlp3", "--model"),
        ("--lr-s", "--lr-scheduler or --lr-step-size"),
        ("--learning_rate", None),
        ("--colour", None),
        ("colour", None),
        ("dropout", None),
    ],
)
def test_a_flag_that_does_not_exist_is_answered_with_the_nearest_that_does(typed, meant, capsys):
    parser = flags.make_parser("train.py", "About.\n\nexamples:")
    flags.add_settings(parser)
    parser.add_argument("--seeds")
    suggestion = f"; did you mean {meant}?" if meant else ""
    says = f"train.py: error: unrecognized arguments: {typed}{suggestion}"
    assert refuse(parser.parse, [typed], capsys) == says


def test_grade_py_suggests_the_nearest_of_its_flags(capsys):
    says = "grade.py: error: unrecognized arguments: --cvs grades.csv; did you mean --csv?"
    assert refuse(grade.make_grade_parser().parse, ["submission.zip", "--cvs", "grades.csv"], capsys) == says


def test_train_py_suggests_the_nearest_of_its_flags(capsys):
    parser = train.make_train_parser()
    for typed, meant in (
        ("--weight_decay", "--weight-decay"),
        ("--drop-out", "--dropout"),
        ("--run-dir", "--runs-dir"),
    ):
        says = f"train.py: error: unrecognized arguments: {typed} 1; did you mean {meant}?"
        assert refuse(parser.parse, [typed, "1"], capsys) == says


@pytest.mark.parametrize("make", [train.make_train_parser, report.make_report_parser])
def test_an_empty_path_is_refused_and_so_is_a_file_where_a_folder_belongs(make, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for words, says in (
        (["--runs-dir", ""], "argument --runs-dir: expected a path, found an empty text"),
        (["--data-dir", ""], "argument --data-dir: expected a path, found an empty text"),
        (["--runs-dir", str(tmp_path / "file")], f"argument --runs-dir: {tmp_path / 'file'} is a file, expected a fol"),
    ):
        assert says in refuse(make().parse, words, capsys)
    for folder in (tmp_path, tmp_path / "new"):
        assert make().parse(["--runs-dir", str(folder)]).runs_dir == folder


def test_every_command_in_a_text_names_the_folders_that_are_not_the_defaults():
    text = "`python train.py --model mlp3`, python train.py --list; python report.py"
    assert flags.name_folders(text, flags.RUNS_DIR, Path(flags.default_data_dir())) == text
    named = 'python train.py --runs-dir "my runs" --data-dir "data/of mine"'
    expected = f"`{named} --model mlp3`, {named} --list; python report.py"
    assert flags.name_folders(text, Path("my runs"), Path("data/of mine")) == expected
    assert train.make_train_parser().parse(shlex.split(f"{named} --list")[2:]).runs_dir == Path("my runs")


@pytest.mark.parametrize("text", ["0", "1025", "1000000", "-1", "1.5", "many", "", "٣", "1" * 5000])
def test_a_number_of_processes_is_a_whole_number_from_1_to_1024(text):
    assert [flags.positive(number) for number in ("1", "16", "1024")] == [1, 16, 1024]
    with pytest.raises(argparse.ArgumentTypeError, match=f"{text}: expected a whole number from 1 to 1024"):
        flags.positive(text)


def test_the_folder_of_data_sets_is_that_of_the_environment_unless_it_is_named(monkeypatch):
    def data_dir(*words):
        parser = flags.OneLineParser()
        flags.add_data_dir(parser)
        return parser.parse(words).data_dir

    monkeypatch.delenv("DATA_DIR", raising=False)
    assert data_dir() == Path("data")
    monkeypatch.setenv("DATA_DIR", "")
    assert data_dir() == Path("data")
    monkeypatch.setenv("DATA_DIR", "elsewhere")
    assert data_dir() == Path("elsewhere")
    assert data_dir("--data-dir", "named") == Path("named")


# ---------------------------------------------------------------------------------------------------------------------
# Commands answer at once


@pytest.mark.parametrize("command", ["train.py", "report.py", "grade.py"])
def test_a_commands_help_needs_the_standard_library_alone(command):
    """Without site-packages (-S) any other import fails; without bytecode (-B) nothing is written here."""
    words = [sys.executable, "-S", "-B", command, "--help"]
    finished = subprocess.run(words, cwd=ROOT, env=os.environ | dict(PYTHONPATH=""), capture_output=True, text=True)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert finished.stdout.startswith(f"usage: {command} ")
    assert "\nexamples:\n" in finished.stdout


def test_help_and_refusals_of_train_py_answer_before_anything_slow_is_imported():
    code = """
import sys, train
for words in (
    ["--help"],
    ["--l1", "-1"],
    ["--weight_decay", "1"],
    ["--seeds", "4-0"],
    ["--study", "l1-path", "--only", "L9"],
    ["--study", "l1-path", "--epochs", "0"],
    ["--study", "l1-path", "--model", "cnn1"],
):
    try:
        train.main(words)
    except SystemExit:
        slow = {"torch", "torchvision", "numpy", "scipy", "sklearn", "joblib", "matplotlib"} & set(sys.modules)
        if slow:
            sys.exit(f"{words} imported {slow}")
    else:
        sys.exit(f"{words} was not refused")
"""
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr.count("\n") == 6  # one line for each refusal


COMMANDS = ("train.py", "report.py", "grade.py", "benchmark.py")


def run_plain(*words, folder=ROOT):
    """Run Python with the standard library alone: (exit status, stderr)."""
    command = [sys.executable, "-S", "-B", *words]
    environment = os.environ | dict(PYTHONPATH=str(ROOT))
    finished = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return finished.returncode, finished.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_a_missing_package_is_a_line_that_says_how_to_install_it(command, tmp_path):
    (tmp_path / "runs" / "single" / "mlp1" / "seed-0").mkdir(parents=True)
    words = ["runs"] if command == "grade.py" else []
    status, error = run_plain(str(ROOT / command), *words, folder=tmp_path)
    line = rf"{command}: error: (torch|numpy) is not installed: pip install -r requirements.txt\n"
    assert status == 2
    assert re.fullmatch(line, error)


@pytest.mark.parametrize("command", COMMANDS)
def test_an_older_python_is_told_which_one_is_needed(command):
    code = f"import runpy, sys; sys.version_info, sys.version = (3, 10, 13), '3.10.13 (old)'; sys.argv = ['{command}']"
    status, error = run_plain("-c", f"{code}; runpy.run_path('{command}', run_name='__main__')")
    assert (status, error) == (2, "error: expected Python 3.11 or later, found 3.10.13\n")
    for file in (command, "engine/__init__.py", "engine/flags.py"):  # all that is compiled before this line
        ast.parse((ROOT / file).read_text(encoding="utf-8"), feature_version=(3, 7))


# ---------------------------------------------------------------------------------------------------------------------
# Commands end in one line

HEARING = """
import signal

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and those of its nohup, that a closed terminal is
"""
ANSWERING = """
import os, signal
from engine import flags
from experiments import UserError

parser = flags.OneLineParser(prog="some.py")
with flags.answer_in_one_line(parser, lambda error: f"kept after {type(error).__name__}", failed=7):
    print("begun", flush=True)
"""
# Imports of numpy that Ctrl-C stops have printed a traceback, and raised other errors.
IMPORTING = """
    with flags.importing():
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            raise AttributeError from None
    print("imported", flush=True)
"""
IMPORTED = """
    with flags.importing():
        pass
    os.kill(os.getpid(), signal.SIGINT)
"""
TWICE = """
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        os.kill(os.getpid(), signal.SIGHUP)
"""
STOPPED = "\ninterrupted: kept after KeyboardInterrupt\n"


@pytest.mark.parametrize(
    ("code", "status", "says"),
    [
        ("    raise UserError('wrong')", 2, "some.py: error: wrong\n"),
        ("    raise OSError(28, 'No space left')", 7, "some.py: No space left; kept after OSError\n"),
        ("    raise OSError(5, 'I/O error', 'a.zip')", 7, "some.py: a.zip: I/O error; kept after OSError\n"),
        ("    import turch", 2, "some.py: error: turch is not installed: pip install -r requirements.txt\n"),
        ("    raise OSError('odd')", 7, "some.py: odd; kept after OSError\n"),
        ("    raise MemoryError", 7, "some.py: out of memory; kept after MemoryError\n"),
        ("    raise BrokenPipeError(32, 'Broken pipe')", 141, "some.py: Broken pipe; kept after BrokenPipeError\n"),
        ("    raise KeyboardInterrupt", 130, "\ninterrupted: kept after KeyboardInterrupt\n"),
        (IMPORTING, 130, "\ninterrupted: nothing was begun\n"),
        (f"    signal.signal(signal.SIGINT, signal.SIG_IGN){IMPORTING}", 0, ""),
        (IMPORTED, 130, STOPPED),
        (IMPORTING.replace("SIGINT", "SIGTERM"), 143, "\ninterrupted: nothing was begun\n"),
        ("    os.kill(os.getpid(), signal.SIGTERM)", 143, STOPPED),
        ("    os.kill(os.getpid(), signal.SIGHUP)", 129, STOPPED),
        (TWICE, 143, STOPPED),
    ],
    ids=[
        *("mistake", "full disk", "bad file", "package", "odd", "out of memory", "reader gone", "Ctrl-C", "importing"),
        *("in the background", "imported"),
        *("importing, SIGTERM", "SIGTERM", "SIGHUP", "twice"),
    ],
)
def test_a_command_that_is_stopped_says_in_one_line_what_is_kept(code, status, says):
    assert run_plain("-c", HEARING + ANSWERING + code) == (status, says)


@pytest.mark.skipif(os.name != "posix", reason="closes a pipe in POSIX's way")
def test_output_that_is_written_at_the_end_to_a_reader_who_has_gone_is_no_error_of_pythons():
    reader, writer = os.pipe()
    os.close(reader)
    code, environment = ANSWERING.replace(", flush=True", ""), os.environ | dict(PYTHONUNBUFFERED="")
    options = dict(cwd=ROOT, env=environment, stdout=writer, stderr=subprocess.PIPE, text=True)
    process = subprocess.run([sys.executable, "-c", code], **options)
    os.close(writer)
    assert (process.returncode, process.stderr) == (141, "some.py: Broken pipe; kept after BrokenPipeError\n")


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_a_closed_stream_changes_nothing_but_the_output(closed):
    command = f'"{sys.executable}" train.py --list {closed}'
    process = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert (process.returncode, process.stderr) == (0, "")
    assert ("fashion-mlp" in process.stdout) == (closed == "2>&-")


@pytest.mark.skipif(os.name != "posix", reason="needs nohup")
def test_what_a_shells_nohup_ignores_stays_ignored():
    code = ANSWERING + "    os.kill(os.getpid(), signal.SIGHUP); os.kill(os.getpid(), signal.SIGTERM)"
    process = subprocess.run(["nohup", sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (process.returncode, process.stdout) == (143, "begun\n")
    assert process.stderr.endswith(STOPPED)


def test_a_word_that_is_no_choice_is_answered_with_the_nearest_that_is(capsys):
    line = refuse(train.main, ["--study", "fashion-mpl"], capsys)
    assert "error: argument --study: invalid choice: 'fashion-mpl' (choose from cifar-norms, " in line
    assert line.endswith("; did you mean fashion-mlp?")
