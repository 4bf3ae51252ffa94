import contextlib
import csv
import math
import re
import zipfile
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from helpers import PLAIN, end_with, make_log_probabilities, read_rows, refuse, write_nothing, write_report, write_runs
from scipy import stats

import report
import train
from analysis import style
from engine.checkpoints import Checkpoint
from experiments import Experiment
from studies import STUDIES
from studies.study import Claim, Entry, Study


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Make a report of the records in `runs` and write it, without its pictures' content; its text."""
    monkeypatch.setattr(style, "save_figure", write_nothing)

    def make(words=()):
        report.main(["--runs-dir", str(tmp_path / "runs"), "--out", str(tmp_path / "report"), *words])
        return (tmp_path / "report" / "report.md").read_text(encoding="utf-8")

    return make


def test_where_everything_was_left_out_the_reasons_are_told_in_one_line(runs, digits, made, capsys):
    old = write_runs(runs, digits, PLAIN, [0.9]) / "experiment.json"
    old.write_text(old.read_text().replace('"format": 3', '"format": 1'))
    assert "no finished run (single/mlp1,dataset=mnist_sample/experiment.json: format 1" in refuse(made, [], capsys)


def test_where_every_run_diverged_the_reason_is_told(runs, digits, made, capsys):
    write_runs(runs, digits, PLAIN, [0.9, 0.9], diverged=True, stop_reason="diverged: so")
    assert "no finished run (single/mlp1,dataset=mnist_sample: diverged: so); train one: " in refuse(made, [], capsys)


def test_without_a_run_the_report_says_how_to_make_one(tmp_path, made, capsys):
    named = f"python train.py --runs-dir {tmp_path / 'runs'}"
    assert f"train one: {named} --study l1-path, or name" in refuse(made, ["--study", "l1-path"], capsys)
    assert f"train one: {named} --model mlp3, or name" in refuse(made, [], capsys)
    assert not (tmp_path / "report").exists()


def test_a_report_folder_that_is_a_file_is_refused(tmp_path, runs, digits, made, capsys):
    write_runs(runs, digits, PLAIN, [0.9])
    (tmp_path / "report").write_text("")
    assert "--out" in refuse(made, [], capsys)


ENTRIES = {
    "worse": Entry("as run", replace(PLAIN, l1=0.1), published=dict(test_accuracy=0.75)),
    "plain": Entry("control", PLAIN, published=dict(running_train_accuracy=0.9)),
    "plain again": Entry("control", PLAIN),
    "never": Entry("corrected", replace(PLAIN, l1=0.2)),
}
CLAIMS = (
    Claim("as run", "L1 helps", "worse", ("plain",), "test_accuracy", "higher"),
    Claim("corrected", "less L1 helps", "never", ("plain",), "test_accuracy", "higher"),
)
WRONGS = dict(worse=(170, 180, 175, 185, 160), plain=(70, 77, 63, 70, 70))


@pytest.fixture
def mine(runs, digits, monkeypatch):
    """A study with claims, two of its experiments trained with five seeds."""
    study = Study("mine", "Does L1 help?", ENTRIES, "plain", CLAIMS, ("Nothing is like the original.",))
    monkeypatch.setitem(STUDIES, "mine", study)
    for title, wrongs in WRONGS.items():
        accuracies = [1 - wrong / 700 for wrong in wrongs]
        folder = write_runs(runs, digits, ENTRIES[title].experiment, accuracies, study, title)
        for seed, wrong in enumerate(wrongs):
            generator = np.random.default_rng(wrong)
            of_images = make_log_probabilities(
                digits.test.labels.numpy(), generator.choice(700, wrong, replace=False), generator
            )
            np.savez(folder / f"seed-{seed}" / "predictions.npz", log_probabilities=of_images)


