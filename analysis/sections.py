"""The sections of the report in their order, from the first page to the provenance.

document = make_report(found, problems=[], runs_dir=Path("runs"), data_dir=Path("data"))
document.write(Path("report"))
"""

import os
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import torch

import models
from analysis import figures, tables
from analysis.agreement import add_agreement
from analysis.background import write_background
from analysis.document import Document, is_closed
from analysis.findings import Findings, build_network_of, gather
from analysis.gaps import write_gaps
from analysis.pooling import ByPerson, Givers, add_people, compare_by_person, write_warning
from analysis.tables import Number, Table, escaped
from analysis.wording import (
    HOW_TO_READ,
    describe_limits,
    describe_training,
    write_findings,
    write_heading,
)
from engine.records import Record, RecordError
from engine.seeds import format_seeds, list_seeds

LONGEST_NOTES = 2**20  # bytes
# Folders in a command line, which only say where things lay on somebody's machine.
FOLDER_FLAGS = re.compile(r""" --(runs|data)-dir[ =]('[^']*'|"[^"]*"|[^\s'"])+""")


def make_report(
    found: list[Record],
    problems: list[str],
    runs_dir: Path,
    data_dir: Path,
    notes: Path | None = None,
    givers: Givers | None = None,
    against: tuple[str, list[Record]] | None = None,
) -> Document:
    """Make the report from records, as a document that is not yet written to files.

    Args:
        problems: a line for each file under `runs_dir` that could not be read.
        notes: the file of the student's notes; None: `notes.md` in `runs_dir`.
        givers: for pooled runs, who gave which run.
        against: the name and the records of another folder of runs, whose verdicts are shown beside these.

    Raises:
        RecordError: no record has the settings of its study, or a file of a record cannot be read.
    """
    opening, closing = read_notes(notes or runs_dir / "notes.md")
    torch.set_num_threads(1)  # the layers are small, and on a busy machine threads would wait for each other
    all_findings, unused = gather(found, data_dir)
    if not all_findings:
        raise RecordError(f"{runs_dir}: {'; '.join(unused)}; --force trains them again")
    problems = [*problems, *chain.from_iterable(map(describe_diverged, found))]
    document = Document()
    document.say(*opening, "## What was found")
    by_person: dict[str, list[ByPerson]] = {}
    for findings in all_findings:
        findings.is_pooled = bool(givers)
        by_person[findings.name] = list(compare_by_person(findings, givers)) if givers else []
        add_first_page(document, findings)
        document.say(*write_warning(by_person[findings.name]))
    if against:
        name, others = against
        their_findings, unused_there = gather(others, data_dir)
        add_agreement(document, all_findings, their_findings, name)
        problems += [f"{name}: {each}" for each in unused_there]
        problems += chain.from_iterable(map(describe_diverged, others))
    of_runs = re.compile(rf"(?<![\w./\\-]){re.escape(f'{runs_dir}{os.sep}')}")  # not of other-runs
    left_out = [of_runs.sub("", each).replace(os.sep, "/") for each in [*unused, *problems]]
    document.say(*[f"Left out: {escaped(each)}" for each in left_out])
    document.end_summary()
    for findings in all_findings:
        add_chapter(document, findings, givers, by_person[findings.name])
    document.say("## How to read the report", HOW_TO_READ)
    document.say("## Background", write_background())
    document.say("## Provenance")
    add_provenance(document, all_findings)
    document.say(*closing)
    return document


def describe_diverged(record: Record) -> Iterator[str]:
    """Describe the runs of a record that diverged: a line for each reason."""
    for reason in dict.fromkeys(record.diverged.values()):
        seeds = [seed for seed, of_seed in record.diverged.items() if of_seed == reason]
        are = "they are" if len(seeds) > 1 else "it is"
        yield f"{record.folder}, {format_seeds(seeds)}: {reason}; {are} part of no mean"


