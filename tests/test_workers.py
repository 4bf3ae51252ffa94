import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import end_with, read_files, refuse

import data
import train
import training
from data import Split
from engine import checkpoints, console, records, workers
from engine.plan import Task, TrainOptions, make_plan
from engine.progress import Progress
from experiments import Experiment, UserError
from studies import STUDIES
from studies.study import Entry, Study

ROOT = Path(__file__).resolve().parents[1]
QUICK = Experiment(model="mlp1", dataset="mnist_sample", epochs=1, batch_size=256)
LONG = ["--dataset", "mnist_sample", "--epochs", "100000", "--runs-at-once", "2"]
INTERRUPTED = (
    "interrupted: finished runs are kept, and unfinished runs up to their last checkpoint, if there is one; "
    "the same command resumes them"
)


class Deadly:
    """End the process that unpickles it, as a system that is out of memory does."""

    def __reduce__(self):
        return os._exit, (9,)


class Unreadable:
    """Cannot be unpickled."""

    def __reduce__(self):
        return int, ("no number",)


def make_task(seeds, label, dataset, experiment=QUICK):
    return Task(label, experiment, dataset, Path("unused"), list(seeds))


def plan_tasks(tasks, **options):
    return make_plan(tasks, TrainOptions(seeds=[], **options))


def train_plan(plan):
    """Train a plan: {(label, first seed): result} of every unit, each of which has come once."""
    with Progress(1) as progress:
        results = list(workers.train_units(plan, "cpu", progress))
    assert sorted(result.number for result in results) == list(range(len(plan.units)))
    units = {result.number: plan.units[result.number] for result in results}
    return {(units[result.number].task.label, units[result.number].seeds[0]): result for result in results}


# ---------------------------------------------------------------------------------------------------------------------
# Units


def test_one_process_at_a_time_and_two_give_the_same_bits(digits, capsys):
    tasks = [
        make_task([0, 1], "dropout", digits, replace(QUICK, dropout=0.3)),
        make_task([0, 2], "proximal", digits, replace(QUICK, l1=0.01, l1_mode="proximal")),
        make_task([0], "norm", digits, replace(QUICK, norm="batch")),
    ]
    by_two, by_one = (train_plan(plan_tasks(tasks, jobs=jobs, threads=1)) for jobs in (2, 1))
    assert by_one.keys() == by_two.keys() == {("dropout", 0), ("proximal", 0), ("norm", 0)}
    for name in by_one:
        for run, same in zip(by_one[name].runs, by_two[name].runs, strict=True):
            assert (run.seed, run.history) == (same.seed, same.history)
            assert np.array_equal(run.log_probabilities, same.log_probabilities)
            assert run.weights.keys() == same.weights.keys()
            assert all(torch.equal(run.weights[name], same.weights[name]) for name in run.weights)
    assert [run.seed for run in by_one["proximal", 0].runs] == [0, 2]
    sparsities = [by_one[label, 0].runs[0].result["sparsity"] for label in ("proximal", "dropout")]
    assert sparsities[0] != sparsities[1]
    shown = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert sorted(shown) == sorted(
        2 * ["dropout, epoch 1/1, seeds 0-1", "proximal, epoch 1/1, seeds 0,2", "norm, epoch 1/1, seed 0"]
    )


def test_a_result_says_on_which_machine_its_runs_were_trained(digits):
    (result,) = train_plan(plan_tasks([make_task([3, 4], "", digits)], jobs=1, threads=1)).values()
    assert result.error == ""
    for run in result.runs:
        assert run.result["seeds_beside"] == [3, 4]
        assert run.result["threads"] == 1
        assert run.result["device"].startswith("cpu (")
        assert run.result["versions"]["torch"] == torch.__version__