def test_a_study_is_compared_with_its_baseline_and_its_claims_are_judged(tmp_path, runs, digits, mine):
    write_runs(runs, digits, replace(PLAIN, l2=0.5), [0.5], STUDIES["mine"], "another")
    report.main(["--runs-dir", str(runs), "--out", str(tmp_path / "report"), "--study", "mine"])
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    rows = read_rows(text, "test %")
    accuracies = {title: [100 - wrong / 7 for wrong in wrongs] for title, wrongs in WRONGS.items()}
    difference = np.mean(accuracies["worse"]) - np.mean(accuracies["plain"])
    of_published, ours = read_rows(text, "published is"), accuracies["worse"]
    published, during = of_published["worse"], of_published["plain"]
    half_width = stats.t.ppf(0.975, 4) * np.std(ours, ddof=1) * math.sqrt(1 + 1 / 5)
    assert published["ours"] == rows["worse"]["test %"]
    assert (published["metric"], published["seeds"], published["published"]) == ("test accuracy %", "5", "75.00")
    assert [float(published[end]) for end in ("from", "to")] == pytest.approx(
        [np.mean(ours) - half_width, np.mean(ours) + half_width], abs=0.005
    )
    assert (published["published is"], during["published is"]) == ("inside", "below")
    outside = "train accuracy during the last epoch of *plain* (90.00, below 100.00 to 100.00 %)"
    says = "1 of 2 published metrics lie inside the 95 % interval for one more run of ours"
    assert f"- {says}. Outside, where about 0.1 would by chance: {outside}.\n" in text
    assert (during["metric"], during["ours"]) == ("train accuracy during the last epoch %", "100.00 ± 0.00")
    assert rows["worse"]["test − baseline"].startswith(f"−{-difference:.2f} ± ")
    assert (rows["worse"]["p"], rows["worse"]["n"]) == ("\\< 0.001", "5")
    assert rows["**plain**"]["test − baseline"] == rows["**plain**"]["p"] == ""
    again = rows["plain again (same settings as plain)"]
    assert again["test %"] == rows["**plain**"]["test %"]
    claims = read_rows(text, "verdict")
    assert claims["L1 helps"]["verdict"] == "contradicted"
    assert claims["L1 helps"]["compared"] == "worse − plain"
    half_width = float(claims["L1 helps"]["difference"].split("± ")[1])  # corrected for both claims
    narrower = stats.t.ppf(0.97, 4) / stats.t.ppf(1 - 0.03 / 2 / 2, 4)
    assert float(claims["L1 helps"]["margin ±"]) == pytest.approx(narrower * half_width, abs=0.01)
    assert (claims["L1 helps"]["n"], claims["L1 helps"]["look"]) == ("5", "1")
    assert claims["less L1 helps"]["verdict"] == "no finished run: “never”"
    assert re.search(
        rf"- \*worse\* lowers test accuracy by {-difference:.2f} ± \d\.\d\d points against \*plain\*, "
        r"at look 1 \(5 seeds\); the write-up says “L1 helps”: \*\*contradicted\*\*\.",
        text,
    )
    assert "By validation accuracy the best is *plain*, distinguishably above *worse*." in text
    assert "Not trained yet: `python train.py --study mine --only never`" in text
    assert "Left out: another, trained with other settings than the study has\n" in text, "train.py knows no such title"
    assert "- Nothing is like the original." in text
    assert read_rows(text, "kind")["worse"]["settings that differ from those of plain"] == "--l1 0.1"

    pictures = [unquote(link) for link in re.findall(r"!\[.+?\]\((.+?)\)", text)]
    kinds = ["forest", "samples", "curves", "seeds", "weights", "sparsity", "confusion", "classes", "mistakes-plain"]
    assert pictures == [f"figures/mine-{kind}.png" for kind in kinds]
    for each in pictures:
        assert all((tmp_path / "report" / each).with_suffix(kind).stat().st_size for kind in (".png", ".pdf"))
    with open(tmp_path / "report" / "tables" / "mine-accuracy.csv", newline="", encoding="utf-8") as file:
        first = next(row for row in csv.DictReader(file) if row["experiment"] == "worse")
    assert float(first["test %"]) == pytest.approx(np.mean(accuracies["worse"]))
    assert float(first["test − baseline"]) == pytest.approx(difference)


def test_an_experiment_of_a_study_that_was_edited_is_left_out_with_what_trains_it_again(runs, digits, mine):
    path = runs / "mine" / "worse" / "experiment.json"
    path.write_text(path.read_text().replace('"l1": 0.1', '"l1": 0.2'))
    text = write_report(runs)
    says = "Left out: worse, trained with other settings than the study has; undo the change of the study, or replace "
    assert f"{says}all their runs: `python train.py --study mine --only worse --force`" in text
    assert "Not trained yet: `python train.py --study mine --only never`" in text


