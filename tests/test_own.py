"""A data set of one's own: what is read and refused, and its way through training, report, submission and grading."""

import json
import os
import re
import shlex
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import end_with, refresh, refuse, write_nothing, write_own

import data
import grade
import report
import train
from analysis import findings, style
from engine import records
from experiments import Experiment
from grading import untrusted
from sources import catalogue, contents, finding, own

QUICK = ["--epochs", "2", "--seeds", "0-1", "--jobs", "1"]
RED = (np.arange(36) % 3).astype(np.uint8)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Work in an empty folder, without figures."""
    monkeypatch.setattr(style, "save_figure", write_nothing)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATA_DIR", raising=False)
    data._load.cache_clear()
    return tmp_path


# ---------------------------------------------------------------------------------------------------------------------
# Reading


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((28, 28), (1, 28, 28)),
        ((32, 32), (1, 32, 32)),
        ((28, 28, 1), (1, 28, 28)),
        ((1, 32, 32), (1, 32, 32)),
        ((32, 32, 3), (3, 32, 32)),
        ((3, 28, 28), (3, 28, 28)),
    ],
)
def test_images_of_every_shape_are_arranged_as_channels_height_width(shape, expected):
    path = write_own(Path("cells.npz"), shape=shape)
    loaded = data.load("cells.npz", ".")
    assert loaded.shape == expected
    assert (len(loaded.train), len(loaded.validation), len(loaded.test)) == (30, 6, 12)
    assert loaded.validation.labels.bincount().tolist() == [2, 2, 2], "stratified"
    test = np.load(path)["x_test"]
    if shape[-1] in (1, 3):
        test = np.moveaxis(test, -1, 1)
    assert np.array_equal(loaded.test.images, test.reshape(-1, *expected))
    assert loaded.classes == ("0", "1", "2")


@pytest.mark.parametrize("kind", ["uint8", "int8", "int32", "int64", ">i2"])
def test_labels_of_every_type_and_named_classes_are_read(kind):
    labels = (np.arange(36) % 3).astype(kind)[:, None]
    write_own(Path("cells.npz"), y_train=labels, classes=np.array(["round", "flat & thin", "Äpfel"]))
    loaded = data.load("cells.npz", ".")
    assert loaded.classes == ("round", "flat & thin", "Äpfel")
    assert loaded.train.labels.bincount().tolist() == [10, 10, 10]


def test_the_checksum_is_that_of_the_content_alone():
    one = write_own(Path("a", "cells.npz"), shape=(32, 32, 3))
    arrays = dict(np.load(one))
    checksum = own.read_own(one).checksum
    arrays["x_test"] = np.moveaxis(arrays["x_test"], -1, 1)
    arrays["y_test"] = arrays["y_test"].astype(np.uint8)
    np.savez("b.npz", **arrays, more=np.arange(3))
    assert own.read_own(Path("b.npz")).checksum == checksum
    arrays["y_test"][0] ^= 1
    np.savez("b.npz", **arrays)
    os.utime("b.npz", ns=(0, 0))
    assert own.read_own(Path("b.npz")).checksum != checksum


def test_published_images_in_an_archive_have_the_published_checksum():
    found = finding.find("fashion_mnist_sample", "unused")
    np.savez("cells.npz", **dict(zip(own.NAMES, found.arrays, strict=True)))
    assert own.read_own(Path("cells.npz")).checksum == found.checksum
    published, ours = (data.load(name, ".") for name in ("fashion_mnist_sample", "cells.npz"))
    assert torch.equal(published.test.images, ours.test.images)
    assert len(published.validation) == len(ours.validation), "one sixth, as of MNIST"


def test_test_images_that_are_also_train_images_are_counted_and_said(capsys):
    arrays = dict(np.load(write_own(Path("cells.npz"))))
    arrays["x_test"][:7] = arrays["x_train"][5:12]
    np.savez("leak.npz", **arrays)
    assert [data.load(name, ".").count_seen() for name in ("cells.npz", "leak.npz", "mnist_sample")] == [0, 7, 0]
    train.main(["--model", "mlp", "--hidden", "--dataset", "leak.npz", *QUICK])
    warning = "7 of the test images are also train or validation images; test metrics look too good"
    assert f"WARNING: leak.npz: {warning}\n" in capsys.readouterr().err


def test_a_file_that_was_written_anew_is_read_anew():
    write_own(Path("cells.npz"))
    before = data.load("cells.npz", ".")
    assert data.load("cells.npz", ".") is before
    write_own(Path("cells.npz"), seed=1)
    after = data.load("cells.npz", ".")
    assert after.checksum == own.find_own("cells.npz", ".").checksum != before.checksum


IMAGES = np.full((36, 28, 28), 9, np.uint8)
REFUSED = [
    (dict(y_test=None), "lacks y_test; expected the arrays x_train, y_train, x_test, y_test"),
    (dict(x_train=IMAGES / 255), "x_train holds float64, expected whole numbers from 0 to 255"),
    (dict(x_train=IMAGES.astype(np.int16) - 10), "x_train holds int16 from -1 to -1, expected whole numbers"),
    (dict(x_test=IMAGES[:12] // 9), "x_test has no value above 1, so all images are black; scale its values"),
    (dict(x_train=IMAGES // 9), "x_train has no value above 1, so all images are black; scale its values"),
    (
        dict(x_train=IMAGES / 255),
        "x_train holds float64, expected whole numbers from 0 to 255, as uint8; multiply by 255: (x * 255).round()",
    ),
    (dict(x_train=IMAGES[:, 0]), "x_train has the shape (36, 28), expected"),
    (dict(x_train=IMAGES.reshape(36, 784)), "x_train has the shape (36, 784), expected"),
    (
        dict(y_train=np.eye(3, dtype=np.uint8)[RED]),
        "y_train has the shape (36, 3), expected (n, height, width) of images (reshape flat ones), "
        "(n,) of labels (y.argmax(1) of one-hot ones)",
    ),
    (dict(x_train=IMAGES.reshape(36, 1, 1, 784)), "images of 1×784 pixels, expected 28×28 or 32×32"),
    (dict(x_train=IMAGES.reshape(36, 2, 14, 28)), "x_train has the shape (36, 2, 14, 28), expected (n, h, w)"),
    (dict(x_train=IMAGES[:0]), "x_train is empty"),
    (dict(shape=(14, 14)), "images of 14×14 pixels, expected 28×28 or 32×32"),
    (dict(shape=(28, 32)), "images of 28×32 pixels, expected 28×28 or 32×32"),
    (dict(x_test=np.zeros((12, 32, 32), np.uint8)), "train images have the shape (1, 28, 28), test images (1, 32, 32)"),
    (dict(y_train=RED[:-1]), "36 images in x_train, but 35 labels in y_train"),
    (dict(y_train=IMAGES), "y_train has the shape (36, 28, 28); x_ are images, y_ their labels"),
    (dict(x_test=RED[:12]), "x_test has the shape (12,); x_ are images, y_ their labels"),
    (dict(y_train=RED - 1.0), "y_train holds float64, expected whole numbers from 0 to 255"),
    (dict(y_train=RED.astype(int) - 1), "y_train holds int64 from -1 to 1, expected whole numbers from 0 to 255"),
    (dict(y_train=RED * 2), "class 1 has 0 train images, expected at least 6; the classes are numbered from 0 on"),
    (dict(y_test=RED[:12] // 2), "class 2 has 0 test images, expected at least 1"),
    (dict(y_train=RED + 120), "the number of classes is 123, expected 2 to 100"),
    (dict(count=1), "the number of classes is 1, expected 2 to 100"),
    (dict(count=101, train=6, test=1), "the number of classes is 101, expected 2 to 100"),
    (dict(train=5), "class 0 has 5 train images, expected at least 6"),
]
NAMED = [
    (["a", "b"], "y_train has the label 2, expected 0 to 1"),
    (["a", "b", "c", "d"], "class 3 has 0 train images"),
    (["a", "b", "a"], "classes has the name 'a', expected names, each once"),
    (["a", "b", ""], "classes has the name '', expected names"),
    (["a", "b", "c" * 31], "classes has the name 'ccccccccccccccccccccccccccccccc', expected names"),
    (["a", "b", "$x$"], "classes has the name '$x$', expected names"),
    (["a", "b", "x\ny"], "classes has the name 'x\\ny', expected names"),
    ([1, 2, 3], "classes holds int64 (3,), expected a list of names, as text"),
    ([["a", "b", "c"]], "classes holds <U1 (1, 3), expected a list of names, as text"),
    (np.array(["a", "b", None], object), "classes holds Python objects, expected numbers or text"),
]
REFUSED += [(dict(classes=np.array(names)), says) for names, says in NAMED]


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trained_on_is_refused_in_a_line_and_nothing_is_written(case, capsys):
    settings, says = case
    write_own(Path("cells.npz"), **settings)
    line = refuse(train.main, ["--dataset", "cells.npz"], capsys)
    assert line.startswith(f"train.py: error: cells.npz: {says}")
    assert [path.name for path in Path().iterdir() if path.name != "cache"] == ["cells.npz"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "expected an archive made by numpy.savez_compressed (File is not a zip file)"),
        (b"<html>", "expected an archive made by numpy.savez_compressed (File is not a zip file)"),
        (b"PK\3\4" + bytes(99), "expected an archive made by numpy.savez_compressed ("),
    ],
)
def test_what_is_no_archive_is_refused(content, says, capsys):
    Path("cells.npz").write_bytes(content)
    assert f"cells.npz: {says}" in refuse(train.main, ["--dataset", "cells.npz"], capsys)


def test_an_archive_that_is_cut_or_altered_is_refused(capsys):
    content = write_own(Path("cells.npz")).read_bytes()
    for altered in (content[:-30], content[: len(content) // 2], content[:200] + b"x" * 50 + content[250:]):
        Path("cells.npz").write_bytes(altered)
        assert "cells.npz" in refuse(train.main, ["--dataset", "cells.npz"], capsys)


def test_objects_in_an_archive_are_never_opened(tmp_path, capsys):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    write_own(Path("cells.npz"), y_test=np.array([Trap()] * 12, dtype=object))
    line = refuse(train.main, ["--dataset", "cells.npz"], capsys)
    assert line.endswith("cells.npz: y_test holds Python objects, expected numbers or text")
    assert not (tmp_path / "sprung").exists()


def test_an_archive_that_declares_too_much_is_not_read(monkeypatch, capsys):
    with zipfile.ZipFile("cells.npz", "w") as archive, archive.open("x_train.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, dict(descr="|u1", fortran_order=False, shape=(10**9, 28, 28)))
    assert "x_train declares more than 536,870,912 bytes" in refuse(train.main, ["--dataset", "cells.npz"], capsys)
    write_own(Path("cells.npz"))
    monkeypatch.setattr(contents, "MOST_BYTES", 30_000)
    assert "declares more than 30,000 bytes" in refuse(train.main, ["--dataset", "cells.npz"], capsys)


# ---------------------------------------------------------------------------------------------------------------------
# Names and places


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (["--dataset", "cells.npz"], "."),
        (["--dataset", "./cells.npz"], "."),
        (["--dataset", "a/b/cells.npz"], "a/b"),
        (["--dataset", "cells.npz"], "data"),
        (["--dataset", "cells.npz"], "data/below/it"),
        (["--dataset", "cells.npz", "--data-dir", "a"], "a/b"),
        (["--dataset=a/cells.npz", "--data-dir", "a"], "a"),
    ],
)
def test_the_file_is_found_where_it_was_named_or_below_the_data_dir(words, place, capsys):
    write_own(Path(place, "cells.npz"))
    write_own(Path(place, "other.npz"), seed=1)
    train.main([*words, *QUICK, "--epochs", "1"])
    assert (
        f"cells.npz from {Path(place, 'cells.npz')}: 30 train / 6 validation / 12 test images"
        in capsys.readouterr().out
    )
    (path,) = Path("runs").rglob("experiment.json")
    assert path.parent.name == "mlp1,dataset=cells.npz,epochs=1"
    described = json.loads(path.read_text())
    assert described["experiment"]["dataset"] == described["dataset"]["name"] == "cells.npz"
    assert (described["dataset"]["shape"], described["dataset"]["classes"]) == ([1, 28, 28], ["0", "1", "2"])
    result = json.loads((path.parent / "seed-0" / "result.json").read_text())
    assert "--dataset cells.npz" in result["command"].replace("=", " ")


def test_a_folder_beside_a_path_of_a_file_is_refused(capsys):
    write_own(Path("a", "cells.npz"))
    says = "train.py: error: --data-dir b: --dataset names the folder a; leave one of them out"
    assert refuse(train.main, ["--dataset", "a/cells.npz", "--data-dir", "b", *QUICK], capsys) == says


def test_a_good_file_takes_the_place_of_a_damaged_one_of_this_name(capsys):
    Path("data", "new").mkdir(parents=True)
    Path("data", "cells.npz").write_bytes(b"half a file")
    write_own(Path("data", "new", "cells.npz"))
    train.main(["--dataset", "cells.npz", *QUICK])
    out = capsys.readouterr().out
    assert f"passed over: {Path('data', 'cells.npz')}: expected an archive made by numpy.savez_compressed" in out
    assert f"cells.npz from {Path('data', 'new', 'cells.npz')}: " in out


def test_a_data_dir_that_is_named_comes_before_the_current_folder(capsys):
    write_own(Path("cells.npz"), seed=1)
    write_own(Path("other", "cells.npz"))
    train.main(["--dataset", "cells.npz", "--data-dir", "other", *QUICK])
    assert "cells.npz from other/cells.npz" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["a/cells.npz"], "--dataset a/cells.npz: there is no such file"),
        (["cells.npz"], "cells.npz is not in or below data; name the folder that holds cells.npz with --data-dir"),
        (["cells.npz", "--summary"], "cells.npz is not in or below data"),
        (["my cells.npz"], "of letters, digits and any of _.+-); rename the file"),
        (["cells.npy"], "and any of _.+-); the folder of a data set goes to --data-dir"),
        (["MNIST"], "; did you mean mnist?"),
        (["fashion-MNIST"], "; did you mean fashion_mnist?"),
        ([".npz"], "'.npz' (choose from"),
        (["a,b=c.npz"], "'a,b=c.npz' (choose from"),
        (["x" * 70 + ".npz"], "(choose from"),
    ],
)
def test_a_file_that_is_not_there_or_whose_name_cannot_be_a_folders_is_refused(words, says, capsys):
    assert says in refuse(train.main, ["--dataset", *words], capsys)
    assert list(Path().glob("[!c]*")) == []


def test_an_experiment_has_a_name_and_no_folder():
    assert Experiment(dataset="cells.npz").name == "mlp1,dataset=cells.npz"
    for name in ("a/cells.npz", "../cells.npz", "cells", "a\\cells.npz", 3):
        with pytest.raises(ValueError, match=r"or the name of an \.npz file"):
            Experiment(dataset=name)


def test_names_that_could_be_a_path_or_a_flag_are_no_names():
    assert catalogue.is_own("cells-2.1_b+.npz")
    for name in ("-x.npz", "..npz", "a b.npz", "x.npz\n", "a/b.npz", "npz", "x.NPZ.zip", None, 3):
        assert not catalogue.is_own(name), name


@pytest.mark.parametrize("model", ["mlp3", "cnn1", "cnn3", "resnet"])
def test_networks_fit_the_shape_and_the_classes(model, capsys):
    size = 32 if model == "resnet" else 28
    write_own(Path("cells.npz"), 7, (size, size, 3))
    train.main(["--dataset", "cells.npz", "--model", model, "--summary"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["images", f"3×{size}×{size}"] in lines
    assert lines[-1][1] == "7"


def test_a_network_that_does_not_fit_is_refused(capsys):
    write_own(Path("cells.npz"), shape=(32, 32))
    words = ["--dataset", "cells.npz", "--model", "cnn2"]
    assert "of images of 32×32 pixels it leaves 2×2 pixels" in refuse(train.main, words, capsys)


def test_a_study_file_may_name_a_data_set_that_is_not_there(monkeypatch, capsys):
    study = train.STUDIES["l1-path"].with_overrides(dict(dataset="cells.npz"))
    monkeypatch.setitem(train.STUDIES, "l1-path", replace(study, overrides={}))
    train.main(["--list", "--study", "l1-path"])
    assert capsys.readouterr().out.count("no cells.npz") == len(study.experiments)


# ---------------------------------------------------------------------------------------------------------------------
# The whole way


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory):
    """Train two experiments by hand and one of a study on a file in a folder `in`, and write report and bundle."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(style, "save_figure", write_nothing)
        names = np.array([f"cell {letter}" for letter in "abcdefghijkl"])
        write_own(Path("in", "cells.npz"), 12, (32, 32, 3), classes=names)
        train.main(["--dataset", "in/cells.npz", *QUICK])
        train.main(["--dataset", "in/cells.npz", "--l1", "0.001", *QUICK])
        train.main(["--study", "l1-path", "--only", "no L1", "--dataset", "in/cells.npz", *QUICK])
        report.main(["--data-dir", "in", "--bundle", "submission.zip"])
    return folder


