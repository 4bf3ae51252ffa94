"""Downloading, without a network."""

import gzip
import shutil
import time
from dataclasses import replace
from http.client import IncompleteRead
from pathlib import Path

import pytest
from data_files import IMAGES, SAMPLE, alter_one_pixel, read_everything, web_page

import data
from sources import catalogue, downloading, finding

pytestmark = pytest.mark.usefixtures("memory")


class Torchvision:
    """Stands for the torchvision module; its data set class does what a download does, without a network."""

    def __init__(self, damage=None, error=None):
        class FashionMNIST:
            mirrors = ("http://mirror.invalid/",)

            def __init__(self, root, download):
                raw = Path(root) / "FashionMNIST" / "raw"
                shutil.copytree(SAMPLE.folder, raw)
                if damage:
                    damage(raw, {IMAGES: gzip.decompress((raw / f"{IMAGES}.gz").read_bytes())})
                if error:
                    raise error

        self.datasets = self
        self.FashionMNIST = FashionMNIST


@pytest.fixture
def empty_dir(published, tmp_path):
    return tmp_path / "empty"


@pytest.fixture
def online(monkeypatch):
    monkeypatch.setattr(downloading, "import_torchvision", Torchvision)
    monkeypatch.setattr(downloading, "check_reachable", lambda urls: dict.fromkeys(urls))


def download(data_dir):
    return downloading.download(finding.find("fashion_mnist", data_dir), data_dir)


@pytest.mark.usefixtures("online")
def test_a_download_is_verified_and_moved_into_its_place(empty_dir):
    found = download(empty_dir)
    assert (found.missing, found.found_in) == ([], str(empty_dir / "FashionMNIST" / "raw"))
    again = finding.find("fashion_mnist", empty_dir)
    assert (again.missing, again.found_in) == ([], found.found_in)
    assert [path.name for path in empty_dir.iterdir()] == ["FashionMNIST"]


@pytest.mark.usefixtures("online")
def test_a_download_replaces_no_file(data_dir, raw, published):
    web_page(raw, published)
    before = read_everything(data_dir)
    data._load.cache_clear()
    loaded = data.load("fashion_mnist", data_dir)
    beside = data_dir / "downloaded" / "FashionMNIST" / "raw"
    assert loaded.found_in == str(beside)
    assert loaded.passed_over == (f"{raw / IMAGES}.gz is a web page, not data",)
    assert finding.find("fashion_mnist", data_dir).places[IMAGES] == beside / f"{IMAGES}.gz"
    assert before.items() <= read_everything(data_dir).items()
    web_page(beside, published)
    with pytest.raises(finding.DataError, match="hold other files; move them away to have fashion_mnist downloaded"):
        download(data_dir)


@pytest.mark.parametrize(
    "torchvision",
    [
        Torchvision(damage=alter_one_pixel),
        Torchvision(error=RuntimeError("Error downloading\nTried")),
        Torchvision(error=IncompleteRead(b"half of it")),
    ],
)
def test_a_failed_download_leaves_nothing_behind(torchvision, empty_dir, monkeypatch):
    monkeypatch.setattr(downloading, "import_torchvision", lambda: torchvision)
    monkeypatch.setattr(downloading, "check_reachable", lambda urls: dict.fromkeys(urls))
    with pytest.raises(finding.DataError) as caught:
        download(empty_dir)
    assert "\n" not in str(caught.value)
    assert not empty_dir.exists()


def test_without_a_network_the_error_says_what_was_tried_and_lists_the_ways(empty_dir, monkeypatch):
    monkeypatch.setattr(downloading, "import_torchvision", Torchvision)
    monkeypatch.setattr(downloading, "check_reachable", lambda urls: dict.fromkeys(urls, "no answer in 5 s"))
    with pytest.raises(finding.DataNotFound) as caught:
        download(empty_dir)
    where = f" or fashion-mnist.npz anywhere in {empty_dir}, or name their folder with --data-dir"
    files = f"put its 4 files ({IMAGES}, "
    for part in (
        "http://mirror.invalid/: no answer",
        f"there is no folder {empty_dir}",
        files,
        where,
        "apt install",
        "_sample",
    ):
        assert part in str(caught.value)
    assert not empty_dir.exists()


def test_a_damaged_data_set_that_cannot_be_downloaded_is_not_one_that_is_not_there(
    data_dir, raw, published, monkeypatch
):
    web_page(raw, published)
    monkeypatch.setattr(downloading, "import_torchvision", Torchvision)
    monkeypatch.setattr(downloading, "check_reachable", lambda urls: dict.fromkeys(urls, "no answer in 5 s"))
    with pytest.raises(finding.DataError, match=r"is a web page, not data\) and could not be downloaded") as caught:
        download(data_dir)
    assert not isinstance(caught.value, finding.DataNotFound)


def test_another_data_set_of_the_same_names_is_named_and_no_damage(empty_dir, monkeypatch):
    digits = catalogue.SOURCES["mnist_sample"]
    monkeypatch.setitem(catalogue.SOURCES, "mnist", replace(digits, folder=Path("MNIST/raw")))
    empty_dir.mkdir()
    shutil.copy(digits.folder / "images-idx3-ubyte.gz", empty_dir / f"{IMAGES}.gz")
    monkeypatch.setattr(downloading, "import_torchvision", Torchvision)
    monkeypatch.setattr(downloading, "check_reachable", lambda urls: dict.fromkeys(urls, "no answer in 5 s"))
    with pytest.raises(finding.DataNotFound, match=f"{IMAGES}.gz holds images-idx3-ubyte of mnist_sample"):
        download(empty_dir)


def test_a_data_dir_that_cannot_be_written_is_refused_before_a_download(tmp_path):
    # A folder inside a file can be made by nobody, not even by root, whom permissions do not stop.
    (tmp_path / "file").write_text("")
    with pytest.raises(finding.DataError, match="not writable"):
        downloading.download(finding.Found("mnist"), tmp_path / "file" / "data")


def test_an_address_out_of_reach_is_given_up_within_the_time(monkeypatch):
    def hang(*args, **kwargs):
        time.sleep(20)
        raise OSError

    monkeypatch.setattr(downloading.urllib.request, "urlopen", hang)
    started = time.monotonic()
    answers = downloading.check_reachable(["http://a.invalid/", "http://b.invalid/"], seconds=0.2)
    assert time.monotonic() - started < 5
    assert answers == dict.fromkeys(["http://a.invalid/", "http://b.invalid/"], "no answer in 0.2 s")


def test_a_refused_address_says_why():
    (answer,) = downloading.check_reachable(["http://127.0.0.1:9/"]).values()
    assert "refused" in answer


def test_something_else_that_answers_is_no_mirror(monkeypatch):
    def answer(*args, **kwargs):
        raise downloading.HTTPException

    monkeypatch.setattr(downloading.urllib.request, "urlopen", answer)
    assert downloading.check_reachable(["http://a.invalid/"]) == {"http://a.invalid/": "HTTPException"}


def test_an_error_page_is_an_answer(monkeypatch):
    def forbidden(*args, **kwargs):
        raise downloading.urllib.error.HTTPError("http://a.invalid/", 403, "Forbidden", {}, None)

    monkeypatch.setattr(downloading.urllib.request, "urlopen", forbidden)
    assert downloading.check_reachable(["http://a.invalid/"]) == {"http://a.invalid/": None}
