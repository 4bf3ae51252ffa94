"""The training loop: train several seeds of an experiment side by side, in one process.

    dataset = data.load("fashion_mnist", "data")
    runs = train(Experiment(model="mlp3", l1=0.001), [0, 1, 2], dataset)

`train_epoch` is the textbook loop, with a separate loss for each run.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import lr_scheduler

import data
import models
import regularizers
import side_by_side
from augmentation import Augmentation, draw_shares, find_correct, mix
from data import Dataset, Split
from early_stopping import EarlyStopping
from experiments import Experiment
from regularizers import Average, Penalty, clip_gradients, limit_norms, select_penalized
from side_by_side import make_generator

MOMENTUM = (0.85, 0.95)  # range of the momentum with one_cycle
EVALUATION_BATCH = 250  # images; large enough for fast arithmetic, small enough for the cache

Row = dict[str, Any]  # a row of a history: seed, epoch, lr and metrics
State = dict[str, Any]  # the state of unfinished training: tensors, numbers, strings, lists and dicts
Weights = dict[str, Tensor]  # state_dict of a textbook network
Metrics = dict[str, list[float]]  # {name: a value for each run}

# Penalties drive weights into denormal numbers, which slow training fivefold: flush them in this and later threads.
torch.set_flush_denormal(True)


@dataclass
class Run:
    """The finished training of one seed."""

    seed: int
    result: dict[str, Any]
    history: list[Row]
    weights: Weights
    log_probabilities: np.ndarray  # float32 (test images, classes)


@dataclass
class RunState:
    """The state of one run during training."""

    seed: int
    history: list[Row] = field(default_factory=list)  # a row for each epoch
    chosen: tuple[int, Weights] = (0, {})  # the epoch whose weights will be recorded, and these weights
    diverged: bool = False


RUN_STATE = ("chosen", "history", "diverged")  # the fields of a `RunState` that a checkpoint holds


class Keeper(Protocol):
    """A store for the state of unfinished training: `engine.checkpoints.Checkpoint`."""

    def read(self) -> State | None: ...

    def write_if_due(self, epoch: int, make_state: Callable[[], State]) -> None: ...


class Trainer:
    """The model of several runs side by side, and what changes it: optimizer, penalty, early stopping and so on."""

    def __init__(self, experiment: Experiment, dataset: Dataset, seeds: list[int], device: str) -> None:
        networks = [build_network(experiment, dataset.shape, len(dataset.classes), seed) for seed in seeds]
        steps = len(data.list_batches(len(dataset.train), experiment.batch_size))
        self.experiment, self.seeds = experiment, seeds
        self.model = side_by_side.join_networks(networks).to(device)
        self.optimizer = make_optimizer(experiment, self.model)
        self.scheduler = make_scheduler(experiment, self.optimizer, steps)
        self.penalty = Penalty.of(experiment, self.model, len(seeds))
        self.stopping = EarlyStopping.of(experiment, len(seeds))
        self.average = Average(self.model, experiment.average) if experiment.average else None
        self.evaluated = self.average.model if self.average else self.model  # and recorded

    def state_dict(self) -> dict[str, Any]:
        """Return everything that training changes, without random state: each epoch seeds new generators."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state that `state_dict` returned."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        parts = {name: getattr(self, name) for name in ("model", "optimizer", "scheduler", "stopping", "average")}
        return {name: part for name, part in parts.items() if part is not None}


