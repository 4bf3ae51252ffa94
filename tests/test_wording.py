from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
from helpers import PLAIN, override, read_rows, write_report, write_runs

from analysis.claims import Judgement
from analysis.wording import describe_margin, describe_training
from experiments import Experiment
from studies import STUDIES
from studies.study import Claim, Entry, Study

(SCHEDULERS,) = [setting.metadata["choices"] for setting in fields(Experiment) if setting.name == "lr_scheduler"]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_learning_rate_over_time_is_described(scheduler):
    text = describe_training(Experiment(lr_scheduler=scheduler, lr_step_size=5 if scheduler == "step" else None))
    assert text.startswith("mlp1 by adam with learning rate 0.001")
    assert text.endswith(", batches of 64, 15 epochs at most")
    assert ("0.001, batches" in text) == (scheduler == "constant")


def test_the_setting_is_the_one_that_was_trained(runs, digits):
    study = override("fashion-mlp", epochs=3)
    write_runs(runs, digits, study.experiments["third"].experiment, [0.9], study, "third")
    text = write_report(runs)
    assert "The baseline is third: mlp3 by adam with learning rate 0.001, batches of 64, 3 epochs at most." in text
    assert "By hand: `python train.py --model mlp3 --dataset mnist_sample --epochs 3`" in text
    settings = read_rows(text, "kind")
    assert settings["early stopping, best"]["settings that differ from those of third"] == "--patience 3"


def test_what_cannot_be_told_apart_is_not_called_a_change(runs, digits):
    write_runs(runs, digits, PLAIN, [0.8, 0.9])
    write_runs(runs, digits, replace(PLAIN, l1=0.1), [0.9, 0.8])
    write_runs(runs, digits, replace(PLAIN, l1=0.2), [0.7])
    text = write_report(runs)
    assert "l1=0.1* shows no certain change of test accuracy, +0.00 ± " in text
    assert "l1=0.2* changes test accuracy by −10.00 points against *mlp1*, in one seed" in text
    assert "the best is *mlp1*, equal to *mlp1,l1=0.1*." in text


@pytest.mark.parametrize("seeds", [1, 2])
def test_intervals_are_spoken_of_where_there_are_some(seeds, runs, digits):
    for experiment in (PLAIN, replace(PLAIN, l1=0.1)):
        write_runs(runs, digits, experiment, [0.8, 0.9][:seeds])
    text = write_report(runs)
    assert ("- These 95 % intervals are corrected for their number" in text) == (seeds > 1)
    caption = f"Differences in test accuracy from mlp1, in points{', with 95 % intervals' if seeds > 1 else ''}"
    assert f"Figure 1. {caption}.*" in text


def test_a_single_experiment_is_compared_with_itself_unregularized(runs, digits):
    write_runs(runs, digits, replace(PLAIN, l1=0.1), [0.8, 0.7])
    text = write_report(runs)
    assert "*mlp1,dataset=mnist_sample,l1=0.1* has a test accuracy of 75.00 ± 63.53 % over 2 seeds." in text
    missing = "`mlp1,dataset=mnist_sample`, the baseline of *mlp1,dataset=mnist_sample,l1=0.1*, is not trained yet: "
    assert f"{missing}`python train.py --dataset mnist_sample`" in text
    few = "Under 5 seeds intervals are wide, and with one there is no interval:"
    command = "python train.py --dataset mnist_sample --l1"
    assert f"{few} `{command} 0.1 --seeds 0-4`\n" in text
    write_runs(runs, digits, replace(PLAIN, l1=0.2), [0.8])
    text = write_report(runs)
    assert "the baseline of *mlp1,l1=0.1* and 1 more, is not trained yet" in text
    assert f"{few}\n- `{command} 0.1 --seeds 0-4`\n- `{command} 0.2 --seeds 0-4`\n" in text


@pytest.mark.parametrize(("seeds", "tells"), [(5, True), (4, False)])
def test_with_overrides_five_seeds_tell_the_best_from_the_second(seeds, tells, runs, digits):
    study = override("fashion-mlp", epochs=3)
    for title, accuracy in (("third", 0.9), ("L1", 0.5)):
        accuracies = [accuracy + seed / 1000 for seed in range(seeds)]
        write_runs(runs, digits, study.experiments[title].experiment, accuracies, study, title)
    text = write_report(runs)
    assert ("By validation accuracy the best is *third*, distinguishably above *L1*." in text) == tells
    assert ("they have fewer seeds in common than a verdict needs" in text) != tells


def test_the_best_of_all_seeds_may_be_below_the_second_in_those_that_both_have(runs, digits):
    study = override("fashion-mlp", epochs=3)
    for title, accuracies in (("third", [0.5] * 5 + [0.95] * 5), ("L1", [0.6] * 5)):
        accuracies = [accuracy + seed / 1000 for seed, accuracy in enumerate(accuracies)]
        write_runs(runs, digits, study.experiments[title].experiment, accuracies, study, title)
    says = "By validation accuracy the best is *third*, but below *L1* in the first seeds that both have."
    assert says in write_report(runs)


