"""The output of `train.py --list` and `--summary`: studies with finished seeds, and networks with their layers."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from tabulate import tabulate

import models
from engine import folder_names, records
from engine.files import RecordError
from engine.plan import check_network
from engine.seeds import format_seeds
from experiments import Experiment, UserError
from sources.catalogue import SOURCES
from sources.finding import DataNotFound
from sources.own import describe_source
from studies.study import Study


def print_study(study: Study, titles: Iterable[str], runs_dir: Path, data_dir: Path) -> None:
    """Print experiments of a study, each with its finished seeds."""
    rows, groups = [], set()
    for title in titles:
        entry, first = study.experiments[title], study.trained_as[title]
        source, studies = SOURCES.get(entry.experiment.dataset_name), {"": study}
        if source and source.sample and "dataset" not in study.overrides:  # runs may have used the sample
            studies[f" on {source.sample}"] = study.with_overrides(dict(dataset=source.sample))
        trained = []
        for where, with_data in studies.items():
            folder = folder_names.locate(runs_dir, with_data, first, entry.experiment)
            groups.add(folder.parent)
            if seeds := records.finished_seeds(folder):
                changed = describe_change(folder, with_data.experiments[title].experiment)
                trained.append(f"{format_seeds(seeds)}{where}{changed}")
        rows.append(
            (
                title,
                entry.kind,
                _count_parameters(entry.experiment, study, title, data_dir),
                ", ".join(trained),
                entry.note if first == title else f"the same settings as {first}",
            )
        )
    print(f"{study.name}: {study.asks}")
    header = ("experiment", "kind", "parameters", "trained", "note")
    print(tabulate(rows, header, colalign=("left", "left", "right")))
    others = {path.parent.parent for path in runs_dir.glob(f"{study.name},*/[!.]*/seed-*")} - groups
    if others and not study.overrides:
        print(f"trained with other settings: {'; '.join(sorted(group.name.partition(',')[2] for group in others))}")
    print()


def _count_parameters(experiment: Experiment, study: Study, title: str, data_dir: Path) -> str:
    try:
        return f"{models.count_parameters(check_network(experiment, study, title, data_dir)):,}"
    except DataNotFound:  # a data set of one's own, which decides the number
        return f"no {experiment.dataset}"
    except UserError:  # the command that trains it says why
        return "refused"


def describe_change(folder: Path, experiment: Experiment) -> str:
    """Say that the recorded settings are not those of an experiment; if they are, return an empty text."""
    path = folder / "experiment.json"
    if not path.exists():  # the command that trains the experiment writes it again
        return ""
    try:
        recorded = records.read_description(path).experiment
    except RecordError:
        return " (experiment.json cannot be used)"
    is_same = recorded == replace(experiment, dataset=experiment.dataset_name)
    return "" if is_same else " (edited since; --force replaces them)"


def print_summary(study: Study, titles: Iterable[str], data_dir: Path) -> None:
    """Print the layers of each experiment's network, with their output shapes and numbers of parameters."""
    for title in titles:
        experiment = study.experiments[title].experiment
        network = check_network(experiment, study, title, data_dir)
        images = describe_source(experiment.dataset_name, data_dir).shape
        print(f"{title}: {models.count_parameters(network):,} parameters a run")
        print(f"{'layer':<18} {'shape out':<12} {'parameters':>10}")
        for layer, shape, parameters in models.list_layers(network, images):
            print(f"{layer:<18} {'×'.join(map(str, shape)):<12} {f'{parameters:,}' if parameters else '':>10}")
