"""Find a data set on this machine by what its files hold, not by what they are called.

found = find("mnist", "data")
images, labels, test_images, test_labels = found.arrays     # unless found.missing

Files whose size fits are decoded, and the SHA-256 of what they hold says what it is. torchvision's folders are looked
at first, so that a data set in its usual place needs no search.
"""

import contextlib
import hashlib
import itertools
import json
import os
import pickle
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np

from experiments import UserError
from sources.catalogue import SOURCES, Source
from sources.contents import (
    Bytes,
    decode_idx,
    describe,
    may_hold,
    name_known,
    passing_over_damage,
    read_contents,
)

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # package dataset-fashion-mnist
LEVELS = 6  # folders in each other that are searched
MOST_FILES = 200_000  # that are looked at
TABLE = re.compile(r"(mnist|cifar).*(train|test).*\.csv$", re.IGNORECASE)  # as people pass the images on, too


class DataError(UserError):
    """A data set that cannot be used, for example because a file is damaged."""


class DataNotFound(DataError):
    """A data set that is not on this machine and cannot be downloaded."""


@dataclass
class Found:
    """The files of a data set that were found, and what was looked at."""

    name: str
    parts: dict[str, tuple[Bytes, ...]] = field(default_factory=dict)  # {name of a file: its arrays}
    places: dict[str, Path] = field(default_factory=dict)  # {name of a file: what it was found in}
    has_folder: bool = True  # whether the data dir was there
    looked_at: set[Path] = field(default_factory=set)
    passed_over: list[str] = field(default_factory=list)  # a line for each file that is not what its name says
    others: list[str] = field(default_factory=list)  # those of these lines that are no sign of a damaged data set

    @cached_property
    def source(self) -> Source:
        """The description of the data set."""
        return SOURCES[self.name]

    @cached_property
    def sizes(self) -> set[int]:
        """The sizes of all published files, so that what a file holds is found out once for all data sets."""
        return {size for each in SOURCES.values() if each is self.source or not each.is_sample for size in each.sizes}

    @property
    def has_traces(self) -> bool:
        """Whether a part was found, or a file that may be a damaged one."""
        return bool(self.parts) or len(self.passed_over) > len(self.others)

    @property
    def missing(self) -> list[str]:
        """The names of the files that were not found."""
        return [file for file in self.source.files if file not in self.parts]

    @property
    def found_in(self) -> str:
        """The folder or archive that holds the files; if there are several, all of them."""
        held = list(self.places.values())
        return " and ".join(sorted({str(path if held.count(path) > 1 else path.parent) for path in held}))

    @property
    def checksum(self) -> str:
        """SHA-256 over the checksums of the files as they were published, whatever form they were found in."""
        return hashlib.sha256("".join(self.source.files.values()).encode()).hexdigest()

    @property
    def arrays(self) -> tuple[Bytes, ...]:
        """Train images, train labels, test images and test labels; the test arrays may be empty.

        Images are uint8 (n, channels, height, width), labels uint8 (n,).
        """
        flat = [array for file in self.source.files for array in self.parts[file]]
        *train, test = zip(flat[0::2], flat[1::2], strict=True)
        if self.source.test:
            train, test = [test], (test[0][:0], test[1][:0])
        images, labels = (np.concatenate(parts) if len(train) > 1 else parts[0] for parts in zip(*train, strict=True))
        return images, labels, *test

    def explain(self, data_dir: Path) -> str:
        """Say in one line what was looked at, found and passed over, and what is missing."""
        count = len(self.looked_at)
        files = "file" if count == 1 else "files"
        first = "the first " if count == MOST_FILES else ""
        parts = [f"looked at {first}{count:,} {files} in and below {data_dir}"]
        if not self.has_folder:
            parts = [f"there is no folder {data_dir}"]
        if self.parts:
            parts += [f"found {', '.join(self.parts)} in {self.found_in}", f"missing {', '.join(self.missing)}"]
        return "; ".join([*parts, *(line.replace(f"{data_dir}{os.sep}", "") for line in self.passed_over)])


def find(name: str, data_dir: Path | str) -> Found:
    """Find the files of a data set in and below the data dir; `missing` says which were not found.

    Raises:
        DataError: the data dir is not a folder or cannot be read, or an embedded sample is damaged.
    """
    found, memory = Found(name), Memory()
    roots = [found.source.folder if found.source.is_sample else Path(data_dir)]
    if name == "fashion_mnist":
        roots.append(DEBIAN_FASHION_MNIST)
    check_folder(roots[0])
    found.has_folder = roots[0].exists()
    usual = (
        folder / f"{file}{suffix}"
        for root in roots
        for folder in (root / found.source.folder, root)
        for file in found.source.files
        for suffix in ("", ".gz")
    )
    denied: list[str] = []
    for path in itertools.chain(usual, *(walk(root, denied) for root in roots)):
        if not found.missing or len(found.looked_at) == MOST_FILES:
            break
        look_into(path, found, memory)
    found.passed_over += denied
    found.others += denied
    memory.write()
    if found.missing and found.source.is_sample:
        raise DataError(f"{name}: {found.explain(roots[0])}; restore this embedded sample from the repository")
    return found


def check_folder(data_dir: Path) -> None:
    """Check that the data dir is a folder, or that there is none yet.

    Raises:
        DataError: the data dir is a file, or cannot be read.
    """
    try:
        if data_dir.exists() and not data_dir.is_dir():
            raise DataError(f"--data-dir {data_dir}: is a file, expected the folder that holds the data sets")
        if data_dir.exists():
            os.scandir(data_dir).close()
    except OSError as error:
        raise DataError(f"--data-dir {data_dir}: cannot be read ({error.strerror}); name another folder") from None


