"""What a study is: named experiments with a baseline, what the original published, and what it claimed.

study = STUDIES["mnist-norms"].with_overrides({"dataset": "mnist_sample", "epochs": 3})
study.experiments["GN"].experiment     # an experiments.Experiment
"""

import importlib
import re
import shlex
import traceback
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path

from experiments import Experiment, Settings, UserError, flag_of, join_settings, shorten

NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
NOT_IN_TITLES = r'<>:"/\|?*'
TITLE = re.compile(rf"(?![. ])[^{re.escape(NOT_IN_TITLES)}\x00-\x1f]+(?<![. ])")
KINDS = ("as run", "corrected", "control", "own")
METRICS = ("test_accuracy", "test_loss", "train_accuracy", "gap", "epochs", "zeros")  # that claims speak of
DIRECTIONS = ("higher", "lower", "not higher", "same")
# Differences in accuracy within the margin make no practical difference; a study can have its own.
MARGIN = 0.005
MARGINS = dict(mnist=0.001, mnist_sample=0.001)
SINGLE = "single"  # the group of the experiments typed by hand
NOT_STUDIES = ("study", "flags")  # files of this folder that define no study


@dataclass(frozen=True)
class Entry:
    """One experiment of a study."""

    kind: str  # one of KINDS
    experiment: Experiment
    note: str = ""  # what the original called it, or what was corrected
    published: dict[str, float] = field(default_factory=dict)  # metric: value; accuracies as fractions


@dataclass(frozen=True)
class Claim:
    """One sentence of a write-up: how a metric of one experiment compares with that of others."""

    kind: str  # one of KINDS
    says: str
    subject: str | tuple[str, ...]  # a title; of several, the one with the best mean validation accuracy
    against: tuple[str, ...] | float  # titles, or a constant
    metric: str  # one of METRICS; gap is train accuracy − test accuracy, zeros the share of weights exactly zero
    direction: str  # one of DIRECTIONS

    @property
    def titles(self) -> tuple[str, ...]:
        """Every title that the claim names."""
        subjects = (self.subject,) if isinstance(self.subject, str) else self.subject
        return subjects + (self.against if isinstance(self.against, tuple) else ())


