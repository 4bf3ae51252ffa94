"""Mutations of valid inputs: each function in `KINDS` alters the current folder or a command at random."""

import io
import json
import math
import pickle
import shlex
import shutil
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from helpers import refresh

from engine import checkpoints, records
from grading import packing
from sources import catalogue
from sources.contents import decode_idx

BEGUN = "train.py --epochs 3 --lr 0.01 --lr-scheduler one_cycle --norm batch --patience 3 --seeds 0-1 --jobs 1"
TRAINED = (
    "train.py --epochs 2 --norm batch --seeds 0-1 --jobs 1",
    "train.py --epochs 2 --norm batch --l1 0.01 --seeds 0-1 --jobs 1",
    *(f"train.py --study fashion-mlp --only {title} --jobs 1" for title in ("simple", "third")),
)
KNOWN = ("experiment.json", *records.FILES)
COMMANDS = (
    "train.py --model mlp --hidden 8 4 --dataset fashion_mnist --split-seed 1 --standardize --epochs 2 --batch-size 50 "
    "--l1 0.001 --l1-mode proximal --norm group --groups 2 --seeds 0-1 --jobs 1 --threads 1 --runs-at-once 2 "
    "--data-dir data --runs-dir runs",
    "train.py --model cnn1 --dataset fashion_mnist --crop-padding 2 --crop-mode reflect --flip --rotation 10 "
    "--rotation-fill 3 --affine-degrees 5 --affine-translate 0.1 --affine-scale 0.1 --brightness 0.2 --contrast 0.2 "
    "--dropout 0.1 --norm ghost --ghost-splits 2 --norm-position after --freeze-gamma --seeds 3",
    "train.py --optimizer sgd --momentum 0.9 --nesterov --lr 0.1 --lr-scheduler step --lr-step-size 1 --lr-gamma 0.5 "
    "--weight-decay 0.1 --l2 0.1 --l2-form norm --penalize all --patience 2 --monitor val_accuracy --min-delta 0.1 "
    "--start-from-epoch 1 --restore last --device cpu",
    f"{TRAINED[-1]} simple --force --seeds 0,2-4 --epochs 2",
    "train.py --list --study fashion-mlp --only L1",
    "train.py --summary --model resnet --norm group --group-size 4",
    "report.py --runs-dir runs --out report --bundle handed-in.zip --study fashion-mlp --data-dir data",
    "grade.py submission.zip --study fashion-mlp --seeds 0-4 --data-dir data --gradescope results.json --csv all.csv",
    "grade.py submission.zip --retrain single/mlp1,dataset=fashion_mnist,epochs=2,norm=batch",
)
ODD_WORDS = (
    *("", " ", "-", "--", "-1", "0", "nan", "inf", "-inf", "1e308", "1e-320", "1e999", "9" * 20, "9" * 5000, "0x10"),
    *("1_000", "٣", "½", "é", "\udcff", "a\nb", "\x1b[31m", "x" * 300, "x" * 5000, "%s", "{}", "None", "0-", "5-3"),
    *("data", "runs", "runs/single", "nowhere/deep", "../beside", "data/FashionMNIST/raw/t10k-labels-idx1-ubyte"),
    *("/dev/null", "/proc", "--norm", "--lr", "--s", "--study", "--only", "cnn2", "group", "batch", "mnist-norms"),
)
ODD_VALUES = (
    *(None, True, -1, 0, 1.5, 7, 10**9, 10**17, 10**400, math.nan, math.inf, -math.inf, 1e308, -1e308, 1e-320),
    *("", "1", "é", "\ud800", "a\nb\x1b[31m\0", "x" * 10_000, "../..", [], {}, [[[]]], [0], [math.nan], {"a": 1}),
)
ODD_CELLS = ("", "nan", "inf", "-1", "0", "1e308", "1e999", "9" * 30, "9" * 5000, "x", "é", '"', "٣", "1_0", "\0", "3")
ODD_TENSORS = (
    *(torch.Tensor.double, torch.Tensor.half, torch.Tensor.bfloat16, torch.Tensor.bool, torch.Tensor.to_sparse),
    *(lambda tensor: tensor.to(torch.complex64), lambda tensor: tensor.float() * math.nan, lambda tensor: tensor[None]),
    *(lambda tensor: tensor.flatten()[:1], lambda tensor: tensor.flatten()[:0], lambda tensor: tensor.to("meta")),
    *(lambda tensor: torch.nn.Parameter(tensor.float()), lambda tensor: tensor.float() * math.inf),
    *(lambda tensor: tensor.expand(3, *tensor.shape), lambda tensor: tensor.tolist(), lambda tensor: -tensor),
)
ODD_ARRAYS = (
    *(lambda array: array * np.nan, lambda array: array + np.inf, lambda array: array - np.inf, lambda array: array[0]),
    *(lambda array: array[:, :3], lambda array: array[:-1], lambda array: array[:0], lambda array: array[:, :0]),
    *(lambda array: array.astype(np.float64), lambda array: array.astype(int), lambda array: array.astype(complex)),
    *(lambda array: array.astype(object), lambda array: array * np.float32(1e30), lambda array: array[None]),
    *(lambda array: np.full_like(array, 5), lambda array: np.hstack([array, array]), lambda array: array.T),
)


