"""The files of an archive or a folder of unknown origin, by names that are safe and the same from every system.

with open_files(Path("submission.zip"), LIMITS) as contents:
    copy_file(contents.files["report/report.md"], target)

Nothing is unpacked but by `copy_file`. Names are first normalized, since programs write them in different ways, and
then judged: Windows PowerShell writes backslashes, macOS decomposes accents, tar begins with `./`.
"""

import contextlib
import errno
import gzip
import io
import os
import re
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from fnmatch import translate
from functools import partial
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from grading.untrusted import BoundedFile, Limits, SubmissionError, check_read
from sources.contents import BOUNDED, GZIP, TAR

# Files and folders that systems and tools keep for themselves, in lower case.
LITTER = (".*", "__macosx", "__pycache__", "venv", "node_modules", "thumbs.db", "ehthumbs.db", "desktop.ini")
LITTER_NAME = re.compile("|".join(map(translate, LITTER)))
LONGEST_MEMBER = 1000  # bytes of a path; a name in it may have 255
DEEPEST = 50  # names in a path
LARGEST_HEADER = 2**18  # bytes that a tar archive's reader may ask for; it holds hundreds of headers at once
CHUNK = 2**16  # bytes that are copied at once; Windows would ask for more than `LARGEST_HEADER`
ENCRYPTED = 1  # bit of a zip member's flags
# Besides its own error, zipfile raises RuntimeError for a password or an unknown compression, and OverflowError for a
# place that no file has.
DAMAGE = (EOFError, OverflowError, RuntimeError, ValueError, struct.error, tarfile.TarError, zlib.error)


class Entry(NamedTuple):
    """A file in an archive or a folder, of which nothing is read yet."""

    size: int  # bytes, unpacked
    open: Callable[[], IO[bytes] | None] | None  # None: a link or a device, which is never followed


class Contents(NamedTuple):
    """The files of an archive or a folder, and what in it is nobody's work."""

    files: dict[str, Entry]  # {normalized path: file}
    ignored: set[str]  # files and folders that systems and tools keep


@contextlib.contextmanager
def open_files(path: Path, limits: Limits) -> Iterator[Contents]:
    """Open a zip, tar or tar.gz archive or a folder, and list its files.

    Raises:
        SubmissionError: it is neither, is damaged, exceeds the limits, or has a path outside its folder or one twice.
        OSError: this machine cannot read it.
    """
    with contextlib.ExitStack() as stack:
        if path.is_file() and path.stat().st_size == 0:
            raise SubmissionError(f"{path.name}: an empty file, expected an archive")
        with blaming(f"{path.name}: cut off, or not a zip, tar or tar.gz archive"):
            if path.is_dir():
                entries = _list_folder(path)
            elif _begins_with(path, GZIP):
                entries = _list_tar(stack.enter_context(tarfile.open(fileobj=_Gzip(path), mode="r:")), limits)
            elif _begins_with(path, TAR, at=257):  # before zip: one at its end would be taken for the whole
                plain = stack.enter_context(_Tar(path))
                entries = _list_tar(stack.enter_context(tarfile.open(fileobj=plain, mode="r:")), limits)
            else:
                file = stack.enter_context(BoundedFile(path))
                entries = _list_zip(stack.enter_context(zipfile.ZipFile(file)))
            contents = _sort(entries, limits)
        yield contents


@contextlib.contextmanager
def blaming(says: str) -> Iterator[None]:
    """Turn an error that damage in an archive causes into a `SubmissionError`; errors of this machine pass.

    Raises:
        SubmissionError: the archive is damaged.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # such as a full disk; seeking to a damaged place is EINVAL
            raise
        raise SubmissionError(f"{says} ({error})") from None
    except (*DAMAGE, zipfile.BadZipFile) as error:
        raise SubmissionError(f"{says} ({error})") from None


def copy_file(entry: Entry, target: Path) -> None:
    """Write a file's content to a target; the folders above it are made.

    Raises:
        SubmissionError: the file is a link, or damaged.
        OSError: this machine cannot write it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with blaming("damaged in the archive"):
        source = entry.open() if entry.open else None
        if source is None:
            raise SubmissionError("a link, expected a file")
        with source, open(target, "wb") as file:
            shutil.copyfileobj(source, file, CHUNK)  # never more than the entry's size


# ---------------------------------------------------------------------------------------------------------------------
# Names


