"""Reading the files of a finished run, with checks: history.csv, weights.pt and predictions.npz.

history = read_history(folder)                        # a row for each epoch
weights = read_weights(folder)                        # state_dict of the textbook network
log_probabilities = read_log_probabilities(folder)    # (images, classes)
"""

import csv
import io
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.files import LARGEST_RECORDED, reading
from training import Row, Weights

HISTORY = ("seed", "epoch", "lr", "train_loss", "train_accuracy", "penalty", "val_loss", "val_accuracy")
# A pickle is a program, and torch.save writes that of a dict of plain tensors in one form. It is compared with this
# form and never run: even with `weights_only`, torch.load runs programs that fill the memory. A letter is an operation.
INTEGERS = r"(?:\)|[JKM]{1,3}[\x85-\x87]|\([JKM]+t)"  # (), (3,), (3, 4), (3, 4, 5), (3, 4, 5, 6)
TENSOR = re.compile(rf"Xc\(\(XcXX[JKM]tQ[JKM]({INTEGERS})({INTEGERS})\x89c\)RtR")
WEIGHTS = re.compile(rf"\x80\}}(?:\(?(?:{TENSOR.pattern})+[su])+\.")
PLACES = (0, 5, 6, 11)  # in `TENSOR`, of its name, its kind, its file in the archive and where it begins there
DTYPES = {"torch FloatStorage": torch.float32, "torch LongStorage": torch.int64}
LARGEST_PROGRAM = 2**20  # bytes, of more than ten thousand tensors


def read_history(folder: Path, has_diverged: bool = False) -> list[Row]:
    """Read a run's history: a row for each epoch.

    Args:
        has_diverged: in the last epoch a number has to be infinite or not a number; without it, none may be.

    Raises:
        RecordError: the file cannot be read, its epochs are not 1, 2, 3, ..., or its numbers do not fit `has_diverged`.
    """
    path = folder / "history.csv"
    with reading(path):
        with open(path, newline="", encoding="utf-8") as file:
            history = [
                {name: (int if name in ("seed", "epoch") else float)(row[name]) for name in HISTORY}
                for row in csv.DictReader(file)
            ]
        if not history:
            raise ValueError("it holds no epoch")
        if [row["epoch"] for row in history] != list(range(1, len(history) + 1)):
            raise ValueError("its epochs do not count from 1")
        are_finite = [
            all(abs(row[name]) <= LARGEST_RECORDED for name in HISTORY if name != "penalty") for row in history
        ]
        if has_diverged and are_finite[-1]:
            raise ValueError("its last epoch's numbers are finite, but the run is said to have diverged")
        if not has_diverged and not all(are_finite):
            raise ValueError("a number is not finite")
    return history


def read_weights(folder: Path, layers: list[dict[str, Any]] | None = None) -> Weights:
    """Read the state_dict of a run's textbook network.

    Args:
        layers: the layers in the run's result.json; the weights must have their sizes.

    Raises:
        RecordError: the file cannot be read, does not fit `layers`, or is not a dict of plain float32 or int64 tensors.
    """
    path = folder / "weights.pt"
    with reading(path):
        try:
            with zipfile.ZipFile(path) as archive:
                weights = dict(_read_tensors(archive))
        except LookupError:
            raise ValueError("expected only named plain tensors of float32 or int64") from None
        for layer in layers or ():
            if f"{layer['layer']}.weight" not in weights:
                raise ValueError(f"it has no layer {layer['layer']}, which result.json names")
            if weights[f"{layer['layer']}.weight"].numel() != layer["weights"]:
                raise ValueError(
                    f"layer {layer['layer']} does not have the {layer['weights']} weights that result.json states"
                )
    return weights


def _read_tensors(archive: zipfile.ZipFile) -> Iterator[tuple[str, Tensor]]:
    """Yield each name and its tensor, none of which shares memory with another.

    Raises:
        LookupError: the archive holds anything else.
    """
    members = {name.partition("/")[2]: name for name in archive.namelist()}
    if archive.getinfo(members["data.pkl"]).file_size > LARGEST_PROGRAM:
        raise LookupError
    operations: list[tuple[str, Any]] = []
    memo = {}
    for operation, argument, _ in pickletools.genops(archive.read(members["data.pkl"])):
        if operation.name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = operations[-1]
        else:
            is_again = operation.name in ("BINGET", "LONG_BINGET")
            operations.append(memo[argument] if is_again else (operation.code, argument))
    program = "".join(code for code, _ in operations)
    if not WEIGHTS.fullmatch(program):
        raise LookupError
    for found in TENSOR.finditer(program):
        name, kind, file, offset = (operations[found.start() + place][1] for place in PLACES)
        shapes = (operations[slice(*found.span(group))] for group in (1, 2))
        size, stride = ([number for _, number in shape if number is not None] for shape in shapes)
        if not name.isascii():
            raise LookupError
        content = bytearray(archive.read(members.pop(f"data/{file}")))  # once: each takes memory
        yield name, torch.frombuffer(content, dtype=DTYPES[kind]).as_strided(size, stride, offset)


def read_log_probabilities(folder: Path, shape: tuple[int, int] | None = None) -> np.ndarray:
    """Read a run's log-probabilities of the test images, float32 (images, classes).

    A submission's file may hold those of some classes alone, see `shrink_predictions`; the others are read as -inf.

    Args:
        shape: the expected numbers of images and classes; None: any.

    Raises:
        RecordError: the file cannot be read, has the wrong shape, or contains values that are not finite.
    """
    path = folder / "predictions.npz"
    with reading(path):
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as arrays:  # np.load alone accepts .npy files
            stored = arrays["log_probabilities"]
            kept = arrays["kept"] if "kept" in arrays else np.broadcast_to(True, stored.shape)  # in no memory
        if kept.ndim != 2 or (kept.dtype, stored.dtype) != (bool, np.float32) or shape not in (None, kept.shape):
            expected = shape or "(images, classes)"
            raise ValueError(f"{stored.dtype} {kept.shape}, expected float32 {expected}")
        if stored.size != kept.sum():
            raise ValueError(f"{stored.size:,} log-probabilities, expected {kept.sum():,}")
        if not np.isfinite(stored).all():
            raise ValueError("a log-probability is not finite")
        log_probabilities = np.full(kept.shape, -np.inf, np.float32)
        log_probabilities[kept] = stored.ravel()
    return log_probabilities


def shrink_predictions(folder: Path, labels: np.ndarray) -> bytes:
    """Return a small predictions.npz, with the log-probabilities of each image's label and predicted class alone.

    All metrics, confusion matrices and differences between experiments follow from these.

    Args:
        labels: the classes of the test images, (images,).

    Raises:
        RecordError: the file cannot be read, or is of another number of images.
    """
    log_probabilities = read_log_probabilities(folder)
    with reading(folder / "predictions.npz"):
        images, kept = np.arange(len(log_probabilities)), np.zeros(log_probabilities.shape, bool)
        kept[images, labels] = kept[images, log_probabilities.argmax(1)] = True
    small = io.BytesIO()
    np.savez_compressed(small, kept=kept, log_probabilities=log_probabilities[kept])
    return small.getvalue()
