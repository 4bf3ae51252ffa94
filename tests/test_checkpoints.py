import errno
import io
import math
import os
import pickle
import socket
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from engine import checkpoints, files, records
from engine.checkpoints import Checkpoint
from engine.files import RecordError
from experiments import Experiment

EXPERIMENT = Experiment(dataset="mnist_sample", epochs=2)
STATE = dict(weights=torch.arange(6.0).view(2, 3), chosen=[(1, {"a": torch.ones(2)}), (0, None)], loss=[math.nan, 0.1])


@pytest.fixture
def folder(tmp_path, digits):
    folder = tmp_path / "single" / "an experiment"
    records.open_folder(folder, records.describe(EXPERIMENT, digits, folder.name))
    return folder


@pytest.fixture
def checkpoint(folder):
    return Checkpoint(folder, [0, 1, 2], 1, [[0, 1, 2], [3, 4]])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_was_written_is_read_back(checkpoint, folder):
    checkpoint.write(7, STATE)
    assert names(folder) == ["checkpoint-0-2.pt", "experiment.json"]
    unfinished, _ = checkpoints.find_unfinished(folder)
    assert unfinished == Checkpoint(folder, [0, 1, 2], 1, [[0, 1, 2], [3, 4]], epoch=7)
    state = unfinished.read()
    assert torch.equal(state["weights"], STATE["weights"])
    assert torch.equal(state["chosen"][0][1]["a"], torch.ones(2))
    assert (state["chosen"][0][0], state["chosen"][1]) == (1, (0, None))
    assert math.isnan(state["loss"][0])
    unfinished.delete()
    assert names(folder) == ["experiment.json"]


@pytest.mark.parametrize(("seeds", "name"), [([4], "checkpoint-4.pt"), ([5, 3, 9], "checkpoint-3-9.pt")])
def test_a_file_is_named_after_its_seeds(seeds, name, folder):
    assert Checkpoint(folder, seeds, 1, [seeds]).path == folder / name


def test_the_units_that_were_planned_together_are_known_from_one_file(checkpoint, folder):
    checkpoint.begin()
    first, second = checkpoints.find_unfinished(folder)
    assert (first.seeds, first.epoch, first.read()) == ([0, 1, 2], 0, None)
    assert (second.seeds, second.epoch, second.read()) == ([3, 4], 0, None)  # the kill came before its file
    assert second.units == checkpoint.units
    second.begin()
    assert checkpoints.find_unfinished(folder) == [first, second]


def test_a_unit_without_a_file_whose_seeds_are_finished_is_finished(checkpoint, folder, monkeypatch):
    checkpoint.begin()
    monkeypatch.setattr(records, "finished_seeds", lambda _: [3, 4])
    assert [unfinished.seeds for unfinished in checkpoints.find_unfinished(folder)] == [[0, 1, 2]]


def set_aside(folder, capsys):
    """Return what is said of the only checkpoint, which cannot be read and whose content is kept."""
    content = (folder / "checkpoint-0-2.pt").read_bytes()
    assert checkpoints.find_unfinished(folder) == []
    assert names(folder) == ["checkpoint-0-2.pt.unreadable", "experiment.json"]
    assert (folder / "checkpoint-0-2.pt.unreadable").read_bytes() == content
    error = capsys.readouterr().err
    assert error.startswith(f"{folder / 'checkpoint-0-2.pt'}: cannot be read (")
    assert error.endswith("); set aside as checkpoint-0-2.pt.unreadable, its seeds start again\n")
    assert error.count("\n") == 1
    return error


def test_a_file_that_cannot_be_read_now_is_left_where_it_is(checkpoint, folder, monkeypatch):
    checkpoint.begin()

    def refuse(path):
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(RecordError, match=r"checkpoint-0-2\.pt: cannot be read \(Stale file handle\)"):
        checkpoints.find_unfinished(folder)
    assert names(folder) == ["checkpoint-0-2.pt", "experiment.json"]


@pytest.mark.parametrize("share", [0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999])
def test_one_flipped_bit_is_noticed(share, checkpoint, folder, capsys):
    checkpoint.write(7, STATE)
    content = bytearray(checkpoint.path.read_bytes())
    content[int(share * len(content))] ^= 1
    checkpoint.path.write_bytes(content)
    assert "it is damaged" in set_aside(folder, capsys)


