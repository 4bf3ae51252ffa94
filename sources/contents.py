"""What files hold, whatever they are called: plain or gzipped, in archives, as NumPy arrays.

with open("mnist.npz", "rb") as file:
    for content in read_contents(file, sizes):      # every content that has one of the sizes, in bytes
        print(hashlib.sha256(content).hexdigest())

Nothing is written and no code in a file is run. What is declared to be larger than anything that can fit is not read.
"""

import contextlib
import errno
import gzip
import hashlib
import io
import math
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from sources.catalogue import LOOKALIKES, SOURCES

MOST_BYTES = 2**29  # bytes of an archive, packed and unpacked
DENSEST = 20  # a gzip file has at least this part of its content's bytes; published files have a third to a tenth
BLOCK = 512  # bytes; tar files consist of such blocks
LAYERS = 3  # a gzip file in a tar file in a gzip file
GZIP, ZIP, NUMPY, TAR = b"\x1f\x8b", b"PK\3\4", b"\x93NUMPY", b"ustar"
BOUNDED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the compressions that zipfile reads with bounded memory

Bytes = NDArray[np.uint8]


def may_hold(path: Path, size: int, sizes: Collection[int]) -> bool:
    """Tell from a file's size, its first and its last bytes whether it may hold a content of one of the sizes."""
    if size in sizes:
        return True
    if not min(sizes) / DENSEST <= size <= MOST_BYTES:
        return False
    with contextlib.suppress(OSError), open(path, "rb") as file:
        head = file.read(BLOCK)
        if not head.startswith(GZIP):
            return head.startswith((ZIP, NUMPY)) or _is_tar(head)
        file.seek(-4, io.SEEK_END)
        unpacked = int.from_bytes(file.read(), "little")  # modulo 2**32, which excludes larger files alone
        return unpacked in sizes or (unpacked % BLOCK == 0 and unpacked > min(sizes))
    return False


def read_contents(file: Any, sizes: Collection[int], layers: int = LAYERS) -> Iterator[bytes]:
    """Yield each content that has one of the sizes: the file itself, unpacked, or the members of an archive.

    A NumPy array is turned into the file in the format IDX that holds the same images or labels. Damaged members of an
    archive, and arrays of other things, are passed over.

    Args:
        file: open in binary mode, such as a `GzipFile`, which is no `IO` for type checkers.
        sizes: in bytes.
        layers: the number of archives that may lie in each other.

    Raises:
        Exception: the file is damaged; tarfile, zipfile, zlib and numpy raise errors of many kinds.
    """
    head = file.read(BLOCK)
    file.seek(0)
    is_archive = head.startswith((GZIP, ZIP)) or _is_tar(head)
    if is_archive and not layers:
        return
    if head.startswith(GZIP):
        with gzip.GzipFile(fileobj=file) as unpacked:
            yield from read_contents(unpacked, sizes, layers - 1)
    elif head.startswith(ZIP):
        with zipfile.ZipFile(file) as archive:
            for name in list_members(archive, min(sizes)):
                with passing_over_damage(), archive.open(name) as member:
                    yield from read_contents(member, sizes, layers - 1)
    elif _is_tar(head):
        with tarfile.open(fileobj=io.BytesIO(file.read(MOST_BYTES)), mode="r:") as tar:
            for each in tar:
                if each.isreg() and min(sizes) / DENSEST <= each.size <= MOST_BYTES:
                    with passing_over_damage():
                        yield from read_contents(tar.extractfile(each), sizes, layers - 1)
    elif head.startswith(NUMPY):
        shape, _ = read_header(file)
        if {math.prod(shape) + 8, math.prod(shape) + 16} & set(sizes):  # with the header of labels or of images
            content = encode_idx(arrange(read_array(file)))
            if len(content) in sizes:
                yield content
    else:
        content = file.read(max(sizes) + 1)
        if len(content) in sizes:
            yield content


@contextlib.contextmanager
def passing_over_damage() -> Iterator[None]:
    """Pass over a damaged file, which can raise anything.

    Raises:
        MemoryError: reading takes more memory than there is.
        OSError: the disk or the network fails, which is no property of the file.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # which damaged positions raise
            raise


def list_members(archive: zipfile.ZipFile, least: int = 0) -> list[str]:
    """List the members of a zip file that can be read with bounded memory and may have `least` bytes, unpacked.

    Raises:
        ValueError: the members declare too many bytes.
    """
    members = [
        each for each in archive.infolist() if each.compress_type in BOUNDED and each.file_size >= least / DENSEST
    ]
    if sum(each.file_size for each in members) > MOST_BYTES:
        raise ValueError(f"declares more than {MOST_BYTES:,} bytes")
    return [each.filename for each in members]


def _is_tar(head: bytes) -> bool:
    return head[257:262] == TAR


# ---------------------------------------------------------------------------------------------------------------------
# Arrays


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Read the shape and the type that a file in NumPy's format declares, and go back to its beginning.

    Raises:
        ValueError: the array holds Python objects, which could run code, or is too large.
    """
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, kind = read(file)
    file.seek(0)
    if kind.hasobject:
        raise ValueError("holds Python objects, expected numbers or text")
    if math.prod(shape) * kind.itemsize > MOST_BYTES:
        raise ValueError(f"declares more than {MOST_BYTES:,} bytes")
    return shape, kind


