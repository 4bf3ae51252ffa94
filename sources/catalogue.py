"""The data sets: their published files with checksums, their classes, and how they are split.

SOURCES["mnist"].classes        # ('0', '1', ...)
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

SAMPLES = Path(__file__).resolve().parent / "samples"
OWN_NAME = re.compile(r"\w[\w.+-]{0,59}\.npz")  # a file with a data set of one's own; folders are named after it
OWN_RULE = "or the name of an .npz file, of letters, digits and any of _.+-"

CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
DIGITS = tuple("0123456789")
CIFAR10_OBJECTS = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class Source:
    """The description of a data set: everything that is known before its files are read."""

    folder: Path  # relative to the data dir, in torchvision's layout; absolute for an embedded sample
    files: dict[str, str]  # {name without .gz: SHA-256 of the decoded content}; train first, images before labels
    sizes: tuple[int, ...]  # the numbers of bytes that a decoded file has
    classes: tuple[str, ...]
    shape: tuple[int, int, int]  # channels, height, width
    validation: int  # number of images split from the train files
    test: int = 0  # number of images split from the train files; 0 if there are test files
    torchvision_class: str = ""
    sample: str | None = None  # the embedded sample that is used if the data set cannot be downloaded
    binary: dict[str, str] = field(default_factory=dict)  # the same as `files`, in the binary edition: {name: SHA-256}
    archives: tuple[str, ...] = ()  # names under which the whole data set is passed on

    @property
    def is_sample(self) -> bool:
        """Whether this data set is a sample embedded in the repository."""
        return self.folder.is_absolute()

    @property
    def parts(self) -> dict[str, str]:
        """The files by content, {SHA-256: name in `files`}: a file has two contents if there is a binary edition."""
        contents = {checksum: name for name, checksum in self.files.items()}
        return contents | {checksum: name.removesuffix(".bin") for name, checksum in self.binary.items()}


def is_own(name: object) -> bool:
    """Tell whether a name is that of a file with a data set of one's own, such as `cells.npz`."""
    return isinstance(name, str) and bool(OWN_NAME.fullmatch(name))


SOURCES = {
    "fashion_mnist": Source(
        folder=Path("FashionMNIST/raw"),
        files={
            "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
        sizes=(47_040_016, 60_008, 7_840_016, 10_008),
        classes=CLOTHES,
        shape=(1, 28, 28),
        validation=10_000,
        torchvision_class="FashionMNIST",
        sample="fashion_mnist_sample",
        archives=("fashion-mnist.npz",),
    ),
    "mnist": Source(
        folder=Path("MNIST/raw"),
        files={
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
        sizes=(47_040_016, 60_008, 7_840_016, 10_008),
        classes=DIGITS,
        shape=(1, 28, 28),
        validation=10_000,
        torchvision_class="MNIST",
        sample="mnist_sample",
        archives=("mnist.npz",),
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
        sizes=(31_035_704, 31_035_320, 31_035_999, 31_035_696, 31_035_623, 31_035_526, 30_730_000),
        classes=CIFAR10_OBJECTS,
        shape=(3, 32, 32),
        validation=10_000,
        torchvision_class="CIFAR10",
        binary={
            "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
            "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
            "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
            "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
            "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
            "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
        },
        archives=("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz"),
    ),
    "fashion_mnist_sample": Source(
        folder=SAMPLES / "fashion_mnist",
        files={
            "train-images-idx3-ubyte": "cf313073c7eb485392848071d5c433571d7166043e971e3345b095cc30518084",
            "train-labels-idx1-ubyte": "097b93fbcf9bd5bc648b1a457ddc55c9e4ab49afb33f9ecae8ce068399a75e3a",
            "t10k-images-idx3-ubyte": "7cee33c3c6414b1b86c25e665a6c4f41584269de3b7cc9768b1d351922845eef",
            "t10k-labels-idx1-ubyte": "3128d790775889812b73c4f13923559c8b9e281d112c6ea7862acf60a206a909",
        },
        sizes=(4_704_016, 6_008, 784_016, 1_008),
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
        sizes=(3_920_016, 5_008),
        classes=DIGITS,
        shape=(1, 28, 28),
        validation=700,
        test=700,
    ),
}

# Data sets that are mistaken for MNIST because their files have the same names: {SHA-256 of a file as published: name}.
LOOKALIKES = dict.fromkeys(
    (
        "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
        "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
        "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
        "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
    ),
    "KMNIST",
)