@pytest.mark.parametrize("length", [0, 1, 32, 500, -1])
def test_a_file_that_was_cut_off_is_noticed(length, checkpoint, folder, capsys):
    checkpoint.write(7, STATE)
    checkpoint.path.write_bytes(checkpoint.path.read_bytes()[:length])
    assert "it is damaged" in set_aside(folder, capsys)


def test_a_checkpoint_of_another_experiment_is_not_taken(checkpoint, folder, tmp_path, digits, capsys):
    other = tmp_path / "single" / "another"
    records.open_folder(other, records.describe(Experiment(dataset="mnist_sample", epochs=3), digits, "another"))
    checkpoint.write(7, STATE)
    os.rename(checkpoint.path, other / "checkpoint-0-2.pt")
    assert "belongs to another experiment" in set_aside(other, capsys)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (dict(seeds=math.nan), "seeds is 'nan', expected list"),
        (dict(seeds=[0, None, 2]), "seeds is 'None', expected int"),
        (dict(seeds=[0, 3]), "named after other seeds"),
        (dict(units=[[[0]]]), "units is '[0]', expected int"),
        (dict(units=[[0, 1, 2], [-1]]), "named after other seeds"),
        (dict(epoch="7"), "epoch is '7', expected int"),
        (dict(threads=10**9), "threads is 1000000000, expected 1 to 1024"),
        (dict(colour="red"), "colour"),
    ],
    ids=str,
)
def test_what_is_no_checkpoint_though_its_digest_is_right_is_not_taken(changes, says, checkpoint, folder, capsys):
    content = dict(seeds=[0, 1, 2], threads=1, device="cpu", units=[[0, 1, 2]], epoch=7, state=STATE) | changes
    file = io.BytesIO()
    torch.save(content, file)
    checkpoint.path.write_bytes(file.getvalue() + checkpoints._digest(folder, file.getvalue()))
    assert says in set_aside(folder, capsys)


class Code:
    def __reduce__(self):
        return pytest.fail, ("code of a file was run",)


@pytest.mark.parametrize("save", [partial(pickle.dump, protocol=2), torch.save], ids=["pickle", "torch"])
def test_no_code_of_a_file_is_run(save, checkpoint, folder, capsys):
    file = io.BytesIO()
    save(dict(seeds=[0], state=Code()), file)
    checkpoint.path.write_bytes(file.getvalue() + checkpoints._digest(folder, file.getvalue()))
    assert "it does not hold a training state" in set_aside(folder, capsys)


# ---------------------------------------------------------------------------------------------------------------------
# When


@pytest.fixture
def clock(monkeypatch):
    """Stop the clock but where a file is written, which takes two seconds."""
    now = [100.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now[0])
    write_whole = files.write_whole

    def write_slowly(path, content):
        now[0] += 2
        write_whole(path, content)

    monkeypatch.setattr(files, "write_whole", write_slowly)
    return now


def test_a_checkpoint_is_written_when_the_last_is_older_than_ten_seconds_and_twenty_times_its_writing(
    checkpoint, clock
):
    checkpoint.begin()
    checkpoint.read()
    written = []
    for epoch in range(1, 21):  # of five seconds
        clock[0] += 5
        checkpoint.write_if_due(epoch, lambda epoch=epoch: written.append(epoch))
    assert written == [2, 10, 18]


def test_a_checkpoint_that_cannot_be_written_is_said_once_and_tried_again(
    checkpoint, clock, folder, capsys, monkeypatch
):
    checkpoint.write(3, STATE)
    before = checkpoint.path.read_bytes()
    checkpoint.read()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "flush", full_disk)
    for epoch in (4, 5):
        clock[0] += 100
        checkpoint.write_if_due(epoch, lambda: STATE)
    assert capsys.readouterr().err == (
        f"{checkpoint.path}: cannot be written (No space left on device), and is tried again; until then, an "
        "interruption of seeds 0-2 loses the epochs after epoch 3\n"
    )
    ending = replace(checkpoint)
    ending.is_last, ending.has_failed, ending.due = True, True, 0
    with pytest.raises(checkpoints.UnitEnded):
        ending.write_if_due(6, lambda: STATE)
    said = capsys.readouterr().err
    assert said.endswith("(No space left on device); this end of seeds 0-2 loses the epochs after epoch 3\n")
    assert checkpoint.path.read_bytes() == before
    assert names(folder) == ["checkpoint-0-2.pt", "experiment.json"]
    monkeypatch.undo()
    checkpoint.due = 0
    checkpoint.write_if_due(7, lambda: STATE)
    assert (checkpoint.epoch, checkpoint.path.read_bytes() == before) == (7, False), "there is room again"
    assert not capsys.readouterr().err