def test_a_unit_that_fails_leaves_the_others_alone(digits):
    strange = replace(digits, train=Split(digits.train.images, digits.train.labels + 100))
    tasks = [make_task([0], "good", digits), make_task([0, 1], "broken", strange)]
    results = train_plan(plan_tasks(tasks, jobs=2, threads=1, runs_at_once=1))
    assert results.keys() == {("good", 0), ("broken", 0), ("broken", 1)}
    (run,) = results["good", 0].runs
    assert run.result["test_accuracy"] > 0.3
    for seed in (0, 1):
        failed = results["broken", seed]
        assert failed.runs == []
        assert failed.error.startswith("IndexError: Target 10")
        assert failed.error.endswith(")")
        assert " (functional.py, line " in failed.error
        assert "\n" not in failed.error


def test_a_unit_that_fails_in_this_process_is_a_line_too(digits, monkeypatch):
    def fail(*args):
        raise RuntimeError("first line\nException raised from somewhere (most recent call first):")

    monkeypatch.setattr(training, "train", fail)
    (result,) = train_plan(plan_tasks([make_task([3], "", digits)])).values()
    line = fail.__code__.co_firstlineno + 1
    assert (result.runs, result.error) == ([], f"RuntimeError: first line (test_workers.py, line {line})")


def interrupt(*_):
    raise KeyboardInterrupt  # and no signal, which a shell's & has ignored


def test_ctrl_c_is_no_failure(digits, monkeypatch):
    monkeypatch.setattr(training, "train", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train_plan(plan_tasks([make_task([0], "", digits)]))


def test_a_process_that_dies_takes_no_other_unit_with_it(digits, capsys):
    tasks = [
        make_task([0, 1, 2, 3], "deadly", Deadly()),
        make_task([0, 1, 2], "unreadable", Unreadable()),
        make_task([0, 1], "good", digits),
    ]
    results = train_plan(plan_tasks(tasks, jobs=2, threads=1))
    assert results.keys() == {("deadly", 0), ("unreadable", 0), ("good", 0)}
    for label, seeds in (("deadly", "0-3"), ("unreadable", "0-2")):
        assert results[label, 0].runs == []
        assert results[label, 0].error == (
            f"its process died, perhaps for lack of memory; train its seeds one at a time, with --only {label} --seeds "
            f"{seeds} --force --runs-at-once 1"
        )
    assert [run.seed for run in results["good", 0].runs] == [0, 1]
    out = capsys.readouterr().out
    assert out.count("perhaps for lack of memory: training continues with one process at a time\n") == 1
    assert "good, epoch 1/1, seeds 0-1: " in out


def test_a_device_that_is_not_there_is_refused():
    workers.check_device("cpu")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match=r"^--device cuda: not found by torch .+; expected one of: cpu"):
        workers.check_device("cuda")


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (
            dict(diverged=False, test_accuracy=0.98765, chosen_epoch=3, stop_reason="trained all 5 epochs"),
            "test accuracy 98.77 % at epoch 3 (trained all 5 epochs)",
        ),
        (dict(diverged=True, stop_reason="diverged: so"), "diverged: so"),
    ],
)
def test_the_outcome_of_a_run_is_a_line(result, expected):
    assert workers.describe_outcome(result) == expected


# ---------------------------------------------------------------------------------------------------------------------
# Failures of a command


SMALL_STUDY = Study(
    name="small",
    asks="What is quick?",
    experiments={"first": Entry("own", QUICK), "other split": Entry("own", replace(QUICK, split_seed=1))},
    baseline="first",
)
COMMAND = ["--study", "small", "--seeds", "0-1", "--threads", "1", "--runs-dir"]


@pytest.fixture
def quick_study(monkeypatch):
    """Add a study that is trained in a second."""
    monkeypatch.setitem(STUDIES, "small", SMALL_STUDY)


@pytest.fixture
def trained(quick_study, tmp_path):
    """Train two seeds of two experiments; return the folder of the study."""
    train.main([*COMMAND, str(tmp_path / "runs"), "--jobs", "1"])
    return tmp_path / "runs" / "small"


