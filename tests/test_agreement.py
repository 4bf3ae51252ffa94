"""The verdicts of two folders of runs side by side."""

from dataclasses import replace

import pytest
from helpers import read_rows, refuse, write_nothing, write_runs

import report
from analysis import style
from analysis.agreement import add_agreement, compare_verdicts, find_shared_seeds, judge_agreement
from analysis.claims import Judgement
from analysis.compare import Comparison
from analysis.document import Document
from analysis.findings import gather
from engine import records
from experiments import Experiment
from studies import STUDIES
from studies.study import Claim, Entry, Study

PLAIN = Experiment(model="mlp3", dataset="mnist_sample")
CLAIM = Claim("own", "L1 costs accuracy", "L1", ("plain",), "test_accuracy", "lower")
MINE = Study("mine", "?", {"plain": Entry("own", PLAIN), "L1": Entry("own", replace(PLAIN, l1=0.1))}, "plain", (CLAIM,))
HIGH, LOW = [0.90, 0.91, 0.89, 0.90, 0.92], [0.80, 0.81, 0.79, 0.81, 0.82]


@pytest.mark.parametrize(
    ("here", "there", "expected"),
    [
        ("supported", "supported", "agree"),
        ("contradicted", "supported", "contradict"),
        ("supported", "no practical difference", "compatible"),
        ("undecided", "supported", "one undecided"),
        ("undecided", "undecided", "both undecided"),
        ("supported", "too few seeds", "not judged in both"),
        ("undecided", "not compared", "not judged in both"),
        ("no finished run", "no finished run", "not judged in both"),
    ],
)
def test_two_verdicts_agree_or_not(here, there, expected):
    one, other = (Judgement(CLAIM, verdict) for verdict in (here, there))
    assert judge_agreement(one, other) == judge_agreement(other, one) == expected


@pytest.mark.parametrize("direction", ["same", "not higher"])
def test_a_difference_and_one_too_small_to_matter_can_both_be_so(direction):
    claim = replace(CLAIM, direction=direction)
    one, other = (Judgement(claim, verdict) for verdict in ("supported", "contradicted"))
    assert judge_agreement(one, other) == judge_agreement(other, one) == "compatible"


@pytest.mark.parametrize(
    ("direction", "here", "there", "expected"),
    [
        ("same", "contradicted", "contradicted", "contradict"),
        ("same", "supported", "supported", "agree"),  # both within the margin
        ("not higher", "supported", "contradicted", "contradict"),
    ],
)
def test_differences_that_are_surely_opposite_contradict_each_other(direction, here, there, expected):
    claim = replace(CLAIM, direction=direction)

    def judge(verdict, difference):
        return Judgement(claim, verdict, subject="L1", comparisons={"plain": Comparison(difference, 5, 0.001)})

    assert judge_agreement(judge(here, -0.05), judge(there, 0.05)) == expected
    unsure = replace(judge(there, 0.05), comparisons={"plain": Comparison(0.05, 5, 0.5)})
    assert judge_agreement(judge(here, -0.05), unsure) != "contradict"


@pytest.fixture
def two_folders(tmp_path, digits, monkeypatch):
    """Record a study twice: in the first folder L1 costs accuracy, in the second it raises it."""
    monkeypatch.setitem(STUDIES, "mine", MINE)
    folders = tmp_path / "here", tmp_path / "there"
    for folder, accuracies in zip(folders, ((HIGH, LOW), (LOW, HIGH)), strict=True):
        for title, values in zip(MINE.experiments, accuracies, strict=True):
            write_runs(folder, digits, MINE.experiments[title].experiment, values, MINE, title)
    return folders


def test_what_is_left_out_of_the_other_folder_is_said(two_folders, tmp_path, monkeypatch):
    monkeypatch.setattr(style, "save_figure", write_nothing)
    here, there = two_folders
    broken = there / "mine" / "L1" / "seed-4" / "result.json"
    broken.write_text("{")
    report.main(["--runs-dir", str(here), "--against", str(there), "--out", str(tmp_path / "report")])
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert f"Left out: {broken}: cannot be read" in text


