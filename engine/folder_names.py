"""The folders of experiments under runs/, and their names as they are cut today and as earlier versions wrote them.

folder = locate(Path("runs"), study, "L1", experiment)      # runs/fashion-mlp/L1
"""

from dataclasses import fields
from pathlib import Path

from experiments import LONGEST_NAME, Experiment, Settings, join_settings, shorten
from studies import STUDIES
from studies.study import LONGEST_GROUP, SINGLE, Study

EARLIER_LONGEST_NAME = 120  # bytes in a folder's name, in format 2 and at first in format 3


def find_folders(runs_dir: Path, *inside: str) -> list[Path]:
    """Find the folders of experiments, sorted; without hidden ones, as no group and no title begins with a dot.

    Args:
        inside: patterns of names, of which a folder must hold one; without them, those of its records.

    Raises:
        OSError: a folder cannot be read.
    """
    patterns = inside or ("experiment.json", "seed-*")
    return sorted({path.parent for pattern in patterns for path in runs_dir.glob(f"[!.]*/[!.]*/{pattern}")})


def cut(whole_name: str, longest: int) -> list[str]:
    """Return the name of a folder as it is cut today, and as earlier versions cut it."""
    return [shorten(whole_name, longest), shorten(whole_name, EARLIER_LONGEST_NAME)]


def locate(runs_dir: Path, study: Study, title: str, experiment: Experiment) -> Path:
    """Return the folder of an experiment of a study; a folder that exists keeps its name from earlier versions."""

    def choose(folder: Path, names: list[str]) -> Path:
        today, earlier = (folder / name for name in names)
        return earlier if earlier.exists() else today

    group = choose(runs_dir, cut(join_settings(study.name, study.overrides), LONGEST_GROUP))
    return choose(group, cut(experiment.whole_name, LONGEST_NAME)) if study.is_single else group / title


def read_folder_names(group: str, title: str, experiment: Experiment) -> tuple[str | None, Settings]:
    """Find the study and overrides of a record of format 2 from its group's name or, if cut, from its settings.

    Args:
        group: the name of the study's folder, such as `mnist-norms,epochs=3`.
        title: the name of the experiment's folder.
    """
    name, *overridden = group.split(",")
    if name not in STUDIES:
        return (None if name == SINGLE else name), {}
    values = {setting.name: getattr(experiment, setting.name) for setting in fields(Experiment)}
    named = [setting.partition("=")[0] for setting in overridden]
    overrides = {setting: values[setting] for setting in named if setting in values}
    if shorten(join_settings(name, overrides), EARLIER_LONGEST_NAME) == group:
        return name, overrides
    entry = STUDIES[name].experiments.get(title)
    if entry is None:
        return name, {}
    planned = entry.experiment.to_dict() | dict(dataset=entry.experiment.dataset_name)
    return name, {name: value for name, value in values.items() if value not in (None, planned[name])}
