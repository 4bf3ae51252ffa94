import csv
import math

import numpy as np
import pytest
import torch
from helpers import make_result

from engine import records, run_files
from engine.files import RecordError
from training import Run

LAYERS = [dict(layer="1", weights=6)]


@pytest.fixture
def path(tmp_path):
    """Write the files of a run of two epochs, four test images and three classes, and return their folder."""
    rows = [dict.fromkeys(run_files.HISTORY, 0.1) | dict(seed=0, epoch=epoch) for epoch in (1, 2)]
    weights, predictions = {"1.weight": torch.ones(2, 3)}, np.eye(4, 3, dtype=np.float32)
    return records.write_run(tmp_path, Run(0, make_result(0, 0.5), rows, weights, predictions))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (dict(epoch=3), "its epochs do not count from 1"),
        (dict(val_loss=math.nan), "a number is not finite"),
        (dict(train_accuracy=1e300), "a number is not finite"),
        (dict(lr="x"), "could not convert"),
    ],
)
def test_a_history_that_no_training_has_is_refused(changes, says, path):
    history = run_files.read_history(path)
    history[1] |= changes
    with open(path / "history.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, run_files.HISTORY)
        writer.writeheader()
        writer.writerows(history)
    with pytest.raises(RecordError, match=rf"history.csv: cannot be read \(.*{says}"):
        run_files.read_history(path)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(2, 3, dtype=torch.float16),
        torch.ones(2, 3, dtype=torch.complex64),
        torch.ones(2, 3).to_sparse(),
        torch.ones(2, 3, device="meta"),
        torch.nn.Parameter(torch.ones(2, 3)),
        [1.0],
        torch.ones(5),
    ],
    ids=lambda tensor: f"{type(tensor).__name__} {getattr(tensor, 'dtype', '')}",
)
def test_weights_that_are_no_plain_tensors_or_of_other_layers_are_refused(tensor, path):
    assert run_files.read_weights(path, LAYERS)["1.weight"].shape == (2, 3)
    torch.save({"1.weight": tensor}, path / "weights.pt")
    with pytest.raises(RecordError, match=r"weights.pt: cannot be read \("):
        run_files.read_weights(path, LAYERS)
    torch.save({"1.weight": torch.ones(2, 3), 5: torch.ones(1)}, path / "weights.pt")
    with pytest.raises(RecordError, match="expected only named plain tensors"):
        run_files.read_weights(path, LAYERS)
    torch.save({"2.weight": torch.ones(2, 3)}, path / "weights.pt")
    with pytest.raises(RecordError, match=r"it has no layer 1, which result\.json names"):
        run_files.read_weights(path, LAYERS)


def test_weights_that_hold_other_objects_are_refused_without_torchs_advice(path):
    torch.save({"1.weight": Run}, path / "weights.pt")
    with pytest.raises(RecordError, match=r"weights.pt: cannot be read \(it does not hold weights\)$"):
        run_files.read_weights(path)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_predictions_that_are_not_finite_are_refused(value, path):
    stored = run_files.read_log_probabilities(path)
    stored[1, 2] = value
    np.savez(path / "predictions.npz", log_probabilities=stored)
    with pytest.raises(RecordError, match="a log-probability is not finite"):
        run_files.read_log_probabilities(path)


def test_small_predictions_hold_each_images_label_and_predicted_class(path):
    whole = np.log(np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.4, 0.5, 0.1], [0.3, 0.3, 0.4]], np.float32))
    labels = np.array([0, 0, 1, 1])
    np.savez(path / "predictions.npz", log_probabilities=whole)
    small = run_files.shrink_predictions(path, labels)
    (path / "predictions.npz").write_bytes(small)
    read = run_files.read_log_probabilities(path, (4, 3))
    kept = np.array([[1, 0, 0], [1, 0, 1], [0, 1, 0], [0, 1, 1]], bool)
    np.testing.assert_array_equal(read, np.where(kept, whole, -np.inf))
    assert run_files.shrink_predictions(path, labels) == small
    with pytest.raises(RecordError, match=r"predictions.npz: cannot be read"):
        run_files.shrink_predictions(path, labels[:3])


@pytest.mark.parametrize(
    ("kept", "says"),
    [
        (np.ones((4, 3), bool), "11 log-probabilities, expected 12"),
        (np.ones((4, 3), int), "expected float32"),
        (np.ones(12, bool), "expected float32"),
    ],
)
def test_small_predictions_that_do_not_fit_together_are_refused(kept, says, path):
    np.savez(path / "predictions.npz", kept=kept, log_probabilities=np.zeros(11, np.float32))
    with pytest.raises(RecordError, match=says):
        run_files.read_log_probabilities(path)


def test_predictions_for_other_images_or_classes_are_refused(path):
    assert run_files.read_log_probabilities(path, (4, 3)).shape == (4, 3)
    for shape in ((3, 3), (4, 10)):
        with pytest.raises(RecordError, match=rf"float32 \(4, 3\), expected float32 \({shape[0]}, {shape[1]}\)\)$"):
            run_files.read_log_probabilities(path, shape)
