"""The output of `train.py --list` and `--summary`: studies with finished seeds, and networks with their layers."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from tabulate import tabulate

import models
from engine import records
from engine.files import RecordError
from engine.flags import format_seeds
from engine.plan import check_network
from experiments import Experiment
from sources.catalogue import SOURCES
from studies.study import Study


def print_study(study: Study, titles: Iterable[str], runs_dir: Path) -> None:
    """Print experiments of a study, each with its finished seeds."""
    rows = []
    for title in titles:
        entry, first = study.experiments[title], study.trained_as[title]
        sample = SOURCES[entry.experiment.dataset_name].sample
        studies = {"": study}
        if sample and "dataset" not in study.overrides:  # runs may have used the sample instead of the full data set
            studies[f" on {sample}"] = study.with_overrides(dict(dataset=sample))
        trained = []
        for where, with_data in studies.items():
            folder = records.locate(runs_dir, with_data, first, entry.experiment)
            if seeds := records.finished_seeds(folder):
                changed = describe_change(folder, with_data.experiments[title].experiment)
                trained.append(f"{format_seeds(seeds)}{where}{changed}")
        rows.append(
            (
                title,
                entry.kind,
                f"{models.count_parameters(check_network(entry.experiment, study, title)):,}",
                ", ".join(trained),
                entry.note if first == title else f"the same settings as {first}",
            )
        )
    print(f"{study.name}: {study.asks}")
    header = ("experiment", "kind", "parameters", "trained", "note")
    print(tabulate(rows, header, colalign=("left", "left", "right")), "\n")


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


def print_summary(study: Study, titles: Iterable[str]) -> None:
    """Print the layers of each experiment's network, with their output shapes and numbers of parameters."""
    for title in titles:
        experiment = study.experiments[title].experiment
        network = check_network(experiment, study, title)
        print(f"{title}: {models.count_parameters(network):,} parameters a run")
        print(f"{'layer':<18} {'shape out':<12} {'parameters':>10}")
        for layer, shape, parameters in models.list_layers(network, SOURCES[experiment.dataset_name].shape):
            print(f"{layer:<18} {'×'.join(map(str, shape)):<12} {f'{parameters:,}' if parameters else '':>10}")