def test_a_record_says_where_the_number_of_runs_at_once_comes_from(quick_study, tmp_path):
    for words, choice in ((["--jobs", "1"], "table"), (["--jobs", "1", "--runs-at-once", "2", "--force"], "given")):
        train.main([*COMMAND, str(tmp_path), "--only", "first", *words])
        result = json.loads((tmp_path / "small" / "first" / "seed-0" / "result.json").read_text())
        assert (result["seeds_beside"], result["runs_at_once"]) == ([0, 1], choice)


def test_an_experiment_that_fails_is_named_at_the_end_and_the_others_are_recorded(
    quick_study, tmp_path, capsys, monkeypatch
):
    load = data.load

    def load_strange_digits(name, data_dir, split_seed):
        dataset = load(name, data_dir, split_seed)
        if not split_seed:
            return dataset
        return replace(dataset, train=Split(dataset.train.images, dataset.train.labels + 100))

    monkeypatch.setattr(data, "load", load_strange_digits)
    captured = end_with(1, train.main, [*COMMAND, str(tmp_path)], capsys)
    failure, advice = captured.err.splitlines()
    assert failure.startswith("failed: other split, seeds 0-1: IndexError: Target 10")
    assert advice == "finished runs are kept; the same command tries the others again"
    assert failure in captured.out  # when it happened
    assert records.finished_seeds(tmp_path / "small" / "first") == [0, 1]
    left = read_files(tmp_path / "small" / "other split").keys()
    assert left == {Path("experiment.json"), Path("checkpoint-0-1.pt")}

    monkeypatch.setattr(data, "load", load)
    train.main([*COMMAND, str(tmp_path), "--jobs", "1"])
    assert "first; skipped: seeds 0-1" in capsys.readouterr().out
    assert records.finished_seeds(tmp_path / "small" / "other split") == [0, 1]


def test_a_file_in_the_place_of_a_run_is_refused_before_training(trained, capsys):
    folder = trained / "first"
    shutil.rmtree(folder / "seed-0")
    shutil.rmtree(folder / "seed-1")
    (folder / "seed-0").write_text("a file")
    words = [*COMMAND, str(trained.parent), "--runs-at-once", "1", "--jobs", "2"]
    assert f"{folder / 'seed-0'}: is a file, expected the run's folder or nothing" in refuse(train.main, words, capsys)
    assert records.finished_seeds(folder) == []


def test_an_experiment_that_another_command_trains_is_left_to_it_and_the_next_is_trained(trained, capsys):
    for title in SMALL_STUDY.experiments:
        shutil.rmtree(trained / title / "seed-1")
    with checkpoints.lock(trained / "first"):
        captured = end_with(3, train.main, [*COMMAND, str(trained.parent)], capsys)
    assert captured.err.startswith(f"not trained: first: process {os.getpid()} on {socket.gethostname()} since 2")
    assert captured.err.endswith(" is training it; try again when it has ended\n")
    assert captured.err in captured.out  # before the others were trained
    assert records.finished_seeds(trained / "first") == [0]
    assert records.finished_seeds(trained / "other split") == [0, 1]


# ---------------------------------------------------------------------------------------------------------------------
# Ctrl-C


def test_what_is_finished_when_ctrl_c_comes_stays(trained, capsys, monkeypatch):
    folder = trained / "other split"
    shutil.rmtree(folder)
    before = read_files(trained)
    write_run, written = records.write_run, []

    def interrupt_the_second(folder, run):
        if written:
            raise KeyboardInterrupt
        written.append(write_run(folder, run))
        return written[0]

    monkeypatch.setattr(records, "write_run", interrupt_the_second)
    words = [*COMMAND, str(trained.parent), "--runs-at-once", "2"]
    assert end_with(130, train.main, words, capsys).err.endswith(f"\n{INTERRUPTED}\n")
    monkeypatch.setattr(records, "write_run", write_run)
    assert written == [folder / "seed-0"]
    assert records.finished_seeds(folder) == [0]
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
    assert read_files(trained).items() >= before.items()

    weights = (folder / "seed-0" / "weights.pt").read_bytes()
    train.main(words)
    assert "to train: seeds 0-1\n" in capsys.readouterr().out  # both, as the bits of one depend on the other
    assert records.finished_seeds(folder) == [0, 1]
    assert (folder / "seed-0" / "weights.pt").read_bytes() == weights