@pytest.fixture
def trained(trained_once, folder, capsys):
    """Copy the runs, the file, the report and the bundle into the current folder."""
    shutil.copytree(trained_once, folder, dirs_exist_ok=True)
    capsys.readouterr()


def grades(words, capsys):
    grade.main(words)
    return [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]


@pytest.mark.usefixtures("trained")
def test_a_report_and_a_grade_find_the_file_by_its_content(folder, capsys):
    text = Path("report", "report.md").read_text(encoding="utf-8")
    assert "120 train, 24 validation, 48 test images of 32×32 pixels" in text
    assert "Confusion matrices" in text
    assert "l1-path,dataset=cells.npz,epochs=2" in text
    assert f"SHA-256 of cells.npz: `{own.read_own(Path('in', 'cells.npz')).checksum}`" in text
    assert "in/cells" not in text
    for path in Path("runs").rglob("*.json"):
        assert "in/cells" not in path.read_text()
        assert str(folder) not in path.read_text()

    Path("in", "cells.npz").rename(Path("in", "renamed.npz"))
    write_own(Path("in", "cells.npz"), 12, (32, 32, 3), seed=1)  # another one of this name
    data._load.cache_clear()
    lines = grades(["submission.zip", "--data-dir", "in"], capsys)
    assert lines[:5] == [f"passed  {name}" for name in ("archive", "predictions", "weights", "originality", "report")]
    report.main(["--data-dir", "in", "--out", "again"])
    assert Path("again", "report.md").read_text(encoding="utf-8") == text