class Mutant(NamedTuple):
    what: str  # description of the mutation
    command: str | list[str]
    touched: Path | None = None  # file or folder that was altered


def mutate_flags(random):
    program, *words = shlex.split(random.choice(COMMANDS))
    for _ in range(random.choice((1, 1, 2, 4))):
        place, other = random.randrange(len(words)), random.randrange(len(words))
        match random.randrange(6):
            case 0 | 1 | 2:
                words[place] = random.choice(ODD_WORDS)
            case 3:
                words[place], words[other] = words[other], words[place]
            case 4 if len(words) > 1:
                del words[place]
            case 5:
                words[place:place] = words[other : other + 2]
    return Mutant("flags", [program, *words])


def mutate_data(random):
    cifar = "train.py --dataset cifar10 --epochs 1 --seeds 5"
    named = f"{BEGUN} --dataset fashion_mnist"
    command = random.choice((named, BEGUN, cifar, "report.py", "grade.py submission.zip"))
    source = catalogue.SOURCES["cifar10" if command == cifar else "fashion_mnist"]
    path = Path("data") / source.folder / random.choice(list(source.files))
    if random.random() < 0.5:
        path = repack(random, path, source)
    if random.random() < 0.2:
        path = random.choice(list(path.parents)[:-1])
    elif random.random() < 0.3:
        path = path.rename(f"{path}.gz")  # although it is not compressed
    return Mutant(spoil(random, path), command, path)


def repack(random, path, source):
    """Put a data set into an archive or, if it is CIFAR-10, the file `path` into its binary edition."""
    folder, is_cifar = path.parent, bool(source.binary)
    if is_cifar and random.random() < 0.5:
        content = path.read_bytes()
        path.unlink()
        path = path.with_name(f"{path.name}.bin")
        path.write_bytes(make_binary(content))
        return path
    archive = folder.parent / ("cifar-10-python.tar.gz" if is_cifar else "fashion-mnist.npz")
    if is_cifar:
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(folder, folder.name)
    else:
        arrays = [decode_idx((folder / file).read_bytes()) for file in source.files]
        np.savez(archive, **dict(zip(("x_train", "y_train", "x_test", "y_test"), arrays, strict=True)))
    shutil.rmtree(folder)
    return archive


def make_binary(batch):
    """Make the binary edition of a batch of CIFAR-10: each image's label, then its values."""
    content = pickle.loads(batch, encoding="bytes")
    return np.column_stack([np.array(content[b"labels"], np.uint8), content[b"data"]]).tobytes()