def read_array(file: IO[bytes]) -> NDArray[Any]:
    """Read an array from an open file in NumPy's format, without ever running code in it.

    Raises:
        ValueError: the array holds Python objects or is too large, or the file is damaged.
    """
    read_header(file)
    return np.lib.format.read_array(file, allow_pickle=False)


def arrange(array: NDArray[Any]) -> Bytes:
    """Arrange labels as uint8 (n,), and images as uint8 (n, channels, height, width).

    Raises:
        ValueError: the values are no whole numbers from 0 to 255, or the shape is of neither.
    """
    if array.size == 0:
        raise ValueError("is empty")
    if array.dtype.kind not in "ui" or not 0 <= array.min() <= array.max() <= 255:
        limits = f" from {array.min()} to {array.max()}" if array.dtype.kind in "ui" else ""
        is_share = array.dtype.kind == "f" and array.ndim > 2 and 0 <= array.min() <= array.max() <= 1
        way_out = '; multiply by 255: (x * 255).round().astype("uint8")' if is_share else ""
        raise ValueError(f"holds {array.dtype}{limits}, expected whole numbers from 0 to 255, as uint8{way_out}")
    array = array.astype(np.uint8)
    if array.ndim <= 2:
        if array.ndim == 2 and array.shape[1] != 1:
            expected = "(n, height, width) of images (reshape flat ones), (n,) of labels (y.argmax(1) of one-hot ones)"
            raise ValueError(f"has the shape {array.shape}, expected {expected}")
        return array.reshape(-1)
    if array.ndim == 3:
        return array[:, None]
    if array.ndim == 4 and array.shape[1] in (1, 3):
        return array
    if array.ndim == 4 and array.shape[3] in (1, 3):
        return np.ascontiguousarray(array.transpose(0, 3, 1, 2))
    expected = "(n, h, w), (n, h, w, c) or (n, c, h, w) with one channel c or three"
    raise ValueError(f"has the shape {array.shape}, expected {expected}")


def encode_idx(array: Bytes) -> bytes:
    """Encode images (n, channels, height, width) or labels (n,) in the format IDX: magic number, sizes, values.

    Grey images have no dimension for channels, as in MNIST's files.
    """
    sizes = array.shape if array.ndim == 1 or array.shape[1] > 1 else (len(array), *array.shape[2:])
    return np.array([0x800 + len(sizes), *sizes], ">u4").tobytes() + array.tobytes()


def decode_idx(content: bytes) -> Bytes:
    """Decode a whole file in the format IDX into an array of the shape that it states."""
    dimensions = content[3]
    sizes = np.frombuffer(content, ">u4", dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(sizes.tolist())


# ---------------------------------------------------------------------------------------------------------------------
# What a file is instead


def name_known(checksums: Collection[str]) -> list[str]:
    """Name the parts of published data sets that have these SHA-256."""
    known = {content: f"{part} of {name}" for name, each in SOURCES.items() for content, part in each.parts.items()}
    return [known[checksum] for checksum in checksums if checksum in known]


def describe(path: Path, checksums: Collection[str] = ()) -> str:
    """Say in a few words what a file is that holds nothing of what its name promises.

    Args:
        checksums: the SHA-256 of the contents that could be read.
    """
    if names := name_known(checksums):
        return f"holds {', '.join(names)}"
    try:
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES)
        if name := LOOKALIKES.get(hashlib.sha256(content).hexdigest()):
            return f"is a file of {name}"
        if content.startswith(GZIP):
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as unpacked:
                content = unpacked.read(MOST_BYTES)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        return f"is a gzip file that is cut off or damaged ({error})"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if not content:
        return "is empty"
    start = content[:BLOCK].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page, not data"
    dimensions = content[3] if len(content) > 4 and content[:3] == b"\0\0\x08" else 0
    if dimensions in (1, 3) and len(content) >= 4 + 4 * dimensions:
        count, *pixels = (int(size) for size in np.frombuffer(content, ">u4", dimensions, offset=4))
        what = f"{count:,} images of {pixels[0]}×{pixels[1]} pixels" if pixels else f"{count:,} labels"
        whole = 4 + 4 * dimensions + count * math.prod(pixels)
        if len(content) < whole:
            return f"is cut off: {len(content):,} of {whole:,} bytes with {what}"
        return f"holds {what}, but not the published ones"
    if content.startswith((ZIP, NUMPY)) or _is_tar(content[:BLOCK]):
        return "is an archive without the published content, or damaged"
    return f"holds {len(content):,} bytes that were never published"