@pytest.mark.usefixtures("trained")
def test_a_submission_that_forges_what_its_data_set_is_fails_its_checks(capsys):
    with zipfile.ZipFile("submission.zip") as archive:
        archive.extractall("unpacked")
    for path in Path("unpacked").glob("runs/*/*/experiment.json"):
        description = json.loads(path.read_text())
        description["dataset"]["shape"] = [3, 28, 28]
        path.write_text(json.dumps(description))
    refresh(Path("unpacked"))
    said = end_with(1, grade.main, ["unpacked", "--data-dir", "in"], capsys)
    assert "recorded with another shape or number of classes" in said.out
    record = records.read_all(Path("runs"))[0][0]
    assert findings.load_test_set(record, Path("in"))[0] is not None
    record.dataset["classes"] = record.dataset["classes"][:2]
    assert findings.load_test_set(record, Path("in"))[0] is None


@pytest.mark.usefixtures("trained")
def test_the_command_in_the_report_repeats_the_training(capsys):
    text = Path("report", "report.md").read_text(encoding="utf-8")
    commands = set(re.findall(r"python train\.py --dataset cells\.npz[^|`\n]*", text))
    assert any("--l1 0.001" in command for command in commands)
    for command in commands:
        words = shlex.split(command)[2:]
        train.main([*words, "--data-dir", "in", *(() if "--seeds" in words else ("--seeds", "0-1"))])
        assert "skipped: seeds 0-1 finished already" in capsys.readouterr().out


