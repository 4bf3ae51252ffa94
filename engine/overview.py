"""The output of `train.py --list` and `--summary`: studies with finished seeds, and networks with their layers."""

from collections.abc import Iterable
from pathlib import Path

from tabulate import tabulate

import models
from engine import records
from engine.flags import format_seeds
from engine.plan import check_network
from sources.catalogue import SOURCES
from studies.study import Study


def print_study(study: Study, titles: Iterable[str], runs_dir: Path) -> None:
    """Print experiments of a study, each with its finished seeds."""
    rows = []
    for title in titles:
        entry, first = study.experiments[title], study.trained_as[title]
        sample = SOURCES[entry.experiment.dataset_name].sample
        groups = {"": study.group}
        if sample and "dataset" not in study.overrides:  # runs may have used the sample instead of the full data set
            groups[f" on {sample}"] = study.with_overrides(dict(dataset=sample)).group
        trained = {where: records.finished_seeds(runs_dir / group / first) for where, group in groups.items()}
        rows.append(
            (
                title,
                entry.kind,
                f"{models.count_parameters(check_network(entry.experiment, study, title)):,}",
                ", ".join(format_seeds(seeds) + where for where, seeds in trained.items() if seeds),
                entry.note if first == title else f"the same settings as {first}",
            )
        )
    print(f"{study.name}: {study.asks}")
    header = ("experiment", "kind", "parameters", "trained", "note")
    print(tabulate(rows, header, colalign=("left", "left", "right")), "\n")


def print_summary(study: Study, titles: Iterable[str]) -> None:
    """Print the layers of each experiment's network, with their output shapes and numbers of parameters."""
    for title in titles:
        experiment = study.experiments[title].experiment
        network = check_network(experiment, study, title)
        print(f"{title}: {models.count_parameters(network):,} parameters a run")
        print(f"{'layer':<18} {'shape out':<12} {'parameters':>10}")
        for layer, shape, parameters in models.list_layers(network, SOURCES[experiment.dataset_name].shape):
            print(f"{layer:<18} {'×'.join(map(str, shape)):<12} {f'{parameters:,}' if parameters else '':>10}")
