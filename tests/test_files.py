import json
import math
import os

import pytest

from engine import files
from engine.files import RecordError, check_types


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# ---------------------------------------------------------------------------------------------------------------------
# There whole or not at all


def test_a_file_is_replaced_whole(tmp_path):
    for content in (b"first", b"second"):
        files.write_whole(tmp_path / "file", content)
        assert (tmp_path / "file").read_bytes() == content
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("fails", ["flush", "replace"])
def test_a_file_that_cannot_be_written_stays_as_it_was(fails, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    files.write_whole(tmp_path / "file", b"first")
    monkeypatch.setattr(*((files, "flush") if fails == "flush" else (os, "replace")), fail)
    with pytest.raises(OSError, match="No space left"):
        files.write_whole(tmp_path / "file", b"second")
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"first"


def make_folder(path, content):
    path.mkdir()
    (path / "file").write_text(content)
    return path


@pytest.mark.parametrize("is_replaced", [True, False])
def test_a_folder_takes_its_place_and_the_old_one_goes(is_replaced, tmp_path):
    if is_replaced:
        make_folder(tmp_path / "target", "old")
    files.put_in_place(make_folder(tmp_path / "workshop", "new"), tmp_path / "target")
    assert names(tmp_path) == ["target"]
    assert (tmp_path / "target" / "file").read_text() == "new"


def test_what_a_kill_left_is_deleted_and_what_it_was_replacing_comes_back(tmp_path):
    make_folder(tmp_path / ".unfinished-seed-0-abc", "new")
    make_folder(tmp_path / ".unfinished-seed-0-abc-old", "old")
    make_folder(tmp_path / "seed-1", "new")
    make_folder(tmp_path / ".unfinished-seed-1-abc-old", "old")
    (tmp_path / ".unfinished-seed-2-abc-old").symlink_to(make_folder(tmp_path / "elsewhere", "of a link"))
    (tmp_path / ".unfinished-experiment.json-7").write_text("half")
    files.clean_up(tmp_path)
    assert names(tmp_path) == ["elsewhere", "seed-0", "seed-1", "seed-2"]
    contents = [(tmp_path / name / "file").read_text() for name in names(tmp_path)]
    assert contents == ["of a link", "old", "new", "of a link"]


def test_a_link_is_replaced_and_its_folder_stays(tmp_path):
    (tmp_path / "target").symlink_to(make_folder(tmp_path / "elsewhere", "old"))
    files.put_in_place(make_folder(tmp_path / "workshop", "new"), tmp_path / "target")
    assert names(tmp_path) == ["elsewhere", "target"]
    assert (tmp_path / "target" / "file").read_text() == "new"
    assert (tmp_path / "elsewhere" / "file").read_text() == "old"


def test_an_old_folder_comes_back_if_the_new_one_cannot_take_its_place(tmp_path):
    make_folder(tmp_path / "target", "old")
    with pytest.raises(FileNotFoundError):
        files.put_in_place(tmp_path / "nothing", tmp_path / "target")
    assert names(tmp_path) == ["target"]
    assert (tmp_path / "target" / "file").read_text() == "old"


# ---------------------------------------------------------------------------------------------------------------------
# JSON


def test_numbers_that_are_not_finite_are_written_as_null(tmp_path):
    content = dict(loss=math.nan, layers=[dict(norm=math.inf, zeros=3), [-math.inf]], name="NaN", zero=0.0)
    files.write_json(tmp_path / "file.json", content)
    text = (tmp_path / "file.json").read_text()
    written = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert written == dict(loss=None, layers=[dict(norm=None, zeros=3), [None]], name="NaN", zero=0.0)
    assert files.read_json(tmp_path / "file.json") == written
    assert math.isnan(content["loss"]), "what was given is left alone"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "cannot be read ("),
        ("[]", "expected a JSON object"),
        ("3", "expected a JSON object"),
        ('{"name": "\\ud800"}', "surrogates not allowed"),
        ('{"number": 1' + "0" * 5000 + "}", "cannot be read (Exceeds the limit"),
        ("[" * 100_000, "cannot be read ("),
    ],
    ids=lambda text: text[:20],
)
def test_what_is_no_json_object_is_refused_with_its_path(text, says, tmp_path):
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(RecordError) as caught:
        files.read_json(tmp_path / "file.json")
    assert str(caught.value).startswith(f"{tmp_path / 'file.json'}: ")
    assert says in str(caught.value)