def test_ctrl_c_ends_a_training_in_this_process(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Progress, "show", interrupt)
    words = [*LONG, "--seeds", "0", "--runs-dir", str(tmp_path)]
    for force, says in (([], INTERRUPTED), (["--force"], INTERRUPTED.replace("command", "command without --force"))):
        assert end_with(130, train.main, [*words, *force], capsys).err == f"\n{says}\n"
        left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
        assert left == {"experiment.json", "checkpoint-0.pt"}


def test_ctrl_c_before_the_checkpoints_are_begun_leaves_it_to_the_same_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(data, "load", interrupt)
    words = [*LONG, "--seeds", "0", "--runs-dir", str(tmp_path), "--force"]
    assert end_with(130, train.main, words, capsys).err == f"\n{INTERRUPTED}\n"


@pytest.mark.skipif(os.name != "posix", reason="sends SIGTERM in POSIX's way")
def test_sigterm_ends_a_unit_after_its_epoch_and_the_same_command_goes_on_from_there(tmp_path, capsys, monkeypatch):
    show = Progress.show

    def terminate_and_show(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return show(*args)

    words = ["--dataset", "mnist_sample", "--epochs", "3", "--jobs", "1", "--runs-dir", str(tmp_path)]
    words += ["--seeds", "0-1", "--runs-at-once", "2"]
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "show", terminate_and_show)
        captured = end_with(143, train.main, words, capsys)
    assert captured.err == f"\n{INTERRUPTED}\n"
    assert captured.out.endswith("; ends here: SIGTERM\n")
    train.main(words)
    assert "resumed: seeds 0-1 after epoch 1\n" in capsys.readouterr().out
    (path,) = tmp_path.rglob("seed-1/result.json")
    assert json.loads(path.read_text())["resumed_at"] == [1]


def test_a_unit_that_has_not_begun_when_sigterm_comes_is_not_begun(digits, capsys):
    plan = plan_tasks([make_task([0], "first", digits), make_task([0], "second", digits)], jobs=2)
    with Progress(1) as progress:
        progress.end(signal.SIGTERM)
        assert list(workers.train_units(plan, "cpu", progress)) == []
        assert list(workers.train_units(replace(plan, units=plan.units[:1]), "cpu", progress)) == []


def test_after_sigterm_no_further_unit_begins(digits, monkeypatch):
    show, shown = Progress.show, []

    def show_and_end(progress, *words):
        if shown:
            progress.end(signal.SIGTERM)
        shown.append(words)
        return show(progress, *words)

    monkeypatch.setattr(Progress, "show", show_and_end)
    plan = plan_tasks([make_task(range(6), "", digits)], jobs=2, threads=1, runs_at_once=1)
    with Progress(1) as progress:
        results = list(workers.train_units(plan, "cpu", progress))
    assert len(plan.units) == 6
    assert 2 <= len(results) <= 3, "one unit has ended, and two have begun"


def test_one_process_makes_all_calls_and_an_error_of_one_is_that_of_all():
    first, second = workers.run_in_processes([os.getpid] * 2, jobs=1)
    assert first == second != os.getpid()
    with pytest.raises(ZeroDivisionError):
        list(workers.run_in_processes([partial(divmod, 1, number) for number in (1, 0, 1, 1)], jobs=2))


def test_processes_ignore_signals_which_their_parent_passes_on():
    (handlers,) = workers.run_in_processes([list_handlers], jobs=1)
    assert handlers == [signal.SIG_IGN] * len(console.SIGNALS)


def list_handlers():
    return [signal.getsignal(each) for each in console.SIGNALS]