def test_without_a_first_checkpoint_none_is_ever_written(checkpoint, clock, folder):
    assert checkpoint.read() is None
    clock[0] += 1e9
    checkpoint.write_if_due(1, lambda: pytest.fail("writes one"))
    assert names(folder) == ["experiment.json"]


# ---------------------------------------------------------------------------------------------------------------------
# The lock


def test_the_holder_of_the_lock_is_named(tmp_path):
    folder = tmp_path / "group" / "an experiment"
    with checkpoints.lock(folder):
        assert names(tmp_path / "group") == [".an experiment.lock"]
        with pytest.raises(checkpoints.TrainedElsewhere) as caught, checkpoints.lock(folder):
            pass
        assert str(caught.value).startswith(f"process {os.getpid()} on {socket.gethostname()} since 2")
        with checkpoints.lock(tmp_path / "group" / "another"):
            pass
        (tmp_path / "group" / ".an experiment.lock").write_text("")
        with pytest.raises(checkpoints.TrainedElsewhere, match="another command"), checkpoints.lock(folder):
            pass
    assert names(tmp_path / "group") == []
    with checkpoints.lock(folder):
        pass


def test_a_file_that_nobody_locks_is_no_lock(tmp_path):
    (tmp_path / ".an experiment.lock").write_text("process 1 on a machine that was switched off")
    with checkpoints.lock(tmp_path / "an experiment"):
        pass


def test_a_lock_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="--runs-dir"), checkpoints.lock(tmp_path / "file" / "an experiment"):
        pass


@pytest.mark.parametrize("name", ["ENOLCK", "ENOSYS", "ENOTSUP", "EOPNOTSUPP", "EPERM", "EINVAL"])
def test_a_file_system_without_locks_is_warned_of_once(name, tmp_path, capsys, monkeypatch):
    fcntl = pytest.importorskip("fcntl", reason="locks in POSIX's way")

    def refuse(*_):
        raise OSError(getattr(errno, name), "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    for title in ("an experiment", "another"):
        with checkpoints.lock(tmp_path / name / "group" / title):
            pass
    assert capsys.readouterr().err == (
        f"WARNING: {tmp_path / name}: its file system has no locks (no locks here); do not train the same experiment "
        "with two commands at the same time\n"
    )
    assert names(tmp_path / name / "group") == []


def test_a_file_system_that_fails_otherwise_is_one_line(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl", reason="locks in POSIX's way")

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(RecordError, match="Input/output error"), checkpoints.lock(tmp_path / "an experiment"):
        pass


def test_unfinished_training_is_named_with_the_command_that_resumes_it(folder):
    """Also before an epoch is saved, when other seeds than those of a unit would be planned anew."""
    folder = folder.rename(folder.with_name(EXPERIMENT.name))
    Checkpoint(folder, [0, 1, 2], 1, [[0, 1, 2], [3, 4]]).begin()
    says = f"{folder}, seeds 0-4; resume all of it: {EXPERIMENT.command} --seeds 0-4"
    assert checkpoints.describe_begun(folder) == says
    path = folder / "checkpoint-0-2.pt"
    path.write_bytes(path.read_bytes()[:-1])
    assert checkpoints.describe_begun(folder).startswith(f"{path}: cannot be read (it is damaged")
    assert path.exists()
    (folder / "experiment.json").unlink()
    assert checkpoints.describe_begun(folder).startswith(f"{folder / 'experiment.json'}: missing")


def test_a_checkpoint_that_another_command_deletes_meanwhile_is_none(tmp_path, monkeypatch):
    """With `--until-decided`, seeds are looked for without a lock."""
    monkeypatch.setattr(type(tmp_path), "glob", lambda folder, pattern: iter([folder / "checkpoint-0.pt"]))
    assert checkpoints.find_unfinished(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="only POSIX flushes folders")
def test_finished_runs_are_on_the_disk_before_their_checkpoint_is_deleted(checkpoint, monkeypatch):
    checkpoint.begin()
    calls, unlink = [], Path.unlink
    monkeypatch.setattr(checkpoints.os, "fsync", lambda _: calls.append("fsync"))
    monkeypatch.setattr(Path, "unlink", lambda path, **more: (calls.append("unlink"), unlink(path, **more)))
    checkpoint.delete()
    assert calls == ["fsync", "unlink"]
