from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import write_runs

from analysis import figures, plots
from analysis.document import Document
from analysis.findings import Findings, gather
from engine import records
from experiments import Experiment
from studies import STUDIES
from studies.study import Entry, Study

SHARES = np.array(  # of three runs, for five images of three classes
    [
        [[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.6, 0.4, 0.0], [0.1, 0.9, 0.0], [0.3, 0.3, 0.4]],
        [[0.8, 0.2, 0.0], [0.3, 0.7, 0.0], [0.7, 0.3, 0.0], [0.1, 0.9, 0.0], [0.9, 0.1, 0.0]],
        [[0.7, 0.3, 0.0], [0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.1, 0.9, 0.0], [0.9, 0.1, 0.0]],
    ]
)
LABELS = np.array([0, 2, 1, 2, 1])
ZEROS = "weights exactly zero"


def test_mistakes_that_most_seeds_make_come_first_and_then_the_most_confident():
    with np.errstate(divide="ignore"):
        found = figures.find_confident_mistakes(np.log(SHARES).astype(np.float32), LABELS, 10)
    places, predicted, votes, confidence = (values.tolist() for values in found)
    assert places == [3, 2, 4, 1], "3 and 2 by all runs, 4 and 1 by two of three"
    assert predicted == [1, 0, 0, 1]
    assert votes == [3, 3, 2, 2]
    assert confidence == pytest.approx([0.9, 0.7, 0.9, 0.75]), "of the runs that agree"
    with np.errstate(divide="ignore"):
        assert figures.find_confident_mistakes(np.log(SHARES), LABELS, 2)[0].tolist() == [3, 2]


@pytest.fixture
def drawn(monkeypatch):
    """What is handed to the functions of `plots`, which draw nothing."""
    calls = {}

    def instead_of(name):
        monkeypatch.setattr(plots, name, lambda *args, **named: calls.update({name: (*args, *named.values())}))

    for name in ("gallery", "confusion", "by_class", "weights", "sparsity", "sweep"):
        instead_of(f"plot_{name}")
    return calls


def draw_all(document):
    for draw in document.figures.values():
        draw()


@pytest.fixture
def found(tmp_path, digits):
    """Two experiments with two runs each; those of L1 take every 7 for a 1."""
    labels = digits.test.labels.numpy()
    for experiment in (Experiment(dataset="mnist_sample"), Experiment(dataset="mnist_sample", l1=0.1)):
        folder = write_runs(tmp_path, digits, experiment, [0.8, 0.9])
        taken_for = np.where(labels == 7, 1, labels) if experiment.l1 else labels
        log_probabilities = np.where(np.arange(10) == taken_for[:, None], np.log(0.91), np.log(0.01))
        for seed in (0, 1):
            path = folder / f"seed-{seed}" / "predictions.npz"
            np.savez(path, log_probabilities=log_probabilities.astype(np.float32))
    (findings,), _ = gather(records.read_all(tmp_path)[0], Path("unused"))
    return findings


def test_classes_are_counted_over_all_runs(found, drawn, digits):
    document = Document()
    figures.add_classes(document, found, digits)
    draw_all(document)
    accuracies, names = drawn["plot_by_class"]
    assert names == digits.classes
    plain, with_l1 = "mlp1", "mlp1,l1=0.1"  # the data set, which all have in common, is left out
    assert accuracies[plain].tolist() == [1.0] * 10
    assert accuracies[with_l1].tolist() == [float(label != 7) for label in range(10)]
    matrices, _ = drawn["plot_confusion"]
    assert list(matrices) == [plain], "the baseline, which is also the best by validation"
    assert matrices[plain].tolist() == np.eye(10).tolist()


def test_a_gallery_names_predicted_and_actual_classes_and_shows_the_test_images(found, drawn, digits):
    document = Document()
    found.by_validation.reverse()
    figures.add_mistakes(document, found, digits)
    draw_all(document)
    images, titles, columns = drawn["plot_gallery"]
    sevens = digits.test.images[digits.test.labels == 7].numpy()
    assert np.array_equal(images, sevens[:10])
    assert titles[0] == "predicted 1\nactual 7\n2 of 2, 91 %"
    assert columns == 5


def test_small_predictions_give_the_same_gallery(digits):
    generator, labels = np.random.default_rng(0), digits.test.labels.numpy()
    logits = torch.tensor(generator.normal(0, 1, (5, len(labels), 10)))
    whole = logits.log_softmax(2).numpy().astype(np.float32)
    kept = whole == whole.max(2, keepdims=True)
    kept[:, np.arange(len(labels)), labels] = True
    small = np.where(kept, whole, -np.inf)
    found = figures.find_confident_mistakes(whole, labels, 20)
    for one, other in zip(found, figures.find_confident_mistakes(small, labels, 20), strict=True):
        np.testing.assert_array_equal(one, other)
    places, predicted, votes, confidences = found
    for place, guess, count, confidence in zip(places, predicted, votes, confidences, strict=True):
        agree = whole[:, place].argmax(1) == guess
        assert agree.sum() == count
        assert confidence == pytest.approx(np.exp(whole[agree, place, guess].astype(float)).mean())