def test_experiments_that_are_equal_in_the_seeds_that_both_have_are_not_distinguishable(runs, digits):
    study = override("fashion-mlp", epochs=3)
    for title, seeds in (("third", 6), ("L1", 5)):
        accuracies = [0.5 + seed / 1000 for seed in range(seeds)]
        write_runs(runs, digits, study.experiments[title].experiment, accuracies, study, title)
    assert "the best is *third*, not distinguishable from *L1*." in write_report(runs)


@pytest.fixture
def mine(monkeypatch):
    claim = Claim("own", "L1 costs accuracy", "L1", ("plain",), "test_accuracy", "lower")
    entries = {"plain": Entry("own", PLAIN), "L1": Entry("own", replace(PLAIN, l1=0.1))}
    study = Study("mine", "?", entries, "plain", (claim,), margin=0.02)
    monkeypatch.setitem(STUDIES, "mine", study)
    return study


def test_a_verdict_by_the_margin_shows_the_interval_that_it_comes_from(mine, runs, digits):
    for title in mine.experiments:
        write_runs(runs, digits, mine.experiments[title].experiment, [0.9] * 5, mine, title)
    says = "as the uncorrected interval, +0.00 to +0.00, lies within the margin of 2 points."
    assert f"**no practical difference**, {says}" in write_report(runs)


@pytest.mark.parametrize(
    ("direction", "ends", "says"),
    [
        ("same", [(0.0001, 0.00198)], "interval, +0.01 to +0.198, lies within the margin of 0.2 points"),
        ("not higher", [(-0.00204, 0.001996)], "interval, −0.20 to +0.1996, ends below the margin of 0.2 points"),
        (
            "not higher",
            [(0.0, 0.001), (-0.01, 0.0)],
            "intervals, +0.00 to +0.10 against *0* and −1.00 to +0.00 against *1*, end below the margin of 0.2 points",
        ),
        (
            "higher",
            [(0.0, 0.001), (0.004, 0.005)],
            "interval, +0.00 to +0.10 against *0*, lies within the margin of 0.2 points",
        ),
    ],
)
def test_an_interval_by_the_margin_is_told_with_its_comparison_and_never_beyond_the_margin(direction, ends, says):
    claim = Claim("own", "", "a", ("b",), "test_accuracy", direction)
    compared = {str(place): SimpleNamespace(interval_for_margin=lambda of=each: of) for place, each in enumerate(ends)}
    verdict = "no practical difference" if direction == "higher" else "supported"
    judgement = Judgement(claim, verdict, comparisons=compared)
    assert describe_margin(judgement, 0.002) == f", as the uncorrected {says}"


def test_a_verdict_tells_how_many_runs_diverged(mine, runs, digits):
    """Runs that diverged beyond the last seed of its look are no part of it."""
    with_l1 = mine.experiments["L1"].experiment
    write_runs(runs, digits, mine.experiments["plain"].experiment, [0.9, 0.91, 0.92, 0.9, 0.91, 0.92], mine, "plain")
    write_runs(runs, digits, with_l1, [0.5, 0.52], mine, "L1")
    write_runs(runs, digits, with_l1, [0.49, 0.5, 0.53], mine, "L1", first_seed=3)
    for diverged in (2, 6, 7):
        write_runs(runs, digits, with_l1, [0.1], mine, "L1", diverged, diverged=True)
    text = write_report(runs)
    assert "at look 1 (5 seeds), without 1 diverged run; the claim “L1 costs accuracy”: **supported**." in text
    assert read_rows(text, "validation %")["L1"]["seeds"] == "5 of 8"


def test_the_number_of_published_metrics_outside_is_beside_that_of_chance(runs, digits, monkeypatch):
    entry = Entry("as run", PLAIN, published=dict(test_accuracy=0.5))
    monkeypatch.setitem(STUDIES, "mine", Study("mine", "?", {"plain": entry}, "plain"))
    write_runs(runs, digits, PLAIN, [0.9, 0.91, 0.92], STUDIES["mine"], "plain")
    says = "0 of 1 published metrics lie inside the 95 % interval for one more run of ours. Outside, where about 0.1"
    assert says in write_report(runs)


def test_the_limits_of_a_study_are_said_with_what_comes_near_them(runs, digits, monkeypatch):
    study = replace(STUDIES["fashion-mlp"], most_parameters=120_000, most_epochs=20)
    monkeypatch.setitem(STUDIES, "fashion-mlp", study)
    small = study.with_overrides(dict(dataset="mnist_sample"))
    write_runs(runs, digits, small.experiments["third"].experiment, [0.9], small, "third")
    says = "The study allows at most 120,000 parameters and 20 epochs; the largest network here has 94,154, the longest"
    assert f"{says} training 15 epochs.\n" in write_report(runs)


def test_what_names_leave_out_is_said(runs, digits):
    for changes in (dict(l1=0.1), dict(l2=0.1)):
        write_runs(runs, digits, replace(PLAIN, epochs=2, dropout=0.2, **changes), [0.9])
    text = write_report(runs)
    assert "- All these experiments have `epochs=2`, `dropout=0.2`, which their names leave out.\n" in text
    assert "*mlp1,l1=0.1*" in text