def test_edited_settings_that_are_of_no_network_are_a_line(runs, digits, made, capsys):
    experiment = Experiment(model="cnn1", dataset="mnist_sample", norm="group")
    (runs / "mine").mkdir(parents=True)
    path = write_runs(runs, digits, experiment, [0.9]).rename(runs / "mine" / "GN") / "experiment.json"
    path.write_text(path.read_text().replace('"group_size": 4', '"group_size": 7'))
    assert f"{path}: --group-size 7: does not divide the" in refuse(made, [], capsys)


def test_what_was_trained_has_every_picture_and_what_an_earlier_report_left_goes(tmp_path, runs, made):
    words = ["--study", "l1-path", "--only", "no L1", "proximal 0.001", "--dataset", "mnist_sample", "--epochs", "1"]
    train.main([*words, "--seeds", "0", "--runs-dir", str(runs)])
    made()
    name = "l1-path,dataset=mnist_sample,epochs=1"
    kinds = ["classes", "confusion", "curves", "forest", "mistakes-no L1", "samples", "seeds", "sparsity", "sweep"]
    kinds += ["weights"]
    pictures = tmp_path / "report" / "figures"
    assert sorted(path.name for path in pictures.glob("*.png")) == sorted(f"{name}-{kind}.png" for kind in kinds)
    assert len(list((tmp_path / "report" / "tables").glob("*.tex"))) == 6

    (pictures / "own.png").write_bytes(b"")
    train.main(["--dataset", "mnist_sample", "--epochs", "1", "--seeds", "0", "--runs-dir", str(runs)])
    (runs / name).rename(tmp_path / "away")
    made()
    left = {path.name for path in pictures.glob("*.png")}
    assert "own.png" in left, "what no report wrote stays"
    assert not any(path.startswith("l1-path") for path in left)
    assert "single,mnist_sample-seeds.png" in left


@pytest.mark.parametrize("file", ["predictions.npz", "history.csv", "weights.pt"])
def test_a_run_with_a_damaged_file_is_left_out_and_without_another_run_refused(file, runs, digits, made, capsys):
    folder = write_runs(runs, digits, PLAIN, [0.9, 0.8])
    (folder / "seed-1" / file).write_bytes((folder / "seed-1" / file).read_bytes()[:20])
    text = made()
    command = f"{PLAIN.command} --seeds 1 --force"
    assert f"Left out: single/{folder.name}/seed-1/{file}: cannot be read (" in text
    assert f"; train it again: {command}\n" in text
    named = f"python train.py --runs-dir {runs} --dataset mnist_sample --seeds 1 --force"
    assert named in capsys.readouterr().out, "what is printed can be typed as it is"
    assert read_rows(text, "test %")[PLAIN.name]["seeds"] == "1"
    (folder / "seed-0" / file).write_bytes((folder / "seed-0" / file).read_bytes()[:20])
    assert f"{file}: cannot be read" in refuse(made, [], capsys)


def test_ctrl_c_is_one_line_and_the_earlier_report_stays(tmp_path, runs, digits, made, capsys, monkeypatch):
    write_runs(runs, digits, PLAIN, [0.9])
    before = made()
    capsys.readouterr()

    def interrupt(*_):
        raise KeyboardInterrupt

    write_runs(runs, digits, replace(PLAIN, l1=0.1), [0.9])
    monkeypatch.setattr(style, "save_figure", interrupt)
    error = end_with(130, made, [], capsys).err
    assert error == "\ninterrupted: not everything is written; the same command starts again\n"
    assert (tmp_path / "report" / "report.md").read_text(encoding="utf-8") == before


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), BrokenPipeError(32, "Broken pipe")])
def test_findings_that_cannot_be_printed_are_in_the_report(error, tmp_path, runs, digits, made, capsys, monkeypatch):
    write_runs(runs, digits, PLAIN, [0.9])

    def fail(*_):
        raise error

    monkeypatch.setattr(report.flags, "name_folders", fail)
    monkeypatch.setattr(report.console, "discard_output", lambda: None)
    is_full = not isinstance(error, BrokenPipeError)
    with pytest.raises(SystemExit) if is_full else contextlib.nullcontext() as caught:
        made()
    place = tmp_path / "report"
    says = f"report.py: No space left on device; everything is written to {place}\n"
    assert capsys.readouterr().err == (says if is_full else "")
    assert not is_full or caught.value.code == 2
    assert (place / "report.html").exists()


