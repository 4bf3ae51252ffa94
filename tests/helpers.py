"""Helpers shared by several test files: made-up records, parsed flags, output files, reports and forgeries."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import train
from analysis.sections import make_report
from data import Split
from engine import records, run_files
from engine.flags import OneLineParser, add_settings, choose_experiments, given_settings
from experiments import Experiment
from grading import packing, scores, untrusted
from grading.submission import GradeOptions
from studies import STUDIES
from studies.study import SINGLE
from training import Run

PLAIN = Experiment(dataset="mnist_sample")
HANDED_IN = "mlp1,dataset=mnist_sample,epochs=2"  # the first experiment of the submission that conftest.py makes
FIRST = f"runs/single/{HANDED_IN}"
LABELS = np.random.default_rng(0).integers(0, 10, 500)  # of the made-up test images
HARDEST_FIRST = np.random.default_rng(1).permutation(500)
GOOD = dict(zip(range(6), (20, 22, 25, 19, 21, 23), strict=True))  # {seed: number of misclassified images}
# What some system refuses in the name of a file.
UNSAFE = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]|^[. ]|[. ]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.IGNORECASE)
BAD = dict(zip(range(6), (80, 85, 88, 79, 90, 84), strict=True))

# ---------------------------------------------------------------------------------------------------------------------
# Made-up records


def make_result(seed, accuracy, **metrics):
    """Make up the content of a run's result.json; the given metrics replace made-up metrics."""
    made_up = dict(
        seed=seed,
        diverged=False,
        stop_reason="trained all 15 epochs",
        epochs=15,
        chosen_epoch=15,
        parameters=94_154,
        sparsity=dict(zeros=0.5, small=0.5, l2_norm=2.0),
        layers=[dict(layer="0", weights=2, zeros=1, small=1)],
        seconds=12.345,
        threads=1,
        device="cpu",
        versions=dict(torch="2"),
        command="train.py --model mlp3",
        commit="abc",
        finished="2020-02-02T20:20:20+00:00",
    )
    for split, more in (("train", 0.03), ("val", 0.01), ("test", 0.0)):
        made_up |= {f"{split}_accuracy": accuracy + more, f"{split}_loss": 1 - accuracy}
    return made_up | metrics


def make_log_probabilities(labels, wrong, generator):
    """Make log-probabilities that favour each image's label, but the next class at the indices `wrong`."""
    favoured = labels.copy()
    favoured[wrong] = (favoured[wrong] + 1) % 10
    logits = generator.normal(0, 0.1, (len(labels), 10))
    logits[np.arange(len(labels)), favoured] += 4
    return torch.tensor(logits).log_softmax(1).numpy().astype(np.float32)


def write_run(folder, result, log_probabilities, epochs=1):
    history = [dict.fromkeys(run_files.HISTORY, 1) | dict(epoch=epoch) for epoch in range(1, epochs + 1)]
    weights = {"0.weight": torch.tensor([0.0, 2.0])}
    return records.write_run(folder, Run(result["seed"], result, history, weights, log_probabilities))


def write_runs(runs_dir, dataset, experiment, accuracies, study=None, title=None, first_seed=0, **metrics):
    """Write a run for each accuracy, with constant predictions, and return the experiment's folder.

    Args:
        study: the experiment's study, with its overrides; None for an experiment typed by hand.
    """
    title = title or experiment.name
    folder = runs_dir / (study.group if study else SINGLE) / title
    of_study = (study.name, study.overrides) if study else ()
    records.open_folder(folder, records.describe(experiment, dataset, title, *of_study))
    for seed, accuracy in enumerate(accuracies, first_seed):
        predictions = np.full((len(dataset.test), 10), -2.3, dtype=np.float32)
        write_run(folder, make_result(seed, accuracy, **metrics), predictions)
        if metrics.get("diverged"):
            end_history(folder / f"seed-{seed}")
    return folder


def end_history(run_folder, loss="nan"):
    """Let a run's history end in a loss, as that of a run that diverged."""
    path = run_folder / "history.csv"
    *lines, last = path.read_text(encoding="utf-8").splitlines()
    cells = last.split(",")
    cells[lines[0].split(",").index("val_loss")] = loss
    path.write_text("\n".join([*lines, ",".join(cells), ""]), encoding="utf-8")


def make_record(folder, title, wrongs, shift=0, **metrics):
    """Make a record of runs that misclassify the hardest images; `shift` changes which images are hard.

    Args:
        wrongs: {seed: number of misclassified images}.
    """
    record = records.Record(folder / title, Experiment(), dict(name="fashion_mnist"))
    record.folder.mkdir(parents=True)
    for seed, wrong in wrongs.items():
        generator = np.random.default_rng([seed, wrong])
        stored = make_log_probabilities(LABELS, np.roll(HARDEST_FIRST, shift)[:wrong], generator)
        losses = -stored[np.arange(500), LABELS]
        of_run = dict(test_loss=float(losses.mean()), train_accuracy=1 - wrong / 1000, val_accuracy=1 - wrong / 500)
        of_run["sparsity"] = dict(zeros=0.0, small=0.0, l2_norm=1.0)
        record.results[seed] = make_result(seed, 1 - wrong / 500, **of_run | metrics)
        write_run(record.folder, record.results[seed], stored)
    return record


