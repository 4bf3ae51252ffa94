import math
from itertools import combinations

import numpy as np
import pytest

from analysis import plots, style
from analysis.compare import Comparison, compute_mean_interval


def run(epochs, start):
    return [
        dict(epoch=epoch, train_loss=start / epoch, val_loss=start / epoch + 0.1, train_accuracy=0.9, val_accuracy=0.8)
        for epoch in range(1, epochs + 1)
    ]


HISTORIES = {"whole": [run(4, 1.0), run(4, 2.0)], "stopped": [run(4, 1.0), run(2, 3.0)], "alone": [run(3, 1.0)]}
STYLES = style.assign_styles(HISTORIES)


def lines_of(panel):
    return {line.get_label(): line for line in panel.lines if not line.get_label().startswith("_")}


def test_a_long_title_has_lines_that_end_at_commas():
    long = "resnet,crop_padding=4,flip=true,batch_size=512,optimizer=sgd,lr=0.1,lr_scheduler=one_cycle"
    lines = style.wrap_title(long).splitlines()
    assert "".join(lines) == long
    assert all(len(line) <= 36 and line.endswith(",") for line in lines[:-1])
    assert style.wrap_title("LN, per pixel") == "LN, per pixel"
    assert style.wrap_title("LN, per pixel", width=9) == "LN,\nper pixel"


def test_a_long_title_without_commas_is_broken_at_spaces():
    assert style.wrap_title("LN, per pixel", width=5) == "LN,\nper\npixel"
    assert style.wrap_title("a" * 40) == f"{'a' * 36}\naaaa"
    assert style.wrap_title("") == ""


def test_however_long_the_titles_most_of_a_figure_is_the_axes():
    long = ",".join(f"setting_{number}={number}" for number in range(9))
    accuracies = {f"{name},{long}": [0.8, 0.9] for name in ("one", "other")}
    styles = style.assign_styles(accuracies)
    for figure in (
        plots.plot_seeds(accuracies, {}, styles),
        plots.plot_by_class({title: np.ones(10) for title in accuracies}, "0123456789"),
        plots.plot_curves({title: [run(2, 1.0)] for title in accuracies}, styles),
        plots.plot_sparsity({title: [(0.5, 0.5)] for title in accuracies}, styles),
    ):
        figure.draw_without_rendering()
        assert figure.get_tightbbox().width <= figure.get_figwidth() + 0.01, "nothing is cut off"
        assert sum(axes.get_position().width for axes in figure.axes[:2]) > 0.5


def test_long_names_of_experiments_and_classes_are_neither_cut_off_nor_on_each_other():
    titles = [f"{letter} title of long words without a comma{' and so on' * 4}"[:75] for letter in "AB"]
    classes, styles = [f"a class with a long name {number}" for number in range(10)], style.assign_styles(titles)
    mistakes = [f"predicted {name}\nactual {name}\n10 of 10, 100 %" for name in classes]
    images = np.zeros((10, 1, 28, 28), np.uint8)
    for figure in (
        plots.plot_weights({title: np.array([0.0, 0.1]) for title in titles}, 0.001, styles),
        plots.plot_confusion({title: np.eye(10) for title in titles}, classes),
        plots.plot_gallery(images, mistakes, 5),
        plots.plot_gallery(images, classes, 10),
    ):
        figure.draw_without_rendering()
        found = figure.get_tightbbox()
        assert (found.x0 >= 0, found.x1 <= figure.get_figwidth()) == (True, True), "nothing is cut off"
        boxes = [panel.title.get_window_extent() for panel in figure.axes]
        assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def test_a_curve_is_the_mean_of_the_runs_still_training_and_is_not_padded():
    train_loss, validation_loss, train_accuracy, _ = plots.plot_curves(HISTORIES, STYLES).axes
    found = {title: (list(line.get_xdata()), list(line.get_ydata())) for title, line in lines_of(train_loss).items()}
    assert found["whole"] == ([1, 2, 3, 4], pytest.approx([1.5, 0.75, 0.5, 0.375]))
    assert found["stopped"] == ([1, 2, 3, 4], pytest.approx([2.0, 1.0, 1 / 3, 0.25]))
    assert found["alone"][0] == [1, 2, 3]
    assert lines_of(validation_loss)["alone"].get_ydata()[0] == pytest.approx(1.1)
    assert lines_of(train_accuracy)["alone"].get_ydata()[0] == pytest.approx(90)


