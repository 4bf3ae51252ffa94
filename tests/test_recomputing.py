"""What honest runs record follows from their settings, weights and history; of other settings, something does not."""

from dataclasses import replace

import pytest
from helpers import cut_dataset
from torch import nn

import training
from engine import records
from experiments import Experiment
from grading.recomputing import _compare_with_history, compare_run, is_alike, list_learning_rates

SMALL = dict(model="mlp", hidden=(16, 16), dataset="mnist_sample", batch_size=50, epochs=3)
ONE_CYCLE = dict(lr_scheduler="one_cycle", optimizer="sgd", lr=0.1)
HONEST = {
    "batch norm": dict(norm="batch"),
    "ghost batch norm": dict(norm="ghost", ghost_splits=4, batch_size=60),  # the last batch is smaller
    "average of batch norm": dict(norm="batch", average=0.9, l2=0.01, penalize="all"),
    "early stopping": dict(norm="batch", patience=1, lr=0.05, epochs=9),
    "early stopping, last": dict(norm="batch", patience=1, lr=0.05, epochs=9, restore="last"),
    "frozen scales": dict(norm="group", groups=4, freeze_gamma=True, l1=0.01, l1_reduction="mean"),
    "max-norm": dict(max_norm=0.5, optimizer="sgd", lr=0.2, average=0.95),
    "steps": dict(lr_scheduler="step", lr_step_size=2),
    "one cycle": ONE_CYCLE | dict(nesterov=True),
    "cosine and warm-up": dict(lr_scheduler="cosine", warmup=1, l1=0.001, l1_mode="proximal"),
    "cnn": dict(model="cnn1", hidden=None, norm="layer_chw", l2=0.1, l2_form="norm", epochs=1),
}


@pytest.fixture(scope="module")
def few(digits):
    return cut_dataset(digits, train=1001, validation=100, test=100)


@pytest.fixture(scope="module")
def trained(few, tmp_path_factory):
    """Train a seed with each of these settings, and return {name: record}."""
    found = {}
    for name, settings in HONEST.items():
        experiment = Experiment(**SMALL | settings)
        described = records.describe(experiment, few, "an experiment")["dataset"]
        record = records.Record(tmp_path_factory.mktemp("run"), experiment, described)
        (run,) = training.train(experiment, [3], few)
        records.write_run(record.folder, run)
        record.results[3] = run.result
        found[name] = record
    return found


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_run_is_what_its_settings_give(name, trained, few):
    assert list(compare_run(trained[name], 3, few)) == []


@pytest.mark.parametrize(
    ("name", "others", "says"),
    [
        ("batch norm", dict(batch_size=40), "num_batches_tracked is 60, the settings give 75 batches in 3 epochs"),
        ("ghost batch norm", dict(batch_size=40), "num_batches_tracked is 51, the settings give 75 batches"),
        ("average of batch norm", dict(l2=0.02), "the penalty of epoch 3 is"),
        ("average of batch norm", dict(penalize="weights"), "the penalty of epoch 3 is"),
        ("batch norm", dict(freeze_gamma=True), "the scale of a normalization is not 1, but --freeze-gamma was given"),
        ("max-norm", dict(max_norm=0.4), "above --max-norm 0.4"),
        ("steps", dict(lr_gamma=0.5), "the learning rate of epoch 3 is 0.0001, the settings give 0.0005"),
        ("steps", dict(lr_step_size=3), "the learning rate of epoch 3 is 0.0001, the settings give 0.001"),
        ("one cycle", dict(lr=0.2), "the learning rate of epoch 1 is 0.004, the settings give 0.008"),
        ("cosine and warm-up", dict(warmup=2), "the learning rate of epoch 1 is 5e-05, the settings give 2.5e-05"),
        ("cosine and warm-up", dict(lr_scheduler="constant"), "the learning rate of epoch 3 is 0.0005, the settings"),
        ("cosine and warm-up", dict(l1=0.0011), "the penalty of epoch 3 is"),
        ("cnn", dict(l2_form="square"), "the penalty of epoch 1 is"),
    ],
)
def test_of_other_settings_than_it_was_trained_with_something_does_not_follow(name, others, says, trained, few):
    record = replace(trained[name], experiment=replace(trained[name].experiment, **others))
    (problem,) = compare_run(record, 3, few)
    assert says in problem


