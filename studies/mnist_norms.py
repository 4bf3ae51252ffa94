"""An assignment on a small CNN and MNIST: batch normalization with L1, group and layer normalization."""

from dataclasses import replace

from experiments import Experiment
from studies._assignments import JITTER, LAST_FIVE, VALIDATION, last_five
from studies.mnist_l1_l2_ghost import L1
from studies.study import Claim, Entry, Study

B_BN = Experiment(
    model="cnn3",
    standardize=True,
    rotation=7,
    rotation_fill=1,
    brightness=0.4,
    contrast=0.4,
    epochs=20,
    batch_size=64,
    optimizer="sgd",
    lr=0.015,
    lr_scheduler="one_cycle",
)

MNIST_NORMS = Study(
    name="mnist-norms",
    asks="Which of batch normalization with L1, group and layer normalization suits a small CNN on MNIST best?",
    experiments={
        "BN+L1": Entry(
            "as run",
            replace(B_BN, l1_reduction="mean", **L1),
            "L1 as the sum of the tensors' means: practically zero",
            published=last_five(99.454, 0.0172, 99.46),
        ),
        "GN": Entry("as run", replace(B_BN, norm="group"), published=last_five(99.534, 0.0146, 99.60)),
        "LN": Entry("as run", replace(B_BN, norm="layer"), published=last_five(99.440, 0.0186, 99.61)),
        "LN, per pixel": Entry(
            "as run",
            replace(B_BN, norm="layer_chw"),
            "layer norm of an earlier notebook: a scale and shift for each channel and pixel, 44,712 parameters",
            published=last_five(99.432, 0.0172, 99.58),
        ),
        "BN+L1, sum": Entry("corrected", replace(B_BN, **L1), "λ·Σ|w|"),
        "GN+L1, sum": Entry("corrected", replace(B_BN, norm="group", **L1), "L1 on every model"),
        "LN+L1, sum": Entry("corrected", replace(B_BN, norm="layer", **L1), "L1 on every model"),
        "BN": Entry("control", B_BN),
        "no norm": Entry("control", replace(B_BN, norm="none")),
    },
    baseline="BN",
    claims=(
        Claim("as run", "group norm gives the best test accuracy", "GN", ("LN", "BN+L1"), "test_accuracy", "higher"),
        Claim("corrected", "group norm gives the best test accuracy", "GN", ("LN", "BN"), "test_accuracy", "higher"),
        Claim("as run", "the added L1 clearly reduces overfitting", "BN+L1", ("GN", "LN"), "gap", "lower"),
        Claim("corrected", "the added L1 clearly reduces overfitting", "BN+L1, sum", ("BN",), "gap", "lower"),
    ),
    deviations=(VALIDATION, LAST_FIVE, JITTER),
    mistakes_of=("BN+L1", "GN", "LN"),
)