def walk(root: Path, denied: list[str] | None = None) -> Iterator[Path]:
    """Yield the files in a folder, then those in its folders, and so on; hidden files are never data.

    Args:
        denied: takes a line for each folder that must not be read.
    """
    folders, seen = [root], set()
    for _ in range(LEVELS):
        below = []
        for folder in folders:
            try:
                status = folder.stat()
                if (status.st_dev, status.st_ino) in seen:  # links can make a circle
                    continue
                seen.add((status.st_dev, status.st_ino))
                for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
                    if entry.name.startswith(".") or entry.name == "__MACOSX":
                        continue
                    if os.path.isdir(entry.path):
                        below.append(Path(entry.path))
                    else:
                        yield Path(entry.path)
            except OSError as error:  # a folder that is gone, or that only others may read
                if isinstance(error, PermissionError) and denied is not None:
                    denied.append(f"{folder} cannot be read ({error.strerror})")
        folders = below


def look_into(path: Path, found: Found, memory: "Memory") -> None:
    """Keep what a file holds of a data set; note a file that is not what its name says."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return
    if not stat.S_ISREG(status.st_mode) or path in found.looked_at:
        return
    found.looked_at.add(path)
    if TABLE.search(path.name):
        found.passed_over.append(f"{path} is a table, which is not read")
        found.others.append(found.passed_over[-1])  # perhaps another program's log
        return
    parts, is_named = found.source.parts, is_named_after(path, found.source)
    checksums = memory.recall(path, status)
    if is_named or checksums is None or not parts.keys().isdisjoint(checksums):
        if not is_named and not may_hold(path, status.st_size, found.sizes):
            return
        checksums = []
        try:
            with open(path, "rb") as file:
                checksums = keep_contents(file, found, path)
        except (OSError, MemoryError) as error:  # which may be gone the next time
            found.passed_over.append(f"{path} cannot be read ({getattr(error, 'strerror', 'out of memory')})")
            if not is_named:
                found.others.append(found.passed_over[-1])
            return
        memory.remember(path, status, checksums)
    if is_named and parts.keys().isdisjoint(checksums):
        found.passed_over.append(f"{path} {describe(path, checksums)}")
        if name_known(checksums):
            found.others.append(found.passed_over[-1])


def keep_contents(file: BinaryIO, found: Found, path: Path) -> list[str]:
    """Decode what a file holds, keep the arrays that were missing, and return the SHA-256 of all that it holds."""
    checksums = []
    with passing_over_damage():
        for content in read_contents(file, found.sizes):
            checksums.append(hashlib.sha256(content).hexdigest())
            part = found.source.parts.get(checksums[-1])
            if part in found.missing:
                found.parts[part] = decode(content, checksums[-1], found.source)
                found.places[part] = path
    return checksums


def is_named_after(path: Path, source: Source) -> bool:
    """Tell whether a file is called like one of a data set, with other punctuation and endings, or like all of it."""

    def squeeze(name: str) -> str:
        return re.sub(r"[\W_]", "", name.lower())

    name = squeeze(path.name)
    return name.startswith(tuple(map(squeeze, source.files))) or name in map(squeeze, source.archives)


def decode(content: bytes, checksum: str, source: Source) -> tuple[Bytes, ...]:
    """Decode a published file into one array or, for a batch of CIFAR-10, into images and labels.

    The caller has compared the checksum with the content. A pickle could run code, and this one is the published one.
    """
    if checksum in source.binary.values():
        records = np.frombuffer(content, np.uint8).reshape(-1, 1 + np.prod(source.shape))
        return records[:, 1:].reshape(-1, *source.shape), records[:, 0]
    if content.startswith(b"\0\0"):
        array = decode_idx(content)
        return (array if array.ndim == 1 else array.reshape(-1, *source.shape),)
    batch = pickle.loads(content, encoding="bytes")
    return batch[b"data"].reshape(-1, *source.shape), np.array(batch[b"labels"], np.uint8)


# ---------------------------------------------------------------------------------------------------------------------
# What was found out before


def find_cache() -> Path:
    """Return the user's cache folder for this toolkit, which may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "regularization-toolkit")


class Memory:
    """What files hold, {path: [size, time of change, checksums]}, kept in the user's cache folder.

    It only says where not to look again: whatever is used is decoded and verified each time.
    """

    def __init__(self) -> None:
        self.path, self.is_new = find_cache() / "data.json", False
        self.known: dict[str, list] = {}
        with contextlib.suppress(
            OSError, TypeError, ValueError, RecursionError
        ):  # missing or damaged: everything is looked at
            self.known = dict(json.loads(self.path.read_text(encoding="utf-8")))

    def recall(self, path: Path, status: os.stat_result) -> list[str] | None:
        """Return the checksums of what a file holds, or None if it was changed or never looked into."""
        match self.known.get(os.path.abspath(path)):
            case [status.st_size, status.st_mtime_ns, [*checksums]]:
                return list(map(str, checksums))
        return None

    def remember(self, path: Path, status: os.stat_result, checksums: list[str]) -> None:
        """Note the checksums of what a file holds."""
        entry = [status.st_size, status.st_mtime_ns, checksums]
        self.is_new |= self.known.get(os.path.abspath(path)) != entry
        self.known[os.path.abspath(path)] = entry

    def write(self) -> None:
        """Write what is new to the cache folder; without it, the next search takes as long as this one."""
        if not self.is_new:
            return
        content = json.dumps({path: entry for path, entry in self.known.items() if os.path.exists(path)})
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            workshop = self.path.with_name(f"{self.path.name}-{os.getpid()}")
            workshop.write_text(content, encoding="utf-8")
            workshop.replace(self.path)