def test_samples_are_an_image_of_each_class_and_what_the_training_makes_of_it(found, drawn, digits, tmp_path):
    document = Document()
    figures.add_samples(document, found, digits)
    draw_all(document)
    images, titles, columns = drawn["plot_gallery"]
    assert titles == list(digits.classes)
    assert columns == len(images) == 10
    firsts = [digits.train.images[digits.train.labels == label][0] for label in range(10)]
    assert np.array_equal(images, torch.stack(firsts).numpy())

    turning = Experiment(dataset="mnist_sample", rotation=90)
    record = records.Record(tmp_path, turning, {}, {})
    document = Document()
    study = Study.typed_by_hand({turning.name: turning})
    figures.add_samples(document, Findings("a", study, "mnist_sample", {turning.name: record}, digits), digits)
    draw_all(document)
    images, titles, _ = drawn["plot_gallery"]
    assert len(images) == len(titles) == 40
    assert np.array_equal(images[:10], torch.stack(firsts).numpy())
    assert not np.array_equal(images[10:20], images[:10])
    assert f"as the training of {turning.name} augments it" in document.text


@pytest.mark.parametrize(
    ("zeros", "second", "shares"), [(0.0, "train accuracy", [0.83, 0.93]), (0.25, ZEROS, [0.25, 0.25])]
)
def test_a_sweep_shows_the_train_accuracy_if_no_weight_is_zero(drawn, digits, tmp_path, zeros, second, shares):
    swept = Experiment(dataset="mnist_sample", l1=0.1)
    sparsity = dict(zeros=zeros, small=zeros, l2_norm=1.0)
    write_runs(tmp_path, digits, swept, [0.8, 0.9], sparsity=sparsity)
    (record,), _ = records.read_all(tmp_path)
    study = replace(Study.typed_by_hand({"0.1": swept}), sweep={"0.1": ("L1", 0.1)}, sweep_over="λ")
    document = Document()
    figures.add_sweep(document, Findings("a", study, "mnist_sample", {"0.1": record}, digits))
    draw_all(document)
    panels, setting, _ = drawn["plot_sweep"]
    assert panels == {"test accuracy": {"L1": {0.1: [0.8, 0.9]}}, second: {"L1": {0.1: pytest.approx(shares)}}}
    assert setting == "λ"
    assert f"Test accuracy and {second} against λ" in document.text


def test_the_caption_of_a_sweep_says_what_its_bars_and_its_dashed_line_are(drawn, digits, tmp_path):
    plain, swept = Experiment(dataset="mnist_sample"), Experiment(dataset="mnist_sample", l1=0.1)
    for experiment in (plain, swept):
        write_runs(tmp_path, digits, experiment, [0.8, 0.9])
    trained = {record.title: record for record in records.read_all(tmp_path)[0]}
    study = Study.typed_by_hand({plain.name: plain, swept.name: swept})
    study = replace(study, sweep={swept.name: ("L1", 0.1)}, sweep_over="λ")
    for baseline, dashed in ((None, ""), (plain.name, "; dashed: the baseline's mean")):
        document = Document()
        findings = Findings("a", replace(study, baseline=baseline), "mnist_sample", trained, digits)
        figures.add_sweep(document, findings)
        assert f"against λ, means and 95 % intervals over seeds{dashed}.*" in document.text


def test_a_baseline_whose_published_accuracy_is_that_of_another_title_is_said(digits, tmp_path, monkeypatch):
    plain, published = Experiment(dataset="mnist_sample"), dict(test_accuracy=0.9)
    entries = {"as run": Entry("as run", plain, published=published), "plain": Entry("control", plain)}
    entries["L1"] = Entry("as run", replace(plain, l1=0.1), published=published)
    for baseline, says in (("plain", " (published: from as run, which has the same settings)"), ("as run", "")):
        study = Study("mine", "?", entries, baseline)
        monkeypatch.setitem(STUDIES, "mine", study)
        for title in ("as run", "L1"):
            write_runs(tmp_path / baseline, digits, entries[title].experiment, [0.8, 0.9], study, title)
        (findings,), _ = gather(records.read_all(tmp_path / baseline)[0], Path("unused"))
        document = Document()
        figures.add_forest(document, findings)
        assert f"from {baseline}, in points, with 95 % intervals{says}.*" in document.text


def test_weights_of_the_penalized_and_of_their_baseline_are_shown(found, drawn):
    document = Document()
    figures.add_weights(document, found)
    draw_all(document)
    values, small, _ = drawn["plot_weights"]
    assert list(values) == ["mlp1", "mlp1,l1=0.1"]
    assert [magnitudes.tolist() for magnitudes in values.values()] == [[0.0, 2.0, 0.0, 2.0]] * 2
    assert small == 1e-3
    layers, _ = drawn["plot_sparsity"]
    assert [shares.tolist() for shares in layers.values()] == [[[0.5, 0.5]]] * 2
    plain = replace(found, trained=dict(list(found.trained.items())[:1]))
    document = Document()
    figures.add_weights(document, plain)
    assert not document.figures, "nothing is penalized"
