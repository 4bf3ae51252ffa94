"""Download a published data set with torchvision, where it can be reached.

folder = download("mnist", Path("data"))
"""

import os
import shutil
import socket
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from sources.catalogue import SOURCES
from sources.finding import DataError, DataNotFound, read

REACH_SECONDS = 5  # a mirror that has not answered by then counts as out of reach


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