def test_runs_without_their_experiment_are_named_and_go_into_the_bundle(runs, digits, made, capsys, tmp_path):
    write_runs(runs, digits, PLAIN, [0.8])
    lost = write_runs(runs, digits, replace(PLAIN, l1=0.1), [0.8])
    (lost / "experiment.json").unlink()
    bundle = tmp_path / "all.zip"
    report.main(["--runs-dir", str(runs), "--out", str(tmp_path / "out"), "--bundle", str(bundle)])
    shown = capsys.readouterr()
    assert f"Left out: single/{lost.name}/experiment.json: missing; the command" in shown.out
    assert shown.err == "WARNING: grade.py may fail what was left out, see above; mend it and pack again\n"
    assert f"runs/single/{lost.name}/seed-0/result.json" in zipfile.ZipFile(bundle).namelist()


def test_what_is_not_finished_is_said_and_not_in_the_report(runs, digits, made, capsys, tmp_path):
    folder = write_runs(runs, digits, PLAIN, [0.8])
    for seeds in ([5, 6], [7, 9]):
        Checkpoint(folder, seeds, 1, [seeds]).begin()
    report.main(["--runs-dir", str(runs), "--out", str(tmp_path / "out")])
    resumes = f"python train.py --runs-dir {runs} --dataset mnist_sample --seeds 5-7,9"
    unfinished = f"{folder}, seeds 5-7,9; resume all of it: {resumes}"
    assert capsys.readouterr().out.count(f"unfinished, not in the report: {unfinished}\n") == 1
    text = write_report(runs)
    assert "5-7,9" not in text
    assert "unfinished" not in text


def test_the_students_notes_open_and_close_the_report_and_survive_it(tmp_path, runs, digits, made):
    write_runs(runs, digits, PLAIN, [0.8])
    text = write_report(runs)
    assert text.startswith("# Report\n")
    assert "write `notes.md` in the folder of runs" in text

    own = "# Mine\n\nA. Student\n\n---\n\n## Conclusions\n\nIt <b>depends</b>.\n"
    (runs / "notes.md").write_text(own, encoding="utf-8")
    for _ in range(2):
        text = made()
        assert text.startswith("# Mine\n\nA. Student\n\n## What was found")
        assert text.endswith("## Conclusions\n\nIt <b>depends</b>.\n")
        assert "# Report" not in text
    html = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "<title>Mine</title>" in html
    assert "It &lt;b&gt;depends&lt;/b&gt;." in html
    assert html.count("data:image/png;base64,") == text.count("![")
    assert (runs / "notes.md").read_text(encoding="utf-8") == own


def test_notes_from_windows_open_and_close_the_report(runs, digits, made):
    write_runs(runs, digits, PLAIN, [0.8])
    (runs / "notes.md").write_bytes("\ufeff# Jürgens\r\n--- \r\nEnde\r\n".encode())
    text = made()
    assert text.startswith("# Jürgens\n\n## What was found")
    assert text.endswith("\n\nEnde\n")


@pytest.mark.parametrize(
    ("notes", "opening", "closing"),
    [("---\nEnd", "# Report\n\n## What", "End\n"), ("# Title\n---", "# Title\n\n## What", "")],
)
def test_notes_may_have_one_part_alone(notes, opening, closing, runs, digits, made):
    write_runs(runs, digits, PLAIN, [0.8])
    (runs / "notes.md").write_text(notes)
    text = made()
    assert text.startswith(opening)
    assert text.endswith(closing)
    assert "\n---\n" not in text


@pytest.mark.parametrize("folder", [".", "studies", "engine"])
def test_a_folder_of_code_is_no_place_for_a_report(folder, runs, digits, capsys):
    write_runs(runs, digits, PLAIN, [0.8])
    root = Path(report.__file__).parent
    line = refuse(report.main, ["--runs-dir", runs, "--out", root / folder], capsys)
    assert "is a folder of code; name one for the report alone, such as report" in line


