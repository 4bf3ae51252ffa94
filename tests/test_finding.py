"""Finding data sets by what files hold, whatever their names and places; files that hold something else; cost."""

import dataclasses
import gzip
import json
import os
import shutil
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from data_files import (
    IMAGES,
    LABELS,
    SAMPLE,
    alter_one_pixel,
    decode_arrays,
    gzipped,
    read_everything,
    sha256,
    web_page,
    write,
    write_tar,
    write_zip,
)

import data
from sources import catalogue, contents, finding

pytestmark = pytest.mark.usefixtures("memory")


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


def arrays_on_their_own(files, folder):
    for name, array in decode_arrays(files).items():
        np.save(folder / f"{name}.npy", array)


def archive_with_other_arrays(files, folder):
    others = dict(a=np.array([{}] * 10**6), b=np.zeros((6000, 28, 28)), c=np.full(1000, 0.5))
    np.savez(folder / "fashion.npz", **others | decode_arrays(files))


def zip_with_a_damaged_member(files, folder):
    gz = {f"{name}.gz": gzipped(content) for name, content in files.items()}
    write_zip(folder / "archive.zip", {"cut.gz": gz[f"{IMAGES}.gz"][:-9]} | gz)


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
    *(other_names, names_that_are_swapped, mixed, kerass_archive, arrays_on_their_own, kaggles_zip, zip_of_gz),
    *(archive_of_a_loop_of_ones_own, archive_with_other_arrays, zip_with_a_damaged_member, tar_gz, link),
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


def empty(raw, published):
    (raw / f"{IMAGES}.gz").write_bytes(b"")


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
    assert [line.startswith(f"{raw / IMAGES}.gz {says}") for line in found.passed_over] == [True] * bool(says)
    assert found.others == (found.passed_over if damage is digits_in_the_place_of_clothes else [])
    explained = found.explain(data_dir)
    assert f"looked at {3 + bool(says)} files in and below {data_dir}" in explained
    assert f"missing {IMAGES}" in explained
    assert f"found {LABELS}, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte in {raw}" in explained
    assert not says or says in explained
    assert "\n" not in explained
    assert read_everything(data_dir) == before


@pytest.mark.parametrize(("damage", "says"), DAMAGES)
def test_a_good_copy_elsewhere_takes_the_place_of_a_bad_one(damage, says, data_dir, raw, published, tmp_path):
    damage(raw, published)
    write(data_dir / "copy", {"a": published[IMAGES]})
    found = finding.find("fashion_mnist", data_dir)
    assert found.missing == []
    assert found.places[IMAGES] == data_dir / "copy" / "a"
    data._load.cache_clear()
    loaded = data.load("fashion_mnist", data_dir)
    assert len(loaded.passed_over) == bool(says)
    assert loaded.found_in == f"{raw} and {data_dir / 'copy'}"


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


def test_a_table_and_a_folder_that_must_not_be_read_are_named(published, tmp_path, monkeypatch):
    folder = write(tmp_path / "data", {"mnist_train.csv": b"label,1x1", "mnist_grades.csv": b""})
    (folder / "locked").mkdir()
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = finding.find("fashion_mnist", folder)
    table = f"{folder / 'mnist_train.csv'} is a table, which is not read"
    assert found.passed_over == [table, f"{folder / 'locked'} cannot be read (Permission denied)"]
    assert found.others == found.passed_over, "whoever has no data set can have such a table and such a folder"
    assert found.explain(folder).endswith(
        "; mnist_train.csv is a table, which is not read; locked cannot be read (Permission denied)"
    )
    assert finding.find("fashion_mnist", tmp_path / "typo").explain(tmp_path / "typo").startswith("there is no folder ")


@pytest.mark.parametrize("error", [MemoryError(), OSError(5, "Input/output error")])
@pytest.mark.parametrize("name", ["lecture", f"{IMAGES}.gz"])
def test_a_failure_while_a_file_is_read_is_named_and_not_remembered(name, error, published, tmp_path, monkeypatch):
    folder = write(tmp_path / "data", published)
    (folder / IMAGES).rename(folder / name)
    with monkeypatch.context() as failing:
        failing.setattr(finding, "read_contents", Mock(side_effect=error))
        found = finding.find("fashion_mnist", folder)
    assert found.missing == list(published)
    assert f"{folder / name} cannot be read ({error.strerror if error.args else 'out of memory'})" in found.passed_over
    assert finding.find("fashion_mnist", folder).missing == []


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
    def walk(root, denied):
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


def test_a_file_that_could_not_be_opened_is_looked_into_again(published, tmp_path, monkeypatch):
    folder = write(tmp_path / "data", {"images": published[IMAGES]})

    def refuse(path, mode):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(finding, "open", refuse, raising=False)
        assert finding.find("fashion_mnist", folder).parts == {}
    assert set(finding.find("fashion_mnist", folder).parts) == {IMAGES}


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
