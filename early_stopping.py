"""Early stopping: decide when each of several runs stops and which epoch was the best.

Early stopping handles only numbers: it holds no weights and does not use the model.

    stopping = EarlyStopping(monitor="val_loss", patience=3)
    for epoch in range(1, 21):
        ...
        improved = stopping.step({"val_loss": [0.41]})   # a value for each run -> a bool for each run
        if stopping.all_stopped:
            break
    print(stopping.reasons[0])                           # why the first run stopped; None if it did not
"""

import math
from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any, Self

MODES = {"val_loss": "min", "val_accuracy": "max"}  # whether lower or higher is better
STATE = ("epoch", "best", "best_epoch", "checks_without_improvement", "stopped_epoch", "reasons")


@dataclass(eq=False)
class EarlyStopping:
    """Stop a run when its monitored metric has not improved for `patience` epochs in a row.

    The rule is algorithm 7.1 of Goodfellow, Bengio and Courville (2016), "Deep Learning", with one check an epoch.
    NaN never counts as an improvement. Values of a stopped run are ignored.

    Raises:
        ValueError: a setting is out of its range.

    Attributes besides the settings, each a list with an entry for each run:
        best: the value at the last improvement, None before the first.
        best_epoch: the epoch of the last improvement, None before the first.
        stopped_epoch: the epoch that the run stopped after, None while it is running.
        reasons: why the run stopped, None while it is running.
    """

    monitor: str = "val_loss"  # name of the metric that decides
    patience: float = 3  # epochs in a row without improvement that stop a run, at least 1; `math.inf` never stops
    min_delta: float = 0.0  # an improvement is a change by more than this
    start_from_epoch: int = 1  # the first epoch that is looked at, counted from 1
    runs: int = 1  # number of runs; a run's values affect only that run
    restores_best: bool = False  # whether a run hands in the weights of its best epoch instead of its last epoch

    def __post_init__(self) -> None:
        if self.monitor not in MODES:
            raise ValueError(f"monitor {self.monitor!r}: expected one of {', '.join(MODES)}")
        if not self.patience >= 1:
            raise ValueError(f"patience {self.patience}: expected at least 1 epoch")
        if not 0 <= self.min_delta < math.inf:
            raise ValueError(f"min_delta {self.min_delta}: expected a finite number of at least 0")
        if not self.start_from_epoch >= 1:
            raise ValueError(f"start_from_epoch {self.start_from_epoch}: expected at least 1, as epochs count from 1")
        self.epoch = 0
        self.best: list[float | None] = [None] * self.runs
        self.best_epoch: list[int | None] = [None] * self.runs
        self.checks_without_improvement = [0] * self.runs
        self.stopped_epoch: list[int | None] = [None] * self.runs
        self.reasons: list[str | None] = [None] * self.runs

    @classmethod
    def of(cls, settings: Any, runs: int) -> Self:
        """Build from an object with these settings, such as an `Experiment`; without patience, no run stops early."""
        return cls(
            settings.monitor,
            patience=settings.patience or math.inf,
            min_delta=settings.min_delta,
            start_from_epoch=settings.start_from_epoch,
            runs=runs,
            restores_best=settings.patience is not None and settings.restore == "best",
        )

    def step(self, metrics: Mapping[str, Iterable[float]]) -> list[bool]:
        """Take the next epoch's metrics, {name: a value for each run}, and return whether each run improved.

        Raises:
            ValueError: the monitored metric is missing, or it does not have one value for each run.
        """
        if self.monitor not in metrics:
            raise ValueError(f"monitor {self.monitor}: not measured; there is {', '.join(sorted(metrics))}")
        values = [float(value) for value in metrics[self.monitor]]
        if len(values) != len(self.best):
            raise ValueError(f"{self.monitor}: {len(values)} values for {len(self.best)} runs")
        self.epoch += 1
        return [self._step_run(run, value) for run, value in enumerate(values)]

    def stop(self, run: int, reason: str) -> None:
        """Stop a run after this epoch, unless it stopped in an earlier one; the epoch's last reason counts."""
        if self.stopped_epoch[run] in (None, self.epoch):
            self.stopped_epoch[run], self.reasons[run] = self.epoch, reason

    def _step_run(self, run: int, value: float) -> bool:
        if self.stopped_epoch[run] is not None or self.epoch < self.start_from_epoch:
            return False
        if self._is_improvement(value, self.best[run]):
            self.best[run], self.best_epoch[run] = value, self.epoch
            self.checks_without_improvement[run] = 0
            return True
        self.checks_without_improvement[run] += 1
        if self.checks_without_improvement[run] >= self.patience:
            self.stop(run, self._describe_stop(run))
        return False

    def _is_improvement(self, value: float, best: float | None) -> bool:
        if math.isnan(value):
            return False
        if best is None:
            return True
        gain = best - value if MODES[self.monitor] == "min" else value - best
        # 0.4 − 0.3 gives 0.10000000000000003 but has to count as a change of exactly 0.1.
        return gain > self.min_delta and not math.isclose(gain, self.min_delta)

    def _describe_stop(self, run: int) -> str:
        epochs = f"{self.patience} epochs" if self.patience > 1 else f"{self.patience} epoch"
        best = self.best[run]
        if best is None:
            return f"{self.monitor} was never a number in {epochs}"
        by_more = f" by more than {self.min_delta:g}" if self.min_delta else ""
        return f"{self.monitor} did not improve on {best:.6g} (epoch {self.best_epoch[run]}){by_more} in {epochs}"

    @property
    def is_running(self) -> list[bool]:
        """Whether each run has not stopped."""
        return [epoch is None for epoch in self.stopped_epoch]

    @property
    def all_stopped(self) -> bool:
        """Whether every run has stopped."""
        return not any(self.is_running)

    def state_dict(self) -> dict[str, int | list]:
        """Return a copy of everything that `step` changes, as plain numbers and lists."""
        return {name: copy(getattr(self, name)) for name in STATE}

    def load_state_dict(self, state: Mapping[str, int | list]) -> None:
        """Continue from a state that `state_dict` returned."""
        for name in STATE:
            setattr(self, name, copy(state[name]))
