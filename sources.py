"""The published data sets: where each is found, how it is verified, and how it is downloaded.

folder = find("mnist", "data") or download("mnist", Path("data"))
images, labels, test_images, test_labels = read(SOURCES["mnist"], folder)
"""

import gzip
import hashlib
import math
import os
import pickle
import shutil
import socket
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # package dataset-fashion-mnist
SAMPLES = Path(__file__).resolve().parent / "samples"
REACH_SECONDS = 5  # a mirror that has not answered by then counts as out of reach

CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
DIGITS = tuple("0123456789")
CIFAR10_OBJECTS = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class DataError(Exception):
    """The data cannot be used as it is; the message is one line and says what to do."""


class DataNotFound(DataError):
    """The data set is neither on this machine nor to be had from the network."""


@dataclass(frozen=True)
class Source:
    """What is known of a data set before it is read.

    `files` maps each file, without `.gz`, to the SHA-256 of its decoded content. Images and labels (or CIFAR's
    batches) come in pairs of train files first, test files last.
    """

    folder: str | Path  # below the data dir, as torchvision lays it out; absolute for what travels with the code
    files: dict[str, str]
    classes: tuple[str, ...]
    shape: tuple[int, int, int]  # channels, height, width
    validation: int  # images cut from the train files
    test: int = 0  # images cut from the train files; 0: the data set has a test set of its own
    torchvision_class: str | None = None
    sample: str | None = None  # the embedded part of it that stands in where the full set cannot be had

    @property
    def is_sample(self):
        return Path(self.folder).is_absolute()


