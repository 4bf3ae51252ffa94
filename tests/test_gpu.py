"""What a GPU asks of training: that no step waits for it; where there is none, what would is counted on the CPU."""

import itertools
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import data
import side_by_side
import training
from experiments import Experiment

# A tensor's numbers as Python's, how many elements are true, and Python's numbers as a tensor: what a host waits for.
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique", "lift_fresh", "bincount")
EXPERIMENTS = {
    "mlp": dict(model="mlp3", dropout=0.25, norm="batch", l1=1e-3, l1_mode="proximal"),
    "mlp, sgd": dict(model="mlp1", norm="layer", l2=0.01, l2_form="norm", optimizer="sgd", lr=0.1, standardize=True),
    "cnn1": dict(
        model="cnn1",
        norm="ghost",
        l1=1e-4,
        penalize="all",
        weight_decay=1e-3,
        standardize=True,
        rotation=7,
        affine_degrees=10,
        affine_translate=0.1,
        affine_scale=0.1,
        brightness=0.1,
        contrast=0.1,
        optimizer="sgd",
        lr=0.02,
        momentum=0.9,
        lr_scheduler="step",
        lr_step_size=1,
    ),
    "cnn2": dict(model="cnn2", l1=1e-4, l1_reduction="mean", optimizer="adamw", weight_decay=0.01),
    "cnn3": dict(model="cnn3", norm="layer_chw", optimizer="sgd", lr=0.01, lr_scheduler="one_cycle"),
    "resnet": dict(
        model="resnet",
        norm="group",
        standardize=True,
        crop_padding=4,
        crop_mode="reflect",
        flip=True,
        rotation=5,
        contrast=0.1,
        optimizer="sgd",
        lr=0.1,
        lr_scheduler="one_cycle",
    ),
}
SEEDS = (3, 8)


class Waits(TorchDispatchMode):
    """Counts what would make a host wait."""

    def __init__(self):
        super().__init__()
        self.counted = Counter()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        name = operator._schema.name.removeprefix("aten::")
        by_truth = name.startswith("index") and any(
            index is not None and index.dtype == torch.bool
            for index in (args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ())
        )
        if by_truth or name.startswith(WAITS):
            self.counted[name] += 1
        return operator(*args, **(kwargs or {}))


def part(dataset, model, count):
    """So many images in each split, in colour for the resnet."""
    splits = {}
    for name in ("train", "validation", "test"):
        split = getattr(dataset, name)
        images, labels = split.images[:: len(split) // count][:count], split.labels[:: len(split) // count][:count]
        splits[name] = data.Split(images.expand(-1, 3, -1, -1) if model == "resnet" else images, labels)
    channels = 3 if model == "resnet" else 1
    return data.Dataset(**vars(dataset) | splits | dict(mean=dataset.mean * channels, std=dataset.std * channels))


@pytest.mark.parametrize("settings", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_no_step_reads_what_it_computes(settings, digits, monkeypatch):
    monkeypatch.setattr(side_by_side.RunsDropout, "GAPS_ON", ())  # as on a GPU
    dataset = part(digits, settings["model"], 48)

    def waits(batch_size):
        experiment = Experiment(**settings, dataset="mnist_sample", batch_size=batch_size, epochs=1)
        steps = len(training.batch_bounds(48, batch_size))
        model = side_by_side.join([training.textbook_network(experiment, dataset, seed) for seed in SEEDS])
        optimizer = training.make_optimizer(experiment, model)
        scheduler = training.make_scheduler(experiment, optimizer, steps)
        penalty = training.make_penalty(experiment, model, len(SEEDS))
        standardization = (dataset.mean, dataset.std) if experiment.standardize else ()
        with Waits() as mode:
            training.train_epoch(
                experiment, model, optimizer, scheduler, penalty, dataset.train, SEEDS, 1, standardization
            )
        return mode.counted

    assert waits(batch_size=8) == waits(batch_size=24)  # six steps and two: what an epoch begins and ends with may wait


def test_what_would_wait_is_counted():
    numbers = torch.arange(4.0)
    with Waits() as mode:
        numbers[0].item()
        numbers[numbers > 1]
        torch.tensor([1.0, 2.0])
        if numbers.sum() > 1:
            numbers.mul(2).sub(numbers)
    assert mode.counted == Counter(_local_scalar_dense=2, index=1, lift_fresh=1)


# ---------------------------------------------------------------------------------------------------------------------
# Where there is one


@pytest.fixture
def waits_are_errors_no_more():
    """After a test that may have left a step in the middle."""
    yield
    torch.cuda.set_sync_debug_mode("default")


needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@needs_a_gpu
@pytest.mark.usefixtures("waits_are_errors_no_more")
@pytest.mark.parametrize("settings", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_the_same_training_on_a_gpu_twice_gives_the_same_bits_and_waits_at_no_step(settings, digits, monkeypatch):
    dataset = part(digits, settings["model"], 400)
    experiment = Experiment(**settings, dataset="mnist_sample", batch_size=64, epochs=2)
    plain = training.batches

    def watched(*args):
        batches = plain(*args)
        first = next(batches)
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield from itertools.chain([first], batches)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(training, "batches", watched)
    once, again = (training.train(experiment, SEEDS, dataset, "cuda") for _ in range(2))
    for one, other in zip(once, again, strict=True):
        assert all(torch.equal(tensor, other.weights[name]) for name, tensor in one.weights.items())
        assert (one.log_probabilities == other.log_probabilities).all()
        assert one.history == other.history


@needs_a_gpu
@pytest.mark.parametrize("settings", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_a_gpu_takes_the_steps_that_a_cpu_takes(settings, digits):
    dataset = part(digits, settings["model"], 128)
    # A GPU draws dropout's masks from its own numbers, and Adam makes whole steps of what is rounding alone.
    same = dict(dropout=0.0, dataset="mnist_sample", batch_size=64, epochs=1, optimizer="sgd", lr=0.01)
    experiment = Experiment(**settings | same)
    here, there = (training.train(experiment, SEEDS, dataset, device) for device in ("cpu", "cuda"))
    for one, other in zip(here, there, strict=True):
        for name, tensor in one.weights.items():
            torch.testing.assert_close(other.weights[name], tensor, rtol=1e-3, atol=1e-3)
