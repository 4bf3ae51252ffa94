"""What is trained next until a study's claims are decided, and the command that does it."""

from dataclasses import replace

import pytest
from helpers import refuse, write_report, write_runs

import train
from analysis import gaps, wording
from analysis.deciding import find_next_step
from analysis.findings import gather
from engine import records
from engine.checkpoints import Checkpoint, find_seeds
from engine.seeds import continue_seeds
from experiments import Experiment, UserError
from studies import STUDIES
from studies.study import Claim, Entry, Study

SMALL = Experiment(model="mlp", hidden=(8,), dataset="mnist_sample", epochs=1)
CLEAR = Claim("own", "much L1 costs accuracy", "L1", ("plain",), "test_accuracy", "lower")
OPEN = Claim("own", "dropout makes no difference", "dropout", ("plain",), "test_accuracy", "same")
MINE = Study(
    "mine",
    "?",
    {
        "plain": Entry("own", SMALL),
        "L1": Entry("own", replace(SMALL, l1=0.1)),
        "dropout": Entry("own", replace(SMALL, dropout=0.05)),
    },
    "plain",
    (CLEAR, OPEN),
    margin=0.001,  # so that few seeds decide nothing that is close
)


@pytest.fixture(autouse=True)
def mine(monkeypatch):
    monkeypatch.setitem(STUDIES, "mine", MINE)


def record_study(runs, digits, **accuracies):
    for title, values in accuracies.items():
        write_runs(runs, digits, MINE.experiments[title].experiment, values, MINE, title)
    return records.read_all(runs, "mine")[0]


PLAIN = [0.90, 0.91, 0.89, 0.90, 0.92]
CLOSE = [0.91, 0.90, 0.90, 0.90, 0.91]
FAR = [0.5, 0.51, 0.49, 0.5, 0.52]


def test_undecided_claims_are_trained_to_the_next_look(runs, digits):
    found = record_study(runs, digits, plain=PLAIN, L1=FAR, dropout=CLOSE)
    step = find_next_step(MINE, found, runs, most_seeds=40)
    assert (step.titles, step.seeds) == (["dropout", "plain"], 10)
    assert step.says == 'decided: 1 of 2 claims; look 2 (10 seeds) is next, for "dropout", "plain"'


@pytest.mark.parametrize(("most_seeds", "limit"), [(40, ""), (10, ""), (9, " --most-seeds 10")])
def test_the_report_names_a_command_that_reaches_the_next_look(most_seeds, limit, runs, digits, monkeypatch):
    record_study(runs, digits, plain=PLAIN, L1=FAR, dropout=CLOSE)
    monkeypatch.setattr(wording, "MOST_TO_DECIDE", most_seeds)
    assert f"`python train.py --study mine --until-decided{limit}`" in write_report(runs)


def test_the_earliest_look_comes_first(runs, digits):
    found = record_study(runs, digits, plain=PLAIN * 2, L1=FAR[:2], dropout=CLOSE * 2)
    step = find_next_step(MINE, found, runs, most_seeds=40)
    assert (step.titles, step.seeds) == (["L1", "plain"], 5)


def test_nothing_is_left_when_no_look_is_within_the_limit(runs, digits):
    found = record_study(runs, digits, plain=PLAIN, L1=FAR, dropout=CLOSE)
    step = find_next_step(MINE, found, runs, most_seeds=9)
    assert step.titles == []
    limit = "next is look 2 (10 seeds), above --most-seeds 9"
    assert step.says == f"decided: 1 of 2 claims\nundecided: {limit}: dropout makes no difference"


def test_the_same_step_twice_ends(runs, digits):
    found = record_study(runs, digits, plain=PLAIN, L1=FAR, dropout=CLOSE)
    step = find_next_step(MINE, found, runs, most_seeds=40)
    again = find_next_step(MINE, found, runs, most_seeds=40, last=step)
    assert again.titles == []
    assert 'look 2 (10 seeds) is not reached by "dropout", "plain": runs are damaged' in again.says


