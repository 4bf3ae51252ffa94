import json
import math

import pytest
import torch

from early_stopping import EarlyStopping
from experiments import Experiment

NAN, INF = math.nan, math.inf


def feed(values, **settings):
    """Give a run all values, whether it has stopped or not, and return its `EarlyStopping`."""
    stopping = EarlyStopping(**settings)
    for value in values:
        stopping.step({stopping.monitor: [value]})
    return stopping


MAX = dict(monitor="val_accuracy")

# {title: (settings, values, stopped epoch, best epoch)}. The deltas are powers of two, so that sums are exact.
CASES = {
    "monotone improvement never stops": (dict(patience=1), [5, 4, 3, 2, 1], None, 5),
    "a single value": (dict(patience=1), [5], None, 1),
    "patience 1": (dict(patience=1), [3, 2, 4, 1, 1], 3, 2),
    "patience 2": (dict(patience=2), [3, 2, 4, 4, 1], 4, 2),
    "patience 3": (dict(patience=3), [3, 2, 4, 4, 4, 1], 5, 2),
    "nothing better than the first": (dict(patience=2), [1, 2, 2], 3, 1),
    "epochs without improvement must be in a row": (dict(patience=2), [5, 6, 4, 6, 3, 6], None, 5),
    "better than the last but not than the best": (dict(patience=2), [1, 4, 3, 2], 3, 1),
    "improvement on the last check": (dict(patience=3), [5, 6, 6, 4, 6, 6, 6], 7, 4),
    "best at the last epoch but one": (dict(patience=2), [5, 4, 3, 4], None, 3),
    "a change of exactly min_delta": (dict(patience=2, min_delta=0.25), [1, 0.75, 0.75, 0.1], 3, 1),
    "a change of slightly more than min_delta": (dict(patience=2, min_delta=0.25), [1, 0.7499, 0.75, 0.7], 4, 2),
    "small steps add up to min_delta": (dict(patience=3, min_delta=0.25), [1, 0.875, 0.75, 0.625, 1, 1, 1], 7, 4),
    "small steps never add up in time": (dict(patience=2, min_delta=0.25), [1, 0.875, 0.75, 0.1], 3, 1),
    "min_delta of an accuracy": (dict(**MAX, patience=1, min_delta=0.25), [0.5, 0.75, 1], 2, 1),
    "above min_delta of an accuracy": (dict(**MAX, patience=1, min_delta=0.25), [0.25, 0.5001, 0.7], 3, 2),
    "ties are no improvement": (dict(patience=2), [2, 1, 1, 1], 4, 2),
    "ties of an accuracy": (dict(**MAX, patience=2), [1, 2, 2, 2], 4, 2),
    "start_from_epoch does not look before": (dict(patience=1, start_from_epoch=4), [1, 9, 9, 5, 4, 6], 6, 5),
    "start_from_epoch counts no epochs before": (dict(patience=2, start_from_epoch=3), [1, 2, 3, 4, 5], 5, 3),
    "start_from_epoch not reached": (dict(patience=1, start_from_epoch=9), [1, 2, 3], None, None),
    "start_from_epoch 1 looks at the first": (dict(patience=1, start_from_epoch=1), [1, 2], 2, 1),
    "an accuracy": (dict(**MAX, patience=2), [1, 3, 2, 2, 9], 4, 2),
    "accuracy is better when higher": (dict(**MAX, patience=1), [0.5, 0.75, 0.25], 3, 2),
    "NaN first": (dict(patience=2), [NAN, 3, 2, 4], None, 3),
    "as many NaN first as patience": (dict(patience=2), [NAN, NAN, 1], 2, None),
    "NaN throughout": (dict(patience=3), [NAN, NAN, NAN, NAN], 3, None),
    "NaN in the middle": (dict(patience=2), [3, NAN, 2, NAN, NAN, 1], 5, 3),
    "NaN in the middle of an accuracy": (dict(**MAX, patience=2), [1, NAN, 2, NAN, NAN, 3], 5, 3),
    "infinity first is a value": (dict(patience=2), [INF, INF, 1, 2], None, 3),
    "infinite patience": (dict(patience=INF), [1, *[2] * 50, NAN], None, 1),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request):
    return request.param