@pytest.fixture
def two_processes(tmp_path):
    """Start a command whose two processes have begun to train."""
    (tmp_path / "torchvision.py").write_text("import os; os._exit(77)")  # that nothing imports where the data are found
    with subprocess.Popen(
        [sys.executable, "train.py", *LONG, "--seeds", "0-3", "--jobs", "2", "--runs-dir", str(tmp_path / "runs")],
        env=os.environ | dict(PYTHONPATH=str(tmp_path)),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell's & ignores it
    ) as process:
        for line in process.stdout:
            if line.startswith("epoch"):
                break
        yield process
        for _ in range(100):  # the others end a moment after their parent
            if not (left := processes_of_group(process.pid)):
                break
            time.sleep(0.1)
        if left:  # by a test that failed
            os.killpg(process.pid, signal.SIGKILL)
    assert left == []


def processes_of_group(group):
    listing = subprocess.run(["ps", "-eo", "pgid=,args="], capture_output=True, text=True, check=True).stdout
    return [line for line in listing.splitlines() if line.split()[0] == str(group)]


@pytest.mark.skipif(os.name != "posix", reason="sends a signal to a process group")
def test_ctrl_c_pressed_twice_ends_every_process_with_one_line(two_processes, tmp_path):
    os.killpg(two_processes.pid, signal.SIGINT)
    time.sleep(0.05)
    os.killpg(two_processes.pid, signal.SIGINT)
    _, error = two_processes.communicate(timeout=60)
    assert two_processes.returncode == 130
    assert error == f"\n{INTERRUPTED}\n"
    left = {path.name for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    assert left == {"experiment.json", "checkpoint-0-1.pt", "checkpoint-2-3.pt"}


@pytest.mark.skipif(os.name != "posix", reason="sends a signal to a process group")
def test_sigterm_for_all_processes_ends_each_after_its_epoch_with_one_line(two_processes, tmp_path):
    os.killpg(two_processes.pid, signal.SIGTERM)  # as Slurm does it
    _, error = two_processes.communicate(timeout=60)
    assert (two_processes.returncode, error) == (143, f"\n{INTERRUPTED}\n")
    (folder,) = tmp_path.glob("runs/single/*")
    unfinished = checkpoints.find_unfinished(folder)
    assert [(checkpoint.seeds, checkpoint.epoch >= 1) for checkpoint in unfinished] == [([0, 1], True), ([2, 3], True)]
    assert records.finished_seeds(folder) == []


@pytest.mark.skipif(os.name != "posix", reason="opens a terminal in POSIX's way")
def test_a_closed_terminal_ends_training_after_its_epoch(tmp_path):
    import pty
    import termios

    child, terminal = pty.fork()
    if not child:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a shell's nohup ignores it
        os.chdir(ROOT)
        words = [*LONG, "--seeds", "0-1", "--runs-dir", str(tmp_path / "runs")]
        os.execv(sys.executable, [sys.executable, "train.py", *words])
    termios.tcsetwinsize(terminal, (24, 80))
    shown = b""
    while b", validation " not in shown:  # of the bar
        shown += os.read(terminal, 1000)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 129
    (folder,) = tmp_path.glob("runs/single/*")
    (checkpoint,) = checkpoints.find_unfinished(folder)
    assert checkpoint.epoch >= 1


@pytest.mark.skipif(os.name != "posix", reason="ends a process in POSIX's way")
def test_processes_end_with_a_parent_that_is_killed_and_its_lock_opens(two_processes, tmp_path, capsys):
    captured = end_with(3, train.main, [*LONG, "--seeds", "0", "--runs-dir", str(tmp_path / "runs")], capsys)
    name = "mlp1,dataset=mnist_sample,epochs=100000"
    holder = f"process {two_processes.pid} on {socket.gethostname()} since "
    assert captured.err.startswith(f"not trained: {name}: {holder}")
    assert captured.err in captured.out

    two_processes.kill()
    two_processes.wait()
    folder = tmp_path / "runs" / "single" / name
    with checkpoints.lock(folder):
        assert [checkpoint.seeds for checkpoint in checkpoints.find_unfinished(folder)] == [[0, 1], [2, 3]]