def test_other_runs_that_are_not_there_are_named_by_their_flag(runs, digits, capsys, tmp_path):
    write_runs(runs, digits, PLAIN, [0.8])
    words = ["--runs-dir", runs, "--against", tmp_path / "nothing", "--out", tmp_path / "out"]
    says = f"--against {tmp_path / 'nothing'}: there is no such folder; name a folder of runs"
    assert refuse(report.main, words, capsys) == f"report.py: error: {says}"


@pytest.mark.parametrize(
    ("opened", "closed"),
    [
        ("```python\nx = 1", "```"),
        ("~~~", "~~~"),
        ("<!-- to do", "-->"),
        ("<details>", "</details>"),
        ("Text <br> and <div\nclass='a'><img src='a.png'>", "</div>"),
        ("<DIV/>", "</div>"),
    ],
)
def test_notes_that_would_hide_the_report_are_refused(opened, closed, runs, digits, made, capsys):
    write_runs(runs, digits, PLAIN, [0.8])
    (runs / "notes.md").write_text(f"# Title\n\n{opened}\n---\nEnd")
    says = "notes.md: a code block, comment or HTML element in the text before the report is not closed; close it"
    assert says in refuse(made, [], capsys)
    (runs / "notes.md").write_text(f"# Title\n\n{opened}\n{closed}\n---\n{opened}")
    assert "## What was found" in made()


def test_notes_whose_html_cannot_be_read_are_refused(runs, digits, made, capsys):
    write_runs(runs, digits, PLAIN, [0.8])
    (runs / "notes.md").write_text("<div>\n1 <![2] 3\n</div>\n\n---\nEnd")
    assert "HTML element in the text before the report is not closed" in refuse(made, [], capsys)


def test_notes_may_have_no_dividing_line_in_a_code_block(runs, digits, made, capsys):
    write_runs(runs, digits, PLAIN, [0.8])
    (runs / "notes.md").write_text("# Title\n\n```yaml\n---\na: 1\n```\n")
    says = "notes.md: a line of --- in a code block, comment or HTML element divides the text; write another line there"
    assert says in refuse(made, [], capsys)


def test_notes_that_are_no_text_are_refused(runs, digits, made, capsys):
    write_runs(runs, digits, PLAIN, [0.8])
    (runs / "notes.md").write_bytes(b"\xff\xfe")
    assert "notes.md: is not in UTF-8; save it again" in refuse(made, [], capsys)
    (runs / "notes.md").write_bytes(bytes(2**20 + 1))
    assert "notes.md: expected a text of at most 1,048,576 bytes; shorten it" in refuse(made, [], capsys)
    (runs / "notes.md").rename(runs / "notes.md.txt")
    assert "notes.md.txt: is not read under this name; rename it to notes.md" in refuse(made, [], capsys)


def test_characters_that_html_and_markdown_know_are_shown_as_they_are(runs, digits, made, monkeypatch, tmp_path):
    study = Study("mine", "Is <i>it</i> *so*?", {"A & B, _x_": Entry("own", PLAIN)}, "A & B, _x_")
    monkeypatch.setitem(STUDIES, "mine", study)
    write_runs(runs, digits, PLAIN, [0.8], study, "A & B, _x_")
    made()
    html = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "A &amp; B, _x_" in html
    assert "<i>" not in html
    assert "Is &lt;i&gt;it&lt;/i&gt; *so*?" in html


def test_the_page_can_be_opened_at_once(runs, digits, monkeypatch, tmp_path, capsys):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or len(opened) == 1)
    monkeypatch.setattr("analysis.document.Document.write", lambda *_, is_slim: None)
    write_runs(runs, digits, PLAIN, [0.8])
    words = ["--runs-dir", str(runs), "--out", str(tmp_path / "report"), "--open"]
    report.main(words)
    out = capsys.readouterr()
    assert opened == [(tmp_path / "report" / "report.html").as_uri()]
    assert out.err == ""
    assert "| experiment" not in out.out, "the tables are in the files"
    report.main(words)
    assert "no browser was found; open " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["train.py", "none"])
def test_a_bundle_must_be_named_as_an_archive(name, runs, digits, made, capsys):
    write_runs(runs, digits, PLAIN, [0.8])
    before = Path(name).read_bytes() if Path(name).exists() else None
    assert f"--bundle {name}: expected a file with a name that ends in .zip" in refuse(made, ["--bundle", name], capsys)
    assert (Path(name).read_bytes() if Path(name).exists() else None) == before
