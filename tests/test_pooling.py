"""What the report on many people's runs shows: differences by person, and whether people differ."""

import math
from dataclasses import replace

import numpy as np
import pytest
from helpers import override, write_runs
from scipy import stats

from analysis.compare import compare_paired
from analysis.document import Document
from analysis.findings import gather
from analysis.pooling import (
    add_people,
    compare_by_person,
    make_people_table,
    measure_homogeneity,
    plot_people,
    write_warning,
)
from engine import records

THIRD = [0.90, 0.91, 0.92, 0.90, 0.91, 0.93]
DROPOUT = [0.89, 0.91, 0.90, 0.92, 0.90, 0.91]


def compare_with_zero(values):
    return compare_paired(values, [0.0] * len(values))


def test_homogeneity_is_scipys_one_way_analysis_of_variance():
    generator = np.random.default_rng(0)
    groups = [list(generator.normal(mean, 1, size)) for mean, size in ((0, 5), (0.5, 3), (1, 8))]
    expected = stats.f_oneway(*groups).pvalue
    assert measure_homogeneity([compare_with_zero(group) for group in groups]) == pytest.approx(expected)
    one = compare_with_zero([9.0])
    assert measure_homogeneity([*map(compare_with_zero, groups), one]) == pytest.approx(expected), "one seed: no test"


def test_homogeneity_needs_two_people_with_two_seeds_and_some_variation():
    several, one = compare_with_zero([1.0, 2.0]), compare_with_zero([3.0])
    assert math.isnan(measure_homogeneity([several, one]))
    assert math.isnan(measure_homogeneity([compare_with_zero([1.0, 1.0]), compare_with_zero([2.0, 2.0])]))
    assert measure_homogeneity([several, several]) == 1.0


def test_equal_people_are_told_to_differ_no_oftener_than_chance_has_it():
    generator = np.random.default_rng(1)
    ps = [
        measure_homogeneity([compare_with_zero(list(group)) for group in generator.normal(size=(4, 5))])
        for _ in range(400)
    ]
    assert np.mean(np.array(ps) < 0.05) == pytest.approx(0.05, abs=0.025)
    shifted = [
        measure_homogeneity(
            [compare_with_zero(list(group + 3 * number)) for number, group in enumerate(generator.normal(size=(2, 5)))]
        )
        for _ in range(50)
    ]
    assert np.mean(np.array(shifted) < 0.05) > 0.9, "a machine that shifts a difference by three deviations is seen"


@pytest.fixture
def pooled(runs, digits):
    """Return findings of two experiments with six seeds, and their givers: Ann gave seeds 0-2, Bob the others."""
    study = override("fashion-mlp")
    for title, accuracies in (("third", THIRD), ("dropout", DROPOUT)):
        write_runs(runs, digits, study.experiments[title].experiment, accuracies, study, title)
    found, _ = records.read_all(runs)
    (findings,), _ = gather(found, runs)
    givers = {
        (study.group, title, seed): "Ann" if seed < 3 else "Bob" for title in findings.trained for seed in range(6)
    }
    return findings, givers


def test_each_persons_difference_is_that_of_their_seeds(pooled):
    findings, givers = pooled
    (compared,) = compare_by_person(findings, givers)
    assert compared.label == "dropout − third"
    for person, part in (("Ann", slice(0, 3)), ("Bob", slice(3, 6))):
        expected = compare_paired(DROPOUT[part], THIRD[part])
        assert compared.people[person].difference == pytest.approx(expected.difference)
        assert compared.people[person].deviation == pytest.approx(expected.deviation)
    assert compared.pooled.seeds == 6
    differences = np.subtract(DROPOUT, THIRD)
    assert compared.p == pytest.approx(stats.f_oneway(differences[:3], differences[3:]).pvalue)


def test_a_difference_between_the_runs_of_two_people_is_nobodys(pooled):
    findings, givers = pooled
    mixed = givers | {key: "Bob" for key in givers if key[1] == "dropout" and key[2] in (1, 2)}
    (compared,) = compare_by_person(findings, mixed)
    assert {person: each.seeds for person, each in compared.people.items()} == {"Ann": 1, "Bob": 3}
    assert compared.pooled.seeds == 6


def test_the_table_tells_who_gave_which_seeds_on_how_many_machines(pooled):
    findings, givers = pooled
    findings.trained["dropout"].results[0]["platform"] = "another"
    rows = {row[0]: row[1:] for row in make_people_table(findings, givers).rows}
    assert rows["third"] == (2, 1, 6, "Ann: 0-2; Bob: 3-5")
    assert rows["dropout"][1] == 2


def test_the_figure_has_a_panel_for_each_comparison_and_a_row_for_each_person(pooled):
    findings, givers = pooled
    (compared,) = compare_by_person(findings, givers)
    panels = [panel for panel in plot_people([compared, replace(compared, label="b")]).axes if panel.get_visible()]
    assert len(panels) == 2
    assert [label.get_text() for label in panels[0].get_yticklabels()] == ["Ann", "Bob", "all"]
    dots = [line.get_xdata()[0] for line in panels[0].lines if len(line.get_xdata()) == 1]
    assert dots == pytest.approx([100 * each.difference for each in (*compared.people.values(), compared.pooled)])


def test_a_persons_two_seeds_do_not_hide_the_others_and_the_unit_is_named(pooled):
    findings, givers = pooled
    mixed = {key: "Ann" if key[2] < 2 else "Bob" for key in givers}
    (compared,) = compare_by_person(findings, mixed)
    low, high = (100 * end for end in compared.people["Ann"].interval())
    panel, of_loss = plot_people([compared, replace(compared, metric="test_loss")]).axes
    left, right = panel.get_xlim()
    assert low < left < right < high
    assert (panel.get_xlabel(), of_loss.get_xlabel()) == ("difference (points)", "difference")


def test_a_person_called_all_has_a_row(pooled):
    findings, givers = pooled
    givers = {key: giver.replace("Ann", "all") for key, giver in givers.items()}
    (compared,) = compare_by_person(findings, givers)
    panel = plot_people([compared]).axes[0]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["Bob", "all", "all"]


def test_the_report_says_whether_people_differ(pooled):
    document = Document()
    add_people(document, *pooled, list(compare_by_person(*pooled)))
    assert "people and their machines do not differ" in document.text
    assert "fashion-mlp" in next(iter(document.figures))


@pytest.mark.parametrize(
    ("p", "says"),
    [
        (0.02, "is 0.040: people, or their machines, differ."),
        (0.03, "is 0.060: people and their machines do not differ"),
    ],
)
def test_the_smallest_p_is_corrected_for_the_number_of_tests(p, says, pooled):
    (compared,) = compare_by_person(*pooled)
    two = [replace(compared, p=p), replace(compared, label="another", p=0.9)]
    document = Document()
    add_people(document, *pooled, two)
    assert says in document.text
    assert len(list(write_warning(two))) == ("people, or" in says), "it belongs to the first page, if people differ"
    assert not list(write_warning([replace(compared, p=math.nan)]))


def test_the_margin_is_the_data_sets_unless_the_study_has_its_own(pooled):
    findings, _ = pooled
    assert findings.margin == 0.001
    assert replace(findings, study=replace(findings.study, margin=0.02)).margin == 0.02
