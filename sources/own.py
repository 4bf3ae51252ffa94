"""A data set of one's own: an .npz file with images and labels, found by its name or by its content.

own = find_own("cells.npz", "data")
own.source.shape, own.source.classes        # (3, 32, 32), ("round", "long", "flat")

    np.savez_compressed("cells.npz", x_train=x, y_train=y, x_test=x2, y_test=y2, classes=["round", "long", "flat"])
"""

import hashlib
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sources.catalogue import SOURCES, Source
from sources.contents import Bytes, arrange, encode_idx, list_members, read_array
from sources.finding import DataError, DataNotFound, check_folder, walk

NAMES = ("x_train", "y_train", "x_test", "y_test")
SIZES, CHANNELS = (28, 32), (1, 3)  # the possible width and height of images, and the possible numbers of channels
FEWEST, MOST = 2, 100  # classes
OF_CLASS = {"train": 6, "test": 1}  # the fewest images of a class; one in six train images is for validation
LONGEST = 30  # characters of a class's name
MARKUP = "$\\"  # matplotlib and LaTeX would read these as mathematics


@dataclass(frozen=True)
class Own:
    """A data set of one's own, read and checked."""

    source: Source
    arrays: tuple[Bytes, ...]  # train images, train labels, test images and test labels, as of a published data set
    found_in: str
    checksum: str  # SHA-256 over the checksums of the arrays as files in the format IDX
    passed_over: tuple[str, ...] = ()


def describe_source(name: str, data_dir: Path | str) -> Source:
    """Describe a data set; only one of one's own has to be found and read for that.

    Raises:
        DataError: a data set of one's own is not found, or cannot be trained on.
    """
    return SOURCES[name] if name in SOURCES else find_own(name, data_dir).source


def find_own(name: str, data_dir: Path | str, checksum: str | None = None) -> Own:
    """Find and read a data set of one's own in or below the data dir.

    Args:
        checksum: of the content that is looked for, under any name; None: the first file with this name that can be
            trained on.

    Raises:
        DataNotFound: there is no such file.
        DataError: it cannot be trained on.
    """
    check_folder(Path(data_dir))
    problems: list[str] = []
    for path in _list_candidates(name, Path(data_dir), bool(checksum)):
        try:
            own = read_own(path)
            if checksum in (None, own.checksum):
                return replace(own, passed_over=tuple(problems))
            why = f"{path} holds other images (SHA-256 {own.checksum[:12]}…)"
        except DataError as error:
            why = str(error)
        if path.name == name:
            problems.append(why)
    if problems and checksum is None:
        raise DataError("; ".join(problems))
    wanted = f"{name}, whose content has the SHA-256 {checksum[:12]}…," if checksum else name
    found = "; ".join([f"{wanted} is not in or below {data_dir}", *problems])
    raise DataNotFound(f"{found}; name the folder that holds {name} with --data-dir")


def _list_candidates(name: str, data_dir: Path, any_name: bool) -> Iterator[Path]:
    """List the files to read, the likely ones first, so that a large folder is walked only if it has to be."""
    if (first := data_dir / name).is_file():
        yield first
    paths = [path for path in walk(data_dir) if path.suffix == ".npz" and (any_name or path.name == name)]
    yield from sorted((path for path in paths if path != first), key=lambda path: path.name != name)


