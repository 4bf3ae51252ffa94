"""Find a data set on this machine, verify its files and read them.

folder = find_folder("mnist", "data")
images, labels, test_images, test_labels = read_images(SOURCES["mnist"], folder)
"""

import gzip
import hashlib
import math
import pickle
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments import UserError
from sources.catalogue import SOURCES, Source

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # package dataset-fashion-mnist

Bytes = NDArray[np.uint8]


class DataError(UserError):
    """A data set that cannot be used, for example because a file is damaged."""


class DataNotFound(DataError):
    """A data set that is not on this machine and cannot be downloaded."""


def find_folder(name: str, data_dir: Path | str) -> Path | None:
    """Find the folder that holds all files of a data set, raw or gzipped; return None if no file is found.

    Raises:
        DataError: the data dir is not a folder or cannot be read, or some files are missing.
    """
    source, data_dir = SOURCES[name], Path(data_dir)
    folders = [data_dir / source.folder]  # a sample's folder is absolute and replaces the data dir
    if not source.is_sample:
        try:
            is_file = data_dir.exists() and not data_dir.is_dir()
        except OSError as error:
            raise DataError(f"--data-dir {data_dir}: cannot be read ({error.strerror}); name another folder") from None
        if is_file:
            raise DataError(f"--data-dir {data_dir}: is a file, expected the folder that holds {source.folder}")
    if name == "fashion_mnist":
        folders.append(DEBIAN_FASHION_MNIST)
    for folder in folders:
        missing = [file for file in source.files if not locate_file(folder, file).is_file()]
        if not missing:
            return folder
        if len(missing) < len(source.files):
            raise DataError(
                f"{folder}: {', '.join(missing)} missing, raw or .gz; add what is missing, "
                f"or move the folder away to have {name} downloaded whole"
            )
    if source.is_sample:
        raise DataError(f"{source.folder}: the embedded sample {name} is missing; restore it from the repository")
    return None


def locate_file(folder: Path, file: str) -> Path:
    """Return the path of a raw file, or of the gzipped file if only that exists."""
    raw, zipped = folder / file, folder / f"{file}.gz"
    return zipped if zipped.is_file() and not raw.is_file() else raw


# ---------------------------------------------------------------------------------------------------------------------
# Reading and verifying


def read_images(source: Source, folder: Path) -> tuple[Bytes, Bytes, Bytes, Bytes]:
    """Read train images, train labels, test images and test labels; the test arrays may be empty.

    Images are uint8 (n, channels, height, width), labels uint8 (n,).

    Raises:
        DataError: a file differs from the published file; the message names the file and says what to do.
    """
    read_pairs = _read_cifar if source.torchvision_class == "CIFAR10" else _read_idx
    *train, test = read_pairs(source, folder)
    if source.test:
        train, test = [test], (test[0][:0], test[1][:0])
    images, labels = (np.concatenate(arrays) if len(train) > 1 else arrays[0] for arrays in zip(*train, strict=True))
    return images, labels, *test


def _read_idx(source: Source, folder: Path) -> list[tuple[Bytes, Bytes]]:
    arrays = [_read_idx_array(source, folder, file) for file in source.files]
    return list(zip(arrays[0::2], arrays[1::2], strict=True))


def _read_idx_array(source: Source, folder: Path, file: str) -> Bytes:
    """Read a file in the IDX format: a big-endian header with magic number and sizes, then the values."""
    path = locate_file(folder, file)
    content = decode_file(path)
    is_images = "images" in file
    expected_kind, magic, header = ("images", 2051, 16) if is_images else ("labels", 2049, 8)
    found = int.from_bytes(content[:4], "big")
    if found != magic:
        kind = {2051: ", which is a file of images", 2049: ", which is a file of labels"}.get(found, "")
        raise _damaged(path, f"expected IDX {expected_kind} (magic number {magic}), found magic number {found}{kind}")
    sizes = [int.from_bytes(content[start : start + 4], "big") for start in range(4, header, 4)]
    if is_images and tuple(sizes[1:]) != source.shape[1:]:
        expected, actual = ("x".join(map(str, shape)) for shape in (source.shape[1:], sizes[1:]))
        raise _damaged(path, f"expected images of {expected} pixels, found {actual}")
    if len(content) != header + math.prod(sizes):
        raise _damaged(path, f"expected {header + math.prod(sizes):,} bytes, found {len(content):,}")
    array = np.frombuffer(content, np.uint8, offset=header)
    if not is_images and array.max(initial=0) >= len(source.classes):
        raise _damaged(path, f"expected labels 0 to {len(source.classes) - 1}, found {array.max()}")
    _check_content(path, content, source.files[file])
    return array.reshape(-1, *source.shape) if is_images else array


def _read_cifar(source: Source, folder: Path) -> list[tuple[Bytes, Bytes]]:
    parts = []
    for file, checksum in source.files.items():
        path = locate_file(folder, file)
        content = decode_file(path)
        _check_content(path, content, checksum)  # before unpickling: a pickle can run code
        batch = pickle.loads(content, encoding="bytes")
        parts.append((batch[b"data"].reshape(-1, *source.shape), np.array(batch[b"labels"], np.uint8)))
    return parts


def decode_file(path: Path) -> bytes:
    """Return the content of a file, unpacked if it is gzipped.

    Raises:
        DataError: the file cannot be read or unpacked.
    """
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, f"expected a whole gzip file, found a damaged one ({error})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _check_content(path: Path, content: bytes, checksum: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != checksum:
        raise _damaged(path, f"expected the published content (SHA-256 {checksum[:12]}…), found {found[:12]}…")


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(f"{path}: {reason}; put a good copy in its place, or move the folder away to look elsewhere")
