import csv
import math
import tracemalloc
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from helpers import make_result

import training
from engine import records, run_files
from engine.files import RecordError
from experiments import Experiment
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
        torch.ones(2, 3, requires_grad=True),
        torch.ones(2, 3, dtype=torch.float16),
        torch.ones(2, 3, dtype=torch.complex64),
        torch.ones(2, 3).to_sparse(),
        torch.ones(2, 3, device="meta"),
        torch.nn.Parameter(torch.ones(2, 3)),
        [1.0],
        torch.ones(5),
        bytearray(4),
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


def add_metadata(weights):
    weights._metadata = 5
    return weights


@pytest.mark.parametrize(
    "content",
    [
        {"1.weight": Run},
        {"1.weight": {"1.weight": torch.ones(2, 3)}},
        {"é": torch.ones(2, 3)},
        add_metadata(OrderedDict({"1.weight": torch.ones(2, 3)})),
        dict.fromkeys(("1.weight", "2.weight"), torch.ones(2, 3)),
        {f"{number:01000}": torch.ones(1) for number in range(1_000)},
        torch.ones(2, 3),
        {},
    ],
    ids=["class", "dict", "name", "attribute", "twice", "many", "tensor", "nothing"],
)
def test_weights_that_hold_other_objects_are_refused_without_torchs_advice(content, path):
    torch.save(content, path / "weights.pt")
    says = r"weights.pt: cannot be read \(expected only named plain tensors of float32 or int64\)$"
    with pytest.raises(RecordError, match=says):
        run_files.read_weights(path)


def test_no_program_in_weights_is_run(path, tmp_path):
    """It would fill the memory: `bytearray(4 * 10**8)` is a program of a few bytes."""
    program = b"\x80\x02}X\x08\0\0\x001.weightcbuiltins\nbytearray\nJ\0\x84\xd7\x17\x85Rs."
    with zipfile.ZipFile(path / "weights.pt", "w") as archive:
        archive.writestr("weights/data.pkl", program)
        archive.writestr("weights/version", b"3\n")
    tracemalloc.start()
    with pytest.raises(RecordError, match="expected only named plain tensors"):
        run_files.read_weights(path)
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()


@pytest.mark.parametrize("model", ["mlp3", "cnn2", "resnet"])
def test_weights_are_read_as_torch_reads_them(model, path):
    network = training.build_network(Experiment(model=model, norm="batch"), (1, 28, 28), 10, seed=0)
    torch.save(dict(network.state_dict()), path / "weights.pt")
    expected, weights = torch.load(path / "weights.pt"), run_files.read_weights(path)
    assert list(weights) == list(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=0, atol=0, check_stride=True)


def test_weights_of_very_many_layers_are_read(path):
    many = {f"{number}.weight": torch.full((1, number), float(number)) for number in range(1, 2_500)}
    torch.save(many, path / "weights.pt")
    weights = run_files.read_weights(path)
    assert all(map(torch.equal, weights.values(), many.values()))
    assert list(weights) == list(many)


@pytest.mark.parametrize("kind", ["V0", "S0", "U0"])
def test_predictions_that_take_no_bytes_fill_no_memory(kind, path):
    with zipfile.ZipFile(path / "predictions.npz", "w") as archive, archive.open("log_probabilities.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, dict(descr=f"|{kind}", fortran_order=False, shape=(10**8,)))
    tracemalloc.start()
    with pytest.raises(RecordError, match=r"predictions\.npz: cannot be read \("):
        run_files.read_log_probabilities(path)
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()


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
