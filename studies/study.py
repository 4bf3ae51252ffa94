"""What a study is: named experiments with a baseline, what the original published, and what it claimed.

The studies themselves are in `studies.py`.
"""

import contextlib
import re
from dataclasses import dataclass, field, replace

from experiments import Experiment

NOT_IN_TITLES = r'<>:"/\|?*'
TITLE = re.compile(rf"(?![. ])[^{re.escape(NOT_IN_TITLES)}\x00-\x1f]+(?<![. ])")
KINDS = ("as run", "corrected", "control", "own")
FIGURES = ("test_accuracy", "test_loss", "train_accuracy", "gap", "epochs", "zeros")  # that claims speak of
DIRECTIONS = ("higher", "lower", "not higher", "same")
# Differences in accuracy within it make no practical difference, where a study has no other.
MARGIN = 0.005
MARGINS = dict(mnist=0.001, mnist_sample=0.001)


@dataclass(frozen=True)
class Entry:
    """One experiment of a study."""

    kind: str  # one of KINDS
    experiment: Experiment
    note: str = ""  # what the original called it, or what was corrected
    published: dict[str, float] = field(default_factory=dict)  # figure: value; accuracies as fractions


@dataclass(frozen=True)
class Claim:
    """One sentence of a write-up, on how the figure of `one` compares with that of each other."""

    kind: str  # one of KINDS
    says: str
    one: str | tuple[str, ...]  # a title; of several, the one with the best mean validation accuracy
    others: tuple[str, ...] | float  # titles, or a constant
    figure: str  # one of FIGURES; gap is train accuracy − test accuracy, zeros the share of weights exactly zero
    direction: str  # one of DIRECTIONS


@dataclass(frozen=True)
class Study:
    """A named set of experiments with a baseline and claims.

    Raises:
        ValueError: a title that cannot name a folder, a claim or baseline that names an experiment that is not there,
            a word that means nothing, or experiments on more than one data set.
    """

    asks: str
    experiments: dict[str, Entry]  # title: entry
    baseline: str
    claims: tuple[Claim, ...] = ()
    deviations: tuple[str, ...] = ()  # from the original
    margin: float | None = None  # of differences that matter; None: that of its data set
    sweep: dict[str, tuple[str, float]] = field(default_factory=dict)  # title: (line, place) of a setting that is swept
    sweep_over: str = ""  # what that setting is called
    mistakes_of: tuple[str, ...] = ()  # titles whose misclassified images are shown; the baseline's if none is named
    mistakes: tuple[int, int] = (10, 5)  # how many images of each, in how many columns

    def __post_init__(self):
        for title, entry in self.experiments.items():
            if not TITLE.fullmatch(title):
                raise ValueError(
                    f"{title!r}: expected a title that can be a folder's name anywhere, without {NOT_IN_TITLES}"
                )
            if entry.kind not in KINDS:
                raise ValueError(f"{title!r}: {entry.kind!r}, expected one of {', '.join(KINDS)}")
        of = {entry.experiment.dataset or entry.experiment.default_dataset for entry in self.experiments.values()}
        if len(of) > 1:
            raise ValueError(f"experiments on {' and '.join(sorted(of))}: expected one data set, a study for each")
        named = {self.baseline, *self.sweep, *self.mistakes_of}
        for claim in self.claims:
            named.update([claim.one] if isinstance(claim.one, str) else claim.one)
            named.update(claim.others if isinstance(claim.others, tuple) else ())
            if not isinstance(claim.others, tuple | int | float):
                raise ValueError(f"claim {claim.says!r}: others {claim.others!r}, expected titles, ('like this',)")
            words = (claim.kind, KINDS), (claim.figure, FIGURES), (claim.direction, DIRECTIONS)
            for word, known in words:
                if word not in known:
                    raise ValueError(f"claim {claim.says!r}: {word!r}, expected one of {', '.join(known)}")
        for title in named - self.experiments.keys():
            raise ValueError(f"{title!r} is none of the study's experiments: {', '.join(self.experiments)}")

    def experiment(self, title, changes):
        """An experiment with some settings changed, as given beside `--study`.

        Raises:
            ValueError: it does not go with the changes.
        """
        rivals = {"groups": "group_size", "group_size": "groups"}  # of which a network has one
        cleared = {rivals[name]: None for name in changes.keys() & rivals.keys()}
        try:
            return replace(self.experiments[title].experiment, **cleared | changes)
        except ValueError as error:
            raise ValueError(f"{title}: does not go with what was given: {error}") from None

    def changes(self, settings):
        """Those of some settings, {name: value}, that differ from what an experiment of the study has.

        Raises:
            ValueError: of the network, which is the study's own.
        """
        own = [entry.experiment for entry in self.experiments.values()]
        own = [replace(experiment, dataset=experiment.dataset or experiment.default_dataset) for experiment in own]
        for name in ("model", "hidden"):
            if name in settings:
                raise ValueError(f"--{name}: a study has its own networks; leave it out, or leave out --study")
        return {
            name: value
            for name, value in settings.items()
            if any(getattr(experiment, name) != value for experiment in own)
        }

    def trained_as(self, title, changes=None):
        """The title that an experiment is trained under: the first one with the same settings."""
        experiment = self.experiment(title, changes or {})
        for first in self.experiments:
            with contextlib.suppress(ValueError):  # one that does not go with the changes is not trained
                if self.experiment(first, changes or {}) == experiment:
                    return first

    def all_trained_as(self, changes):
        """{title: the title that it is trained under} of the experiments that go with some changes."""
        titles = {}
        for title in self.experiments:
            with contextlib.suppress(ValueError):
                titles[title] = self.trained_as(title, changes)
        return titles