def test_the_band_reaches_over_all_runs_and_a_dot_marks_the_end_of_one_that_stopped_early():
    panel = plots.plot_curves(HISTORIES, STYLES).axes[0]
    band = panel.collections[1].get_paths()[0].vertices
    assert {tuple(point) for point in band.round(3)} >= {(1, 1), (1, 3), (2, 0.5), (2, 1.5), (4, 0.25)}
    dots = [
        list(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in panel.lines if line.get_marker() == "o"
    ]
    assert dots == [[], [(2, 1.5)], []]
    assert [(text.get_text(), text.xy) for text in panel.texts] == [("1", (2, 1.5))], "one run is still training"


def test_the_first_epochs_do_not_hide_the_differences_of_the_others():
    accuracies = (0.1, 0.5, 0.90, 0.92, 0.91, 0.93, 0.94, 0.95)
    rows = [dict(row, val_accuracy=share) for row, share in zip(run(8, 1.0), accuracies, strict=True)]
    *_, panel = plots.plot_curves(dict(whole=[rows]), STYLES).axes
    low, high = panel.get_ylim()
    assert 89 < low < 90 < 95 < high < 100
    *_, panel = plots.plot_curves(dict(whole=[rows], stopped=[rows[:1]]), STYLES).axes
    assert panel.get_ylim()[0] < 10, "of a run that was stopped early, the end is shown"


def test_characters_that_the_font_lacks_are_named_in_a_line(tmp_path, capsys, recwarn):
    figure = plots.plot_gallery(np.zeros((1, 1, 4, 4), np.uint8), ["猫 and 狗"], 1)
    assert all(path.exists() for path in style.save_figure(figure, tmp_path / "pets"))
    assert capsys.readouterr().err == "pets.png: boxes stand for 狗 猫, which the font of figures lacks\n"
    assert [str(each.message) for each in recwarn] == []


def test_every_seed_is_a_dot_beside_mean_interval_and_published_accuracy():
    accuracies = {"three": [0.90, 0.92, 0.91], "one": [0.95]}
    panel = plots.plot_seeds(accuracies, {"one": 0.94}, style.assign_styles(accuracies)).axes[0]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["three", "one"]
    drawn = [
        (line.get_marker(), list(line.get_xdata()), set(line.get_ydata()))
        for line in panel.lines
        if len(line.get_xdata())
    ]
    assert ("o", pytest.approx([90, 92, 91]), {0}) in drawn
    assert ("o", pytest.approx([95]), {1}) in drawn
    assert ("D", pytest.approx([94]), {1}) in drawn
    average, half_width = compute_mean_interval([90.0, 92.0, 91.0])
    (interval,) = panel.collections[0].get_segments()
    assert sorted(interval[:, 0]) == pytest.approx([average - half_width, average + half_width])


def test_the_dots_of_many_seeds_are_spread_in_height():
    accuracies = {"many": [0.9] * 200, "few": [0.9] * 20}
    panel = plots.plot_seeds(accuracies, {}, style.assign_styles(accuracies)).axes[0]
    many, few = (list(line.get_ydata()) for line in panel.lines if line.get_marker() == "o" and len(line.get_xdata()))
    assert few == [1] * 20
    assert len(set(many)) == 200
    assert -0.25 <= min(many) < -0.2
    assert 0.2 < max(many) <= 0.25


def test_a_forest_shows_each_difference_its_interval_and_the_published_one():
    differences = {"a": Comparison(0.01, 5, 0.01, tests=2), "b": Comparison(-0.02, 1, math.nan)}
    panel = plots.plot_forest(differences, "base", 0.005, {"a": 0.02}, style.assign_styles("ab")).axes[0]
    drawn = [(line.get_marker(), list(line.get_xdata())) for line in panel.lines if len(line.get_xdata())]
    low, high = differences["a"].interval()
    assert ("None", pytest.approx([100 * low, 100 * high])) in drawn
    assert ("o", pytest.approx([1.0])) in drawn
    assert ("o", pytest.approx([-2.0])) in drawn
    assert ("D", pytest.approx([2.0])) in drawn
    margin = panel.patches[0]
    assert (margin.get_x(), margin.get_width()) == pytest.approx((-0.5, 1.0))
    assert "that of base" in panel.get_xlabel()


def test_an_interval_over_two_seeds_does_not_hide_the_others():
    differences = {
        "five": Comparison(0.01, 5, 0.01),
        "two": Comparison(-0.02, 2, 0.1),
        "one": Comparison(0.03, 1, math.nan),
    }
    low, high = differences["two"].interval()
    assert (low < -0.9, high > 0.8) == (True, True)
    panel = plots.plot_forest(differences, "base", 0.005, {}, style.assign_styles(differences)).axes[0]
    left, right = panel.get_xlim()
    assert -3 < left < -2
    assert 3 < right < 4
    arrows = {(line.get_marker(), *line.get_xdata(), *line.get_ydata()) for line in panel.lines}
    assert {("<", left, 1), (">", right, 1)} <= arrows
    accuracies = {"five": [0.8, 0.81, 0.79, 0.8, 0.82], "two": [0.7, 0.9]}
    panel = plots.plot_seeds(accuracies, {}, style.assign_styles(accuracies)).axes[0]
    assert panel.get_xlim() == pytest.approx((69, 91))
    assert [line.get_marker() for line in panel.lines if line.get_marker() in "<>"] == ["<", ">"]


def test_an_interval_over_two_seeds_does_not_hide_the_other_points_of_a_sweep():
    of_five = [0.8, 0.81, 0.79, 0.8, 0.82]
    average, half_width = compute_mean_interval([100 * share for share in of_five])
    points = {0.1: of_five, 0.01: [0.7, 0.9]}
    panels = {"test accuracy": {"a": points}, "train accuracy": {"a": points}}
    left, right = plots.plot_sweep(panels, "λ", ("base", [0.95])).axes
    border = 0.05 * (95 - average + half_width)
    assert left.get_ylim() == pytest.approx((average - half_width - border, 95 + border))
    border = 0.05 * 2 * half_width
    assert right.get_ylim() == pytest.approx((average - half_width - border, average + half_width + border))


def test_one_epoch_has_one_tick():
    figure = plots.plot_curves({"whole": [run(1, 1.0)]}, STYLES)
    figure.canvas.draw()
    low, high = figure.axes[2].get_xlim()
    assert [tick for tick in figure.axes[2].get_xticks() if low <= tick <= high] == [1]


def test_a_sweep_shows_two_metrics_in_order_on_a_logarithmic_axis():
    accuracies, zeros = {0.1: [0.7, 0.8], 0.01: [0.9]}, {0.1: [0.5, 0.5], 0.01: [0.1]}
    panels = {"test accuracy": {"proximal": accuracies}, "weights exactly zero": {"proximal": zeros}}
    left, right = plots.plot_sweep(panels, "λ", ("no L1", [0.91, 0.93])).axes
    assert left.get_xscale() == right.get_xscale() == "log"
    assert [panel.get_title() for panel in (left, right)] == ["test accuracy (%)", "weights exactly zero (%)"]
    assert left.lines[0].get_xydata().tolist() == [pytest.approx([0.01, 90]), pytest.approx([0.1, 75])]
    assert right.lines[0].get_xydata().tolist() == [pytest.approx([0.01, 10]), pytest.approx([0.1, 50])]
    assert list(left.lines[-1].get_ydata()) == pytest.approx([92, 92])
    assert [label.get_text() for label in left.get_xticklabels()] == ["0.01", "0.1"]


def test_a_sweep_of_many_values_does_not_label_each():
    points = {float(value): [0.5] for value in range(1, 40)}
    left, _ = plots.plot_sweep({"test accuracy": {"a": points}, "train accuracy": {"a": points}}, "images").axes
    assert len(left.get_xticks()) < 10


def test_a_figure_is_saved_as_png_and_pdf_with_the_same_bytes_each_time(tmp_path):
    paths = [tmp_path / folder / "a,b=0.1" for folder in ("one", "two")]
    written = [style.save_figure(plots.plot_curves(HISTORIES, STYLES), path) for path in paths]
    assert [path.name for path in written[0]] == ["a,b=0.1.png", "a,b=0.1.pdf"]
    for first, second in zip(*written, strict=True):
        assert first.read_bytes() == second.read_bytes()
    assert written[0][0].read_bytes().startswith(b"\x89PNG")
    assert written[0][1].read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("count", [1, 7, 13, 30])
def test_experiments_differ_until_colours_and_dashes_are_used_up(count):
    styles = style.assign_styles(range(count))
    assert len(styles) == count
    assert len({tuple(style.items()) for style in styles.values()}) == min(count, 21)


def test_an_experiment_has_one_colour_in_every_figure():
    styles = style.assign_styles(["other", "mine"])
    comparison = {"mine": Comparison(0.01, 5, 0.01)}
    panels = [
        plots.plot_curves({"mine": HISTORIES["whole"]}, styles).axes[0],
        plots.plot_seeds({"mine": [0.5]}, {}, styles).axes[0],
        plots.plot_forest(comparison, "other", 0.001, {}, styles).axes[0],
        plots.plot_sparsity({"mine": [(0, 0)]}, styles).axes[0],
    ]
    for panel in panels:
        assert styles["mine"]["color"] in {line.get_color() for line in panel.lines}
        assert styles["other"]["color"] not in {line.get_color() for line in panel.lines}


def test_the_histogram_of_weights_has_exact_zeros_apart_and_loses_no_weight():
    magnitudes = np.array([0.0] * 50 + [1e-12] * 10 + [1e-4] * 20 + [0.5] * 15 + [100.0] * 5)
    panel = plots.plot_weights({"a": magnitudes}, 1e-3, style.assign_styles("a")).axes[0]
    (zeros,) = panel.containers[0].patches
    assert zeros.get_height() == 50
    bars = panel.patches[0].get_data()
    assert bars.values.sum() == pytest.approx(50)
    assert bars.values[0] == pytest.approx(10), "what is too small to show is in the leftmost bar"
    assert bars.edges[0] == -8
    assert panel.lines[0].get_xdata()[0] == pytest.approx(-3)


def test_sparsity_is_drawn_layer_by_layer_in_percent():
    zeros, small = plots.plot_sparsity({"a": [(0.5, 0.6), (0.25, 0.75)]}, style.assign_styles("a")).axes
    assert zeros.lines[0].get_xydata().tolist() == [[1, 50], [2, 25]]
    assert small.lines[0].get_xydata().tolist() == [[1, 60], [2, 75]]


def test_a_confusion_matrix_has_actual_classes_in_rows_and_shares_in_percent():
    shares = np.array([[0.9, 0.1], [0.0004, 0.9996]])
    (panel,) = plots.plot_confusion({"a": shares}, ("cat", "dog")).axes
    assert panel.images[0].get_array().tolist() == shares.tolist()
    assert [(text.get_position(), text.get_text()) for text in panel.texts] == [
        ((0, 0), "90.0"),
        ((1, 0), "10.0"),
        ((1, 1), "100.0"),
    ]
    assert (panel.get_ylabel(), panel.get_xlabel()) == ("actual", "predicted")


def test_the_accuracy_of_every_class_is_written_in_every_row():
    (panel,) = plots.plot_by_class({"a": [0.5, 0.25], "b": [0.125, 1]}, ("cat", "dog")).axes
    assert [text.get_text() for text in panel.texts] == ["50.0", "25.0", "12.5", "100.0"]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["a", "b"]


def test_a_gallery_shows_grey_and_coloured_images_as_they_are_in_rows():
    grey = np.arange(3 * 1 * 2 * 2, dtype=np.uint8).reshape(3, 1, 2, 2)
    figure = plots.plot_gallery(grey, ["a", "b", "c"], columns=2)
    shown = [panel for panel in figure.axes if panel.get_visible()]
    assert [panel.get_title() for panel in shown] == ["a", "b", "c"]
    assert [panel.images[0].get_array().tolist() for panel in shown] == [image[0].tolist() for image in grey]
    assert shown[0].images[0].get_clim() == (0, 255), "not stretched to the image's own range"
    coloured = np.zeros((1, 3, 2, 2), dtype=np.uint8)
    coloured[0, :, 1, 0] = 10, 20, 30
    (panel,) = plots.plot_gallery(coloured, ["a"], columns=1).axes
    assert panel.images[0].get_array()[1, 0].tolist() == [10, 20, 30]