def test_a_file_that_is_missing_or_not_in_utf_8_is_refused(tmp_path):
    (tmp_path / "latin").write_bytes(b'{"name": "\xe9"}')
    for name in ("none", "latin"):
        with pytest.raises(RecordError, match=f"{name}: cannot be read"):
            files.read_json(tmp_path / name)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (PermissionError(13, "Permission denied", "some/file"), "Permission denied"),
        (OSError("odd"), "odd"),
        (EOFError(), "EOFError"),
        (ValueError("first line\nsecond line"), "first line"),
        (RuntimeError("It failed: no directory. You may try this."), "It failed: no directory"),
    ],
)
def test_an_error_while_a_file_is_read_names_the_file_once_and_is_one_line(error, says):
    with pytest.raises(RecordError) as caught, files.reading("some/file"):
        raise error
    assert str(caught.value) == f"some/file: cannot be read ({says})"


def test_the_first_difference_is_named_with_both_values():
    recorded = dict(format=3, experiment=dict(lr=0.1, l1=0.0), note="x")
    assert files.find_difference(recorded, dict(recorded)) is None
    changed = recorded | dict(experiment=dict(lr=0.2, l1=0.0))
    assert files.find_difference(recorded, changed) == "recorded with experiment lr 0.1, now 0.2"
    fewer = dict(format=3, experiment=dict(lr=0.1, l1=0.0))
    assert files.find_difference(recorded, fewer) == "recorded with note x, now None"
    assert files.find_difference(fewer, recorded) == "recorded with note None, now x"


EXPECTED = dict(name=str, count=int, share=float, is_done=bool, seeds=[[int]], layers=[dict(zeros=int)], more={})
FITTING = dict(
    name="a", count=3, share=1, is_done=True, seeds=[[0, 1], []], layers=[dict(zeros=1)], more={}, extra=None
)


def test_what_has_the_types_is_taken_and_a_whole_number_counts_as_a_float():
    check_types(FITTING, EXPECTED)
    check_types(FITTING | dict(share=0.5, layers=[]), EXPECTED)
    check_types(FITTING | dict(count=10**49, share=-1e50), EXPECTED)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (dict(name=3), "name is '3', expected str"),
        (dict(count="3"), "count is '3', expected int"),
        (dict(count=3.0), "count is '3.0', expected int"),
        (dict(count=True), "count is 'True', expected int"),
        (dict(count=10**51), f"count is '1{'0' * 39}', expected int"),
        (dict(share=None), "share is 'None', expected float"),
        (dict(share=False), "share is 'False', expected float"),
        (dict(share=math.nan), "share is 'nan', expected float"),
        (dict(share=math.inf), "share is 'inf', expected float"),
        (dict(share=1e51), "share is '1e+51', expected float"),
        (dict(is_done=1), "is_done is '1', expected bool"),
        (dict(seeds=3), "seeds is '3', expected list"),
        (dict(seeds=[3]), "seeds is '3', expected list"),
        (dict(seeds=[[0, "1"]]), "seeds is '1', expected int"),
        (dict(layers=[dict(zeros=1), {}]), "layers zeros is missing"),
        (dict(layers=[dict(zeros=[])]), "layers zeros is '[]', expected int"),
        (dict(more=[]), "more is '[]', expected dict"),
    ],
    ids=str,
)
def test_what_has_other_types_is_refused_with_its_name(changes, says):
    with pytest.raises(ValueError, match=r" is ") as caught:
        check_types(FITTING | changes, EXPECTED)
    assert str(caught.value) == says


def test_what_is_missing_or_no_dictionary_at_all_is_refused():
    with pytest.raises(ValueError, match=r"^name is missing$"):
        check_types({}, EXPECTED)
    with pytest.raises(ValueError, match=r"^it is '\[\]', expected dict$"):
        check_types([], EXPECTED)