@pytest.mark.usefixtures("trained")
def test_without_the_file_the_report_says_so_and_the_grader_cannot_grade(capsys):
    shutil.rmtree("in")
    data._load.cache_clear()
    wanted = r"cells\.npz, whose content has the SHA-256 [0-9a-f]{12}…, is not in or below data; name the folder"
    report.main(["--out", "again"])
    assert re.search(wanted, capsys.readouterr().out)
    assert re.search(f"not graded: submission.zip: {wanted}", refuse(grade.main, ["submission.zip"], capsys))


@pytest.mark.usefixtures("trained")
def test_a_file_of_another_content_is_never_added_to(capsys):
    write_own(Path("in", "cells.npz"), 12, (32, 32, 3), seed=1)
    line = refuse(train.main, ["--dataset", "in/cells.npz", "--epochs", "2", "--seeds", "2"], capsys)
    assert "recorded with dataset checksum" in line
    refused = refuse(grade.main, ["submission.zip", "--data-dir", "in"], capsys)
    assert "in/cells.npz holds other images (SHA-256 " in refused
    train.main(["--dataset", "in/cells.npz", "--l2", "0.1", *QUICK])
    records_of, _ = records.read_all(Path("runs"))
    (single, _), problems = findings.gather(records_of, Path("in"))[0][::-1], findings.gather(records_of, Path("in"))[1]
    assert list(single.trained) == ["mlp1,dataset=cells.npz,epochs=2,l2=0.1"], "the one on the content that is there"
    assert problems == [
        f"runs/single/mlp1,dataset=cells.npz,epochs=2{other}: trained on another cells.npz than "
        "mlp1,dataset=cells.npz,epochs=2,l2=0.1"
        for other in ("", ",l1=0.001")
    ]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (dict(shape=None), "dataset shape is missing"),
        (dict(shape=[3, 32, 10**6]), "images of 32×1000000 pixels"),
        (dict(shape=[3, 32, 32, 1]), "images of 32×32×1 pixels"),
        (dict(shape="32"), "dataset shape is '32', expected list"),
        (dict(classes=None), "dataset classes is missing"),
        (dict(classes=["a"]), "the number of classes is 1, expected 2 to 100"),
        (dict(classes=["a"] * 12), "classes has the name 'a'"),
        (dict(classes=[str(number) for number in range(10**4)]), "the number of classes is 10000, expected 2 to 100"),
        (dict(classes=[1] * 12), "dataset classes is '1', expected str"),
        (dict(name="../cells.npz"), "of cells.npz, trained on ../cells.npz"),
    ],
)
@pytest.mark.usefixtures("trained")
def test_a_forged_description_is_left_out_and_named(changes, says):
    path = Path("runs", "single", "mlp1,dataset=cells.npz,epochs=2", "experiment.json")
    description = json.loads(path.read_text())
    described = {name: value for name, value in (description["dataset"] | changes).items() if value is not None}
    path.write_text(json.dumps(description | dict(dataset=described)))
    found, problems = untrusted.read_runs(Path("runs"))
    assert len(found) == 2
    assert any(says in problem for problem in problems), problems
