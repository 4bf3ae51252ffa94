import math

import pytest

import figures
from compare import Comparison, mean_interval


def run(epochs, start):
    return [
        dict(epoch=epoch, train_loss=start / epoch, val_loss=start / epoch + 0.1, train_accuracy=0.9, val_accuracy=0.8)
        for epoch in range(1, epochs + 1)
    ]


HISTORIES = {"whole": [run(4, 1.0), run(4, 2.0)], "stopped": [run(4, 1.0), run(2, 3.0)], "alone": [run(3, 1.0)]}


def lines_of(panel):
    return {line.get_label(): line for line in panel.lines if not line.get_label().startswith("_")}


def test_a_curve_is_the_mean_of_the_runs_that_go_on_and_is_not_padded():
    train_loss, validation_loss, train_accuracy, _ = figures.curves(HISTORIES).axes
    found = {title: (list(line.get_xdata()), list(line.get_ydata())) for title, line in lines_of(train_loss).items()}
    assert found["whole"] == ([1, 2, 3, 4], pytest.approx([1.5, 0.75, 0.5, 0.375]))
    assert found["stopped"] == ([1, 2, 3, 4], pytest.approx([2.0, 1.0, 1 / 3, 0.25]))
    assert found["alone"][0] == [1, 2, 3]
    assert lines_of(validation_loss)["alone"].get_ydata()[0] == pytest.approx(1.1)
    assert lines_of(train_accuracy)["alone"].get_ydata()[0] == pytest.approx(90)


def test_the_band_reaches_over_all_runs_and_a_dot_marks_the_end_of_one_that_stopped_early():
    panel = figures.curves(HISTORIES).axes[0]
    band = panel.collections[1].get_paths()[0].vertices
    assert {tuple(point) for point in band.round(3)} >= {(1, 1), (1, 3), (2, 0.5), (2, 1.5), (4, 0.25)}
    dots = [
        list(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in panel.lines if line.get_marker() == "o"
    ]
    assert dots == [[], [(2, 1.5)], []]


def test_every_seed_is_a_dot_beside_mean_interval_and_published_figure():
    accuracies = {"three": [0.90, 0.92, 0.91], "one": [0.95]}
    panel = figures.seeds(accuracies, {"one": 0.94}).axes[0]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["three", "one"]
    drawn = [
        (line.get_marker(), list(line.get_xdata()), set(line.get_ydata()))
        for line in panel.lines
        if len(line.get_xdata())
    ]
    assert ("o", pytest.approx([90, 92, 91]), {0}) in drawn
    assert ("o", pytest.approx([95]), {1}) in drawn
    assert ("D", pytest.approx([94]), {1}) in drawn
    average, half_width = mean_interval([90.0, 92.0, 91.0])
    (interval,) = panel.collections[0].get_segments()
    assert sorted(interval[:, 0]) == pytest.approx([average - half_width, average + half_width])


def test_a_forest_shows_each_difference_its_interval_and_the_published_one():
    differences = {"a": Comparison(0.01, 5, 0.01, tests=2), "b": Comparison(-0.02, 1, math.nan)}
    panel = figures.forest(differences, "base", 0.005, {"a": 0.02}).axes[0]
    drawn = [(line.get_marker(), list(line.get_xdata())) for line in panel.lines if len(line.get_xdata())]
    low, high = differences["a"].interval()
    assert ("None", pytest.approx([100 * low, 100 * high])) in drawn
    assert ("o", pytest.approx([1.0])) in drawn
    assert ("o", pytest.approx([-2.0])) in drawn
    assert ("D", pytest.approx([2.0])) in drawn
    margin = panel.patches[0]
    assert (margin.get_x(), margin.get_width()) == pytest.approx((-0.5, 1.0))
    assert "that of base" in panel.get_xlabel()


def test_a_sweep_shows_accuracy_and_zeros_in_order_on_a_logarithmic_axis():
    series = {"proximal": {0.1: ([0.7, 0.8], [0.5, 0.5]), 0.01: ([0.9], [0.1])}}
    accuracy, zeros = figures.sweep(series, "λ", ("no L1", [0.91, 0.93])).axes
    assert accuracy.get_xscale() == zeros.get_xscale() == "log"
    assert accuracy.lines[0].get_xydata().tolist() == [pytest.approx([0.01, 90]), pytest.approx([0.1, 75])]
    assert zeros.lines[0].get_xydata().tolist() == [pytest.approx([0.01, 10]), pytest.approx([0.1, 50])]
    assert list(accuracy.lines[-1].get_ydata()) == pytest.approx([92, 92])


def test_a_figure_is_saved_as_png_and_pdf_with_the_same_bytes_each_time(tmp_path):
    written = [figures.save(figures.curves(HISTORIES), tmp_path / each / "a,b=0.1") for each in ("one", "two")]
    assert [path.name for path in written[0]] == ["a,b=0.1.png", "a,b=0.1.pdf"]
    for first, second in zip(*written, strict=True):
        assert first.read_bytes() == second.read_bytes()
    assert written[0][0].read_bytes().startswith(b"\x89PNG")
    assert written[0][1].read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("count", [1, 7, 13, 30])
def test_lines_differ_until_colours_and_dashes_are_used_up(count):
    styles = [tuple(style.items()) for style in figures.lines(count)]
    assert len(styles) == count
    assert len(set(styles)) == min(count, 21)
