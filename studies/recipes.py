"""Recipes: small networks that come near the best published accuracy of an assignment or beat it, within its limits.

Each study goes from a network of the assignment to the recipe in steps, and shows what each step is worth.
docs/results/recipes.md tells how the steps were found.
"""

from dataclasses import replace
from itertools import pairwise

from experiments import Experiment, Settings, flag_of
from studies.cifar_norms import C_BATCH
from studies.mnist_l1_l2_ghost import A1_BN
from studies.study import Claim, Entry, Study

CHOICE = "A study of our own. The changes were chosen on the validation images alone."


def list_steps(first: Experiment, changes: dict[str, Settings]) -> dict[str, Entry]:
    """List experiments, {title: entry}, of which each keeps the settings of the one before and changes some."""
    settings = first.to_dict()
    steps = {}
    for title, change in changes.items():
        settings |= change
        given = {name: value for name, value in change.items() if value is not None}
        flags = [flag_of(name) if value is True else f"{flag_of(name)} {value}" for name, value in given.items()]
        steps[title] = Entry("own", Experiment(**settings), " ".join(flags))
    return steps


def list_claims(steps: dict[str, Entry], published: float) -> tuple[Claim, ...]:
    """List the claims that each step is better than the one before, and the last better than a published accuracy."""
    *_, recipe = steps
    return (
        *(
            Claim("own", f"this step helps: {step}", step, (before,), "test_accuracy", "higher")
            for before, step in pairwise(steps)
        ),
        Claim("own", "the recipe beats the best published accuracy", recipe, published, "test_accuracy", "higher"),
    )


FASHION_STEPS = list_steps(
    Experiment(model="mlp2"),
    {
        "assignment": {},
        "batch norm": dict(norm="batch"),
        "SGD": dict(optimizer="sgd", lr=0.1, momentum=0.9, nesterov=True, batch_size=128),
        "weight decay": dict(weight_decay=0.0005),
        "cosine": dict(lr_scheduler="cosine"),
        "60 epochs": dict(epochs=60),
        "crop": dict(crop_padding=1),
        "200 epochs": dict(epochs=200),
        "label smoothing": dict(label_smoothing=0.1),
        "standardized": dict(standardize=True),
    },
)

RECIPE_FASHION = Study(
    name="recipe-fashion",
    asks="Which changes take an MLP of at most 120,000 parameters to 90.5 % on Fashion-MNIST?",
    experiments=FASHION_STEPS,
    baseline="assignment",
    claims=list_claims(FASHION_STEPS, 0.8846),
    deviations=(CHOICE,),
    seeds=10,
    most_parameters=120_000,
)

MNIST_STEPS = list_steps(
    replace(A1_BN, epochs=20),
    {
        "assignment": {},
        "network": dict(model="cnn4"),
        "cosine": dict(lr_scheduler="cosine", lr_step_size=None),
        "higher rate": dict(lr=0.1, nesterov=True, weight_decay=0.0002),
        "no jitter": dict(brightness=0.0, contrast=0.0),
        "smaller moves": dict(affine_degrees=5.0, affine_translate=0.04, affine_scale=0.04),
        "bilinear": dict(interpolation="bilinear"),
        "elastic": dict(elastic=0.3),
    },
)

RECIPE_MNIST = Study(
    name="recipe-mnist",
    asks="Which changes take a CNN of at most 8,000 parameters to 99.60 % on MNIST in 20 epochs?",
    experiments=MNIST_STEPS,
    baseline="assignment",
    claims=list_claims(MNIST_STEPS, 0.9957),
    deviations=(CHOICE,),
    most_parameters=8_000,
    most_epochs=20,
)

CIFAR_STEPS = list_steps(
    C_BATCH,
    {
        "assignment": {},
        "network": dict(model="resnet2", norm_position="before", dropout=0.0),
        "batches of 128": dict(batch_size=128),
        "cosine": dict(lr_scheduler="cosine", momentum=0.9, nesterov=True),
        "weight decay": dict(weight_decay=0.0005, penalize="weights"),
        "smaller moves": dict(rotation=0.0, crop_padding=2, crop_mode="zero"),
    },
)

RECIPE_CIFAR = Study(
    name="recipe-cifar",
    asks="Which changes take a CNN of at most 50,000 parameters to 80 % on CIFAR-10 in 20 epochs?",
    experiments=CIFAR_STEPS,
    baseline="assignment",
    claims=list_claims(CIFAR_STEPS, 0.7327),
    deviations=(CHOICE,),
    most_parameters=50_000,
    most_epochs=20,
)