def _sort(entries: Iterable[tuple[str, Entry]], limits: Limits) -> Contents:
    contents, spellings = Contents({}, set()), set()
    for given, entry in entries:
        name = normalize_name(given)
        if litter := find_litter(name):
            contents.ignored.add(litter)
            continue
        spelling = unicodedata.normalize("NFC", name.casefold())
        if spelling in spellings:
            raise SubmissionError(f"{given!r} is in it twice, perhaps with capitals or accents in another form")
        spellings.add(spelling)
        contents.files[name] = entry
        if len(spellings) > limits.files:
            raise SubmissionError(f"holds more than {limits.files:,} files")
    in_order = sorted(contents.files, key=lambda name: name.split("/"))  # a folder's files right after its name
    for name, following in pairwise(in_order):
        if following.startswith(f"{name}/"):
            raise SubmissionError(f"{name!r} is in it twice, as a file and as a folder")
    return contents


def normalize_name(name: str) -> str:
    r"""Return the path of a file with slashes, composed accents and without `./`.

    Raises:
        SubmissionError: the path leads outside the folder, as `..\x`, `C:\x` and `/x` do, or is too long.
    """
    too_long = f"{name[:40]!r}… is too long a name for a file"
    if len(name) > LONGEST_MEMBER:  # before it is normalized, whose time grows with the square of its accents
        raise SubmissionError(too_long)
    normalized = unicodedata.normalize("NFC", name.replace("\\", "/"))
    parts = PurePosixPath(normalized).parts
    if not parts or ".." in parts or "\0" in name or re.match("/|[A-Za-z]:", normalized):
        raise SubmissionError(f"{name!r} could be unpacked outside its folder")
    if max(len(os.fsencode(part)) for part in parts) > 255 or len(os.fsencode(normalized)) > LONGEST_MEMBER:
        raise SubmissionError(too_long)
    if len(parts) > DEEPEST:
        raise SubmissionError(f"{name[:40]!r}… is in more than {DEEPEST} folders")
    return "/".join(parts)


def find_litter(name: str) -> str | None:
    """Return the file or folder in a path that a system or a tool, not a person, made; None if there is none."""
    parts = PurePosixPath(name).parts
    for number, part in enumerate(parts, 1):
        if LITTER_NAME.match(part.casefold()):
            return "/".join(parts[:number])
    return None


# ---------------------------------------------------------------------------------------------------------------------
# Formats. Folders are left out: the paths of files name those that matter.


def _list_zip(archive: zipfile.ZipFile) -> Iterator[tuple[str, Entry]]:
    for member in archive.infolist():
        name = member.filename
        if member.flag_bits & ENCRYPTED:
            raise SubmissionError("needs a password; it has to be packed without one")
        if member.compress_type not in BOUNDED:
            raise SubmissionError(f"{name[:40]!r} is compressed by a method other than deflate; pack a usual zip file")
        if not member.flag_bits & 0x800:  # it does not say that its name is UTF-8, but the name may be nevertheless
            with contextlib.suppress(UnicodeError):
                name = name.encode("cp437").decode()
        if not name.endswith(("/", "\\")):
            is_link = stat.S_ISLNK(member.external_attr >> 16)
            yield name, Entry(member.file_size, None if is_link else partial(archive.open, member))


def _list_tar(archive: tarfile.TarFile, limits: Limits) -> Iterator[tuple[str, Entry]]:
    unpacked = 0
    for number, member in enumerate(archive, 1):
        if member.size < 0:  # or the next member would be the same again
            raise SubmissionError(f"{member.name[:40]!r} has a size below 0")
        unpacked += member.size
        if number > limits.files or unpacked > limits.bytes:  # before it is decompressed to find the next
            raise SubmissionError(f"holds more than {limits.files:,} files or {limits.bytes:,} bytes")
        if not member.isdir():
            yield member.name, Entry(member.size, partial(archive.extractfile, member) if member.isreg() else None)


class _Tar(BoundedFile):
    """A tar file; tarfile holds each header of a member until it has read the next."""

    most = LARGEST_HEADER


class _Gzip(gzip.GzipFile):
    """The same in a gzip file."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(check_read(-1 if size is None else size, LARGEST_HEADER))


def _list_folder(folder: Path) -> Iterator[tuple[str, Entry]]:
    def fail(error: OSError) -> None:
        raise error

    for above, folders, files in os.walk(folder, onerror=fail):
        for name in [*folders, *files]:
            path = Path(above, name)
            relative, status = path.relative_to(folder).as_posix(), path.lstat()
            if stat.S_ISREG(status.st_mode):
                yield relative, Entry(status.st_size, partial(io.FileIO, path))
            elif not stat.S_ISDIR(status.st_mode) or find_litter(name):
                yield relative, Entry(0, None)
        folders[:] = [name for name in folders if not find_litter(name)]


def _begins_with(path: Path, signature: bytes, at: int = 0) -> bool:
    with open(path, "rb") as file:
        file.seek(at)
        return file.read(len(signature)) == signature
