"""Files of data sets for several test files: the sample in the place of a full data set, archives, damages."""

import gzip
import hashlib
import io
import tarfile
import zipfile
from functools import partial

from sources import catalogue, contents

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
gzipped = partial(gzip.compress, compresslevel=1)  # ten times as fast as the default
SAMPLE = catalogue.SOURCES["fashion_mnist_sample"]


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def write(folder, files, suffix="", pack=bytes):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}{suffix}").write_bytes(pack(content))
    return folder


def write_tar(path, files, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, **options or dict(mode="w:gz", compresslevel=1)) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_zip(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def decode_arrays(files):
    """Decode files in the format IDX into the arrays of an archive like Keras's mnist.npz."""
    names = dict(zip(files, ("x_train", "y_train", "x_test", "y_test"), strict=True))
    return {names[name]: contents.decode_idx(content) for name, content in files.items()}


def read_everything(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def web_page(raw, published):
    (raw / f"{IMAGES}.gz").write_text("\n <!DOCTYPE html><html>403 Forbidden</html>")


def alter_one_pixel(raw, published):
    images = bytearray(published[IMAGES])
    images[100_000] ^= 1
    (raw / f"{IMAGES}.gz").write_bytes(gzipped(images))
