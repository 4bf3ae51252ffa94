"""Reading records of format 2, which name their study and its overrides only in the names of their folders."""

from dataclasses import fields

from experiments import Experiment, Settings, join_settings, shorten
from studies import STUDIES
from studies.study import SINGLE

LONGEST_NAME = 120  # characters in a folder's name, as records of format 2 and early records of format 3 have it


def read_folder_names(group: str, title: str, experiment: Experiment) -> tuple[str | None, Settings]:
    """Find a record's study and overrides from its group's name or, if the name was shortened, from its settings.

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
    if shorten(join_settings(name, overrides), LONGEST_NAME) == group:
        return name, overrides
    entry = STUDIES[name].experiments.get(title)
    if entry is None:
        return name, {}
    planned = entry.experiment.to_dict() | dict(dataset=entry.experiment.dataset_name)
    return name, {name: value for name, value in values.items() if value not in (None, planned[name])}
