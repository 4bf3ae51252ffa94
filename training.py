"""Train one unit of work: an experiment with some of its seeds side by side.

    dataset = data.load("fashion_mnist", "data")
    runs = train(Experiment(model="mlp3", l1=0.001), [0, 1, 2], dataset)

A student who knows the textbook loop will recognize `train_epoch`; what is new is that losses are (runs,).
"""

import ctypes
import math
import os
import platform
import time

import numpy as np
import torch
from torch.nn import functional as F

import data
import models
import regularizers
import side_by_side
from augmentation import Augmentation
from early_stopping import EarlyStopping
from engine import records

PURPOSES = ("order", "dropout", "augmentation")  # what a run draws random numbers for; the position is part of the seed
MOMENTUM = (0.85, 0.95)  # what one_cycle moves it between
EVALUATION_BATCH = 250  # images; large enough to keep the arithmetic busy, small enough for the cache


# Weights that a penalty drives into denormal numbers slow training down fivefold. It reaches threads made from here on.
torch.set_flush_denormal(True)


def train(experiment, seeds, dataset, device="cpu", threads=None, on_epoch=None, checkpoint=None):
    """Train the seeds of an experiment side by side and return a `records.Run` for each.

    Args:
        experiment: an `experiments.Experiment`.
        seeds: one run for each.
        dataset: a `data.Dataset`, passed in so that only one process has to find, verify and split it.
        device: where the tensors are.
        threads: of this process; None leaves torch's setting alone.
        on_epoch: called after each epoch with the list of the latest history rows of the runs still going on.
        checkpoint: the `checkpoints.Checkpoint` that it goes on from, if it was begun before, and is kept in.
    """
    if threads:
        torch.set_num_threads(threads)
    keep_freed_memory()
    if device == "cuda":
        compute_reproducibly()
    dataset = dataset.to(device)
    standardization = (dataset.mean, dataset.std) if experiment.standardize else ()

    started = time.perf_counter()
    runs = len(seeds)
    model = side_by_side.join([textbook_network(experiment, dataset, seed) for seed in seeds]).to(device)
    optimizer = make_optimizer(experiment, model)
    scheduler = make_scheduler(experiment, optimizer, len(batch_bounds(len(dataset.train), experiment.batch_size)))
    penalty = make_penalty(experiment, model, runs)
    stopping = make_stopping(experiment, runs)
    chosen = [(0, None)] * runs  # the epoch whose weights a run hands in, and these weights
    history = [[] for _ in seeds]
    diverged = [False] * runs
    resumed_at = []  # the epochs that a training which was interrupted went on after

    # Random numbers need no place here: each epoch's generators are seeded anew.
    stateful = dict(model=model, optimizer=optimizer, scheduler=scheduler, stopping=stopping)
    stateful = {name: part for name, part in stateful.items() if part is not None}
    if state := checkpoint and checkpoint.read():
        for name, part in stateful.items():
            part.load_state_dict(state[name])
        chosen, history, diverged = state["chosen"], state["history"], state["diverged"]
        resumed_at = [*state["resumed_at"], stopping.epoch]
        started -= state["seconds"]

    def state_so_far():
        states = {name: part.state_dict() for name, part in stateful.items()}
        seconds = time.perf_counter() - started
        return states | dict(chosen=chosen, history=history, diverged=diverged, resumed_at=resumed_at, seconds=seconds)

    for epoch in range(stopping.epoch + 1, experiment.epochs + 1):
        if stopping.all_stopped:
            break
        was_running = stopping.is_running
        lr = optimizer.param_groups[0]["lr"]
        training = train_epoch(
            experiment, model, optimizer, scheduler, penalty, dataset.train, seeds, epoch, standardization
        )
        validation = evaluate(model, dataset.validation, runs, standardization)
        figures = {"train_" + name: values for name, values in training.items()}
        figures |= {"val_" + name: values for name, values in validation.items()}
        figures["penalty"] = penalty.value().detach().tolist()
        improved = stopping.step(figures)

        latest = []
        for run in range(runs):
            if was_running[run]:
                row = dict(seed=seeds[run], epoch=epoch, lr=lr)
                history[run].append(row | {name: values[run] for name, values in figures.items()})
                latest.append(history[run][-1])
                if improved[run] or not restores_best(experiment) or chosen[run][1] is None:
                    chosen[run] = (epoch, side_by_side.state_of_run(model.state_dict(), run, runs))
                if not all(map(math.isfinite, (figures["train_loss"][run], figures["val_loss"][run]))):
                    diverged[run] = True  # its part of the model is lost, and no other part is reached by it
                    stopping.stop(run, f"diverged: its loss was not finite in epoch {epoch}")
        if on_epoch:
            on_epoch(latest)
        if checkpoint:
            checkpoint.write_if_due(epoch, state_so_far)

    seconds = (time.perf_counter() - started) / runs
    shared = dict(seeds_beside=list(seeds), seconds=seconds, resumed_at=resumed_at, **circumstances(device))
    finished = []
    for run, seed in enumerate(seeds):
        chosen_epoch, weights = chosen[run]
        all_epochs = f"all {experiment.epochs} epochs" if experiment.epochs > 1 else "its one epoch"
        reason = stopping.reasons[run] or f"trained {all_epochs}"
        result = dict(seed=seed, epochs=len(history[run]), chosen_epoch=chosen_epoch, stop_reason=reason)
        result["diverged"] = diverged[run]
        finished.append(finish(experiment, dataset, weights, standardization, result | shared, history[run]))
    return finished


