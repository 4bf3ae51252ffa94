"""No step of a training waits for a GPU; without a GPU, the operations that would wait are counted on the CPU."""

import itertools
from collections import Counter
from dataclasses import replace

import pytest
import torch
from helpers import cut_dataset
from torch.utils._python_dispatch import TorchDispatchMode

import side_by_side
import training
from data import Split
from engine import workers
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
        elastic=0.5,
        interpolation="bilinear",
        brightness=0.1,
        contrast=0.1,
        optimizer="sgd",
        lr=0.02,
        momentum=0.9,
        lr_scheduler="step",
        lr_step_size=1,
    ),
    "mlp, modern": dict(
        model="mlp3",
        norm="batch",
        label_smoothing=0.1,
        mixup=0.2,
        cutout=8,
        max_norm=2.0,
        average=0.9,
        clip_norm=1.0,
        lr_scheduler="cosine",
        warmup=1,
    ),
    "cnn3, channel dropout": dict(model="cnn3", channel_dropout=0.2, clip_norm=0.5, max_norm=1.0, average=0.9),
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
    """Count what would make a host wait."""

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


def prepare_dataset(dataset, experiment, count):
    """Take `count` images of each split, standardized as the experiment says, and in colour for the resnet."""
    dataset = replace(
        cut_dataset(dataset, train=count, validation=count, test=count), is_standardized=experiment.standardize
    )
    if experiment.model != "resnet":
        return dataset
    splits = {name: getattr(dataset, name) for name in ("train", "validation", "test")}
    in_colour = {name: Split(split.images.expand(-1, 3, -1, -1), split.labels) for name, split in splits.items()}
    return replace(dataset, **in_colour, mean=dataset.mean * 3, std=dataset.std * 3)


@pytest.mark.parametrize("settings", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_no_step_reads_what_it_computes(settings, digits):
    def count_waits(batch_size):
        experiment = Experiment(**settings, dataset="mnist_sample", batch_size=batch_size, epochs=2)
        dataset = prepare_dataset(digits, experiment, 48)
        trainer = training.Trainer(experiment, dataset, list(SEEDS), "cpu")
        for layer in trainer.model.modules():
            if isinstance(layer, side_by_side.RunsDropout):
                layer.gap_devices = ()  # as on a GPU
        with Waits() as mode:
            training.train_epoch(trainer, dataset, 1)
        return mode.counted

    # Six steps and two: what begins or ends an epoch may wait.
    assert count_waits(batch_size=8) == count_waits(batch_size=24)


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
    """Allow waiting again after a test that may have stopped in the middle of a step."""
    yield
    torch.cuda.set_sync_debug_mode("default")


needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.fixture
def prepared():
    """Prepare this process for a GPU, as `engine.workers` does; the CPU's bits are the same afterwards."""
    workers.prepare_process("cuda", None)
    yield
    torch.use_deterministic_algorithms(False)


@needs_a_gpu
@pytest.mark.usefixtures("waits_are_errors_no_more", "prepared")
@pytest.mark.parametrize("settings", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_the_same_training_on_a_gpu_twice_gives_the_same_bits_and_waits_at_no_step(settings, digits, monkeypatch):
    experiment = Experiment(**settings, dataset="mnist_sample", batch_size=64, epochs=2)
    dataset = prepare_dataset(digits, experiment, 400)
    draw_batches = training.draw_batches

    def watch(*args):
        batches = draw_batches(*args)
        first = next(batches)
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield from itertools.chain([first], batches)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(training, "draw_batches", watch)
    once, again = (training.train(experiment, list(SEEDS), dataset, "cuda") for _ in range(2))
    for run, same in zip(once, again, strict=True):
        assert all(torch.equal(tensor, same.weights[name]) for name, tensor in run.weights.items())
        assert (run.log_probabilities == same.log_probabilities).all()
        assert run.history == same.history


@needs_a_gpu
@pytest.mark.usefixtures("prepared")
@pytest.mark.parametrize("settings", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_a_gpu_takes_the_steps_that_a_cpu_takes(settings, digits):
    # A GPU draws dropout's masks from numbers of its own, and Adam makes whole steps of what is rounding alone.
    same = dict(
        dropout=0.0, channel_dropout=None, dataset="mnist_sample", batch_size=64, epochs=2, optimizer="sgd", lr=0.01
    )
    experiment = Experiment(**settings | same)
    dataset = prepare_dataset(digits, experiment, 128)
    on_cpu, on_gpu = (training.train(experiment, list(SEEDS), dataset, device) for device in ("cpu", "cuda"))
    for run, same_run in zip(on_cpu, on_gpu, strict=True):
        for name, tensor in run.weights.items():
            torch.testing.assert_close(same_run.weights[name], tensor, rtol=1e-3, atol=1e-3)
