import dataclasses
import gzip
import pickle
import shutil
import signal

import numpy as np
import pytest
import torch
from data_files import SAMPLE, gzipped, sha256, write
from helpers import write_nothing

import data
import report
import train
from analysis import style
from engine import console
from sources import catalogue, contents, downloading, finding


def pytest_addoption(parser):
    parser.addoption("--studies", type=int, default=100, help="studies of each kind that test_statistics.py simulates")
    parser.addoption("--kills", type=int, default=3, help="how often test_resume.py kills each training command")
    parser.addoption("--mutations", type=int, default=20, help="malformed inputs that test_mutation.py tries")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """Keep what is found out about files and speed in a folder of the tests, not in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def one_thread():
    """Use one thread: on a busy machine, several threads would wait for each other after every small operation."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_signals():
    """Give the signals back to pytest: a command that ends its process keeps them."""
    before = {each: signal.getsignal(each) for each in console.SIGNALS}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


@pytest.fixture
def float64():
    """Give new tensors double precision, so that rounding cannot hide a mistake."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(scope="session")
def clothes():
    return data.load("fashion_mnist_sample", "unused")


@pytest.fixture(scope="session")
def digits():
    return data.load("mnist_sample", "unused")


@pytest.fixture
def runs(tmp_path):
    """Return the path of a runs folder that does not exist yet."""
    return tmp_path / "runs"


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """Disable the network and hide every full data set."""
    monkeypatch.setattr(finding, "DEBIAN_FASHION_MNIST", tmp_path / "none")
    monkeypatch.setattr(downloading, "check_reachable", lambda urls: dict.fromkeys(urls, "no network"))


@pytest.fixture(scope="session")
def handed_in(tmp_path_factory):
    """Make and unpack an honest submission of three experiments with two seeds each; keep its archive beside it."""
    folder = tmp_path_factory.mktemp("submission")
    runs, archive = folder / "runs", folder / "submission.zip"
    words = ["--dataset", "mnist_sample", "--epochs", "2", "--seeds", "0-1", "--runs-dir", str(runs), "--jobs", "1"]
    for settings in ([], ["--l1", "0.001"], ["--l2", "0.001"]):
        train.main([*words, *settings])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "save_figure", write_nothing)
        report.main(["--runs-dir", str(runs), "--out", str(folder / "report"), "--bundle", str(archive)])
    shutil.unpack_archive(archive, folder / "unpacked")
    return folder / "unpacked"


@pytest.fixture
def unpacked(handed_in, tmp_path):
    """Copy the honest submission, so that a test can forge it."""
    return shutil.copytree(handed_in, tmp_path / "submission")


# ---------------------------------------------------------------------------------------------------------------------
# Data sets in files


@pytest.fixture
def memory(tmp_path, monkeypatch):
    """Forget what earlier tests found; return the file in which a search keeps what it found out."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "regularization-toolkit" / "data.json"


@pytest.fixture
def published(monkeypatch, tmp_path):
    """Let the sample play the part of the full Fashion-MNIST; return {name: content} of its files."""
    sizes = dict(files=SAMPLE.files, sizes=SAMPLE.sizes, validation=1000)
    source = dataclasses.replace(catalogue.SOURCES["fashion_mnist"], **sizes)
    monkeypatch.setitem(catalogue.SOURCES, "fashion_mnist", source)
    monkeypatch.setitem(catalogue.SOURCES, "mnist", catalogue.SOURCES["mnist"])  # is put back if a test replaces it
    monkeypatch.setattr(contents, "LOOKALIKES", {})
    monkeypatch.setattr(finding, "DEBIAN_FASHION_MNIST", tmp_path / "no-debian")
    return {file: gzip.decompress((SAMPLE.folder / f"{file}.gz").read_bytes()) for file in SAMPLE.files}


@pytest.fixture
def cifar(monkeypatch):
    """Let 240 random images play the part of CIFAR-10; return {name: content} of its pickles and of its binaries."""
    generator, pickles, binaries = np.random.default_rng(0), {}, {}
    for number, file in enumerate(catalogue.SOURCES["cifar10"].files):
        images, labels = generator.integers(0, 256, (40, 3072), dtype=np.uint8), [number, *range(9)] * 4
        pickles[file] = pickle.dumps({b"data": images, b"labels": labels})
        binaries[f"{file}.bin"] = np.column_stack([np.array(labels, np.uint8), images]).tobytes()
    checksums = [{name: sha256(content) for name, content in files.items()} for files in (pickles, binaries)]
    sizes = tuple(len(content) for content in [*pickles.values(), *binaries.values()])
    source = dataclasses.replace(
        catalogue.SOURCES["cifar10"], files=checksums[0], binary=checksums[1], sizes=sizes, validation=40
    )
    monkeypatch.setitem(catalogue.SOURCES, "cifar10", source)
    return pickles, binaries


@pytest.fixture
def data_dir(published, tmp_path):
    """A data dir in torchvision's layout."""
    write(tmp_path / "data" / "FashionMNIST" / "raw", published, suffix=".gz", pack=gzipped)
    return tmp_path / "data"


@pytest.fixture
def raw(data_dir):
    return data_dir / "FashionMNIST" / "raw"