def test_a_run_stops_after_the_expected_epoch_and_knows_its_best(case):
    settings, values, stopped_epoch, best_epoch = case
    stopping = feed(values, **settings)
    assert stopping.stopped_epoch == [stopped_epoch]
    assert stopping.best_epoch == [best_epoch]
    assert stopping.best == [None if best_epoch is None else values[best_epoch - 1]]
    assert stopping.is_running == [stopped_epoch is None]
    assert stopping.all_stopped is (stopped_epoch is not None)
    assert (stopping.reasons[0] is None) is (stopped_epoch is None)


def test_the_last_epoch_said_to_have_improved_is_the_best(case):
    settings, values, _, best_epoch = case
    stopping = EarlyStopping(**settings)
    improved = [epoch for epoch, value in enumerate(values, 1) if stopping.step({stopping.monitor: [value]}) == [True]]
    assert (improved[-1] if improved else None) == best_epoch


def test_each_step_says_whether_its_value_is_the_best_so_far():
    stopping = EarlyStopping(patience=2)
    improved = [stopping.step({"val_loss": [value]})[0] for value in (3, 4, 2, 2, 1, NAN, 0)]
    assert improved == [True, False, True, False, True, False, True]


# ---------------------------------------------------------------------------------------------------------------------
# Several runs

SEVERAL = [  # a row for each run
    [5, 4, 3, 2, 1, 0],
    [1, 2, 2, 0, 0, 0],
    [3, 2, 4, 4, 1, 1],
    [NAN, NAN, 1, 1, 1, 1],
    [3, NAN, 2, NAN, 1, 2],
]


def test_several_runs_at_once_are_decided_as_each_alone():
    together = EarlyStopping(patience=2, runs=len(SEVERAL))
    alone = [EarlyStopping(patience=2) for _ in SEVERAL]
    for values in zip(*SEVERAL, strict=True):
        improved = together.step({"val_loss": values})
        pairs = zip(alone, values, strict=True)
        assert improved == [stopping.step({"val_loss": [value]})[0] for stopping, value in pairs]
        for name in ("best", "best_epoch", "stopped_epoch", "reasons", "is_running"):
            assert getattr(together, name) == [getattr(stopping, name)[0] for stopping in alone]
    assert together.stopped_epoch == [None, 3, 4, 2, None]


def test_all_have_stopped_only_once_the_last_has():
    stopping = EarlyStopping(patience=1, runs=2)
    seen = []
    for values in ([1, 1], [2, 0], [0, 0]):
        stopping.step({"val_loss": values})
        seen.append((stopping.is_running, stopping.all_stopped))
    assert seen == [([True, True], False), ([False, True], False), ([False, False], True)]


@pytest.mark.parametrize("value", [0.0, -INF, INF, NAN, 99.0])
def test_whatever_a_stopped_run_is_given_changes_nothing_but_the_epoch(value):
    stopping = feed([2, 1, 3, 3], patience=2)
    before = stopping.state_dict()
    for _ in range(5):
        assert stopping.step({"val_loss": [value]}) == [False]
    assert stopping.state_dict() == before | {"epoch": 9}


# ---------------------------------------------------------------------------------------------------------------------
# Reasons


@pytest.mark.parametrize(
    ("settings", "values", "reason"),
    [
        (dict(patience=2), [0.5, 0.4123456789, 0.5, 0.5], "val_loss did not improve on 0.412346 (epoch 2) in 2 epochs"),
        (
            dict(**MAX, patience=3, min_delta=0.125),
            [0.5, 0.75, 0.875, 0.8, 0.7],
            "val_accuracy did not improve on 0.75 (epoch 2) by more than 0.125 in 3 epochs",
        ),
        (dict(patience=2), [NAN, NAN], "val_loss was never a number in 2 epochs"),
    ],
)
def test_the_reason_names_monitor_best_value_and_its_epoch(settings, values, reason):
    assert feed(values, **settings).reasons == [reason]


# ---------------------------------------------------------------------------------------------------------------------
# State


def unchanged(state):
    return state


def through_json(state):
    return json.loads(json.dumps(state))


