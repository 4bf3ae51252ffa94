"""Malformed inputs, made by mutation from good ones: none ends in a traceback or a hang, or alters what was whole.

pytest tests/test_mutation.py --mutations 1000                         a thousand of them
pytest tests/test_mutation.py --mutations 1000 -k records-138          one of these alone
"""

import contextlib
import pickle
import shlex
import shutil
import signal
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from random import Random

import numpy as np
import pytest
from helpers import take_images, write_nothing, write_own
from mutations import BEGUN, KINDS, TRAINED, make_binary

import data
import grade
import report
import train
from analysis import style
from engine import checkpoints, pace, workers
from sources import catalogue, downloading, finding

if not hasattr(signal, "SIGALRM"):
    pytest.skip("needs POSIX's alarm against hangs", allow_module_level=True)

LONGEST = 120  # seconds that a command may take
PROGRAMS = {"train.py": train.main, "report.py": report.main, "grade.py": grade.main}
STATUSES = {0, 1, 2, 3, 130}  # 130: the training of a mutated command is interrupted after an epoch

# ---------------------------------------------------------------------------------------------------------------------
# Good inputs, from which all are made


@pytest.fixture(scope="module")
def good(digits, tmp_path_factory):
    """A folder with data sets, records, a training that was interrupted, and a submission, all small and whole."""
    folder = tmp_path_factory.mktemp("good")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DATA_DIR", "data")
        patch.setattr(style, "save_figure", write_nothing)
        patch.setattr(finding, "DEBIAN_FASHION_MNIST", folder / "none")
        patch.setattr(downloading, "check_reachable", lambda urls: dict.fromkeys(urls, "no network"))
        patch.setattr("webbrowser.open", lambda url: False)
        for name, contents in (("fashion_mnist", make_idx_files(digits)), ("cifar10", make_cifar_files())):
            source = catalogue.SOURCES[name]
            raw = folder / "data" / source.folder
            raw.mkdir(parents=True)
            for file, content in contents.items():
                (raw / file).write_bytes(content)
            files = {file: sha256(content).hexdigest() for file, content in contents.items()}
            binary = {file: make_binary(contents[file.removesuffix(".bin")]) for file in source.binary}
            sizes = {len(content) for content in (*contents.values(), *binary.values())}
            binary = {file: sha256(content).hexdigest() for file, content in binary.items()}
            published = replace(source, files=files, sizes=tuple(sizes), binary=binary, validation=100)
            patch.setitem(catalogue.SOURCES, name, published)
        write_own(folder / "data" / "cells.npz", classes=np.array(["round", "long", "flat"]))
        data._load.cache_clear()
        for words in map(shlex.split, TRAINED):
            train.main(words[1:])
        report.main(["--bundle", "submission.zip"])
        shutil.rmtree("report")
        for times in ("SECONDS_APART", "WRITINGS_APART"):
            patch.setattr(checkpoints, times, 0)
        with pytest.MonkeyPatch.context() as interrupted:
            interrupted.setattr(workers, "train_units", interrupt_in(2))
            with pytest.raises(SystemExit):
                train.main(shlex.split(BEGUN)[1:])
        ((begun,),) = (checkpoints.find_unfinished(path.parent) for path in folder.rglob("checkpoint-0-1.pt"))
        assert begun.epoch == 1  # an epoch is written after it was shown
        yield folder
    data._load.cache_clear()


def make_idx_files(digits):
    """Make a file of 300 train images, one of as many labels, and the same of 100 test images."""
    contents = {}
    for name, split, count in (("train", digits.train, 300), ("t10k", digits.test, 100)):
        part = take_images(split, count)
        images, labels = part.images.numpy(), part.labels.numpy()
        sizes = b"".join(size.to_bytes(4, "big") for size in (count, 28, 28))
        contents[f"{name}-images-idx3-ubyte"] = (2051).to_bytes(4, "big") + sizes + images.tobytes()
        contents[f"{name}-labels-idx1-ubyte"] = (2049).to_bytes(4, "big") + sizes[:4] + labels.astype("u1").tobytes()
    return contents


def make_cifar_files():
    """Make batches of 40 random images."""
    random, labels = np.random.default_rng(0), [*range(10)] * 4
    drawn = {file: random.integers(0, 256, (40, 3072), dtype=np.uint8) for file in catalogue.SOURCES["cifar10"].files}
    return {file: pickle.dumps({b"data": images, b"labels": labels}) for file, images in drawn.items()}


def interrupt_in(epoch):
    """Make a `workers.train_units` whose first unit is interrupted, as by Ctrl-C, when it shows an epoch."""

    def train_units(plan, device, progress):
        def show(rows):
            if rows[0]["epoch"] == epoch:
                raise KeyboardInterrupt

        yield workers.train_unit(0, plan.units[0], device, show)

    return train_units


# ---------------------------------------------------------------------------------------------------------------------


def pytest_generate_tests(metafunc):
    numbers = range(metafunc.config.getoption("--mutations"))
    kinds = [list(KINDS)[number % len(KINDS)] for number in numbers]
    ids = [f"{kind}-{number}" for kind, number in zip(kinds, numbers, strict=True)]
    metafunc.parametrize(("kind", "number"), list(zip(kinds, numbers, strict=True)), ids=ids)


@contextlib.contextmanager
def limit_time(mutant):
    def stop(*_):
        pytest.fail(f"hangs: {mutant}")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)


def read_files_but(touched):
    """Read {path: content} of all files but one, or those in a folder."""
    paths = [path for path in Path().rglob("*") if path.is_file() and not path.is_symlink()]
    return {path: path.read_bytes() for path in paths if touched not in (path, *path.parents)}


@pytest.mark.filterwarnings("error")
def test_a_malformed_input_is_answered_in_a_line_and_nothing_that_was_whole_is_altered(
    kind, number, good, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(shutil.copytree(good, tmp_path / "in"))
    data._load.cache_clear()
    if kind == "flags":
        monkeypatch.setattr(pace, "set_fastest", lambda tasks, options: tasks)  # measures nothing for many epochs
        monkeypatch.setattr(workers, "train_units", interrupt_in(1))
    mutant = KINDS[kind](Random(number))
    program, *words = shlex.split(mutant.command) if isinstance(mutant.command, str) else mutant.command
    whole = read_files_but(mutant.touched)
    status = 0
    try:
        with limit_time(mutant):
            PROGRAMS[program](words)
    except SystemExit as end:
        status = end.code or 0
    except Exception as error:
        error.add_note(f"by {mutant}")
        raise
    printed, said = capsys.readouterr()
    assert "grade.py failed on it" not in printed + said, mutant
    assert status in STATUSES, mutant
    assert "Traceback" not in said, mutant
    if status == 2:
        assert said.splitlines()[-1].startswith(f"{program}: error: "), mutant
        lines = [line for line in said.split("\n")[:-1] if "; set aside as" not in line]
        assert len(lines) == 1, mutant
    if status == 0 and program == "train.py":  # it may have found whole data all the same, and finished what was begun
        whole = {path: content for path, content in whole.items() if not path.name.startswith("checkpoint-")}
    changed = [path for path, content in whole.items() if not path.is_file() or path.read_bytes() != content]
    assert changed == [], mutant