def mutate_own(random):
    path = Path("data/cells.npz")
    command = f"train.py --dataset cells.npz --epochs 1 --seeds 5 {random.choice(('', '--model cnn1', '--summary'))}"
    if random.random() < 0.4:
        return Mutant(spoil(random, path), command, path)
    with np.load(path) as archive:
        arrays = dict(archive)
    name = random.choice(list(arrays))
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arrays[name], what = alter_array(random, arrays[name])
        np.savez(path, **arrays)
    return Mutant(f"{name} {what}", command, path)


def alter_array(random, array):
    """Alter an array of numbers or text; return (altered array, description)."""
    ways = (np.delete, np.insert, *ODD_ARRAYS)
    which = random.randrange(len(ways))
    if which < 2:
        more = (array[0],) if which else ()
        return ways[which](array, random.randrange(len(array)), *more, axis=0), ("an element less", "one more")[which]
    try:
        return ways[which](array), f"as array {which - 2}"
    except (IndexError, TypeError, ValueError):  # not for labels or text
        return np.array(random.choice(ODD_CELLS)), "as text"


def mutate_checkpoint(random):
    (path,) = Path("runs").rglob("checkpoint-0-1.pt")
    if random.random() < 0.3:
        return Mutant(spoil(random, path), BEGUN, path)
    content = torch.load(io.BytesIO(path.read_bytes()[: -checkpoints.DIGEST]), weights_only=True)
    part = random.choice((None, "state"))
    if part:
        content[part], what = alter(random, content[part])
    else:
        content, what = alter(random, content)
    file = io.BytesIO()
    torch.save(content, file)
    path.write_bytes(file.getvalue() + checkpoints._digest(path.parent, file.getvalue()))
    return Mutant(what, BEGUN, path)


def mutate_record(random):
    path = random.choice([path for path in sorted(Path("runs").glob("*/*/**/*.*")) if path.name in KNOWN])
    results = sorted(path.parents[path.name in records.FILES].glob("seed-*/result.json"))
    trained_by = json.loads(results[0].read_text())["command"] if results else BEGUN
    command = random.choice((trained_by, "train.py --list", *["report.py", "report.py --bundle new.zip"] * 3))
    return Mutant(f"{path.name}: {spoil_record(random, path)}", command, path.parent)


def mutate_archive(random):
    path = Path("submission.zip")
    if random.random() < 0.2:
        return Mutant(spoil(random, path), "grade.py submission.zip", path)
    folder = Path("unpacked")
    shutil.unpack_archive(path, folder)
    files = sorted(file for file in folder.rglob("*") if file.is_file() and "code" not in file.parts)
    file, what = random.choice(files), ""
    named = file.relative_to(folder).as_posix()
    match random.randrange(5):
        case 0:
            file = folder / "report" / random.choice(("report.md", "report.html"))
            what = f"{file}: {spoil(random, file)}"
        case 1:
            what = f"{file}: {spoil(random, file)}"
        case 2 | 3:
            file = random.choice([file for file in files if "runs" in file.parts])
            what = f"{file}: {spoil_record(random, file)}"
    if random.random() < 0.8:
        refresh(folder)
    if random.random() < 0.1:
        what += f"; manifest: {spoil_record(random, folder / packing.MANIFEST)}"
    if random.random() < 0.2:
        return Mutant(what, "grade.py unpacked", folder)
    respell = random.choice((str, str, lambda name: name.replace("/", "\\"), "my work/{}".format))
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for each in sorted(folder.rglob("*")):
            name = each.relative_to(folder).as_posix()
            if not what and name == named:
                name = random.choice((*ODD_WORDS, "é/x", "runs", f"{named}/x", named.upper(), f"{name[:-1]}\udcff"))
                name = name.encode("utf-8", "replace").decode()
                what = f"{named} as {name!r}"
            if each.is_file():
                archive.writestr(respell(name or "x"), each.read_bytes())
    shutil.rmtree(folder)
    return Mutant(f"{what}; named like {respell('a/b')}", "grade.py submission.zip --gradescope results.json", path)


