"""Archives and folders that would do harm, or that no machine could unpack, are refused in a line."""

import errno
import gzip
import io
import os
import stat
import struct
import tarfile
import tracemalloc
import zipfile
from dataclasses import replace

import pytest
from helpers import find_failures, refresh

from grading import archives, submission, untrusted
from grading.archives import copy_file, find_litter, normalize_name, open_files
from grading.submission import GradeOptions, read_submission
from grading.untrusted import LIMITS, SubmissionError

OUTSIDE = [
    *("../escaped", "/escaped", "a/../../escaped", "C:escaped", "C:\\escaped", "c:/escaped", "..\\..\\escaped"),
    *("a\\..\\..\\escaped", "\\escaped", "..", "./.."),
]


def pack_members(path, members):
    """Write a zip or a tar.gz archive of (name, content)."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members:
                archive.writestr(name, content)
    else:
        with tarfile.open(path, "w:gz") as archive:
            for name, content in members:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


def list_files(path, limits=LIMITS):
    with open_files(path, limits) as contents:
        return sorted(contents.files)


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
@pytest.mark.parametrize("name", OUTSIDE)
def test_a_path_that_leads_outside_is_refused_and_nothing_is_unpacked(name, kind, tmp_path):
    path = pack_members(tmp_path / f"evil.{kind}", [("first", b"x"), (name, b"x")])
    (damage,) = read_submission(path, tmp_path / "workshop", GradeOptions()).damage
    assert f"{name!r} could be unpacked outside its folder" in damage
    assert damage.count("\n") == 0
    assert [each for each in tmp_path.rglob("*") if each.is_file()] == [path]


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
@pytest.mark.parametrize(
    ("first", "second"),
    [("a", "A"), ("runs/a", "runs\\a"), ("é", "e\u0301"), ("É", "é"), ("./a", "a"), ("a//b", "a/b"), ("ß", "SS")],
)
def test_two_names_that_are_one_on_another_system_are_refused(first, second, kind, tmp_path):
    path = pack_members(tmp_path / f"twice.{kind}", [(first, b"1"), (second, b"2")])
    with pytest.raises(SubmissionError, match="is in it twice"):
        list_files(path)
    assert "is in it twice" in find_failures(path)["archive"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_and_a_file_that_is_a_folder_too_are_refused(tmp_path):
    for members in ([("a", b"1"), ("a", b"2")], [("runs", b""), ("runs/a", b"")], [("a/b/c", b""), ("a\\b", b"")]):
        with pytest.raises(SubmissionError, match="is in it twice"):
            list_files(pack_members(tmp_path / "twice.zip", members))


def test_an_archive_with_a_password_is_refused_with_the_way_out(tmp_path):
    path = pack_members(tmp_path / "locked.zip", [("a", b"1")])
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1  # the flags in the list at the end
    path.write_bytes(content)
    with pytest.raises(SubmissionError, match=r"^needs a password; it has to be packed without one$"):
        list_files(path)


def test_a_name_that_no_disk_takes_is_refused(tmp_path):
    for name in ("é" * 200, "/".join(["a" * 100] * 20)):
        with pytest.raises(SubmissionError, match="is too long a name for a file"):
            list_files(pack_members(tmp_path / "long.zip", [(name, b"")]))


def test_a_name_of_very_many_accents_or_folders_is_refused_before_it_costs_time(tmp_path):
    with pytest.raises(SubmissionError, match="is too long a name for a file"):
        normalize_name("a" + "\u0301\u0323" * 10**6)
    with pytest.raises(SubmissionError, match="is in more than 50 folders"):
        list_files(pack_members(tmp_path / "deep.zip", [("a/" * 60 + "b", b"")]))


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_that_would_be_unpacked_without_bounds_is_refused(compression, tmp_path):
    with zipfile.ZipFile(tmp_path / "odd.zip", "w", compression) as archive:
        archive.writestr("first", bytes(10**6))
    with pytest.raises(SubmissionError, match="'first' is compressed by a method other than deflate"):
        list_files(tmp_path / "odd.zip")


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_a_tar_archive_that_would_be_listed_for_ever_is_refused(kind, tmp_path):
    first, second = tarfile.TarInfo("first"), tarfile.TarInfo("second")
    first.size = 512
    second.size = -first.size - 1024  # after it comes, again, the second
    content = first.tobuf(tarfile.GNU_FORMAT) + bytes(first.size) + second.tobuf(tarfile.GNU_FORMAT) + bytes(1024)
    (tmp_path / f"odd.{kind}").write_bytes(gzip.compress(content) if kind == "tar.gz" else content)
    with pytest.raises(SubmissionError, match="'second' has a size below 0"):
        list_files(tmp_path / f"odd.{kind}")


def test_an_archive_whose_list_of_files_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(untrusted.BoundedFile, "most", 10_000)
    few = pack_members(tmp_path / "few.zip", [(f"{number:0100}", b"") for number in range(20)])
    assert len(list_files(few)) == 20
    with pytest.raises(SubmissionError, match=r"cut off, or not a zip, .* \(a header of "):
        list_files(pack_members(tmp_path / "many.zip", [(f"{number:0100}", b"") for number in range(200)]))


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_long_names_are_read_and_a_chain_of_very_long_ones_fills_no_memory(kind, tmp_path):
    path = tmp_path / f"names.{kind}"
    mode = "w:gz" if kind == "tar.gz" else "w"
    long = "/".join(["a" * 90] * 10)
    with tarfile.open(path, mode, format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo(long))
    with tarfile.open(tmp_path / "pax.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo(long)
        member.pax_headers = {"LIBARCHIVE.xattr.com.apple.macl": "x" * 100_000}
        archive.addfile(member)
    assert list_files(path) == list_files(tmp_path / "pax.tar") == [long]
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2**20
    chain = (header.tobuf(tarfile.GNU_FORMAT) + bytes(header.size)) * 50
    path.write_bytes(gzip.compress(chain, 1) if kind == "tar.gz" else chain)
    del chain
    tracemalloc.start()
    with pytest.raises(SubmissionError, match=r"cut off, or not a zip, .* \(a header of 1048576 bytes\)"):
        list_files(path)
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()


def test_names_are_the_same_from_every_system():
    assert normalize_name("runs\\single\\a") == normalize_name("./runs//single/a") == "runs/single/a"
    assert normalize_name("gro\u0308\u00dfe") == "gr\u00f6\u00dfe"


@pytest.mark.parametrize(
    ("name", "litter"),
    [
        ("__MACOSX/report/._a", "__MACOSX"),
        ("report/._a", "report/._a"),
        ("runs/THUMBS.DB", "runs/THUMBS.DB"),
        ("a/.git/HEAD", "a/.git"),
        ("code/__pycache__/a.pyc", "code/__pycache__"),
        ("essay.pdf", None),
        ("runs/a.b/c", None),
        ("venv.txt", None),
    ],
)
def test_what_systems_and_tools_keep_is_told_from_work(name, litter):
    assert find_litter(name) == litter


def test_a_link_is_refused_where_the_manifest_lists_it_and_is_never_followed(tmp_path, unpacked):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "essay.pdf").write_text("")
    (unpacked / "more").symlink_to(secret)
    (unpacked / "one.pdf").symlink_to(secret / "essay.pdf")
    with open_files(unpacked, LIMITS) as contents:
        assert "more/essay.pdf" not in contents.files
        with pytest.raises(SubmissionError, match="a link, expected a file"):
            copy_file(contents.files["one.pdf"], tmp_path / "copied")
    assert find_failures(unpacked) == {}
    page = unpacked / "report" / "report.html"
    page.rename(secret / "report.html")
    page.symlink_to(secret / "report.html")
    assert find_failures(unpacked) == dict(
        archive="FAILED  archive, −10 points: report/report.html is a link, expected a file",
        report="FAILED  report, −20 points: report.html is missing",
    )


def test_a_link_in_an_archive_is_no_file(tmp_path):
    path = tmp_path / "link.zip"
    with zipfile.ZipFile(path, "w") as archive:
        member = zipfile.ZipInfo("manifest.json")
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(member, "/etc/passwd")
    assert "manifest.json cannot be read" in find_failures(path)["archive"]
    with tarfile.open(tmp_path / "link.tar.gz", "w:gz") as archive:
        for name, kind in (("manifest.json", tarfile.SYMTYPE), ("report", tarfile.LNKTYPE), ("pipe", tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    assert "manifest.json cannot be read" in find_failures(tmp_path / "link.tar.gz")["archive"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX")
def test_a_pipe_in_a_folder_is_not_waited_for(unpacked):
    os.mkfifo(unpacked / "pipe")
    assert find_failures(unpacked) == {}
    os.mkfifo(unpacked / "report" / "pipe")
    refresh(unpacked)
    assert find_failures(unpacked) == {}


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, unpacked):
    (unpacked / "report" / "zeros").write_bytes(b"0" * 10**7)
    refresh(unpacked)
    few = replace(LIMITS, bytes=10**7)
    for kind in ("zip", "tar.gz"):
        many = pack_members(tmp_path / f"many.{kind}", [("a", b""), ("b", b"")])
        with pytest.raises(SubmissionError, match="holds more than 1 files"):
            list_files(many, replace(LIMITS, files=1))
    with pytest.raises(SubmissionError, match="holds more than 50,000 files or 10,000,000 bytes"):
        list_files(pack_members(tmp_path / "bomb.tar.gz", [("a", b"0" * (10**7 + 1))]), few)
    workshop = tmp_path / "workshop"
    read = submission.read_submission(unpacked, workshop, GradeOptions(), few)
    assert read.damage == ["holds more than 10,000,000 bytes"]
    assert [path.name for path in workshop.rglob("*") if path.is_file()] == ["manifest.json"]


def test_a_forged_header_cannot_fill_the_memory(tmp_path):
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 2**30
    with gzip.open(tmp_path / "pax.tar.gz", "wb", compresslevel=1) as file:
        file.write(header.tobuf() + bytes(2**20))
    with pytest.raises(SubmissionError, match="a header of 1073741824 bytes"):
        list_files(tmp_path / "pax.tar.gz")


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_half_an_archive_is_refused_in_a_line_wherever_it_was_cut(kind, tmp_path):
    path = pack_members(tmp_path / f"whole.{kind}", [("a", os.urandom(5000)), ("b", os.urandom(5000))])
    content, half = path.read_bytes(), tmp_path / f"half.{kind}"
    for cut in (0, 1, 10, 600, 5500, len(content) - 600):
        half.write_bytes(content[:cut])
        with pytest.raises(SubmissionError, match=r"cut off, or not a zip, tar or|an empty file") as caught:
            list_files(half)
        assert "\n" not in str(caught.value)


def test_a_file_that_is_damaged_in_its_archive_costs_what_it_is_for(handed_in, tmp_path):
    content = bytearray((handed_in.parent / "submission.zip").read_bytes())
    with zipfile.ZipFile(handed_in.parent / "submission.zip") as archive:
        start = archive.getinfo("code/train.py").header_offset
    content[start + 200] ^= 255
    (tmp_path / "damaged.zip").write_bytes(content)
    failures = find_failures(tmp_path / "damaged.zip")
    assert list(failures) == ["archive"]
    assert failures["archive"].startswith("FAILED  archive, −10 points: code/train.py is damaged in the archive (")


def test_a_place_that_no_file_has_is_damage(tmp_path):
    pack = io.BytesIO()
    with zipfile.ZipFile(pack, "w") as archive:
        archive.writestr("a.txt", b"a")
    content = pack.getvalue()
    start, end = content.index(b"PK\1\2"), content.index(b"PK\5\6")
    central, last = bytearray(content[start:end]), bytearray(content[end:])
    central[30:32], central[42:46] = struct.pack("<H", 12), b"\xff" * 4  # the place is in 12 further bytes
    last[12:16] = struct.pack("<I", len(central) + 12)
    forged = content[:start] + central + struct.pack("<HHQ", 1, 8, 2**63 + 5) + last
    (tmp_path / "forged.zip").write_bytes(forged)
    refused = pytest.raises(SubmissionError, match=r"damaged in the archive \(")
    with open_files(tmp_path / "forged.zip", LIMITS) as contents, refused:
        copy_file(contents.files["a.txt"], tmp_path / "a.txt")


def test_a_full_disk_is_not_the_fault_of_the_archive(handed_in, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(archives.shutil, "copyfileobj", fail)
    with pytest.raises(OSError, match="No space left"):
        find_failures(handed_in.parent / "submission.zip")
