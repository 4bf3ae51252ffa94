"""Images and labels as tensors: a data set split into train, validation and test images.

dataset = load("fashion_mnist", data_dir="data")
images = dataset.to_float(dataset.train.images[:64])        # (64, 1, 28, 28), 0..1
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from sources.catalogue import is_own
from sources.downloading import download
from sources.finding import Found, find
from sources.own import Own, find_own


@dataclass(frozen=True)
class Split:
    """Images with their labels."""

    images: torch.Tensor  # uint8 (n, channels, height, width)
    labels: torch.Tensor  # int64 (n,)

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: str) -> "Split":
        """Return the split on a device."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    """A data set, split into train, validation and test images, with its classes and statistics."""

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    checksum: str  # SHA-256 over the checksums of the files as they were published, or of the arrays of one's own
    mean: tuple[float, ...]  # of each channel of the train images, scaled to 0..1
    std: tuple[float, ...]
    found_in: str
    passed_over: tuple[str, ...] = ()  # a line for each file that is not what its name says
    is_standardized: bool = False  # whether images are standardized before they enter a network

    def to(self, device: str) -> "Dataset":
        """Return the data set with its images and labels on a device."""
        train, validation, test = (split.to(device) for split in self.splits.values())
        return replace(self, train=train, validation=validation, test=test)

    @property
    def splits(self) -> dict[str, Split]:
        """The splits, under the names that begin the names of their metrics."""
        return dict(train=self.train, val=self.validation, test=self.test)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        _, channels, height, width = self.train.images.shape
        return channels, height, width

    def to_float(self, images: torch.Tensor) -> torch.Tensor:
        """Convert uint8 images (..., channels, height, width) to a network's input, floats.

        They lie in 0..1, or are standardized if `is_standardized` is set.
        """
        return self.standardize_(images.to(torch.get_default_dtype()).div_(255))

    def count_seen(self) -> int:
        """Count the test images that are also among the train or validation images."""
        seen = {hash(image.tobytes()) for part in (self.train, self.validation) for image in part.images.numpy()}
        return sum(hash(image.tobytes()) in seen for image in self.test.images.numpy())

    def standardize_(self, floats: torch.Tensor) -> torch.Tensor:
        """Subtract each channel's mean and divide by the standard deviation, in place, if `is_standardized` is set.

        Args:
            floats: (..., channels, height, width), 0..1.
        """
        if self.is_standardized:
            for channel, mean, std in zip(floats.unbind(-3), self.mean, self.std, strict=True):
                channel.sub_(mean).div_(std or 1.0)  # a channel of one value becomes 0
        return floats


def load(name: str, data_dir: Path | str, split_seed: int = 0, checksum: str | None = None) -> Dataset:
    """Find, verify and split a data set; download it if it is not on this machine.

    The last data set is kept in memory, so the same call again costs little.

    Args:
        name: a key of `SOURCES`, or the name of a file with a data set of one's own.
        data_dir: folder in and below which data sets are looked for; the embedded samples do not need it.
        split_seed: seed of the stratified split into train and validation images (and test images, if the source has no
            test files).
        checksum: of a data set of one's own that may have another name by now; None: it is found by its name.

    Raises:
        finding.DataNotFound: the data set is not on this machine and cannot be downloaded.
        finding.DataError: its files are damaged or incomplete, or the data dir cannot be used.
    """
    if is_own(name):  # its file may have changed
        checksum = find_own(name, data_dir, checksum).checksum
    return _load(name, data_dir, split_seed, checksum)


@lru_cache(maxsize=1)
def _load(name: str, data_dir: Path | str, split_seed: int, checksum: str | None) -> Dataset:
    found: Found | Own = find_own(name, data_dir, checksum) if is_own(name) else find(name, data_dir)
    if isinstance(found, Found) and found.missing:
        found = download(found, Path(data_dir))
    source = found.source
    images, labels, test_images, test_labels = found.arrays
    indices, validation = split_stratified(np.arange(len(labels)), labels, source.validation, split_seed)
    if source.test:
        indices, test = split_stratified(indices, labels[indices], source.test, split_seed)
        test_images, test_labels = images[test], labels[test]
    train = _split(images[indices], labels[indices])
    mean, std = compute_channel_statistics(train.images)
    return Dataset(
        name=name,
        classes=source.classes,
        train=train,
        validation=_split(images[validation], labels[validation]),
        test=_split(test_images, test_labels),
        checksum=found.checksum,
        mean=mean,
        std=std,
        found_in=found.found_in,
        passed_over=tuple(found.passed_over),
    )


def split_stratified(
    indices: np.ndarray, labels: np.ndarray, held_out: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Split indices into two sorted arrays with the same class proportions: the rest, and `held_out` indices."""
    from sklearn.model_selection import train_test_split  # late: 70 MB and a second that worker processes do not need

    rest, held = train_test_split(indices, test_size=held_out, stratify=labels, random_state=seed)
    return np.sort(rest), np.sort(held)


def _split(images: np.ndarray, labels: np.ndarray) -> Split:
    return Split(torch.tensor(images), torch.tensor(labels, dtype=torch.int64))


def compute_channel_statistics(images: torch.Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Compute each channel's mean and standard deviation from uint8 (n, channels, height, width), scaled to 0..1."""
    values = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in images.unbind(1):  # counting the 256 values is exact and needs no float copy of the images
        shares = torch.bincount(channel.reshape(-1), minlength=256).double() / channel.numel()
        means.append(math.fsum(shares * values))  # exact, unlike a plain sum, whose order depends on the machine
        stds.append(math.sqrt(math.fsum(shares * (values - means[-1]) ** 2)))
    return tuple(means), tuple(stds)


def list_batches(count: int, batch_size: int) -> list[tuple[int, int]]:
    """Return the (start, end) of each batch of `count` images.

    A last batch of one image joins the batch before it, because batch normalization needs at least two images; but with
    a batch size of 1, for which batch normalization is refused, every batch has one image.
    """
    starts = list(range(0, count, batch_size))
    if batch_size > 1 and len(starts) > 1 and count - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], count], strict=True))