def spoil_record(random, path):
    """Alter a record's file, either its parsed content or its bytes; return a description."""
    if random.random() < 0.25 or not path.is_file():
        return spoil(random, path)
    match path.suffix:
        case ".json":
            content, what = alter(random, json.loads(path.read_text()))
            path.write_text(json.dumps(content))
        case ".pt":
            content, what = alter(random, torch.load(path, weights_only=True))
            torch.save(content, path)
        case ".npz":
            with np.load(path) as arrays:
                stored = arrays["log_probabilities"]
            which = random.randrange(len(ODD_ARRAYS))
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                np.savez(path, log_probabilities=ODD_ARRAYS[which](stored))
            what = f"array {which}"
        case ".csv":
            rows = [line.split(",") for line in path.read_text().splitlines()]
            row = random.choice(rows)
            cell, what = random.randrange(len(row)), random.choice((*ODD_CELLS, "row twice", "without row"))
            if what == "row twice":
                rows.append(row)
            elif what == "without row":
                rows.remove(row)
            else:
                row[cell] = what
            path.write_text("\n".join(map(",".join, rows)), encoding="utf-8")
        case _:
            what = spoil(random, path)
    return what


def spoil(random, path):
    """Alter a file's bytes, or replace the file with something else; return a description."""
    content = path.read_bytes() if path.is_file() else b""
    start = random.randrange(len(content) or 1)
    end = start + random.choice((1, 30, 1000))
    ways = {
        "a flipped bit": lambda: (
            content[:start] + bytes([content[start] ^ 1 << random.randrange(8)]) + content[start + 1 :]
        ),
        "other bytes": lambda: content[:start] + random.randbytes(end - start) + content[end:],
        "a piece cut out": lambda: content[:start] + content[end:],
        "cut off": lambda: content[:start],
        "empty": lambda: b"",
        "twice": lambda: content * 2,
        "noise": lambda: random.randbytes(1000),
        "brackets": lambda: b"[" * 100_000,
        "not UTF-8": lambda: content[:start] + b"\xff\xfe" + content[start:],
        "zeros": lambda: bytes(len(content)),
    }
    places = {
        "nothing": lambda: None,
        "a folder": path.mkdir,
        "a link to itself": lambda: path.symlink_to(path.name),
        "a link to nothing": lambda: path.symlink_to("nothing"),
        "a link to a folder": lambda: path.symlink_to("."),
        "an empty file": path.touch,
    }
    if content and random.random() < 0.7:
        what = random.choice(list(ways))
        path.write_bytes(ways[what]())
        return f"{what}, {start} to {end}"
    what = random.choice(list(places))
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    places[what]()
    return f"{what} in its place"


def alter(random, value):
    """Alter one value in nested dictionaries and lists; return (altered copy, description)."""
    if isinstance(value, dict | list | tuple) and value and random.random() < 0.9:
        copy = dict(value) if isinstance(value, dict) else list(value)
        key = random.choice(list(copy)) if isinstance(copy, dict) else random.randrange(len(copy))
        if random.random() < 0.15:
            del copy[key]
            return copy, f"without {key}"
        if random.random() < 0.05 and isinstance(copy, dict):
            copy[random.choice(("", "x", 1, key * 2))] = copy.pop(key)
            return copy, f"{key} renamed"
        copy[key], what = alter(random, copy[key])
        return copy, f"{key} {what}"
    if isinstance(value, torch.Tensor) and random.random() < 0.9:
        which = random.randrange(len(ODD_TENSORS))
        return ODD_TENSORS[which](value), f"as tensor {which}"
    odd = random.choice(ODD_VALUES)
    return odd, f"is {odd!r:.30}"


KINDS = dict(
    flags=mutate_flags,
    data=mutate_data,
    own=mutate_own,
    checkpoints=mutate_checkpoint,
    records=mutate_record,
    archives=mutate_archive,
)
