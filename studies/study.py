"""Studies: named experiments with a baseline, claims about them and, for a published study, its metrics.

study = STUDIES["mnist-norms"].with_overrides({"dataset": "mnist_sample", "epochs": 3})
study.experiments["GN"].experiment     # an experiments.Experiment
"""

import math
import re
import shlex
import unicodedata
from dataclasses import dataclass, field, fields, replace
from functools import cached_property

from experiments import Experiment, Settings, UserError, flag_of, join_settings, shorten

# Names and titles name folders, also on Windows, whose paths have at most 260 characters: 60 are left for their start.
NOT_RESERVED = r"(?!(?i:con|prn|aux|nul|com\d|lpt\d)(?:\.|$))"
NAME = re.compile(rf"{NOT_RESERVED}[a-z0-9]+(-[a-z0-9]+)*")
NOT_IN_TITLES = r'<>:"/\|?*$'  # a $ would begin a formula in figures
TITLE = re.compile(rf"{NOT_RESERVED}(?![. ])[^{re.escape(NOT_IN_TITLES)}\x00-\x1f]+(?<![. ])")
LONGEST_TITLE = 75  # bytes
MOST_TO_DECIDE = 40  # seeds of an experiment that --until-decided trains, unless --most-seeds gives another number
LONGEST_GROUP = 60  # bytes
DOUBLE_QUOTED = re.compile(r'(?:\\?[^"$`!%\\])*')  # what double quotes protect in every shell
KINDS = ("as run", "corrected", "control", "own")
CLAIM_METRICS = ("test_accuracy", "test_loss", "train_accuracy", "gap", "epochs", "zeros")
# A train accuracy is that of the trained network, or the mean during its last epoch, augmented and with dropout.
PUBLISHED_METRICS = (*CLAIM_METRICS, "running_train_accuracy")
# What the values of metrics may be, with 0 to a million for the others; accuracies, zeros and the gap are fractions.
SHARES = ("test_accuracy", "train_accuracy", "running_train_accuracy", "zeros")
RANGES = dict.fromkeys(SHARES, (0, 1)) | dict(gap=(-1, 1))
DIRECTIONS = ("higher", "lower", "not higher", "same")
# Differences in accuracy within the margin have no practical importance; a study can set its own margin.
MARGIN = 0.005
MARGINS = dict(mnist=0.001, mnist_sample=0.001)
SINGLE = "single"  # the group of the experiments typed by hand
FEWEST_SEEDS = 5  # with fewer, no verdict is taken


@dataclass(frozen=True)
class Entry:
    """One experiment of a study."""

    kind: str  # one of KINDS
    experiment: Experiment
    note: str = ""  # such as what the original called it, or what was corrected
    published: dict[str, float] = field(default_factory=dict)  # of PUBLISHED_METRICS; shares as fractions


@dataclass(frozen=True)
class Claim:
    """A claim of a study: how a metric of one experiment compares with that of others, or with a constant."""

    kind: str  # one of KINDS
    says: str
    subject: str | tuple[str, ...]  # a title; of several titles, the best by mean validation accuracy
    against: tuple[str, ...] | float  # titles, or a constant
    metric: str  # one of CLAIM_METRICS; gap is train accuracy − test accuracy, zeros the share of exact zeros
    direction: str  # one of DIRECTIONS

    @property
    def subjects(self) -> tuple[str, ...]:
        """The titles of the experiments that the claim may be about."""
        return (self.subject,) if isinstance(self.subject, str) else self.subject

    @property
    def others(self) -> tuple[str | float, ...]:
        """What the subject is compared with: titles, or one constant."""
        return self.against if isinstance(self.against, tuple) else (self.against,)

    @property
    def titles(self) -> tuple[str, ...]:
        """Every title that the claim names."""
        return self.subjects + tuple(other for other in self.others if isinstance(other, str))