def test_runs_of_the_other_folder_that_diverged_are_named_with_their_folder(two_folders, tmp_path, digits, monkeypatch):
    monkeypatch.setattr(style, "save_figure", write_nothing)
    monkeypatch.chdir(tmp_path)
    for folder, name in zip(two_folders, ("runs", "other-runs"), strict=True):
        folder.rename(name)
        write_runs(tmp_path / name, digits, PLAIN, [0.1], MINE, "plain", 5, diverged=True, stop_reason="diverged: so")
    report.main(["--against", "other-runs"])
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    for left_out in ("mine/plain", "other-runs/mine/plain"):
        assert f"Left out: {left_out}, seed 5: diverged: so; it is part of no mean\n" in text


def test_without_the_other_folders_test_images_the_reason_is_told(two_folders, tmp_path):
    here, there = (gather(records.read_all(folder)[0], folder)[0][0] for folder in two_folders)
    there = replace(there, dataset=None, problem="cells.npz: not found")
    document = Document()
    add_agreement(document, [here], [there], "other-runs")
    says = "Without their test images, the runs of mine in other-runs are not judged: cells.npz: not found\n"
    assert says in document.text
    assert "no study in common whose claims are judged in both" in document.text


def test_verdicts_show_their_looks_and_what_is_open_its_reason(two_folders):
    here, there = (gather(records.read_all(folder)[0], folder)[0][0] for folder in two_folders)
    (one,) = here.judgements
    few = dict(verdict="too few seeds", why="next is look 1 (5 seeds)", look=None, next_look=one.look)
    there.judgements[0] = replace(one, **few)
    table, _ = compare_verdicts(here, there)
    ((*_, look_here, look_there, verdict_here, verdict_there, _),) = table.rows
    assert (look_here, look_there) == (1, "")
    assert (verdict_here, verdict_there) == ("supported", "too few seeds: next is look 1 (5 seeds)")


def test_the_report_shows_both_verdicts_and_that_seeds_are_shared(two_folders, tmp_path, monkeypatch):
    monkeypatch.setattr(style, "save_figure", write_nothing)
    here, there = two_folders
    report.main(["--runs-dir", str(here), "--against", str(there), "--out", str(tmp_path / "report")])
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "Verdicts of mine, by claims: contradict: 1." in text
    assert "The two share seeds, so they are not independent: plain seeds 0-4, L1 seeds 0-4." in text
    row = read_rows(text, "together")["L1 costs accuracy"]
    assert (row["verdict here"], row["verdict there"], row["together"]) == ("supported", "contradicted", "contradict")
    assert row["difference here"].startswith("−9")
    assert row["there"].startswith("+9")


def test_differences_of_different_experiments_do_not_stand_side_by_side(two_folders):
    """A claim on the best of several may be about another one in the other folder."""
    here, there = (gather(records.read_all(folder)[0], folder)[0][0] for folder in two_folders)
    here.judgements[0] = replace(here.judgements[0], subject="plain")
    ((*_, compared, difference_here, difference_there, _, _, _, _, _),) = compare_verdicts(here, there)[0].rows
    assert (compared, difference_here, difference_there) == ("", "", "")


def test_disjoint_seeds_are_independent(two_folders):
    here, there = (gather(records.read_all(folder)[0], folder)[0][0] for folder in two_folders)
    for record in there.trained.values():
        record.results = {seed + 5: result for seed, result in record.results.items()}
    assert find_shared_seeds(here, there) == {}


def test_a_folder_beside_itself_is_refused(two_folders, tmp_path, capsys):
    here, _ = two_folders
    words = ["--runs-dir", here, "--against", here, "--out", tmp_path / "report"]
    assert "is --runs-dir itself" in refuse(report.main, words, capsys)


def test_a_slim_report_is_what_a_repository_can_show(two_folders, tmp_path):
    here, _ = two_folders
    report.main(["--runs-dir", str(here), "--slim", "--out", str(tmp_path / "slim")])
    kinds = {path.suffix for path in (tmp_path / "slim").rglob("*") if path.is_file()}
    assert kinds == {".md", ".png", ".csv", ".txt"}
    listed = set((tmp_path / "slim" / "contents.txt").read_text().split("\n")[:-1]) | {"contents.txt"}
    assert listed == {path.relative_to(tmp_path / "slim").as_posix() for path in (tmp_path / "slim").rglob("*.*")}