def read_notes(path: Path) -> tuple[list[str], list[str]]:
    """Read the student's notes, two lists of Markdown paragraphs: the opening and the closing of the report.

    A line of `---` separates the two. If there is no file, the report explains how to write it.

    Raises:
        RecordError: the file cannot be read, or would hide the report.
    """
    try:
        if path.stat().st_size > LONGEST_NOTES:
            raise RecordError(f"{path}: expected a text of at most {LONGEST_NOTES:,} bytes; shorten it")
        text = path.read_text(encoding="utf-8-sig")  # Windows begins a file with a mark
        opening, closing = [*re.split(r"(?m)^---[ \t]*$", text, maxsplit=1), ""][:2]
    except FileNotFoundError:
        if (text_file := path.with_name(f"{path.name}.txt")).exists():  # as Windows' editor saves it
            raise RecordError(f"{text_file}: is not read under this name; rename it to {path.name}") from None
        return ["# Report"], [
            "(Title, author and conclusions of your own: write `notes.md` in the folder of runs, in two "
            "parts divided by a line of `---`.)"
        ]
    except UnicodeDecodeError:
        raise RecordError(f"{path}: is not in UTF-8; save it again with the encoding UTF-8") from None
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror}); expected Markdown in UTF-8") from None
    if not is_closed(opening):
        says = "a code block, comment or HTML element in the text before the report is not closed; close it"
        if is_closed(text):
            says = "a line of --- in a code block, comment or HTML element divides the text; write another line there"
        raise RecordError(f"{path}: {says}")
    parts = [opening.strip()] if opening.strip() else []
    if not opening.strip().startswith("# "):
        parts = ["# Report", *parts]
    return parts, [closing.strip()] if closing.strip() else []


# ---------------------------------------------------------------------------------------------------------------------
# The first page


def add_first_page(document: Document, findings: Findings) -> None:
    """Add the main findings of one study, as one figure and a few sentences."""
    document.say(f"### {write_heading(findings)}")
    if findings.dataset_name.endswith("_sample"):
        full = findings.dataset_name.removesuffix("_sample")
        document.say(f"**An embedded sample: its metrics are not those of the full {full}.**")
    figures.add_forest(document, findings)
    if sentences := list(write_findings(findings)):
        document.say("\n".join(f"- {sentence}" for sentence in sentences))
    document.say(*write_gaps(findings))


# ---------------------------------------------------------------------------------------------------------------------
# A chapter for each study


def add_chapter(document: Document, findings: Findings, givers: Givers | None, by_person: list[ByPerson]) -> None:
    """Add the chapter on one study: setting, tables, figures and networks."""
    document.say(f"## {write_heading(findings)}")
    if findings.study.asks:
        document.say(escaped(findings.study.asks))
    add_setting(document, findings)
    document.say("### Comparison")
    difference = ", and its difference to the baseline's" if findings.differences else ""
    document.add_table(tables.make_accuracy_table(findings), f"Accuracy{difference}")
    document.add_table(tables.make_loss_table(findings), "Loss, weights and cost")
    if (published := tables.make_published_table(findings)).rows:
        interval = "from and to are the ends of the 95 % interval for one more run of ours"
        document.add_table(published, f"What was published, of one run each; {interval}")
    if findings.judgements:
        within = f"the margin is {100 * findings.margin:g} points of an accuracy, the gap or the share of zeros"
        caption = f"The claims, each with what was found and the verdict; {within}"
        document.add_table(tables.make_claims_table(findings), caption)
    if givers:
        add_people(document, findings, givers, by_person)
    figures.add_sweep(document, findings)
    figures.add_curves_and_seeds(document, findings)
    figures.add_weights(document, findings)
    if findings.dataset:
        document.say("### Classes and mistakes")
        figures.add_classes(document, findings, findings.dataset)
        figures.add_mistakes(document, findings, findings.dataset)
    document.say("### Networks")
    add_layers(document, findings)