SOURCES = {
    "fashion_mnist": Source(
        folder="FashionMNIST/raw",
        files={
            "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
        classes=CLOTHES,
        shape=(1, 28, 28),
        validation=10_000,
        torchvision_class="FashionMNIST",
        sample="fashion_mnist_sample",
    ),
    "mnist": Source(
        folder="MNIST/raw",
        files={
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
        classes=DIGITS,
        shape=(1, 28, 28),
        validation=10_000,
        torchvision_class="MNIST",
        sample="mnist_sample",
    ),
    "cifar10": Source(
        folder="cifar-10-batches-py",
        files={
            "data_batch_1": "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd",
            "data_batch_2": "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8",
            "data_batch_3": "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9",
            "data_batch_4": "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b",
            "data_batch_5": "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154",
            "test_batch": "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831",
        },
        classes=CIFAR10_OBJECTS,
        shape=(3, 32, 32),
        validation=10_000,
        torchvision_class="CIFAR10",
    ),
    "fashion_mnist_sample": Source(
        folder=SAMPLES / "fashion_mnist",
        files={
            "train-images-idx3-ubyte": "cf313073c7eb485392848071d5c433571d7166043e971e3345b095cc30518084",
            "train-labels-idx1-ubyte": "097b93fbcf9bd5bc648b1a457ddc55c9e4ab49afb33f9ecae8ce068399a75e3a",
            "t10k-images-idx3-ubyte": "7cee33c3c6414b1b86c25e665a6c4f41584269de3b7cc9768b1d351922845eef",
            "t10k-labels-idx1-ubyte": "3128d790775889812b73c4f13923559c8b9e281d112c6ea7862acf60a206a909",
        },
        classes=CLOTHES,
        shape=(1, 28, 28),
        validation=1_000,
    ),
    "mnist_sample": Source(
        folder=SAMPLES / "mnist",
        files={
            "images-idx3-ubyte": "a4a9358b9ba319305e7cd69b2c7410e463401e152d7e9e60189b94a3f159d012",
            "labels-idx1-ubyte": "704256e87519240fd1d7ecdf681fe209864691e252c6642aeadc21f3c4d44b41",
        },
        classes=DIGITS,
        shape=(1, 28, 28),
        validation=700,
        test=700,
    ),
}


# ---------------------------------------------------------------------------------------------------------------------
# Finding


def default_data_dir():
    return os.environ.get("DATA_DIR") or "data"


def find(name, data_dir):
    """The folder that holds all files of a data set, raw or gzipped, or None if there is no trace of it."""
    source = SOURCES[name]
    if source.is_sample:
        folders = [Path(source.folder)]
    else:
        data_dir = Path(data_dir)
        try:
            is_file = data_dir.exists() and not data_dir.is_dir()
        except OSError as error:
            raise DataError(f"--data-dir {data_dir}: cannot be read ({error.strerror}); name another folder") from None
        if is_file:
            raise DataError(f"--data-dir {data_dir}: is a file, expected the folder that holds {source.folder}")
        folders = [data_dir / source.folder] + [DEBIAN_FASHION_MNIST] * (name == "fashion_mnist")
    for folder in folders:
        missing = [file for file in source.files if stored_as(folder, file) is None]
        if not missing:
            return folder
        if len(missing) < len(source.files):
            raise DataError(
                f"{folder}: {', '.join(missing)} missing, raw or .gz; add what is missing, "
                f"or move the folder away to have {name} downloaded whole"
            )
    if source.is_sample:
        raise DataError(f"{source.folder}: the embedded sample {name} is missing; restore it from the repository")
    return None


def stored_as(folder, file):
    """The path of a file, raw or gzipped, or None."""
    return next((path for path in (folder / file, folder / f"{file}.gz") if path.is_file()), None)


def download(name, data_dir):
    """Let torchvision download a data set into the data dir; return the folder.

    It is downloaded beside its place, verified and then moved there, so that nothing half-finished is ever found.
    """
    source = SOURCES[name]
    target = data_dir / source.folder
    try:
        if target.exists():
            raise DataError(f"{target}: holds no file of {name}; move it away to have {name} downloaded")
        is_new = not data_dir.exists()
        data_dir.mkdir(parents=True, exist_ok=True)
        workshop = Path(tempfile.mkdtemp(prefix=".download-", dir=data_dir))
    except OSError as error:
        raise DataError(
            f"--data-dir {data_dir}: not writable ({error.strerror}), and {name} must be downloaded into it; "
            "name a writable folder, or one that holds the data set"
        ) from None
    before = socket.getdefaulttimeout()
    try:
        torchvision_class = getattr(import_torchvision().datasets, source.torchvision_class)
        urls = getattr(torchvision_class, "mirrors", None) or [torchvision_class.url]
        answers = reach(urls)
        if all(answers.values()):
            tried = "; ".join(f"{url}: {answer}" for url, answer in answers.items())
            raise DataNotFound(_how_to_get(name, data_dir, f"tried {tried}"))
        socket.setdefaulttimeout(30)  # torchvision sets none: a stalled mirror would hold a student for ever
        try:
            torchvision_class(workshop, download=True)
        except (OSError, RuntimeError) as error:
            raise DataNotFound(_how_to_get(name, data_dir, " ".join(str(error).split()))) from None
        read(source, workshop / source.folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(workshop / source.folder, target)
        return target
    finally:
        socket.setdefaulttimeout(before)
        shutil.rmtree(workshop, ignore_errors=True)
        if is_new and not any(data_dir.iterdir()):
            data_dir.rmdir()


def _how_to_get(name, data_dir, tried):
    source = SOURCES[name]
    folder = data_dir / source.folder
    ways = [f"put {', '.join(source.files)} (raw or .gz) into {folder}", "name their folder with --data-dir"]
    if name == "fashion_mnist":
        ways.append("on Debian or Ubuntu: apt install dataset-fashion-mnist")
    if source.sample:
        ways.append(f"train on the embedded sample with --dataset {source.sample}")
    return f"{name}: not found in {folder} and not to be downloaded ({tried}). Ways to get it: {'; '.join(ways)}"


def reach(urls, seconds=REACH_SECONDS):
    """Ask every address at once and return {address: why it cannot be reached, or None}, within `seconds`.

    In threads, because no time-out covers the look-up of a name.
    """
    answers = dict.fromkeys(urls, f"no answer in {seconds} s")

    def ask(url):
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds).close()
            answers[url] = None
        except urllib.error.HTTPError:
            answers[url] = None  # a folder need not have a page: an answer is an answer
        except (OSError, ValueError) as error:
            answers[url] = str(getattr(error, "reason", error))

    threads = [threading.Thread(target=ask, args=(url,), daemon=True) for url in urls]
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0, deadline - time.monotonic()))
    return dict(answers)


