"""Planned looks, and that verdicts at them err in few of the studies that `docs/simulate_looks.py` simulates."""

import math
import sys
from functools import partial

import numpy as np
import pytest
from helpers import end_with, refuse
from test_statistics import CLAIMED, Population

from analysis.compare import compare_paired
from analysis.looks import Look, plan_looks
from docs.simulate_looks import (
    PLANNED,
    SIZES,
    draw_runs,
    find_errors,
    judge_at_looks,
    main,
    mark,
    simulate,
)

ACCURACY = SIZES["MLP, train accuracy"]  # without an error over test images, which would keep errors rare


class FullLook(Look):
    """A look of the rule that is not ours: each may spend all of the error."""

    level = 0.05


def test_looks_double_the_seeds_and_halve_the_error():
    looks = plan_looks(5)
    assert [look.seeds for look in looks] == [5, 10, 20, 40]
    assert [look.level for look in looks] == [0.03, 0.015, 0.0075, 0.00375]
    assert str(looks[1]) == "look 2 (10 seeds)"


# ---------------------------------------------------------------------------------------------------------------------
# Errors


def allow(level, trials):
    """Add two standard errors to the share of errors that is allowed."""
    return level + 2 * math.sqrt(level * (1 - level) / trials)


def test_a_comparison_without_a_difference_is_in_error_at_few_looks():
    generator, looks = np.random.default_rng(0), plan_looks(5)
    differences = generator.standard_normal((20_000, looks[-1].seeds))
    planned = find_errors(differences, 0.0, {look.seeds: look.level for look in looks}).mean()
    full = find_errors(differences, 0.0, {look.seeds: 0.05 for look in looks}).mean()
    often = find_errors(differences, 0.0, dict.fromkeys(range(5, 41), 0.05)).mean()
    assert planned <= allow(0.05, len(differences))
    assert (full, often) == pytest.approx((0.147, 0.25), abs=0.01)


def test_errors_are_found_by_the_p_of_a_comparison():
    generator = np.random.default_rng(0)
    by_image = generator.standard_normal(50) + generator.standard_normal((8, 50))
    comparison = compare_paired(list(by_image.mean(1)), [0.0] * 8, by_image)
    assert comparison.image_error > 0
    for level in (comparison.p * 0.99, comparison.p * 1.01):
        (found,) = find_errors(by_image.mean(1)[None], comparison.image_error, {8: level})
        assert found == (comparison.p < level)


def test_few_studies_have_a_wrong_verdict_and_many_where_every_look_spends_5_percent():
    studies, wrong = 100, {}
    for kind in (Look, FullLook):
        looks = [kind(look.number, look.planned) for look in plan_looks(5)]
        rule = partial(judge_at_looks, image_error=0.0, looks=looks, margin=None)
        marks, _ = simulate(rule, ACCURACY, np.zeros(3), None, studies, seed=0)
        wrong[kind] = (marks < 0).any(1).mean()
    assert wrong[Look] <= allow(0.05, studies) < wrong[FullLook]


def test_a_claim_stops_at_the_look_that_decides_it():
    runs = draw_runs(ACCURACY, np.array([0.1, 0, 0.1]), np.random.default_rng(0))
    verdicts, seeds = judge_at_looks(runs, 0.0, plan_looks(5), margin=None)
    assert verdicts == ["supported", "undecided", "contradicted"]
    assert seeds == [5, 40, 5]
    _, seeds = judge_at_looks(runs, 0.05, plan_looks(5), margin=None)
    assert seeds == [5, 5, 5], "the test set is too small to tell"


@pytest.mark.parametrize(
    ("verdict", "direction", "difference", "expected"),
    [
        ("supported", "higher", 0.01, 1),
        ("supported", "lower", 0.01, -1),
        ("contradicted", "lower", 0.01, 1),
        ("contradicted", "higher", 0.0, -1),
        ("contradicted", "same", 0.005, 1),
        ("contradicted", "same", 0.001, -1),
        ("contradicted", "same", 0.0, -1),
        ("supported", "same", 0.001, 1),
        ("supported", "same", 0.005, -1),
        ("no practical difference", "higher", -0.001, 1),
        ("no practical difference", "higher", -0.005, -1),
        ("undecided", "higher", 0.01, 0),
    ],
)
def test_a_verdict_is_marked_by_the_true_difference(verdict, direction, difference, expected):
    assert mark(verdict, direction, difference, margin=0.005) == expected


# ---------------------------------------------------------------------------------------------------------------------
# What is simulated


def describe_differences(accuracies):
    """Of (studies, experiments, seeds): the mean gain of the best, and the errors over seeds and over studies."""
    alike = accuracies[:, 1:-1] - accuracies[:, :1]
    gain = accuracies[:, -1].mean() - accuracies[:, :-1].mean()
    return gain, math.sqrt(alike.var(2, ddof=1).mean()), math.sqrt((alike.mean(2) ** 2).mean())


@pytest.mark.parametrize("name", [name for name, size in SIZES.items() if size.images < math.inf])
def test_summarized_runs_vary_as_runs_simulated_image_by_image(name):
    size, generator, studies = SIZES[name], np.random.default_rng(1), 80
    population = Population(size.accuracy, size.deviation)
    correct = [population.study(generator, 5) for _ in range(studies)]
    accuracies = np.stack([study.mean(2) for study in correct])
    differences = size.deviation * np.eye(len(CLAIMED) + 1)[-1]
    summarized = np.stack([draw_runs(size, differences, generator)[:, :5] for _ in range(50 * studies)])
    # Two standard errors: 80 studies, each with some four differences from one baseline.
    assert describe_differences(accuracies) == pytest.approx(describe_differences(summarized), rel=0.12)
    errors = [compare_paired(study[1].mean(1), study[0].mean(1), study[1] - study[0]).image_error for study in correct]
    assert math.sqrt(np.square(errors).mean()) == pytest.approx(size.image_error, rel=0.05)


def test_the_script_prints_a_row_for_every_rule(capsys):
    main(["--studies", "1"])
    errors, verdicts = capsys.readouterr().out.split("\n\n")
    assert len(errors.splitlines()) == 2 + len(SIZES) * 3
    assert len(verdicts.splitlines()) == 2 + len(SIZES) * len(PLANNED) * 2


def test_no_studies_are_refused(capsys):
    line = refuse(main, ["--studies", "0"], capsys)
    assert line == "docs/simulate_looks.py: error: --studies 0: expected 1 at least"


def test_adastop_is_asked_for_where_it_is_missing(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "adastop", None)
    captured = end_with(2, main, ["--studies", "1", "--adastop", "1"], capsys)
    assert captured.out == ""
    assert captured.err == (
        "docs/simulate_looks.py: error: --adastop: AdaStop is not installed; install it with pip install adastop\n"
    )
