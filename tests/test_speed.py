from dataclasses import replace
from itertools import count as count_from
from types import SimpleNamespace

import pytest
import torch
from helpers import cut_dataset

from benchmark import EXPERIMENTS
from engine import speed
from experiments import Experiment
from sources.catalogue import SOURCES


@pytest.fixture
def few(digits):
    return cut_dataset(digits, train=300, validation=100, test=100)


def test_a_part_of_a_data_set_keeps_the_share_of_validation_images(digits):
    part, share = speed.take_part(digits, 360)
    assert (len(part.train), len(part.validation), share) == (360, 70, 0.1)
    for images in (None, 3600, 10_000):
        assert speed.take_part(digits, images) == (digits, 1.0)


def test_the_arithmetic_of_an_mlp_is_two_operations_for_each_weight_and_product(few):
    classes = replace(few, classes=few.classes[:7])
    experiment = Experiment(model="mlp", hidden=(30,))
    for dataset, outputs in ((few, 10), (classes, 7)):
        first, last = 784 * 30, 30 * outputs
        training, validation = 300 * 2 * (2 * first + 3 * last), 100 * 2 * (first + last)
        assert speed.compute_arithmetic(experiment, dataset, rate=1000) == pytest.approx((training + validation) / 1000)


@pytest.mark.parametrize("model", EXPERIMENTS)
def test_the_arithmetic_of_every_benchmark_is_known(model, few):
    experiment = EXPERIMENTS[model]
    shape = SOURCES[experiment.dataset_name].shape
    dataset = replace(few, train=replace(few.train, images=torch.zeros(300, *shape, dtype=torch.uint8)))
    expected = {"mlp1": 0.079, "cnn1": 1.82, "resnet": 20.1}  # GFLOP; 5.4 MFLOP for each image of cnn1 in training
    assert speed.compute_arithmetic(experiment, dataset, rate=1e9) == pytest.approx(expected[model], rel=0.01)


def test_the_rate_is_that_of_matrix_products(monkeypatch):
    monkeypatch.setattr(speed, "SIDE", 64)
    monkeypatch.setattr(speed, "PRODUCTS", 2)
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=iter([0.0, 3.0, 3.0, 4.0]).__next__))
    assert speed.measure_rate() == 2 * 64**3, "of the faster one"


@pytest.mark.parametrize(
    ("settings", "momentum"),
    [(dict(momentum=0.7), 0.7), ({}, 0.0), (dict(lr_scheduler="one_cycle"), 0.95)],
    ids=["given", "none", "one cycle"],
)
def test_the_plain_loop_has_the_momentum_of_the_experiment(settings, momentum, few, monkeypatch):
    used = []

    class Sgd(torch.optim.SGD):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            used.append(self.defaults["momentum"])

    monkeypatch.setattr(torch.optim, "SGD", Sgd)
    seconds = speed.time_plain_loop(Experiment(optimizer="sgd", lr=0.1, l1=0.01, **settings), few)
    assert seconds > 0
    assert used == [momentum, momentum], "in our optimizer and in the plain one"


def test_the_price_of_a_setting_is_a_median_of_ratios_within_a_round(few, monkeypatch):
    clock, rounds = [0.0], iter([[1.0], [1.0, 3.0], [2.0, 5.0], [10.0, 10.0]])  # a warm-up, and three rounds
    left = []

    def train(experiment, seeds, dataset):
        assert seeds == list(range(10))
        left.extend(next(rounds) if not left else [])
        clock[0] += left.pop(0)

    monkeypatch.setattr(speed, "train", train)
    monkeypatch.setattr(speed, "time", SimpleNamespace(process_time=lambda: clock[0]))
    plain = Experiment(dataset="mnist_sample")
    assert speed.price_settings(plain, dict(slow=replace(plain, l1=0.1)), few, rounds=3) == dict(slow=2.5)


def test_the_last_process_to_end_tells_how_long_our_training_takes(monkeypatch):
    plan = SimpleNamespace(jobs=3, units=[SimpleNamespace(epochs=1)] * 4)
    seconds = [5.0, 4.0, 4.0, 4.0]
    results = [
        SimpleNamespace(number=number, error="", runs=[SimpleNamespace(result=dict(seconds=value))])
        for number, value in enumerate(seconds)
    ]
    monkeypatch.setattr(speed, "train_units", lambda *_: reversed(results))
    assert speed.time_ours(plan, "cpu") == (4.0 + 4.0) / 4, "the fourth after another"


@pytest.mark.parametrize(
    ("settings", "first", "last", "count"),
    [
        (dict(model="mlp1"), [(1568, 64), (128,)], [(128, 10), (20,), (64, 128)], 3),
        (dict(model="cnn1"), [(16, 1, 3, 3)], [(20, 16, 1, 1), (64, 32, 5, 5)], 7),
    ],
    ids=["mlp1", "cnn1"],
)
def test_every_layer_is_timed_in_its_shape_with_the_gradients_of_training(settings, first, last, count, monkeypatch):
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=count_from(0).__next__))  # each step takes 1 s
    wanted, take_gradient = [], torch.autograd.grad

    def take_and_note(output, inputs, gradient):
        wanted.append([tuple(tensor.shape) for tensor in inputs])
        return take_gradient(output, inputs, gradient)

    monkeypatch.setattr(torch.autograd, "grad", take_and_note)
    experiment = Experiment(**settings)
    of_image = 1 / experiment.batch_size / 2
    assert speed.time_images_of_layers(experiment, (1, 28, 28), 10, [3, 4], 1) == (of_image, of_image)
    steps = 1 + speed.TIMED_STEPS
    assert len(wanted) == steps * count
    assert (wanted[0], wanted[count - 1]) == (first, last), "images need no gradient"


def test_the_layers_of_a_plan_are_timed_in_its_processes(few, monkeypatch):
    monkeypatch.setattr(speed, "SECONDS", 0)
    experiment = Experiment(dataset="mnist_sample", batch_size=100)
    plan = speed.plan_ours(experiment, few, 4, "cpu")
    assert speed.time_layers(plan) > 0
    in_processes = [(3.0, 1.0)] * plan.jobs  # seconds for an image of a run
    monkeypatch.setattr(speed, "run_in_processes", lambda calls, _: in_processes)
    assert speed.time_layers(plan) == (300 * 3.0 + 100 * 1.0) / plan.jobs