def train(
    experiment: Experiment,
    seeds: list[int],
    dataset: Dataset,
    device: str = "cpu",
    on_epoch: Callable[[list[Row]], None] | None = None,
    checkpoint: Keeper | None = None,
) -> list[Run]:
    """Train the seeds of an experiment side by side and return a `Run` for each seed.

    Args:
        dataset: loaded by the caller, so that only one process has to find, verify and split the data set.
        on_epoch: called after each epoch with the latest history rows of the runs that have not stopped.
        checkpoint: stores the state of the training; if it holds a state, training continues from that state.
    """
    dataset = replace(dataset, is_standardized=experiment.standardize).to(device)
    started = time.perf_counter()
    trainer = Trainer(experiment, dataset, seeds, device)
    states = [RunState(seed) for seed in seeds]
    resumed_at: list[int] = []  # the epochs after which training was interrupted and resumed
    if checkpoint and (state := checkpoint.read()):
        trainer.load_state_dict(state)
        for name in RUN_STATE:
            for of_run, value in zip(states, state[name], strict=True):
                setattr(of_run, name, value)
        resumed_at = [*state["resumed_at"], trainer.stopping.epoch]
        started -= state["seconds"]

    def state_so_far() -> State:
        of_runs = {name: [getattr(of_run, name) for of_run in states] for name in RUN_STATE}
        return trainer.state_dict() | of_runs | dict(resumed_at=resumed_at, seconds=time.perf_counter() - started)

    for epoch in range(trainer.stopping.epoch + 1, experiment.epochs + 1):
        if trainer.stopping.all_stopped:
            break
        lr = trainer.optimizer.param_groups[0]["lr"]
        metrics = {f"train_{name}": values for name, values in train_epoch(trainer, dataset, epoch).items()}
        predicted = predict(trainer.evaluated, dataset, dataset.validation, len(seeds))
        validation = measure(predicted, dataset.validation.labels)
        metrics |= {f"val_{name}": values for name, values in validation.items()}
        metrics["penalty"] = Penalty.of(experiment, trainer.evaluated, len(seeds)).value().detach().tolist()
        latest = end_epoch(trainer, states, epoch, lr, metrics)
        if on_epoch:
            on_epoch(latest)
        if checkpoint:
            checkpoint.write_if_due(epoch, state_so_far)

    shared = dict(seeds_beside=list(seeds), seconds=(time.perf_counter() - started) / len(seeds), resumed_at=resumed_at)
    return [finish_run(trainer, dataset, number, run, shared) for number, run in enumerate(states)]


def train_epoch(trainer: Trainer, dataset: Dataset, epoch: int) -> Metrics:
    """Train for one pass over the train images; return the mean loss and accuracy of each run during the pass.

    The loss is the one that is trained on, without penalties. Label smoothing is torch's (Szegedy et al. 2016): of K
    classes, the label gets the probability 1 − ε + ε/K, every other class ε/K.
    """
    model, optimizer, scheduler, penalty = trainer.model, trainer.optimizer, trainer.scheduler, trainer.penalty
    experiment, average, runs = trainer.experiment, trainer.average, len(trainer.seeds)
    parameters, weights = list(model.parameters()), list(select_penalized(model).values())
    smoothing = experiment.label_smoothing or 0.0
    model.train()
    side_by_side.seed_dropout(model, trainer.seeds, epoch, dataset.train.labels.device)
    all_losses, all_correct = [], []  # averaged once at the end: adding up in every step would cost more time
    for images, labels in draw_batches(experiment, dataset, trainer.seeds, epoch):
        optimizer.zero_grad()
        labels = labels.flatten(0, 1)  # (batch*runs,)
        logits = model(images).view(len(labels), -1)
        losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
        (losses.sum() / len(images)).backward()  # each run's mean loss: no gradient crosses from run to run
        penalty.add_gradient()
        if experiment.clip_norm:
            clip_gradients(parameters, experiment.clip_norm, runs)
        optimizer.step()
        penalty.shrink(optimizer)
        if experiment.max_norm:
            limit_norms(weights, experiment.max_norm, runs)
        if average:
            average.update()
        if scheduler and experiment.lr_scheduler != "step":
            scheduler.step()
        all_losses.append(losses.detach())
        all_correct.append(find_correct(logits.detach().argmax(1), labels))
    if experiment.lr_scheduler == "step":
        scheduler.step()
    of_images = (torch.cat(values).view(-1, runs) for values in (all_losses, all_correct))
    loss, accuracy = (values.cpu().double().mean(0).tolist() for values in of_images)
    return dict(loss=loss, accuracy=accuracy)