def train_epoch(experiment, model, optimizer, scheduler, penalty, train_set, seeds, epoch, standardization=()):
    """One pass over the train images, each run in its own order; {loss, accuracy: running means, one a run}."""
    model.train()
    runs = len(seeds)
    seed_dropout(model, seeds, epoch, train_set.labels.device)
    all_losses, all_correct = [], []  # read once at the end: a sum for each step would cost more than its numbers
    for images, labels in batches(experiment, train_set, seeds, epoch, standardization):
        optimizer.zero_grad()
        logits = model(images).view(len(labels), runs, -1)
        losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(len(labels), runs)
        losses.mean(0).sum().backward()  # a sum over runs, so that no gradient crosses from run to run
        penalty.add_gradient()
        optimizer.step()
        penalty.shrink(optimizer)
        if experiment.lr_scheduler == "one_cycle":
            scheduler.step()
        all_losses.append(losses.detach())
        all_correct.append(logits.detach().argmax(2) == labels)
    if experiment.lr_scheduler == "step":
        scheduler.step()
    loss, accuracy = (torch.cat(values).cpu().double().mean(0).tolist() for values in (all_losses, all_correct))
    return dict(loss=loss, accuracy=accuracy)


def batches(experiment, train_set, seeds, epoch, standardization=()):
    """Yield (images, labels), each run in its own order: (batch, runs*channels, height, width) and (batch, runs).

    Every image is seen once an epoch, augmented as the experiment says.
    """
    count, shape, device = len(train_set), train_set.images.shape[1:], train_set.labels.device
    orders = [torch.randperm(count, generator=generator(seed, "order", epoch)) for seed in seeds]
    order = torch.stack(orders, 1).to(device)  # (images, runs)
    labels = train_set.labels[order]
    augmentation = Augmentation.of(experiment)
    drawn = [augmentation.draw(count, shape, generator(seed, "augmentation", epoch)) for seed in seeds]
    drawn = {name: torch.stack([of_run[name] for of_run in drawn], 1).to(device) for name in drawn[0]}  # (images, runs)
    for start, end in batch_bounds(count, experiment.batch_size):
        images = train_set.images.index_select(0, order[start:end].flatten())
        images = augmentation(images, {name: values[start:end].flatten() for name, values in drawn.items()})
        if standardization:
            data.standardize_(images, *standardization)
        yield images.view(end - start, -1, *shape[1:]), labels[start:end]


def batch_bounds(count, batch_size):
    """Where each batch of `count` images starts and ends.

    A last batch of one image joins the batch before it, so that batch normalization always has something to average
    over.
    """
    starts = list(range(0, count, batch_size))
    if len(starts) > 1 and count - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], count], strict=True))


@torch.no_grad()
def log_probabilities(model, images, runs, standardization=()):
    """Log-probabilities of the same images from every run, (images, runs, classes), in evaluation mode."""
    model.eval()
    outputs = []
    for batch in images.split(EVALUATION_BATCH):
        floats = data.to_float(batch, *standardization)
        side_by_side = floats.unsqueeze(1).expand(-1, runs, -1, -1, -1).flatten(1, 2)
        outputs.append(model(side_by_side).view(len(batch), runs, -1).log_softmax(2))
    return torch.cat(outputs)


def evaluate(model, split, runs, standardization=()):
    """Mean loss and accuracy of every run on a split, {loss, accuracy: a list, one value a run}."""
    return scores(log_probabilities(model, split.images, runs, standardization), split.labels)


def scores(log_probs, labels):
    """{loss, accuracy: one value a run} of log-probabilities (images, runs, classes) and labels (images,)."""
    own = log_probs.gather(2, labels.view(-1, 1, 1).expand(-1, log_probs.shape[1], 1)).squeeze(2)
    correct = log_probs.argmax(2) == labels.view(-1, 1)
    return dict(loss=(-own.cpu().double().mean(0)).tolist(), accuracy=correct.cpu().double().mean(0).tolist())