def test_other_seeds_take_the_place_of_those_that_diverged(runs, digits):
    found = record_study(runs, digits, plain=PLAIN, L1=FAR, dropout=CLOSE)
    for record in found:
        record.diverged |= dict(plain={}, L1={5: "its loss was not finite"}, dropout={7: "its loss was not finite"})[
            record.title
        ]
    step = find_next_step(MINE, found, runs, most_seeds=40)
    assert (step.titles, step.seeds) == (["dropout", "plain"], 11)
    (findings,) = gather(found, runs)[0]
    text = " ".join(wording.write_findings(findings))
    assert "The next is look 2 (10 seeds): 5 more of *dropout*; 6 more of *plain*" in text
    assert find_next_step(MINE, found, runs, most_seeds=10) == step, "the limit counts seeds that can be compared"
    (dropout,) = (record for record in found if record.title == "dropout")
    dropout.diverged |= dict.fromkeys(range(20, 30), "its loss was not finite")
    step = find_next_step(MINE, found, runs, most_seeds=40)
    assert (step.titles, "too many runs diverged" in step.says) == ([], True)


@pytest.mark.parametrize(
    ("is_pooled", "runs_lacking", "flags"),
    [
        (False, "2 more of *dropout*; 1 more of *plain*", "--until-decided"),
        (True, "3 more of *dropout*, *plain*", "--only dropout plain --seeds 6-8"),
    ],
)
def test_seeds_that_only_one_experiment_has_are_no_pairs(is_pooled, runs_lacking, flags, runs, digits):
    found = record_study(runs, digits, plain=PLAIN[:4], dropout=[*CLOSE, *CLOSE[:1]])
    (dropout,) = (record for record in found if record.title == "dropout")
    for seed in (0, 1):
        dropout.results.pop(seed)  # it has 2 to 5, plain 0 to 3
    (findings,) = gather(found, runs)[0]
    findings.is_pooled = is_pooled
    text = " ".join(wording.write_findings(findings))
    cost = "about a minute of one process"
    assert f"The next is look 1 (5 seeds): {runs_lacking}; {cost}: `python train.py --study mine {flags}`" in text
    without_claims = replace(findings, study=replace(MINE, claims=()))
    text = " ".join(gaps.write_gaps(without_claims))
    assert f"`python train.py --study mine --seeds {'6-8' if is_pooled else '0-4'}`" in text


def test_no_look_is_taken_again_with_lower_seeds_of_another_experiment(runs, digits):
    """A look at the seeds 5-9 goes on with 10-14, though an experiment that it does not compare has 0-9."""
    for title, values, first in (("plain", PLAIN, 5), ("dropout", CLOSE, 5), ("L1", FAR * 2, 0)):
        write_runs(runs, digits, MINE.experiments[title].experiment, values, MINE, title, first)
    found = records.read_all(runs, "mine")[0]
    step = find_next_step(MINE, found, runs, most_seeds=40)
    assert (step.titles, step.seeds, step.judged) == (["dropout", "plain"], 10, (5, 6, 7, 8, 9))
    assert "The next is look 2 (10 seeds): 5 more of *dropout*, *plain*; " in write_report(runs)
    known, shared = find_seeds(runs / "mine")
    assert continue_seeds(known, MINE.seeds, shared) == [5, 6, 7, 8, 9], "nor with the planned seeds"


def test_a_damaged_run_is_named_when_it_stops_the_training(runs, capsys):
    words = ["--study", "mine", "--runs-dir", str(runs), "--jobs", "1"]
    train.main([*words, "--seeds", "0-4"])
    weights = runs / "mine" / "plain" / "seed-2" / "weights.pt"
    weights.write_bytes(weights.read_bytes()[:100])
    train.main([*words, "--until-decided", "--most-seeds", "10"])
    said = capsys.readouterr()
    assert f"{weights}: cannot be read" in said.err
    assert "runs are damaged" in said.out


def test_runs_with_overrides_decide_nothing(runs, digits):
    study = MINE.with_overrides(dict(epochs=2))
    write_runs(runs, digits, study.experiments["plain"].experiment, PLAIN, study, "plain")
    with pytest.raises(UserError, match="its claims are not judged"):
        find_next_step(MINE, records.read_all(runs, "mine")[0], runs, most_seeds=40)


