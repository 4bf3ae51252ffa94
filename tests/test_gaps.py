"""What a report says is missing, and the commands that it names."""

from dataclasses import replace

import pytest
from helpers import PLAIN, override, read_rows, write_report, write_runs


def test_under_five_seeds_the_report_says_what_to_run(runs, digits):
    study = override("mnist-norms", epochs=3)
    write_runs(runs, digits, study.experiments["BN"].experiment, [0.9], study, "BN")
    text = write_report(runs)
    assert (
        "Under 5 seeds intervals are wide, and with one there is no interval: "
        "`python train.py --study mnist-norms --dataset mnist_sample --epochs 3 --seeds 0-4`" in text
    )
    assert "±" not in read_rows(text, "test %")["BN"]["test %"]
    assert "The claims are not judged: the study was trained with other settings than its own" in text
    assert not read_rows(text, "verdict")


def test_a_study_whose_file_is_missing_is_named(runs, digits):
    of_study = replace(override("mnist-norms"), name="of-a-friend")
    write_runs(runs, digits, replace(PLAIN, l1=0.1), [0.9] * 5, of_study, "plain")
    says = "studies/ has no study of-a-friend, so its claims are not judged; put its file there again"
    assert says in write_report(runs)
    write_runs(runs, digits, PLAIN, [0.9] * 5)
    assert write_report(runs).count("studies/ has no study") == 1


def test_a_study_without_its_baseline_is_told_which_command_trains_it(runs, digits):
    study = override("fashion-mlp", epochs=3)
    write_runs(runs, digits, study.experiments["L1"].experiment, [0.8, 0.9], study, "L1")
    says = "The baseline, *third*, is not trained yet, so nothing is compared with it: "
    command = "python train.py --study fashion-mlp --dataset mnist_sample --epochs 3 --only third --seeds 0-4"
    assert f"{says}`{command}`" in write_report(runs)
    write_runs(runs, digits, study.experiments["third"].experiment, [0.8, 0.9], study, "third")
    assert says not in write_report(runs)


@pytest.mark.parametrize("by_hand", [True, False])
def test_experiments_without_a_seed_in_common_are_named_with_the_command_that_mends_it(by_hand, runs, digits):
    if by_hand:
        for experiment, first in ((PLAIN, 0), (replace(PLAIN, l1=0.1), 5)):
            write_runs(runs, digits, experiment, [0.9, 0.8], first_seed=first)
        command = f"{replace(PLAIN, l1=0.1).command} --seeds 0-1"
    else:
        study = override("fashion-mlp", epochs=3)
        for title, first in (("third", 0), ("dropout", 5)):
            write_runs(runs, digits, study.experiments[title].experiment, [0.9, 0.8], study, title, first)
        command = "python train.py --study fashion-mlp --dataset mnist_sample --epochs 3 --only dropout --seeds 0-1"
    text = write_report(runs)
    assert f"have no seed in common, so they are not compared: `{command}`" in text


def test_seeds_that_diverged_do_not_count_as_trained(runs, digits):
    study = override("fashion-mlp", epochs=3)
    write_runs(runs, digits, study.experiments["third"].experiment, [0.9] * 2, study, "third")
    write_runs(runs, digits, study.experiments["third"].experiment, [0.1] * 3, study, "third", 2, diverged=True)
    text = write_report(runs)
    assert "Under 5 seeds" in text
    assert "--study fashion-mlp --dataset mnist_sample --epochs 3 --seeds 0-7`" in text


def test_a_baseline_that_always_diverged_is_named(runs, digits):
    study = override("fashion-mlp", epochs=3)
    write_runs(runs, digits, study.experiments["third"].experiment, [0.1] * 2, study, "third", diverged=True)
    write_runs(runs, digits, study.experiments["dropout"].experiment, [0.9] * 2, study, "dropout")
    assert "The baseline, *third*, diverged in every run, so nothing is compared with it." in write_report(runs)