@pytest.mark.parametrize("transport", [unchanged, through_json])
@pytest.mark.parametrize("settings", [dict(), dict(min_delta=1.0), MAX, dict(start_from_epoch=3)])
def test_after_any_epoch_the_state_continues_exactly(settings, transport):
    monitor = settings.get("monitor", "val_loss")
    epochs = [{monitor: values} for values in zip(*SEVERAL, strict=True)]
    settings = dict(patience=2, runs=len(SEVERAL), **settings)
    for interrupted_after in range(len(epochs) + 1):
        whole, first, second = (EarlyStopping(**settings) for _ in range(3))
        for metrics in epochs[:interrupted_after]:
            whole.step(metrics)
            first.step(metrics)
        second.load_state_dict(transport(first.state_dict()))
        assert second.state_dict() == whole.state_dict()
        for metrics in epochs[interrupted_after:]:
            assert second.step(metrics) == whole.step(metrics)
            assert second.state_dict() == whole.state_dict()


def test_a_saved_state_is_a_copy():
    first, second = EarlyStopping(patience=2), EarlyStopping(patience=2)
    first.step({"val_loss": [2]})
    saved = first.state_dict()
    second.load_state_dict(saved)
    first.step({"val_loss": [1]})
    assert saved["best"] == [2]
    second.step({"val_loss": [0]})
    assert saved["best"] == [2]
    assert first.best == [1]
    assert second.best == [0]


# ---------------------------------------------------------------------------------------------------------------------
# Refusals


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (dict(patience=0), "patience 0"),
        (dict(patience=-2), "patience -2"),
        (dict(patience=NAN), "patience nan"),
        (dict(min_delta=-0.5), "min_delta -0.5"),
        (dict(min_delta=NAN), "min_delta nan"),
        (dict(min_delta=INF), "min_delta inf"),
        (dict(start_from_epoch=0), "start_from_epoch 0"),
        (dict(start_from_epoch=-1), "start_from_epoch -1"),
        (dict(monitor="train_f1"), "monitor 'train_f1'"),
    ],
)
def test_a_setting_out_of_its_range_is_refused_by_name_and_value(settings, named):
    with pytest.raises(ValueError, match=rf"^{named}[: ]"):
        EarlyStopping(**settings)


def test_a_monitor_that_is_missing_is_refused_with_what_there_is():
    stopping = EarlyStopping(monitor="val_accuracy")
    with pytest.raises(ValueError, match=r"val_accuracy.*penalty, train_loss, val_loss$"):
        stopping.step({"val_loss": [1], "train_loss": [1], "penalty": [0]})


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 2.0, 3.0]])
def test_another_number_of_values_than_runs_is_refused(values):
    with pytest.raises(ValueError, match=f"^val_loss: {len(values)} values for 2 runs$"):
        EarlyStopping(runs=2).step({"val_loss": values})


@pytest.mark.parametrize("metrics", [{"loss": [1]}, {"val_loss": [1, 1]}])
def test_metrics_that_are_refused_leave_the_state_as_it_was(metrics):
    stopping = feed([2, 1, 3], patience=2)
    before = stopping.state_dict()
    with pytest.raises(ValueError, match="val_loss"):
        stopping.step(metrics)
    assert stopping.state_dict() == before


def test_a_tensors_values_leave_plain_numbers_in_the_state():
    stopping = EarlyStopping(patience=1, runs=2)
    for values in ([2.0, 1.0], [1.0, 2.0]):
        stopping.step({"val_loss": torch.tensor(values)})
    assert json.loads(json.dumps(stopping.state_dict())) == stopping.state_dict()
    assert stopping.stopped_epoch == [None, 2]


@pytest.mark.parametrize(
    ("settings", "restores_best"),
    [({}, False), (dict(patience=2), True), (dict(patience=2, restore="last"), False)],
    ids=["none", "best", "last"],
)
def test_the_settings_of_an_experiment_say_when_it_stops_and_what_it_hands_in(settings, restores_best):
    experiment = Experiment(**settings)
    stopping = EarlyStopping.of(experiment, runs=2)
    for _ in range(4):
        stopping.step({"val_loss": [1.0, 1.0]})
    assert stopping.restores_best is restores_best
    assert stopping.stopped_epoch == ([3, 3] if settings else [None, None])