def add_setting(document: Document, findings: Findings) -> None:
    """Describe the data, the training of the baseline, and how the other experiments differ from it."""
    study, first = findings.study, next(iter(findings.trained.values()))
    height_width = "×".join(map(str, first.shape[1:]))
    document.say(
        f"{first.dataset['train']:,} train, {first.dataset['validation']:,} validation, {first.dataset['test']:,} test "
        f"images of {height_width} pixels, split by class with seed {first.experiment.split_seed}."
    )
    if findings.dataset:
        table = tables.make_data_table(findings, findings.dataset)
        document.add_table(table, "The images, as values from 0 to 1, for each channel")
        figures.add_samples(document, findings, findings.dataset)
    if study.is_single:
        are_short = any(title != label for title, label in findings.labels_of.items())
        named = ", named by the settings that differ" if are_short else ""
        document.add_table(tables.make_commands_table(findings), f"The experiments{named}")
        return
    described, experiment = f"The baseline is {findings.reference}", study.experiments[findings.reference].experiment
    if study.baseline is None:
        described = f"Each experiment's baseline is itself without regularization. {findings.reference}"
    elif findings.reference != study.baseline:
        described = f"The baseline is {study.baseline}, which does not go with what was changed. {findings.reference}"
    document.say(
        f"{escaped(described)}: {describe_training(experiment)}. By hand: `{experiment.command}`; "
        "what that command does not name is the default, as `python train.py --help` has it."
    )
    document.add_table(tables.make_settings_table(findings), "The experiments")
    if limits := describe_limits(findings):
        document.say(limits)
    if study.deviations:
        document.say("\n".join(f"- {escaped(deviation)}" for deviation in study.deviations))


def add_layers(document: Document, findings: Findings) -> None:
    """Add a table of layers for each distinct network; the caption names the experiments that use it."""
    titles_by_rows: dict[tuple, list[str]] = {}
    for title, record in findings.trained.items():
        rows: list[tuple] = []
        shape: tuple[int, ...] = record.shape
        for layer, out, parameters in models.list_layers(build_network_of(record), shape):
            if parameters or out != shape:  # activations and dropout have no parameters and keep the shape
                rows.append((layer, "×".join(map(str, out)), parameters))
            shape = out
        titles_by_rows.setdefault(tuple(rows), []).append(findings.labels_of[title])
    for number, (layers, titles) in enumerate(titles_by_rows.items(), 1):
        total = ("all", "", sum(parameters for *_, parameters in layers))
        table = Table(f"{findings.name}-layers-{number}", ("layer", "shape out", "parameters"), [*layers, total])
        caption = f"Layers with parameters, and those that change the shape, of {'; '.join(titles)}"
        document.add_table(table, caption)


# ---------------------------------------------------------------------------------------------------------------------


def add_provenance(document: Document, all_findings: list[Findings]) -> None:
    """Add the provenance of all runs: devices, commits, versions, data checksums and commands."""
    data_sets, commands, versions, rows = set(), set(), set(), []
    for findings in all_findings:
        for title, record in findings.trained.items():
            results = [record.results[seed] for seed in sorted(record.results)]
            data_sets.add((findings.dataset_name, record.dataset["checksum"]))
            commands |= {FOLDER_FLAGS.sub("", result["command"]) for result in results}
            versions |= {f"torch {result['versions']['torch']}" for result in results}
            rows.append(
                (
                    findings.group,
                    title,
                    list_seeds(record.results),
                    Number(sum(result["seconds"] for result in results) / 60, places=1),
                    *(_list_values(results, name) for name in ("device", "threads", "commit", "finished")),
                )
            )
    header = ("group", "experiment", "seeds", "minutes, all seeds", "device", "threads", "commit", "finished")
    document.add_table(Table("provenance", header, rows), "Where, when and with what every experiment was trained")
    document.say(f"Trained with {', '.join(sorted(versions))}.")
    document.say(*[f"SHA-256 of {name}: `{checksum}`" for name, checksum in sorted(data_sets)])
    lines = "\n".join(f"    python {command}" for command in sorted(commands))
    document.say("The commands, without the folders of the machine:", lines)


def _list_values(results: Iterable[dict[str, Any]], name: str) -> str:
    """List the values that runs have, in the order of their seeds; commits are cut to ten digits.

    Of times, only the first day and the last are shown, `first … last`.
    """
    values = dict.fromkeys(str(result.get(name) or "unknown") for result in results)
    if name == "finished":
        days = sorted(value.partition("T")[0] for value in values)
        return days[0] if days[0] == days[-1] else f"{days[0]} … {days[-1]}"
    return ", ".join(dict.fromkeys(re.sub("^([0-9a-f]{10})[0-9a-f]+", r"\1", value) for value in values))
