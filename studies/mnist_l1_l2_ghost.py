"""An assignment on a small CNN and MNIST: L1, L2 and ghost batch normalization, alone and together."""

from dataclasses import replace

from experiments import Experiment, Settings
from studies._assignments import JITTER, LAST_FIVE, VALIDATION, last_five
from studies.study import Claim, Entry, Study

FAMILY_A: Settings = dict(
    standardize=True,
    affine_translate=0.1,
    affine_scale=0.1,
    brightness=0.1,
    contrast=0.1,
    epochs=25,
    batch_size=128,
    optimizer="sgd",
    momentum=0.9,
    lr_scheduler="step",
)
L1: Settings = dict(l1=1e-4, penalize="all")
L2: Settings = dict(weight_decay=1e-3, penalize="all")

A1_BN = Experiment(model="cnn1", **FAMILY_A, affine_degrees=10, lr=0.022, lr_step_size=6)
A1_GHOST: Settings = dict(norm="ghost", ghost_splits=2, freeze_gamma=True, batch_size=256)
SMALLER_GHOST: Settings = dict(norm="ghost", ghost_splits=4)
A1_GHOSTS = {"as run": ("GBN", "L1+L2+GBN"), "corrected": ("GBN, batch 128", "L1+L2+GBN, batch 128")}

MNIST_L1_L2_GHOST = Study(
    name="mnist-l1-l2-ghost",
    asks="Do L1, L2 and ghost batch normalization improve a small CNN on MNIST, alone and together?",
    experiments={
        "L1+BN": Entry("as run", replace(A1_BN, **L1), published=last_five(99.478, 0.0175, 98.94)),
        "L2+BN": Entry("as run", replace(A1_BN, **L2), published=last_five(99.464, 0.0186, 98.72)),
        "L1+L2+BN": Entry("as run", replace(A1_BN, **L1 | L2), published=last_five(99.312, 0.0215, 98.74)),
        "GBN": Entry(
            "as run",
            replace(A1_BN, **A1_GHOST),
            "batch 256 in two parts of 128, as many as plain batch norm sees at batch 128; the scale frozen at 1",
            published=last_five(99.304, 0.0235, 98.46),
        ),
        "L1+L2+GBN": Entry(
            "as run",
            replace(A1_BN, **A1_GHOST | L1 | L2),
            "batch 256 and a frozen scale, as in GBN",
            published=last_five(99.320, 0.0263, 98.55),
        ),
        "GBN, batch 128": Entry(
            "corrected", replace(A1_BN, **SMALLER_GHOST), "the others' batch size, parts of 32 images, learned scale"
        ),
        "L1+L2+GBN, batch 128": Entry("corrected", replace(A1_BN, **SMALLER_GHOST | L1 | L2), "the same"),
        "BN": Entry("control", A1_BN, "plain batch norm; the original compared with another network"),
        "no norm": Entry("control", replace(A1_BN, norm="none")),
    },
    baseline="BN",
    claims=(
        *(
            Claim(kind, f"{one} beats every other combination", one, ("L1+L2+BN", *ghosts), metric, direction)
            for kind, ghosts in A1_GHOSTS.items()
            for one in ("L1+BN", "L2+BN")
            for metric, direction in (("test_accuracy", "higher"), ("test_loss", "lower"))
        ),
        *(
            Claim(kind, "L1+BN outperforms all", "L1+BN", ("L2+BN", "L1+L2+BN", *ghosts), "test_loss", "lower")
            for kind, ghosts in A1_GHOSTS.items()
        ),
        Claim("as run", "L1 alone and L2 alone give similar results", "L1+BN", ("L2+BN",), "test_accuracy", "same"),
        Claim("as run", "both are worse than either alone", "L1+L2+BN", ("L1+BN", "L2+BN"), "test_accuracy", "lower"),
        Claim("corrected", "L1 with batch norm is no improvement", "L1+BN", ("BN",), "test_accuracy", "not higher"),
        Claim("corrected", "L2 with batch norm is no improvement", "L2+BN", ("BN",), "test_accuracy", "not higher"),
        Claim("as run", "ghost batch norm is worse than the baseline", "GBN", ("BN",), "test_accuracy", "lower"),
        Claim(
            "corrected",
            "ghost batch norm is worse than the baseline",
            "GBN, batch 128",
            ("BN",),
            "test_accuracy",
            "lower",
        ),
    ),
    deviations=(VALIDATION, LAST_FIVE, JITTER),
    mistakes_of=("GBN",),
    mistakes=(26, 13),
)
