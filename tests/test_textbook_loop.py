"""An epoch of training against a loop in plain PyTorch: penalties by autograd, torch's own optimizers and clipping."""

import pytest
import torch
from helpers import cut_dataset
from torch import nn

import side_by_side
import training
from experiments import Experiment

SEEDS = [2, 5]
IMAGES = 160
EXPERIMENTS = [
    dict(l1=1e-3),
    dict(l1=0.1, l1_reduction="mean", l2=0.1, l2_form="norm", penalize="all", norm="batch"),
    dict(l2=0.01, optimizer="sgd", lr=0.1, momentum=0.9, nesterov=True),
    dict(weight_decay=0.1, optimizer="adamw", penalize="all", norm="batch", norm_position="after"),
    dict(weight_decay=0.1, norm="layer"),
    dict(weight_decay=0.1, optimizer="sgd", lr=0.1, momentum=0.5),
    dict(l1=0.01, l1_mode="proximal", max_norm=0.5),
    dict(l1=0.01, l1_mode="proximal", optimizer="sgd", lr=0.1, momentum=0.9, weight_decay=0.01),
    dict(l1=1e-3, l2=0.1, clip_norm=0.1, optimizer="sgd", lr=0.5, label_smoothing=0.1),
    dict(model="cnn1", l1=1e-3, max_norm=0.4, weight_decay=0.1, penalize="all"),
]


def make_plain_optimizer(experiment, penalized, others):
    groups = [dict(params=penalized, weight_decay=experiment.weight_decay)]
    groups += [dict(params=others, weight_decay=0.0)] if others else []
    if experiment.optimizer == "sgd":
        return torch.optim.SGD(groups, experiment.lr, experiment.momentum, nesterov=experiment.nesterov, fused=False)
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[experiment.optimizer](groups, experiment.lr)


def compute_plain_penalty(experiment, penalized):
    penalty = torch.zeros(())
    for parameter in penalized:
        if experiment.l1 and experiment.l1_mode == "subgradient":
            size = parameter.numel() if experiment.l1_reduction == "mean" else 1
            penalty = penalty + experiment.l1 * parameter.abs().sum() / size
        if experiment.l2:
            penalty = penalty + experiment.l2 * parameter.norm() ** (2 if experiment.l2_form == "square" else 1)
    return penalty


def soften(experiment, optimizer, parameter):
    """Set a parameter to its soft threshold, in the metric of SGD with momentum or of Adam."""
    step_size = experiment.lr / (1 - experiment.momentum)
    if experiment.optimizer != "sgd":
        state = optimizer.state[parameter]
        step_size = experiment.lr / ((state["exp_avg_sq"] / (1 - 0.999 ** state["step"].item())).sqrt() + 1e-8)
    parameter.copy_(parameter.sign() * (parameter.abs() - step_size * experiment.l1).clamp(min=0))


def train_plainly(experiment, dataset, seed):
    """Train one network for one epoch as a textbook does, and return its weights."""
    network = training.build_network(experiment, dataset.shape, len(dataset.classes), seed)
    weights = [layer.weight for layer in network.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    penalized = list(network.parameters()) if experiment.penalize == "all" else weights
    others = [parameter for parameter in network.parameters() if not any(parameter is each for each in penalized)]
    optimizer = make_plain_optimizer(experiment, penalized, others)
    order = torch.randperm(IMAGES, generator=side_by_side.make_generator(seed, "order", 1))
    network.train()
    for batch in order.split(experiment.batch_size):
        logits, labels = network(dataset.train.images[batch] / 255), dataset.train.labels[batch]
        loss = nn.functional.cross_entropy(logits, labels, label_smoothing=experiment.label_smoothing or 0.0)
        optimizer.zero_grad()
        (loss + compute_plain_penalty(experiment, penalized)).backward()
        if experiment.clip_norm:
            nn.utils.clip_grad_norm_(network.parameters(), experiment.clip_norm)
        optimizer.step()
        with torch.no_grad():
            for parameter in penalized if experiment.l1_mode == "proximal" else ():
                soften(experiment, optimizer, parameter)
            for weight in weights if experiment.max_norm else ():
                factors = (experiment.max_norm / weight.flatten(1).norm(dim=1)).clamp(max=1)
                weight.mul_(factors.view(-1, *[1] * (weight.dim() - 1)))
    return network.state_dict()


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("settings", EXPERIMENTS, ids=str)
def test_an_epoch_of_several_seeds_is_that_of_a_plain_loop_for_each(settings, digits):
    network = dict() if "model" in settings else dict(model="mlp", hidden=(16, 12))
    experiment = Experiment(**network, **settings, batch_size=32)
    dataset = cut_dataset(digits, train=IMAGES)
    trainer = training.Trainer(experiment, dataset, SEEDS, "cpu")
    training.train_epoch(trainer, dataset, epoch=1)
    for run, seed in enumerate(SEEDS):
        ours = side_by_side.extract_run(trainer.model.state_dict(), run, len(SEEDS))
        for name, expected in train_plainly(experiment, dataset, seed).items():
            assert (ours[name] - expected).abs().max() <= 1e-12, name
