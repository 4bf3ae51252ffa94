"""Download a published data set with torchvision, if a mirror can be reached.

found = download(find("mnist", "data"), Path("data"))
"""

import importlib
import os
import shutil
import socket
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from http.client import HTTPException
from pathlib import Path
from types import ModuleType

import torch

from sources.finding import DataError, DataNotFound, Found, find

BESIDE = "downloaded"  # folder in the data dir for a download whose own place is taken by other files
CONNECT_SECONDS = 5  # a mirror that does not answer within this time counts as unreachable


def download(found: Found, data_dir: Path) -> Found:
    """Download a data set that was not found whole into the data dir, and return what is found then.

    The files are downloaded into a temporary folder, verified and then moved, so that no incomplete download is used
    and no file is replaced.

    Args:
        found: what was found of the data set.

    Raises:
        DataNotFound: no mirror can be reached, or the download fails, and nothing like the data set was found.
        DataError: the same, but parts or damaged files were found; or the data dir is not writable.
    """
    name, source = found.name, found.source
    target = data_dir / source.folder
    if target.exists():
        target = data_dir / BESIDE / source.folder
    if target.exists():
        why = f"{data_dir / source.folder} and {target} hold other files; move them away to have {name} downloaded"
        raise DataError(f"{name}: {why} ({found.explain(data_dir)})")
    try:
        is_new = not data_dir.exists()
        data_dir.mkdir(parents=True, exist_ok=True)
        workshop = Path(tempfile.mkdtemp(prefix=".download-", dir=data_dir))
    except OSError as error:
        raise DataError(
            f"--data-dir {data_dir}: not writable ({error.strerror}), and {name} must be downloaded into it "
            f"({found.explain(data_dir)}); name a writable folder, or one that holds the data set"
        ) from None
    previous_timeout = socket.getdefaulttimeout()
    not_found = DataError if found.has_traces else DataNotFound
    try:
        torchvision_class = getattr(import_torchvision().datasets, source.torchvision_class)
        urls = getattr(torchvision_class, "mirrors", None) or [torchvision_class.url]
        answers = check_reachable(urls)
        if all(answers.values()):
            tried = "; ".join(f"{url}: {answer}" for url, answer in answers.items())
            raise not_found(_explain_how_to_get(found, data_dir, f"tried {tried}"))
        socket.setdefaulttimeout(30)  # torchvision sets no time-out and would wait forever for a stalled mirror
        try:
            torchvision_class(workshop, download=True)
        except (OSError, RuntimeError, HTTPException) as error:  # the last if it breaks off
            raise not_found(_explain_how_to_get(found, data_dir, " ".join(str(error).split()))) from None
        downloaded = find(name, workshop)
        if downloaded.missing:
            raise DataError(f"{name}: the mirror sent other files; {downloaded.explain(workshop)}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(workshop / source.folder, target)
        except OSError as error:
            raise DataError(f"{target}: cannot be written ({error.strerror}); name another --data-dir") from None
        downloaded.places = {file: target / path.name for file, path in downloaded.places.items()}
        downloaded.passed_over = found.passed_over
        return downloaded
    finally:
        socket.setdefaulttimeout(previous_timeout)
        shutil.rmtree(workshop, ignore_errors=True)
        if is_new and not any(data_dir.iterdir()):
            data_dir.rmdir()


def _explain_how_to_get(found: Found, data_dir: Path, tried: str) -> str:
    name, source = found.name, found.source
    files = ", ".join(found.missing)
    if not found.parts:
        files = f"its {len(source.files)} files ({files}) or {source.archives[0]}"
    ways = [f"put {files} anywhere in {data_dir}, or name their folder with --data-dir"]
    if name == "fashion_mnist":
        ways[0] += ", or on Debian or Ubuntu apt install dataset-fashion-mnist"
    if source.sample:
        ways.append(f"train on the embedded sample with --dataset {source.sample}")
    looked = found.explain(data_dir)
    return f"{name}: not found ({looked}) and could not be downloaded ({tried}). Ways to get it: {'; '.join(ways)}"


def check_reachable(urls: Iterable[str], seconds: float = CONNECT_SECONDS) -> dict[str, str | None]:
    """Contact all addresses at once and return, within `seconds`, {address: why it is unreachable, or None}.

    It uses threads, because no time-out covers the look-up of a host name.
    """
    answers: dict[str, str | None] = dict.fromkeys(urls, f"no answer in {seconds} s")

    def ask(url: str) -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds).close()
            answers[url] = None
        except urllib.error.HTTPError:
            answers[url] = None  # the host has answered, even if the address has no page
        except (OSError, ValueError, HTTPException) as error:  # the last if something else answers in the host's place
            answers[url] = str(getattr(error, "reason", error)).strip() or type(error).__name__

    threads = [threading.Thread(target=ask, args=(url,), daemon=True) for url in urls]
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0, deadline - time.monotonic()))
    return dict(answers)


def import_torchvision() -> ModuleType:
    """Import torchvision, even if its compiled operators do not load.

    If torch and torchvision come from different builds, the import fails with "operator torchvision::nms does not
    exist". This toolkit uses no operator, so it is enough to declare the two operators that the import needs.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError:
        torch.library.define("torchvision::nms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        torch.library.define("torchvision::qnms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return importlib.import_module("torchvision")