def test_the_command_trains_only_what_is_undecided(runs, capsys):
    words = ["--study", "mine", "--until-decided", "--most-seeds", "10", "--runs-dir", str(runs), "--jobs", "1"]
    train.main(words)
    shown = capsys.readouterr().out
    assert 'look 2 (10 seeds) is next, for "dropout", "plain"' in shown
    trained = {record.title: sorted(record.results) for record in records.read_all(runs)[0]}
    assert trained == {"plain": [*range(10)], "L1": [*range(5)], "dropout": [*range(10)]}
    train.main(words)
    shown = capsys.readouterr().out
    assert "to train" not in shown, "the same command trains nothing anew"
    assert "decided: " in shown


def test_whoever_was_given_other_seeds_goes_on_with_them(runs, capsys):
    words = ["--study", "mine", "--runs-dir", str(runs), "--jobs", "1"]
    train.main([*words, "--seeds", "5-6"])
    text = write_report(runs)
    assert ": 3 more of *" in text
    assert "`python train.py --study mine --until-decided`" in text
    assert "Under 5 seeds" not in text, "which would name the same runs again"
    train.main([*words, "--until-decided", "--most-seeds", "5"])
    assert "to train: seeds 7-9" in capsys.readouterr().out
    trained = {record.title: sorted(record.results) for record in records.read_all(runs)[0]}
    assert trained == {title: [5, 6, 7, 8, 9] for title in MINE.experiments}


def test_seeds_that_were_begun_are_not_left_for_others(runs):
    """As when the second unit of a training was finished before the first, and then it was interrupted."""
    words = ["--study", "mine", "--runs-dir", str(runs), "--jobs", "1"]
    train.main([*words, "--seeds", "3-4"])
    Checkpoint(runs / "mine" / "plain", [0, 1, 2], 1, [[0, 1, 2], [3, 4]]).write(0, None)
    assert find_seeds(runs / "mine") == ({0, 1, 2, 3, 4}, {3, 4})
    train.main([*words, "--until-decided", "--most-seeds", "5"])
    trained = {record.title: sorted(record.results) for record in records.read_all(runs)[0]}
    assert trained == {title: [0, 1, 2, 3, 4] for title in MINE.experiments}
    assert find_seeds(runs / "nothing") == (set(), set())


def test_a_checkpoint_whose_experiment_json_is_gone_does_not_stop_the_search_for_seeds(runs):
    train.main(["--study", "mine", "--runs-dir", str(runs), "--jobs", "1", "--seeds", "3-4"])
    Checkpoint(runs / "mine" / "plain", [0, 1, 2], 1, [[0, 1, 2]]).write(0, None)
    (runs / "mine" / "plain" / "experiment.json").unlink()
    assert find_seeds(runs / "mine") == ({3, 4}, {3, 4})


@pytest.mark.usefixtures("offline")
def test_no_sample_takes_the_place_of_the_data_that_claims_are_judged_on(tmp_path, capsys):
    runs = tmp_path / "runs"
    words = ["--study", "ghost-size", "--until-decided", "--data-dir", tmp_path, "--runs-dir", runs]
    assert "mnist: not found" in refuse(train.main, words, capsys)
    assert not runs.exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--until-decided"], "--until-decided: needs --study NAME, whose claims it decides"),
        (["--until-decided", "--study", "mine", "--epochs", "2"], "--epochs: --until-decided trains a study as it is"),
        (["--until-decided", "--study", "mine", "--only", "L1"], "--only: --until-decided trains a study as it is"),
        (["--until-decided", "--study", "mine", "--seeds", "0-3"], "--until-decided chooses the seeds"),
        (["--until-decided", "--study", "mine", "--most-seeds", "4"], "expected at least the 5"),
        (["--study", "mine", "--most-seeds", "80"], "--most-seeds 80: needs --until-decided"),
    ],
)
def test_what_does_not_go_with_it_is_one_line(words, says, runs, capsys):
    assert says in refuse(train.main, [*words, "--runs-dir", runs], capsys)
    assert not runs.exists()