def finish(experiment, dataset, weights, standardization, result, history):
    """The record of one run, measured with the textbook network that its weights belong to, where the data are."""
    network = textbook_network(experiment, dataset, seed=0).to(memory_format=torch.channels_last)
    network.load_state_dict(weights)
    network.to(dataset.test.images.device)
    weights = {name: tensor.cpu() for name, tensor in weights.items()}
    for name, split in (("train", dataset.train), ("val", dataset.validation), ("test", dataset.test)):
        log_probs = log_probabilities(network, split.images, 1, standardization)
        measured = scores(log_probs, split.labels)
        result[f"{name}_loss"], result[f"{name}_accuracy"] = measured["loss"][0], measured["accuracy"][0]
    layers = regularizers.weight_statistics(network.cpu())
    result |= dict(
        penalty=make_penalty(experiment, network, 1).value().item(),
        parameters=models.parameter_count(network),
        sparsity=regularizers.overall(layers),
        layers=layers,
    )
    return records.Run(result["seed"], result, history, weights, log_probs.squeeze(1).float().cpu().numpy())


# ---------------------------------------------------------------------------------------------------------------------
# The parts of a training, as an experiment describes them


def textbook_network(experiment, dataset, seed):
    names = ("model", "hidden", "dropout", "norm", "norm_position")
    names += ("groups", "group_size", "ghost_splits", "freeze_gamma")
    settings = {name: getattr(experiment, name) for name in names}
    return models.textbook_network(shape=dataset.shape, seed=seed, classes=len(dataset.classes), **settings)


def make_optimizer(experiment, model):
    groups = regularizers.parameter_groups(model, experiment.weight_decay, experiment.penalize)
    one_cycle = experiment.lr_scheduler == "one_cycle"
    match experiment.optimizer:
        case "sgd":
            momentum = MOMENTUM[1] if one_cycle else experiment.momentum
            return torch.optim.SGD(groups, experiment.lr, momentum, nesterov=experiment.nesterov, fused=True)
        case "adam":
            return torch.optim.Adam(groups, experiment.lr, fused=True)
        case "adamw":
            return torch.optim.AdamW(groups, experiment.lr, fused=True)


def make_scheduler(experiment, optimizer, steps):
    """The learning rate's scheduler, one for each of the `steps` of an epoch or for each epoch; None if constant."""
    match experiment.lr_scheduler:
        case "step":
            return torch.optim.lr_scheduler.StepLR(optimizer, experiment.lr_step_size, experiment.lr_gamma)
        case "one_cycle":  # Smith and Topin 2018, with torch's defaults
            return torch.optim.lr_scheduler.OneCycleLR(
                optimizer,
                max_lr=experiment.lr,
                total_steps=experiment.epochs * steps,
                base_momentum=MOMENTUM[0],
                max_momentum=MOMENTUM[1],
            )


def make_penalty(experiment, model, runs):
    parameters = regularizers.penalized_parameters(model, experiment.penalize).values()
    return regularizers.Penalty(
        parameters,
        experiment.l1,
        experiment.l2,
        experiment.l1_mode,
        runs,
        l1_reduction=experiment.l1_reduction,
        l2_form=experiment.l2_form,
    )


def make_stopping(experiment, runs):
    return EarlyStopping(
        experiment.monitor,
        patience=experiment.patience or math.inf,
        min_delta=experiment.min_delta,
        start_from_epoch=experiment.start_from_epoch,
        runs=runs,
    )


def restores_best(experiment):
    """Whether a run hands in the weights of its best epoch, not of its last."""
    return experiment.patience is not None and experiment.restore == "best"


def generator(seed, purpose, epoch, *which, device="cpu"):
    """A generator of random numbers for one run, one purpose and one epoch, so that no draw depends on any other."""
    mixed = np.random.SeedSequence([seed, PURPOSES.index(purpose), epoch, *which]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(mixed))


def seed_dropout(model, seeds, epoch, device):
    layers = [layer for layer in model.modules() if isinstance(layer, side_by_side.RunsDropout)]
    for number, layer in enumerate(layers):
        layer.seed([generator(seed, "dropout", epoch, number, device=device) for seed in seeds])


def keep_freed_memory():
    """Tell glibc to keep large freed tensors for the next ones: page faults cost more than a layer's arithmetic."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no block of its own for a large tensor
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: what is free stays with the process


def compute_reproducibly():
    """Tell a GPU to give the same bits each time, where torch knows how to, and to round as a CPU does."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the first matrix product is asked for
    torch.use_deterministic_algorithms(True, warn_only=True)  # what has no such form says so
    torch.utils.deterministic.fill_uninitialized_memory = False  # which nothing here reads
    torch.backends.cudnn.allow_tf32 = False


def circumstances(device):
    """Where and with what a run was trained."""
    return dict(
        device=torch.cuda.get_device_name() if device == "cuda" else f"{device} ({platform.machine()})",
        threads=torch.get_num_threads(),
        versions=dict(python=platform.python_version(), torch=torch.__version__, numpy=np.__version__),
        platform=platform.platform(),
    )