@pytest.mark.parametrize("chosen", [0, -1, 4, 10**30])
def test_an_epoch_that_was_never_trained_is_named(chosen, trained, few):
    record = trained["batch norm"]
    (problem,) = compare_run(replace(record, results={3: record.results[3] | dict(chosen_epoch=chosen)}), 3, few)
    assert problem.startswith(f"3 epochs, epoch {chosen} chosen, 3 rows of history; ")


def test_a_history_of_another_seed_is_named(trained, few):
    record = trained["steps"]
    renamed = replace(record, results={3: record.results[3] | dict(seed=4)})
    assert list(compare_run(renamed, 3, few)) == ["history.csv is not of seed 4"]


@pytest.mark.parametrize(
    "settings", [{}, dict(warmup=2), dict(lr_scheduler="step", lr_step_size=2), ONE_CYCLE, dict(lr_scheduler="cosine")]
)
def test_learning_rates_are_those_of_torchs_schedulers_step_by_step(settings):
    experiment, steps = Experiment(epochs=6, **settings), 7
    optimizer = training.make_optimizer(experiment, nn.Linear(1, 1))
    scheduler, expected = training.make_scheduler(experiment, optimizer, steps), []
    optimizer.step()
    for _ in range(experiment.epochs):
        expected.append(optimizer.param_groups[0]["lr"])
        for _ in range(0 if scheduler is None else 1 if experiment.lr_scheduler == "step" else steps):
            scheduler.step()
    assert list_learning_rates(experiment, 6, steps) == pytest.approx(expected, rel=1e-12)
    assert list_learning_rates(experiment, 4, steps) == pytest.approx(expected[:4], rel=1e-12)


ROWS = [dict(val_loss=loss, val_accuracy=accuracy) for loss, accuracy in ((0.9, 0.6), (0.5, 0.8), (0.7, 0.7))]


@pytest.mark.parametrize(
    ("settings", "rows", "result", "says"),
    [
        ({}, ROWS, (3, 3, 0.7, 0.7), None),
        ({}, ROWS, (3, 2, 0.5, 0.8), "choose epoch 3"),
        (dict(patience=1), ROWS, (3, 2, 0.5, 0.8), None),
        (dict(patience=1), ROWS, (3, 3, 0.7, 0.7), "choose epoch 2"),
        (dict(patience=1, restore="last"), ROWS, (3, 3, 0.7, 0.7), None),
        (dict(patience=1), ROWS[:2], (2, 2, 0.5, 0.8), "give 9 epochs"),
        (dict(patience=1), ROWS, (3, 2, 0.4, 0.8), "validation loss of epoch 2 differs"),
        (dict(patience=1), ROWS, (3, 2, 0.5 + 5e-7, 0.8), None),
        (dict(patience=1), ROWS, (3, 2, 0.5, 0.9), "validation accuracy of epoch 2 differs"),
        (dict(patience=1), ROWS, (3, 2, 0.5, 0.801), None),  # one image of a thousand
    ],
)
def test_epochs_and_metrics_follow_from_the_history(settings, rows, result, says):
    experiment = Experiment(epochs=9 if settings else 3, **settings)
    result = dict(zip(("epochs", "chosen_epoch", "val_loss", "val_accuracy"), result, strict=True))
    problems = list(_compare_with_history(experiment, result, rows, images=1000))
    assert [says in problem for problem in problems] == ([True] if says else [])


def test_an_integer_that_is_no_float_is_not_alike():
    assert is_alike(dict(mean=[1, 0.5]), dict(mean=[1.0, 0.5 + 1e-12]))
    assert not is_alike(dict(mean=[10**4000, 0.5]), dict(mean=[1.0, 0.5]))