def end_epoch(trainer: Trainer, states: list[RunState], epoch: int, lr: float, metrics: Metrics) -> list[Row]:
    """Record an epoch of each run that has not stopped, keep the weights to be recorded, and apply early stopping.

    Returns:
        The new history rows, one for each run that had not stopped before.
    """
    was_running = trainer.stopping.is_running
    improved = trainer.stopping.step(metrics)
    latest = []
    for number, run in enumerate(states):
        if not was_running[number]:
            continue
        row = dict(seed=run.seed, epoch=epoch, lr=lr) | {name: values[number] for name, values in metrics.items()}
        run.history.append(row)
        latest.append(row)
        if improved[number] or not trainer.stopping.restores_best or not run.chosen[0]:
            run.chosen = epoch, side_by_side.extract_run(trainer.evaluated.state_dict(), number, len(states))
        if not (math.isfinite(row["train_loss"]) and math.isfinite(row["val_loss"])):
            run.diverged = True  # the run's part of the model is lost, but the other parts are not affected
            trainer.stopping.stop(number, f"diverged: its loss was not finite in epoch {epoch}")
    return latest


def draw_batches(
    experiment: Experiment, dataset: Dataset, seeds: list[int], epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (images, labels), each run in its own order: (batch, runs*channels, height, width) and (batch, runs).

    A run sees every train image once an epoch, with the experiment's augmentation. With mixup, the labels are the
    probabilities of the classes, (batch, runs, classes).
    """
    train_set, shape = dataset.train, dataset.shape
    count, device = len(train_set), train_set.labels.device
    orders = [torch.randperm(count, generator=make_generator(seed, "order", epoch)) for seed in seeds]
    order = torch.stack(orders, 1).to(device)  # (images, runs)
    labels = train_set.labels[order]
    augmentation = Augmentation.of(experiment)
    drawn = [augmentation.draw(count, shape, make_generator(seed, "augmentation", epoch)) for seed in seeds]
    parameters = {name: torch.stack([of_run[name] for of_run in drawn], 1).to(device) for name in drawn[0]}
    if experiment.mixup:
        of_runs = [draw_shares(experiment.mixup, count, make_generator(seed, "mixup", epoch)) for seed in seeds]
        shares = torch.stack(of_runs, 1).to(device)
    for start, end in data.list_batches(count, experiment.batch_size):
        images = train_set.images.index_select(0, order[start:end].flatten())
        of_batch = {name: values[start:end].flatten(0, 1) for name, values in parameters.items()}
        floats = dataset.standardize_(augmentation(images, of_batch, dataset.mean))
        batch = floats.view(end - start, -1, *shape[1:]), labels[start:end]
        yield mix(*batch, shares[start:end], len(dataset.classes)) if experiment.mixup else batch


@torch.no_grad()
def predict(model: nn.Module, dataset: Dataset, split: Split, runs: int) -> Tensor:
    """Return each run's log-probabilities for a split's images, (images, runs, classes), in evaluation mode."""
    model.eval()
    outputs = []
    for batch in split.images.split(EVALUATION_BATCH):
        for_all_runs = dataset.to_float(batch).unsqueeze(1).expand(-1, runs, -1, -1, -1).flatten(1, 2)
        outputs.append(model(for_all_runs).view(len(batch), runs, -1).log_softmax(2))
    return torch.cat(outputs)


def measure(log_probabilities: Tensor, labels: Tensor) -> Metrics:
    """Compute {loss, accuracy} of each run from log-probabilities, (images, runs, classes), and labels, (images,)."""
    of_labels = labels.view(-1, 1, 1).expand(-1, log_probabilities.shape[1], 1)
    losses = -log_probabilities.gather(2, of_labels).squeeze(2)
    correct = log_probabilities.argmax(2) == labels.view(-1, 1)
    return dict(loss=losses.cpu().double().mean(0).tolist(), accuracy=correct.cpu().double().mean(0).tolist())


def finish_run(trainer: Trainer, dataset: Dataset, number: int, run: RunState, shared: dict[str, Any]) -> Run:
    """Measure the weights that a run records, on all three splits, and return its `Run`.

    They are measured in the network of one run, as `grade.py` does it. `number` is the run's position in the model, and
    `shared` holds the entries of result.json that are the same for all runs.
    """
    experiment, (chosen_epoch, weights) = trainer.experiment, run.chosen
    network = build_network(experiment, dataset.shape, len(dataset.classes), seed=0)  # any seed: weights are replaced
    network.load_state_dict(weights)
    network.to(dataset.test.images.device)
    at_end = f"trained all {experiment.epochs} epochs" if experiment.epochs > 1 else "trained its one epoch"
    result = dict(
        seed=run.seed,
        epochs=len(run.history),
        chosen_epoch=chosen_epoch,
        stop_reason=trainer.stopping.reasons[number] or at_end,
        diverged=run.diverged,
        **shared,
    )
    predicted = {name: predict(network, dataset, split, runs=1) for name, split in dataset.splits.items()}
    for name, log_probabilities in predicted.items():
        metrics = measure(log_probabilities, dataset.splits[name].labels)
        result[f"{name}_loss"], result[f"{name}_accuracy"] = metrics["loss"][0], metrics["accuracy"][0]
    layers = regularizers.measure_layers(network.cpu())
    result |= dict(
        penalty=Penalty.of(experiment, network, runs=1).value().item(),
        parameters=models.count_parameters(network),
        sparsity=regularizers.summarize_layers(layers),
        layers=layers,
    )
    weights = {name: tensor.cpu() for name, tensor in weights.items()}
    return Run(run.seed, result, run.history, weights, predicted["test"].squeeze(1).float().cpu().numpy())


# ---------------------------------------------------------------------------------------------------------------------
# Building the parts of a trainer from an experiment's settings


def build_network(experiment: Experiment, shape: tuple[int, int, int], classes: int, seed: int) -> nn.Sequential:
    """Build an experiment's textbook network for images of `shape` (channels, height, width).

    Its weights have the channels-last memory format, which makes convolutions on a CPU faster.

    Raises:
        ValueError: the images or the groups do not fit the network.
    """
    names = ("hidden", "dropout", "channel_dropout", "norm", "norm_position", "groups", "group_size", "ghost_splits")
    settings = {name: getattr(experiment, name) for name in (*names, "freeze_gamma")}
    network = models.build_network(experiment.model, shape, seed=seed, classes=classes, **settings)
    return nn.utils.convert_conv2d_weight_memory_format(network, torch.channels_last)


def make_optimizer(experiment: Experiment, model: nn.Module) -> torch.optim.Optimizer:
    """Make the optimizer, with weight decay on the parameters that the experiment penalizes."""
    groups = regularizers.group_parameters(model, experiment.weight_decay, experiment.penalize)
    if experiment.optimizer == "sgd":
        momentum = MOMENTUM[1] if experiment.lr_scheduler == "one_cycle" else experiment.momentum
        return torch.optim.SGD(groups, experiment.lr, momentum, nesterov=experiment.nesterov, fused=True)
    adam = torch.optim.Adam if experiment.optimizer == "adam" else torch.optim.AdamW
    return adam(groups, experiment.lr, fused=True)


def make_scheduler(experiment: Experiment, optimizer: torch.optim.Optimizer, steps: int) -> Any:
    """Make the learning rate scheduler, which steps once a batch or, with `step`, once an epoch.

    Return None if the learning rate is constant. `steps` is the number of batches in an epoch.
    """
    warmup, total = (experiment.warmup or 0) * steps, experiment.epochs * steps

    def compute_share(step: int) -> float:
        """Compute the share of `--lr` with which a step is made; steps count from 0."""
        if step < warmup:  # up in a line (Goyal et al. 2017); a first step with a rate of 0 would be lost
            return (step + 1) / warmup
        if experiment.lr_scheduler == "constant":
            return 1.0
        return (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2  # Loshchilov and Hutter 2017

    match experiment.lr_scheduler:
        case "step":
            assert experiment.lr_step_size, "experiments.py refuses steps without a size"
            return lr_scheduler.StepLR(optimizer, experiment.lr_step_size, experiment.lr_gamma)
        case "one_cycle":  # Smith and Topin 2018, with torch's defaults
            low, high = MOMENTUM
            return lr_scheduler.OneCycleLR(optimizer, experiment.lr, total, base_momentum=low, max_momentum=high)
        case "constant" if not experiment.warmup:
            return None
    return lr_scheduler.LambdaLR(optimizer, compute_share)