def import_torchvision():
    """torchvision, also where its compiled operators do not load.

    They are missing where torch and torchvision come from different builds, and the import itself dies with "operator
    torchvision::nms does not exist". Nothing here uses them: declaring the two it asks for is enough.
    """
    try:
        import torchvision
    except RuntimeError:
        import torch

        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import_torchvision.library = library  # the declarations last as long as the object
        import torchvision
    return torchvision


# ---------------------------------------------------------------------------------------------------------------------
# Reading and verifying


def read(source, folder):
    """Train images, train labels, test images, test labels as numpy arrays; the test's are None if there are none.

    Images are uint8 (n, channels, height, width), labels uint8 (n,).

    Raises:
        DataError: a file is not what was published; the message names the file, what was expected and what to do.
    """
    read_pair = _read_cifar if source.torchvision_class == "CIFAR10" else _read_idx
    parts = read_pair(source, Path(folder))
    if source.test:
        return *parts[0], None, None
    *train, (test_images, test_labels) = parts
    images, labels = (np.concatenate(arrays) if len(train) > 1 else arrays[0] for arrays in zip(*train, strict=True))
    return images, labels, test_images, test_labels


def _read_idx(source, folder):
    arrays = [_idx_array(source, folder, file) for file in source.files]
    return list(zip(arrays[0::2], arrays[1::2], strict=True))


def _idx_array(source, folder, file):
    """One file of the IDX format (big-endian header: magic, sizes; then bytes)."""
    path = stored_as(folder, file)
    content = decoded(path)
    is_images = "images" in file
    what, magic, header = ("images", 2051, 16) if is_images else ("labels", 2049, 8)
    found = int.from_bytes(content[:4], "big")
    if found != magic:
        other = {2051: ", which is a file of images", 2049: ", which is a file of labels"}.get(found, "")
        raise _damaged(path, f"expected IDX {what} (magic number {magic}), found magic number {found}{other}")
    sizes = [int.from_bytes(content[start : start + 4], "big") for start in range(4, header, 4)]
    if is_images and tuple(sizes[1:]) != source.shape[1:]:
        expected, actual = ("x".join(map(str, shape)) for shape in (source.shape[1:], sizes[1:]))
        raise _damaged(path, f"expected images of {expected} pixels, found {actual}")
    if len(content) != header + math.prod(sizes):
        raise _damaged(path, f"expected {header + math.prod(sizes):,} bytes, found {len(content):,}")
    array = np.frombuffer(content, np.uint8, offset=header)
    if not is_images and array.max(initial=0) >= len(source.classes):
        raise _damaged(path, f"expected labels 0 to {len(source.classes) - 1}, found {array.max()}")
    _check_content(path, content, source.files[file])
    return array.reshape(-1, *source.shape) if is_images else array


def _read_cifar(source, folder):
    parts = []
    for file, checksum in source.files.items():
        path = stored_as(folder, file)
        content = decoded(path)
        _check_content(path, content, checksum)  # before unpickling: a pickle can run code
        batch = pickle.loads(content, encoding="bytes")
        parts.append((batch[b"data"].reshape(-1, *source.shape), np.array(batch[b"labels"], np.uint8)))
    return parts


def decoded(path):
    """The content of a file, unpacked if it is gzipped."""
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, f"expected a whole gzip file, found a damaged one ({error})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _check_content(path, content, checksum):
    found = hashlib.sha256(content).hexdigest()
    if found != checksum:
        raise _damaged(path, f"expected the published content (SHA-256 {checksum[:12]}…), found {found[:12]}…")


def _damaged(path, reason):
    return DataError(f"{path}: {reason}; put a good copy in its place, or move the folder away to look elsewhere")
