"""Records that no training made, for tests of what reads them."""

import numpy as np
import torch

from engine import records


def result(seed, accuracy, **figures):
    """A run's result.json, with some figures of one's own."""
    made_up = dict(
        seed=seed,
        diverged=False,
        stop_reason="trained all 15 epochs",
        epochs=15,
        chosen_epoch=15,
        parameters=94_154,
        sparsity=dict(zeros=0.5, small=0.5, l2_norm=2.0),
        layers=[dict(layer="0", weights=2, zeros=1, small=1)],
        seconds=12.345,
        threads=1,
        device="cpu",
        versions=dict(torch="2"),
        command="train.py --model mlp3",
        commit="abc",
        finished="2020-02-02T20:20:20+00:00",
    )
    for split, more in (("train", 0.03), ("val", 0.01), ("test", 0.0)):
        made_up |= {f"{split}_accuracy": accuracy + more, f"{split}_loss": 1 - accuracy}
    return made_up | figures


def write_run(folder, made_up, log_probabilities, epochs=1):
    history = [dict.fromkeys(records.HISTORY, 1) | dict(epoch=epoch) for epoch in range(1, epochs + 1)]
    weights = {"0.weight": torch.tensor([0.0, 2.0])}
    return records.write_run(folder, records.Run(made_up["seed"], made_up, history, weights, log_probabilities))


def write_runs(runs_dir, dataset, experiment, accuracies, table=records.SINGLE, title=None, **figures):
    """A run for each accuracy, with predictions that say nothing; return the experiment's folder."""
    folder = records.open_folder(runs_dir, table, title or experiment.name, records.describe(experiment, dataset))
    for seed, accuracy in enumerate(accuracies):
        write_run(folder, result(seed, accuracy, **figures), np.full((len(dataset.test), 10), -2.3, dtype=np.float32))
    return folder


def log_probabilities(labels, wrong, generator):
    """Of images that are taken for their own class, but those of index `wrong` for the next one."""
    favoured = labels.copy()
    favoured[wrong] = (favoured[wrong] + 1) % 10
    logits = generator.normal(0, 0.1, (len(labels), 10))
    logits[np.arange(len(labels)), favoured] += 4
    return torch.tensor(logits).log_softmax(1).numpy().astype(np.float32)
