"""Find a data set on this machine, verify it by its content, and read it.

folder = find("mnist", "data")
images, labels, test_images, test_labels = read(SOURCES["mnist"], folder)
"""

import gzip
import hashlib
import math
import pickle
import zlib
from pathlib import Path

import numpy as np

from sources.catalogue import SOURCES

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # package dataset-fashion-mnist


class DataError(Exception):
    """The data cannot be used as it is; the message is one line and says what to do."""


class DataNotFound(DataError):
    """The data set is neither on this machine nor to be had from the network."""


def find(name, data_dir):
    """The folder that holds all files of a data set, raw or gzipped, or None if there is no trace of it."""
    source = SOURCES[name]
    if source.is_sample:
        folders = [Path(source.folder)]
    else:
        data_dir = Path(data_dir)
        try:
            is_file = data_dir.exists() and not data_dir.is_dir()
        except OSError as error:
            raise DataError(f"--data-dir {data_dir}: cannot be read ({error.strerror}); name another folder") from None
        if is_file:
            raise DataError(f"--data-dir {data_dir}: is a file, expected the folder that holds {source.folder}")
        folders = [data_dir / source.folder] + [DEBIAN_FASHION_MNIST] * (name == "fashion_mnist")
    for folder in folders:
        missing = [file for file in source.files if stored_as(folder, file) is None]
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


def stored_as(folder, file):
    """The path of a file, raw or gzipped, or None."""
    return next((path for path in (folder / file, folder / f"{file}.gz") if path.is_file()), None)


# ---------------------------------------------------------------------------------------------------------------------
# Reading and verifying


def read(source, folder):
    """Train images, train labels, test images, test labels as numpy arrays; the test's are None if there are none.

    Images are uint8 (n, channels, height, width), labels uint8 (n,).

    Raises:
        DataError: a file is not what was published; the message names the file, what was expected and what to do.
    """
    read_pair = _read_cifar if source.torchvision_class == "CIFAR10" else _read_idx
    parts = read_pair(source, Path(folder))
    if source.test:
        return *parts[0], None, None
    *train, (test_images, test_labels) = parts
    images, labels = (np.concatenate(arrays) if len(train) > 1 else arrays[0] for arrays in zip(*train, strict=True))
    return images, labels, test_images, test_labels


def _read_idx(source, folder):
    arrays = [_idx_array(source, folder, file) for file in source.files]
    return list(zip(arrays[0::2], arrays[1::2], strict=True))


def _idx_array(source, folder, file):
    """One file of the IDX format (big-endian header: magic, sizes; then bytes)."""
    path = stored_as(folder, file)
    content = decoded(path)
    is_images = "images" in file
    what, magic, header = ("images", 2051, 16) if is_images else ("labels", 2049, 8)
    found = int.from_bytes(content[:4], "big")
    if found != magic:
        other = {2051: ", which is a file of images", 2049: ", which is a file of labels"}.get(found, "")
        raise _damaged(path, f"expected IDX {what} (magic number {magic}), found magic number {found}{other}")
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


def _read_cifar(source, folder):
    parts = []
    for file, checksum in source.files.items():
        path = stored_as(folder, file)
        content = decoded(path)
        _check_content(path, content, checksum)  # before unpickling: a pickle can run code
        batch = pickle.loads(content, encoding="bytes")
        parts.append((batch[b"data"].reshape(-1, *source.shape), np.array(batch[b"labels"], np.uint8)))
    return parts


def decoded(path):
    """The content of a file, unpacked if it is gzipped."""
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, f"expected a whole gzip file, found a damaged one ({error})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _check_content(path, content, checksum):
    found = hashlib.sha256(content).hexdigest()
    if found != checksum:
        raise _damaged(path, f"expected the published content (SHA-256 {checksum[:12]}…), found {found[:12]}…")


def _damaged(path, reason):
    return DataError(f"{path}: {reason}; put a good copy in its place, or move the folder away to look elsewhere")
