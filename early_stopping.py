"""Early stopping: when each of several runs stops, and which of its epochs was the best.

A state machine over numbers: it holds no weights and touches no model.

    stopping = EarlyStopping(monitor="val_loss", patience=3)
    for epoch in range(1, 21):
        ...
        improved = stopping.step({"val_loss": [0.41]})   # one value a run, one answer a run
        if stopping.all_stopped:
            break
    print(stopping.reasons[0])                           # why the first run ended
"""

import math

MODES = {"val_loss": "min", "val_accuracy": "max"}


class EarlyStopping:
    """Stops a run when its monitored figure has not improved for `patience` checks in a row (Prechelt, 1998).

    Args:
        monitor: name of the figure that `step` is given.
        mode: `min` if lower is better, `max` if higher is; known for the names in `MODES`.
        patience: checks without improvement that a run is allowed, 1 or more; `math.inf` never stops.
        min_delta: a change by more than this is an improvement; exactly this is none.
        start_from_epoch: checks before this epoch, counted from 1, are not looked at.
        runs: how many runs, each decided on its own.

    Raises:
        ValueError: a setting out of its range.

    NaN is no improvement. What a stopped run is given no longer matters.

    Attributes, a list with one entry for each run:
        best: the best value so far, None before the first.
        best_epoch: the epoch that gave it, None before the first.
        stopped_epoch: the epoch that the run stopped after, None while it goes on.
        reasons: why it stopped, None while it goes on.
    """

    def __init__(self, monitor="val_loss", mode=None, patience=3, min_delta=0.0, start_from_epoch=1, runs=1):
        mode = MODES.get(monitor) if mode is None else mode
        if mode not in ("min", "max"):
            raise ValueError(f"mode {mode!r} of {monitor}: expected 'min' (lower is better) or 'max'")
        if not patience >= 1:
            raise ValueError(f"patience {patience}: expected at least 1 check")
        if not 0 <= min_delta < math.inf:
            raise ValueError(f"min_delta {min_delta}: expected a finite number of at least 0")
        if not start_from_epoch >= 1:
            raise ValueError(f"start_from_epoch {start_from_epoch}: expected at least 1, as epochs count from 1")
        self.monitor, self.mode = monitor, mode
        self.patience, self.min_delta, self.start_from_epoch = patience, min_delta, start_from_epoch
        self.epoch = 0
        self.best = [None] * runs
        self.best_epoch = [None] * runs
        self.checks_without_improvement = [0] * runs
        self.stopped_epoch = [None] * runs
        self.reasons = [None] * runs

    def step(self, figures):
        """Take the figures of one more epoch, {name: one value a run}; return for each run whether it improved.

        Raises:
            ValueError: the monitored figure is not among them, or has not one value a run.
        """
        if self.monitor not in figures:
            raise ValueError(f"monitor {self.monitor}: not measured; there is {', '.join(sorted(figures))}")
        values = [float(value) for value in figures[self.monitor]]
        if len(values) != len(self.best):
            raise ValueError(f"{self.monitor}: {len(values)} values for {len(self.best)} runs")
        self.epoch += 1
        return [self._step_run(run, value) for run, value in enumerate(values)]

    def stop(self, run, reason):
        """Stop a run after this epoch for another reason than patience, unless it has stopped in an earlier one."""
        if self.stopped_epoch[run] in (None, self.epoch):
            self.stopped_epoch[run], self.reasons[run] = self.epoch, reason

    def _step_run(self, run, value):
        if self.stopped_epoch[run] is not None or self.epoch < self.start_from_epoch:
            return False
        if self._is_improvement(value, self.best[run]):
            self.best[run], self.best_epoch[run] = value, self.epoch
            self.checks_without_improvement[run] = 0
            return True
        self.checks_without_improvement[run] += 1
        if self.checks_without_improvement[run] >= self.patience:
            self.stop(run, self._reason(run))
        return False

    def _is_improvement(self, value, best):
        if math.isnan(value):
            return False
        if best is None:
            return True
        gain = best - value if self.mode == "min" else value - best
        # 0.4 − 0.3 is 0.10000000000000003: up to rounding, that is a change of exactly 0.1.
        return gain > self.min_delta and not math.isclose(gain, self.min_delta)

    def _reason(self, run):
        checks = f"{self.patience} check{'s' * (self.patience > 1)}"
        if self.best[run] is None:
            return f"{self.monitor} was never a number in {checks}"
        by_more = f" by more than {self.min_delta:g}" if self.min_delta else ""
        return (
            f"{self.monitor} did not improve on {self.best[run]:.6g} (epoch {self.best_epoch[run]}){by_more} "
            f"in {checks}"
        )

    @property
    def is_running(self):
        return [epoch is None for epoch in self.stopped_epoch]

    @property
    def all_stopped(self):
        return not any(self.is_running)

    def state_dict(self):
        """Everything `step` has changed, as plain numbers and lists."""
        return {name: list(value) if isinstance(value, list) else value for name, value in self._state().items()}

    def load_state_dict(self, state):
        for name in self._state():
            value = state[name]
            setattr(self, name, list(value) if isinstance(value, list) else value)

    def _state(self):
        names = ("epoch", "best", "best_epoch", "checks_without_improvement", "stopped_epoch", "reasons")
        return {name: getattr(self, name) for name in names}
