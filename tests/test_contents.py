"""What files hold: CIFAR-10's editions, and files that would do harm."""

import gzip
import os
import pickle
import tarfile
import time
import zipfile

import numpy as np
import pytest
from data_files import IMAGES, LABELS, decode_arrays, gzipped, read_everything, sha256, write, write_tar

from engine import flags
from sources import catalogue, contents, finding

pytestmark = pytest.mark.usefixtures("memory")


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
    monkeypatch.setattr(contents, "MOST_BYTES", 2**26)
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