def read_own(path: Path) -> Own:
    """Read and check a data set of one's own; the last one is kept in memory until its file changes.

    Raises:
        DataError: it cannot be trained on; the message says why.
    """
    try:
        status = path.stat()
        return _read(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise DataError(f"{path}: {' '.join(str(error).split())}") from None
    except Exception as error:  # a damaged archive can make zipfile, zlib and numpy raise anything
        says = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: expected an archive made by numpy.savez_compressed ({says})") from None


@lru_cache(maxsize=1)
def _read(path: Path, *_: int) -> Own:
    arrays, others = _read_arrays(path)
    if missing := [name for name in NAMES if name not in arrays]:
        held = f"; it holds {', '.join(others)}" if others else ""
        raise ValueError(f"lacks {', '.join(missing)}; expected the arrays {', '.join(NAMES)}{held}")
    found: dict[str, Bytes] = {}
    for name in NAMES:
        try:
            found[name] = arrange(arrays[name])
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None
        if (found[name].ndim == 4) != name.startswith("x"):
            raise ValueError(f"{name} has the shape {arrays[name].shape}; x_ are images, y_ their labels")
    train, labels, test, test_labels = found.values()
    for part, images, of_images in (("train", train, labels), ("test", test, test_labels)):
        if len(images) != len(of_images):
            raise ValueError(f"{len(images):,} images in x_{part}, but {len(of_images):,} labels in y_{part}")
    count = 1 + int(max(labels.max(), test_labels.max()))
    names = arrays.get("classes", np.array([str(number) for number in range(count)]))
    if names.dtype.kind != "U" or names.ndim != 1:
        raise ValueError(f"classes holds {names.dtype} {names.shape}, expected a list of names, as text")
    _, channels, height, width = train.shape
    classes = tuple(map(str, names))
    check_images((channels, height, width), classes)
    if test.shape[1:] != train.shape[1:]:
        raise ValueError(f"train images have the shape {train.shape[1:]}, test images {test.shape[1:]}")
    for part, images in (("train", train), ("test", test)):
        if images.max() <= 1:
            raise ValueError(f"x_{part} has no value above 1, so all images are black; scale its values to 0 to 255")
    _check_labels(len(classes), train=labels, test=test_labels)
    source = Source(path.parent, {}, (), classes, (channels, height, width), len(labels) // OF_CLASS["train"])
    checksums = "".join(hashlib.sha256(encode_idx(array)).hexdigest() for array in found.values())
    return Own(source, tuple(found.values()), str(path), hashlib.sha256(checksums.encode()).hexdigest())


def _read_arrays(path: Path) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Read the arrays of a data set; also return the names of other arrays, which are not read."""
    arrays, others = {}, []
    with zipfile.ZipFile(path) as archive:
        for member in list_members(archive):
            name = member.removesuffix(".npy")
            if name in (*NAMES, "classes"):
                with archive.open(member) as file:
                    try:
                        arrays[name] = read_array(file)
                    except ValueError as error:
                        raise ValueError(f"{name} {error}") from None
            else:
                others.append(name)
    return arrays, others


def check_images(shape: Sequence[int], classes: Sequence[str]) -> None:
    """Check that networks can be built for images of a shape, and that their classes can be shown.

    Raises:
        ValueError: they cannot; the message says what was expected.
    """
    if len(shape) != 3 or shape[0] not in CHANNELS or shape[1] != shape[2] or shape[1] not in SIZES:
        found = "×".join(map(str, shape[1:]))
        raise ValueError(f"images of {found} pixels, expected 28×28 or 32×32 in gray or in three colors")
    if not FEWEST <= len(classes) <= MOST:
        raise ValueError(f"the number of classes is {len(classes)}, expected {FEWEST} to {MOST}")
    for name in classes:
        is_shown = 1 <= len(name) <= LONGEST and name.isprintable() and set(MARKUP).isdisjoint(name)
        if not is_shown or classes.count(name) > 1:
            expected = f"each once, of up to {LONGEST} printable characters without {' and '.join(MARKUP)}"
            raise ValueError(f"classes has the name {name[:40]!r}, expected names, {expected}")


def _check_labels(count: int, **labels: Bytes) -> None:
    """Check that labels are those of `count` classes, and that each class has enough images."""
    for part, of_images in labels.items():
        if of_images.max() >= count:
            raise ValueError(f"y_{part} has the label {of_images.max()}, expected 0 to {count - 1}")
        counts = np.bincount(of_images, minlength=count)
        if counts.min() < OF_CLASS[part]:
            found = f"class {counts.argmin()} has {counts.min()} {part} images, expected at least {OF_CLASS[part]}"
            raise ValueError(f"{found}; the classes are numbered from 0 on")
