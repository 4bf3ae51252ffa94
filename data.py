"""Images and labels as tensors: a data set split into train, validation and test images.

dataset = load("fashion_mnist", data_dir="data")
images = to_float(dataset.train.images[:64])        # (64, 1, 28, 28), 0..1
"""

import hashlib
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from sources import catalogue, downloading, finding


@dataclass(frozen=True)
class Split:
    images: torch.Tensor  # uint8 (n, channels, height, width)
    labels: torch.Tensor  # int64 (n,)

    def __len__(self):
        return len(self.labels)

    def to(self, device):
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    checksum: str  # SHA-256 over the checksums of the files
    mean: tuple[float, ...]  # of the train split, per channel, of values 0..1
    std: tuple[float, ...]
    found_in: str

    def to(self, device):
        splits = (self.train, self.validation, self.test)
        train, validation, test = (split.to(device) for split in splits)
        return replace(self, train=train, validation=validation, test=test)

    @property
    def shape(self):
        return tuple(self.train.images.shape[1:])


@lru_cache(maxsize=1)
def load(name, data_dir, split_seed=0):
    """Find, verify and split a data set, downloading it if it must be and can be.

    Args:
        name: a key of `catalogue.SOURCES`.
        data_dir: folder of data sets in torchvision's layout; not read for the embedded samples.
        split_seed: of the stratified split into train, validation (and test, where the set has none of its own).

    Raises:
        finding.DataNotFound: nothing there and nothing to be had from the network.
        finding.DataError: what is there is damaged or incomplete, or the data dir cannot be used.
    """
    source = catalogue.SOURCES[name]
    folder = finding.find(name, data_dir) or downloading.download(name, Path(data_dir))
    images, labels, test_images, test_labels = finding.read(source, folder)
    indices, validation = stratified_split(np.arange(len(labels)), labels, source.validation, split_seed)
    if source.test:
        indices, test = stratified_split(indices, labels[indices], source.test, split_seed)
        test_images, test_labels = images[test], labels[test]
    train = _split(images[indices], labels[indices])
    mean, std = channel_statistics(train.images)
    return Dataset(
        name=name,
        classes=source.classes,
        train=train,
        validation=_split(images[validation], labels[validation]),
        test=_split(test_images, test_labels),
        checksum=hashlib.sha256("".join(source.files.values()).encode()).hexdigest(),
        mean=mean,
        std=std,
        found_in=str(folder),
    )


def stratified_split(indices, labels, held_out, seed):
    """Two sorted index arrays: the rest, and `held_out` of them with the classes in the same proportions."""
    from sklearn.model_selection import train_test_split  # half a second that a refused command need not pay

    rest, held = train_test_split(indices, test_size=held_out, stratify=labels, random_state=seed)
    return np.sort(rest), np.sort(held)


def _split(images, labels):
    return Split(torch.tensor(images), torch.tensor(labels, dtype=torch.int64))


def channel_statistics(images):
    """Mean and standard deviation of each channel of uint8 (n, channels, height, width), as values 0..1."""
    values = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in images.unbind(1):  # counting the 256 values is exact and needs no float copy of the images
        shares = torch.bincount(channel.reshape(-1), minlength=256).double() / channel.numel()
        means.append(math.fsum(shares * values))  # exact, where the order of a sum differs from machine to machine
        stds.append(math.sqrt(math.fsum(shares * (values - means[-1]) ** 2)))
    return tuple(means), tuple(stds)


def to_float(images, mean=None, std=None):
    """uint8 (..., channels, height, width) as floats 0..1 of torch's default type, standardized if a mean is given."""
    floats = images.to(torch.get_default_dtype()).div_(255)
    return floats if mean is None else standardize_(floats, mean, std)


def standardize_(floats, mean, std):
    """Subtract each channel's mean from (..., channels, height, width) and divide by its deviation, in place."""
    for channel, own_mean, own_std in zip(floats.unbind(-3), mean, std, strict=True):
        channel.sub_(own_mean).div_(own_std)
    return floats