@dataclass(frozen=True)
class Study:
    """A named set of experiments with a baseline and claims.

    Raises:
        ValueError: a title that cannot name a folder, a claim or baseline that names an unknown experiment, an
            unknown word, or experiments on more than one data set.
    """

    name: str
    asks: str
    experiments: dict[str, Entry]  # title: entry
    baseline: str | None  # a title; None: each experiment has its own, `Experiment.baseline`
    claims: tuple[Claim, ...] = ()
    deviations: tuple[str, ...] = ()  # from the original
    margin: float | None = None  # of differences that matter; None: that of its data set
    sweep: dict[str, tuple[str, float]] = field(default_factory=dict)  # title: (line, place) of a setting that is swept
    sweep_over: str = ""  # what that setting is called
    mistakes_of: tuple[str, ...] = ()  # titles whose misclassified images are shown; the baseline's if none is named
    mistakes: tuple[int, int] = (10, 5)  # how many images of each, in how many columns
    overrides: Settings = field(default_factory=dict)  # settings that were given beside the study
    left_out: dict[str, str] = field(default_factory=dict)  # title: why its settings exclude the overrides

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r}: expected a study's name of small letters, digits and hyphens")
        for title, entry in self.experiments.items():
            if not self.is_single and not TITLE.fullmatch(title):
                raise ValueError(f"{title!r}: expected a title that can be a folder's name, without {NOT_IN_TITLES}")
            _check_word(f"{title!r}", entry.kind, KINDS)
        datasets = {entry.experiment.dataset_name for entry in self.experiments.values()}
        if len(datasets) > 1 and not self.is_single:
            raise ValueError(
                f"experiments on {' and '.join(sorted(datasets))}: expected one data set, a study for each"
            )
        for claim in self.claims:
            about = f"claim {claim.says!r}"
            if not isinstance(claim.against, tuple | int | float):
                raise ValueError(f"{about}: compared with {claim.against!r}, expected titles, ('like this',)")
            for word, known in ((claim.kind, KINDS), (claim.metric, METRICS), (claim.direction, DIRECTIONS)):
                _check_word(about, word, known)
        named = {*self.sweep, *self.mistakes_of, *(title for claim in self.claims for title in claim.titles)}
        if self.baseline is not None:
            named.add(self.baseline)
        if unknown := named - set(self.titles):
            raise ValueError(f"{min(unknown)!r} is none of the study's experiments: {', '.join(self.experiments)}")

    @property
    def is_single(self) -> bool:
        """Whether it is no study, but the group of the experiments typed by hand."""
        return self.name == SINGLE

    @classmethod
    def typed_by_hand(cls, experiments: dict[str, Experiment]) -> "Study":
        """Make a study of experiments that were typed by hand: no claims, and a baseline for each by rule."""
        entries = {title: Entry("own", experiment) for title, experiment in experiments.items()}
        return cls(SINGLE, "", entries, baseline=None)

    def with_overrides(self, settings: Settings) -> "Study":
        """Return the study with some settings of every experiment changed, as given beside `--study`.

        What all its experiments have already is no override, but a data set that was named has to be found. Published
        metrics and deviations are the original's, so a study with overrides has none; nor are its claims judged.

        Raises:
            ValueError: a setting of the network, which is the study's own.
        """
        for name in ("model", "hidden"):
            if name in settings:
                raise ValueError(f"--{name}: a study has its own networks; leave it out, or leave out --study")
        resolved = [
            replace(entry.experiment, dataset=entry.experiment.dataset_name) for entry in self.experiments.values()
        ]
        differing = {
            name: value
            for name, value in settings.items()
            if any(getattr(experiment, name) != value for experiment in resolved)
        }
        rivals = {"groups": "group_size", "group_size": "groups"}  # of which a network has one
        cleared: Settings = {rivals[name]: None for name in settings.keys() & rivals.keys()}
        experiments, left_out = {}, dict(self.left_out)
        for title, entry in self.experiments.items():
            try:
                changed = replace(entry.experiment, **cleared | settings)
            except ValueError as error:
                left_out[title] = f"{title}: does not go with what was given: {error}"
            else:
                experiments[title] = replace(entry, experiment=changed, published={} if differing else entry.published)
        overrides = self.overrides | differing
        overrides = {each.name: overrides[each.name] for each in fields(Experiment) if each.name in overrides}
        deviations = () if differing else self.deviations
        return replace(self, experiments=experiments, deviations=deviations, overrides=overrides, left_out=left_out)

    @property
    def titles(self) -> tuple[str, ...]:
        """All titles, those that the overrides leave out last."""
        return (*self.experiments, *self.left_out)

    @property
    def group(self) -> str:
        """The name of the folder of its records, which says the overrides: `mnist-norms,epochs=3`."""
        return shorten(join_settings(self.name, self.overrides))

    @cached_property
    def trained_as(self) -> dict[str, str]:
        """{title: the title that it is trained under}, the first one with the same settings."""
        first: dict[Experiment, str] = {}
        for title, entry in self.experiments.items():
            first.setdefault(entry.experiment, title)
        return {title: first[entry.experiment] for title, entry in self.experiments.items()}

    def baseline_of(self, title: str) -> str:
        """Return the title of an experiment's baseline; of one typed by hand its name, if it is not among them."""
        if self.baseline is not None:
            return self.trained_as.get(self.baseline, self.baseline)
        plain = self.experiments[title].experiment.baseline()
        return next((name for name, entry in self.experiments.items() if entry.experiment == plain), plain.name)

    def command(self, *words: str) -> str:
        """Return the command that trains it with its overrides."""
        given: list[str] = []
        for name, value in self.overrides.items():
            given.append(flag_of(name))
            if value is not True:
                given.append(str(value))
        return f"python train.py {shlex.join(['--study', self.name, *given, *words])}"


def _check_word(about: str, word: str, known: tuple[str, ...]) -> None:
    if word not in known:
        raise ValueError(f"{about}: {word!r}, expected one of {', '.join(known)}")


def load_studies(folder: Path) -> dict[str, Study]:
    """Load every study that a file of the package's folder defines, {name: study}.

    Files whose names begin with an underscore hold what several studies share.

    Raises:
        UserError: a file with a mistake, or without a study, or a name that is taken; the message names the file.
    """
    studies: dict[str, Study] = {}
    for path in sorted(folder.glob("[!_]*.py")):
        if path.stem in NOT_STUDIES:
            continue
        try:
            module = importlib.import_module(f"{folder.name}.{path.stem}")
        except Exception as error:  # whatever a mistake in the file leads to
            says = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).splitlines())
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            raise UserError(f"{folder.name}/{path.name}{_line_in(path, error)}: {kind}{says}") from None
        defined = [value for value in vars(module).values() if isinstance(value, Study)]
        if not defined:
            raise UserError(f"{folder.name}/{path.name}: defines no Study; write NAME = Study(...), or move it away")
        for study in defined:
            if study.name == SINGLE or studies.setdefault(study.name, study) is not study:
                raise UserError(f"{folder.name}/{path.name}: the name {study.name!r} is taken; give the study another")
    return studies


def _line_in(path: Path, error: Exception) -> str:
    """Say in which line of a file an error came up; nothing if that is not known."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""