@dataclass(frozen=True)
class Study:
    """A named set of experiments with a baseline and claims.

    Raises:
        ValueError: the name or a title cannot be a folder's name; a claim or the baseline names an unknown experiment;
            a claim compares nothing; a kind, metric or direction is unknown; a text or a number has another type or is
            out of range; two points of the sweep are one; too few seeds are planned; an experiment has more epochs than
            the study allows; or the experiments use more than one data set.
    """

    name: str
    asks: str
    experiments: dict[str, Entry]  # title: entry
    baseline: str | None  # a title; None: each experiment's `Experiment.baseline()`
    claims: tuple[Claim, ...] = ()
    deviations: tuple[str, ...] = ()  # from the original
    margin: float | None = None  # largest unimportant difference; None: the data set's margin
    seeds: int = FEWEST_SEEDS  # the planned number of seeds, at which verdicts are taken first
    most_parameters: int | None = None  # of each network; checked when the networks are built
    most_epochs: int | None = None  # of each experiment
    sweep: dict[str, tuple[str, float]] = field(default_factory=dict)  # title: (line, x position) in the sweep's plot
    sweep_over: str = ""  # name of the setting on the plot's x axis
    mistakes_of: tuple[str, ...] = ()  # titles whose misclassified images are shown; if empty, the baseline
    mistakes: tuple[int, int] = (10, 5)  # (images for each title, columns of images)
    overrides: Settings = field(default_factory=dict)  # settings given beside the study
    left_out: dict[str, str] = field(default_factory=dict)  # title: why the overrides are impossible for it

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r}: expected a study's name of lower-case letters, digits and hyphens")
        for name in ("seeds", "most_parameters", "most_epochs"):
            number = getattr(self, name)
            if not _is_positive(number) and (number is not None or name == "seeds"):
                raise ValueError(f"{name} is {number!r}, expected a whole number of at least 1")
        if not isinstance(self.mistakes, tuple) or [*map(_is_positive, self.mistakes)] != [True, True]:
            raise ValueError(f"mistakes is {self.mistakes!r}, expected two whole numbers above 0, such as (10, 5)")
        if not self.experiments and not self.left_out:
            raise ValueError("experiments is empty, expected at least one")
        if self.margin is not None and not 0 < self.margin < 1:
            raise ValueError(f"margin is {self.margin!r}, expected a share between 0 and 1, such as {MARGIN}")
        if isinstance(self.claims, Claim) or not all(isinstance(claim, Claim) for claim in self.claims):
            raise ValueError("claims: expected a tuple of Claim(...), with a comma after each")
        _check_text("asks", self.asks)
        _check_text("sweep_over", self.sweep_over)
        for name in ("deviations", "mistakes_of"):
            texts = getattr(self, name)
            if not isinstance(texts, tuple | list) or not all(isinstance(text, str) for text in texts):
                raise ValueError(f"{name} is {texts!r}, expected a tuple of texts, with a comma after each: ('one',)")
        for title, entry in self.experiments.items():
            if not isinstance(entry, Entry):
                found = type(entry).__name__
                raise ValueError(f"{title!r}: expected an Entry, such as Entry('own', Experiment()), found {found}")
            if not self.is_single and not TITLE.fullmatch(title):
                raise ValueError(
                    f"{title!r}: expected a title that can be a folder's name, without {NOT_IN_TITLES}, and none that "
                    "Windows reserves, such as con"
                )
            composed = unicodedata.normalize("NFC", title)
            if not self.is_single and composed != title:  # archives and macOS change the title to this form
                raise ValueError(
                    f"{title!r}: expected {composed!r}, which looks the same but has other characters (NFC)"
                )
            if not self.is_single and (count := len(title.encode())) > LONGEST_TITLE:
                raise ValueError(f"{title!r}: expected a title of at most {LONGEST_TITLE} bytes, found {count}")
            _check_word(f"{title!r}", entry.kind, KINDS)
            _check_text(f"{title!r}, note", entry.note)
            _check_dict(f"{title!r}, published", entry.published, "dict(test_accuracy=0.88)")
            for metric, value in entry.published.items():
                _check_word(f"{title!r}, published", metric, PUBLISHED_METRICS)
                _check_value(f"{title!r}, published: {metric}", metric, value)
            if problem := self._exceeds(entry.experiment):
                raise ValueError(f"{title!r}: {problem}")
        folders: dict[str, str] = {}
        for title in self.experiments:
            if (same := folders.setdefault(title.casefold(), title)) != title:
                raise ValueError(f"{title!r} and {same!r}: would be one folder on Windows and macOS; rename one")
        if self.seeds < FEWEST_SEEDS:
            raise ValueError(f"seeds is {self.seeds}, expected at least {FEWEST_SEEDS}: fewer allow no verdict")
        datasets = {entry.experiment.dataset_name for entry in self.experiments.values()}
        if len(datasets) > 1 and not self.is_single:
            raise ValueError(
                f"experiments on {' and '.join(sorted(datasets))}: expected one data set, a study for each"
            )
        for claim in self.claims:
            about = f"claim {claim.says!r}"
            _check_text(about, claim.says)
            if not claim.subjects:
                raise ValueError(f"{about}: about no experiment, expected a title")
            names = claim.against if isinstance(claim.against, tuple) else ()
            are_titles = names and all(isinstance(name, str) for name in names)
            if not are_titles and not isinstance(claim.against, int | float):
                raise ValueError(
                    f"{about}: compared with {claim.against!r}, expected a tuple of titles, such as ('third',), "
                    "or a number"
                )
            if not are_titles:
                _check_value(f"{about}: compared with", claim.metric, claim.against)
            for word, known in ((claim.kind, KINDS), (claim.metric, CLAIM_METRICS), (claim.direction, DIRECTIONS)):
                _check_word(about, word, known)
        self._check_sweep()
        named = [(f"claim {claim.says!r}", claim.titles) for claim in self.claims]
        named += [("sweep", tuple(self.sweep)), ("mistakes_of", self.mistakes_of)]
        named += [("baseline", () if self.baseline is None else (self.baseline,))]
        for about, titles in named:
            if unknown := [title for title in titles if title not in self.titles]:
                listed = ", ".join(self.experiments)
                raise ValueError(f"{about}: {unknown[0]!r} is not one of the study's experiments: {listed}")

    @property
    def is_single(self) -> bool:
        """Whether this is not a real study but the group of experiments typed by hand."""
        return self.name == SINGLE

    @classmethod
    def typed_by_hand(cls, experiments: dict[str, Experiment]) -> "Study":
        """Make a study from experiments typed by hand: without claims, and with `Experiment.baseline()` for each."""
        entries = {title: Entry("own", experiment) for title, experiment in experiments.items()}
        return cls(SINGLE, "", entries, baseline=None)

    def with_overrides(self, settings: Settings) -> "Study":
        """Return the study with some settings of every experiment changed, as given beside `--study`.

        A setting that all experiments already have is not an override; but a data set that is named must be found.
        Published metrics and deviations belong to the original, so a study with overrides has none, and its claims are
        not judged.

        Raises:
            ValueError: a setting would replace the study's networks.
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
        rivals = {"groups": "group_size", "group_size": "groups"}  # a network has only one of these two
        cleared: Settings = {rivals[name]: None for name in settings.keys() & rivals.keys()}
        experiments, impossible = {}, {}
        for title, entry in self.experiments.items():
            has_other_norm = settings.get("norm", entry.experiment.norm) != entry.experiment.norm
            of_norm: Settings = dict.fromkeys(("groups", "group_size", "ghost_splits")) if has_other_norm else {}
            try:
                changed = replace(entry.experiment, **of_norm | cleared | settings)
                if problem := self._exceeds(changed):
                    raise ValueError(problem)
            except ValueError as error:
                impossible[title] = f"{title}: cannot be trained with these settings ({error})"
            else:
                experiments[title] = replace(entry, experiment=changed, published={} if differing else entry.published)
        way_out = "leave them out, or name other experiments with --only" if experiments else "leave them out"
        left_out = self.left_out | {title: f"{why}; {way_out}" for title, why in impossible.items()}
        overrides = self.overrides | differing
        overrides = {each.name: overrides[each.name] for each in fields(Experiment) if each.name in overrides}
        deviations = () if differing else self.deviations
        return replace(self, experiments=experiments, deviations=deviations, overrides=overrides, left_out=left_out)

    def _check_sweep(self) -> None:
        _check_dict("sweep", self.sweep, "{'weak': ('L1', 0.001)}")
        places: dict[tuple[str, float], str] = {}
        for title, place in self.sweep.items():
            match place:
                case (str(), 0):  # on a logarithmic axis
                    way_out = "leave it out; as the baseline it is a horizontal line"
                    raise ValueError(f"sweep: {title!r} has no place, because the axis is logarithmic; {way_out}")
                case (str() as line, int() | float() as value) if 0 < value < math.inf:
                    if (same := places.setdefault((line, value), title)) != title:
                        raise ValueError(f"sweep: {title!r} and {same!r} have the same place, {place!r}")
                case _:
                    expected = "expected a line's name and a number above 0, such as ('L1', 0.001)"
                    raise ValueError(f"sweep: {title!r} is {place!r}, {expected}")

    def _exceeds(self, experiment: Experiment) -> str:
        """Say that an experiment has more epochs than the study allows; if it has not, return an empty text."""
        if self.most_epochs is None or experiment.epochs <= self.most_epochs:
            return ""
        return f"--epochs {experiment.epochs}: {self.name} allows at most {self.most_epochs}"

    @property
    def titles(self) -> tuple[str, ...]:
        """All titles; those that the overrides leave out come last."""
        return (*self.experiments, *self.left_out)

    @property
    def needed_seeds(self) -> int:
        """The number of seeds that a comparison needs: as many as planned or, with overrides, the fewest."""
        return FEWEST_SEEDS if self.overrides else self.seeds

    @property
    def group(self) -> str:
        """The name of the study's folder under runs/, with the overrides: `mnist-norms,epochs=3`."""
        return shorten(join_settings(self.name, self.overrides), LONGEST_GROUP)

    @cached_property
    def trained_as(self) -> dict[str, str]:
        """{title: the title it is trained under}, which is the first title with the same settings."""
        first: dict[Experiment, str] = {}
        for title, entry in self.experiments.items():
            first.setdefault(entry.experiment, title)
        return {title: first[entry.experiment] for title, entry in self.experiments.items()}

    def baseline_of(self, title: str) -> str:
        """Return the title of an experiment's baseline; if no title has its settings, return their name."""
        if self.baseline is not None:
            return self.trained_as.get(self.baseline, self.baseline)
        plain = self.experiments[title].experiment.baseline()
        return next((name for name, entry in self.experiments.items() if entry.experiment == plain), plain.name)

    def choose(self, only: list[str] | None) -> list[str]:
        """Return the given titles without repetition; without any, all titles of the study.

        Raises:
            UserError: the overrides leave a title out.
        """
        for title in only or self.titles:
            if title in self.left_out:
                raise UserError(self.left_out[title])
        return list(dict.fromkeys(only or self.experiments))

    def command(self, *words: str) -> str:
        """Return the command that trains the study with its overrides, and append `words`."""
        given: list[str] = []
        for name, value in self.overrides.items():
            given.append(flag_of(name))
            if value is not True:
                given.append(str(value))
        return join_words("python", "train.py", "--study", self.name, *given, *words)


def join_words(*words: str) -> str:
    """Join words into a command, `--only "no norm"`, that POSIX shells, PowerShell and cmd.exe read alike.

    A word that double quotes do not protect in each of them is quoted for POSIX shells alone.
    """
    return " ".join(
        f'"{word}"' if shlex.quote(word) != word and DOUBLE_QUOTED.fullmatch(word) else shlex.quote(word)
        for word in words
    )


def _is_positive(number: object) -> bool:
    return type(number) is int and number >= 1


def _check_text(about: str, text: object) -> None:
    if not isinstance(text, str):
        raise ValueError(f"{about} is {text!r}, expected a text")


def _check_dict(about: str, value: object, example: str) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"{about} is {value!r}, expected a dict, such as {example}")


def _check_value(about: str, metric: str, value: object) -> None:
    low, high = RANGES.get(metric, (0, 1_000_000))
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        example = ", such as 0.88 for 88 %" if metric in SHARES else ""
        raise ValueError(f"{about} {value!r}, expected a number from {low} to {high}{example}")


def _check_word(about: str, word: str, known: tuple[str, ...]) -> None:
    if word not in known:
        raise ValueError(f"{about}: {word!r}, expected one of {', '.join(known)}")