def make_three_records(folder):
    """Make the records of three experiments: good, practically the same as good, and bad."""
    return {
        "good": make_record(folder, "good", GOOD),
        "same": make_record(folder, "same", {seed: wrong + 1 for seed, wrong in GOOD.items()}, shift=4),
        "bad": make_record(folder, "bad", BAD, epochs=10),
    }


# ---------------------------------------------------------------------------------------------------------------------
# Parts of data sets, command lines and output files


def take_images(split, count):
    """Take every n-th image of a split, `count` in all; the digits are sorted, so the first images have one class."""
    every = len(split) // count
    return Split(split.images[::every][:count], split.labels[::every][:count])


def cut_dataset(dataset, **counts):
    """Reduce splits of a data set to the given numbers of images, as in `cut_dataset(digits, train=300)`."""
    return replace(dataset, **{name: take_images(getattr(dataset, name), count) for name, count in counts.items()})


def write_own(path, count=3, shape=(28, 28), train=12, test=4, seed=0, **arrays):
    """Write a data set of one's own with images that are easy to tell apart, and return its path.

    Args:
        count: the number of classes.
        train, test: the numbers of images in each class.
        arrays: replace or join the made-up arrays; None: an array is left out.
    """
    generator = np.random.default_rng(seed)
    bright = generator.integers(0, 2, (count, *shape))
    made_up = {}
    for part, images in (("train", train), ("test", test)):
        labels = np.arange(count * images) % count
        noise = generator.integers(0, 128, (len(labels), *shape))
        made_up |= {f"x_{part}": (bright[labels] * 127 + noise).astype(np.uint8), f"y_{part}": labels}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **{name: value for name, value in (made_up | arrays).items() if value is not None})
    return path


def parse_settings(words):
    """Parse the flags of an experiment's settings into {name: value}."""
    parser = OneLineParser(prog="train.py")
    add_settings(parser)
    return given_settings(parser.parse(words))


def read_files(folder):
    """Read every file below a folder into {relative path: content}."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def choose(words):
    """Return the study and the titles that arguments of train.py select."""
    args = train.make_train_parser().parse(words)
    return choose_experiments(given_settings(args), args.study, args.only)


def read_outcome(runs_dir, may_differ):
    """Read every file of the runs into {name: content}; leave the keys `may_differ` out of each result."""
    outcome = {str(path): content for path, content in read_files(runs_dir).items()}
    for name, content in outcome.items():
        if name.endswith("result.json"):
            outcome[name] = {key: value for key, value in json.loads(content).items() if key not in may_differ}
    return outcome


# ---------------------------------------------------------------------------------------------------------------------
# Reports and submissions


def write_nothing(figure, path):
    """Write empty files instead of a figure, because `style.save_figure` takes a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = [path.with_name(f"{path.name}.{kind}") for kind in ("png", "pdf")]
    for file in written:
        file.write_bytes(b"")
    return written


def refresh(folder):
    """Write the current checksums of the files into the manifest, as a forger would."""
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != packing.MANIFEST]
    checksums = {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    (folder / packing.MANIFEST).write_text(json.dumps(dict(format=records.FORMAT, files=checksums)))


def change_text(path, old, new):
    """Replace the first occurrence of a text in a file; fail if there is none."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def change_result(run_folder, **metrics):
    """Change some metrics of a run's result.json."""
    path = run_folder / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | metrics), encoding="utf-8")


def find_failures(path, **options):
    """Grade a submission and return {name: printed line} for the checks that fail."""
    results = scores.grade(path, GradeOptions(**options)).results
    return {result.name: str(result) for result in results if result.problems}


def write_report(runs, data_dir=Path("unused")):
    """Return the text of the report on some runs, without drawing figures."""
    found, problems = untrusted.read_runs(runs)
    return make_report(found, problems, runs, data_dir).text


def override(name, **settings):
    """Return a study with overrides: the MNIST sample as data set, and the given settings."""
    return STUDIES[name].with_overrides(dict(dataset="mnist_sample") | settings)


def read_rows(text, column):
    """Read {first cell: {column: cell}} from all tables of a report that have the given column."""
    rows, header = {}, None
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] if line.startswith("|") else None
        if cells is None:
            header = None
        elif header is None:
            header = cells
        elif column in header and cells[0].strip(":-"):  # skip the line under the header
            rows.setdefault(cells[0], {}).update(zip(header, cells, strict=True))
    return rows


def standardized(dataset, count):
    """Take `count` images of all classes: every n-th, because the train images are sorted by class."""
    every = len(dataset.train) // count
    images = replace(dataset, is_standardized=True).to_float(dataset.train.images[::every][:count])
    return images, dataset.train.labels[::every][:count]


# ---------------------------------------------------------------------------------------------------------------------
# Commands that end with a status


def end_with(status, main, words, capsys):
    """Run a command that ends with an exit status, and return what it has printed."""
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    assert caught.value.code == status
    return capsys.readouterr()


def refuse(main, words, capsys):
    """Return the one line on stderr with which a command refuses what was typed."""
    (line,) = end_with(2, main, words, capsys).err.splitlines()
    return line
