"""The data sets: their published files with checksums, their classes, and how they are split.

SOURCES["mnist"].classes        # ('0', '1', ...)
"""

from dataclasses import dataclass
from pathlib import Path

SAMPLES = Path(__file__).resolve().parent / "samples"

CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
DIGITS = tuple("0123456789")
CIFAR10_OBJECTS = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class Source:
    """The description of a data set: everything that is known before its files are read."""

    folder: Path  # relative to the data dir, in torchvision's layout; absolute for an embedded sample
    files: dict[str, str]  # {name without .gz: SHA-256 of the decoded content}; train first, images before labels
    classes: tuple[str, ...]
    shape: tuple[int, int, int]  # channels, height, width
    validation: int  # number of images split from the train files
    test: int = 0  # number of images split from the train files; 0 if there are test files
    torchvision_class: str = ""
    sample: str | None = None  # the embedded sample that is used if the data set cannot be downloaded

    @property
    def is_sample(self) -> bool:
        """Whether this data set is a sample embedded in the repository."""
        return self.folder.is_absolute()


SOURCES = {
    "fashion_mnist": Source(
        folder=Path("FashionMNIST/raw"),
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
        folder=Path("MNIST/raw"),
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
        folder=Path("cifar-10-batches-py"),
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
