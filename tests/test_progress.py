import errno
import io
import sys
import threading
from multiprocessing.connection import Listener

import pytest

from engine import console
from engine.progress import Progress


def make_rows(*seeds, epoch=1, penalty=0.0):
    metrics = dict(train_loss=0.5, train_accuracy=0.75, val_loss=0.25, val_accuracy=0.875, penalty=penalty)
    return [dict(seed=seed, epoch=epoch) | metrics for seed in seeds]


def show_on_terminal(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    return terminal


def test_a_terminal_shows_one_bar_over_the_epochs_of_all_runs(monkeypatch):
    terminal = show_on_terminal(monkeypatch)
    with Progress(10) as progress:
        progress.show("dropout", 5, make_rows(0, 1, 2))
        progress.spare(4)
        progress.show("dropout", 5, make_rows(0, 1, 2, epoch=2))
        progress.bar.refresh()
    assert "6/6" in terminal.getvalue()
    assert "validation 87.50 %" in terminal.getvalue()


def test_epochs_that_were_not_shown_one_by_one_are_counted(monkeypatch):
    terminal = show_on_terminal(monkeypatch)
    with Progress(10) as progress:
        progress.count(7)
        progress.bar.refresh()
    assert "7/10" in terminal.getvalue()


def test_a_bar_that_was_interrupted_while_it_was_drawn_does_not_stop_the_next(monkeypatch):
    show_on_terminal(monkeypatch)

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with Progress(10) as progress, monkeypatch.context() as patch:
        patch.setattr(progress.bar, "display", interrupt)
        with pytest.raises(KeyboardInterrupt):
            progress.bar.refresh()
    with Progress(10) as progress:
        thread = threading.Thread(target=progress.bar.refresh, daemon=True)
        thread.start()
        thread.join(timeout=20)
        assert not thread.is_alive()


def test_without_a_terminal_a_line_says_which_runs_ended_which_epoch(capsys):
    with Progress(10) as progress:
        progress.show("dropout", 5, make_rows(0, 1, 2, 7, epoch=2))
        progress.show("", 15, make_rows(4, penalty=0.125))
        progress.spare(3)
        progress.count(3)
        progress.say("a line")
    first, second, third = capsys.readouterr().out.splitlines()
    metrics = "train loss 0.5000 accuracy 75.00 %, validation loss 0.2500 accuracy 87.50 %"
    assert first == f"dropout, epoch 2/5, seeds 0-2,7: {metrics}"
    assert second == f"epoch 1/15, seed 4: {metrics}, penalty 0.1250"
    assert third == "a line"


class Broken(io.StringIO):
    """Stands for stdout whose reader has gone."""

    def write(self, _):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_after_the_reader_of_the_output_has_gone_every_unit_ends_after_its_epoch(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Broken())
    monkeypatch.setattr(console, "discard_output", lambda: monkeypatch.setattr(sys, "stdout", io.StringIO()))
    with Progress(10) as progress:
        assert not progress.is_ending
        assert progress.show("", 3, make_rows(0)), "this unit has to end"
        assert isinstance(progress.error, BrokenPipeError)
        assert progress.show("", 3, make_rows(1)), "so has another"
        progress.say("what is recorded meanwhile is discarded")


def test_where_the_path_of_temporary_files_is_too_long_for_a_socket_a_port_takes_its_place(capsys, monkeypatch):
    def listen(address=None, **options):
        if address is None:
            raise OSError("AF_UNIX path too long")
        return Listener(address, **options)

    monkeypatch.setattr("engine.progress.Listener", listen)
    with Progress(10) as progress, progress.receive_from_processes() as show:
        show("far", 3, make_rows(0))
    assert capsys.readouterr().out.startswith("far, epoch 1/3")


def test_what_other_processes_send_is_shown_by_the_time_their_work_is_over(capsys):
    with Progress(10) as progress, progress.receive_from_processes() as show:
        for epoch in (1, 2, 3):
            show("far", 3, make_rows(0, epoch=epoch))
    assert [line.split(",")[1] for line in capsys.readouterr().out.splitlines()] == [f" epoch {n}/3" for n in (1, 2, 3)]
    show("far", 3, make_rows(0))  # nobody receives it any more, which is no error
    assert capsys.readouterr().out == ""
