"""An assignment on MNIST and a CNN with a little dropout: L1, L2 and ghost batch normalization."""

from dataclasses import replace

from experiments import Experiment
from studies._assignments import JITTER, LAST_FIVE, VALIDATION, last_five
from studies.mnist_l1_l2_ghost import FAMILY_A, L1, L2
from studies.study import Claim, Entry, Study

A2_BN = Experiment(
    model="cnn2",
    **FAMILY_A,
    rotation=7,
    rotation_fill=1,
    affine_degrees=20,
    lr=0.1,
    lr_step_size=5,
    lr_gamma=0.5,
)

MNIST_DROPOUT_GHOST = Study(
    name="mnist-dropout-ghost",
    asks="The same question for a CNN with a little dropout: L1, L2 and ghost batch normalization on MNIST.",
    experiments={
        "L1+BN": Entry("as run", replace(A2_BN, **L1), published=last_five(99.472, 0.0177, 98.39)),
        "L2+BN": Entry(
            "as run",
            A2_BN,
            "its weight decay was 0: plain batch norm",
            published=last_five(99.398, 0.0189, 98.39),
        ),
        "L1+L2+BN": Entry(
            "as run",
            replace(A2_BN, **L1),
            "its weight decay was 0: L1+BN again",
            published=last_five(99.368, 0.0184, 98.42),
        ),
        "GBN": Entry(
            "as run", replace(A2_BN, norm="ghost", ghost_splits=2), published=last_five(99.356, 0.0213, 98.22)
        ),
        "L1+L2+GBN": Entry(
            "as run",
            replace(A2_BN, norm="ghost", ghost_splits=2, **L1),
            "its weight decay was 0: L1+GBN",
            published=last_five(99.386, 0.0176, 98.32),
        ),
        "L1+BN, 0.001": Entry("corrected", replace(A2_BN, l1=1e-3, penalize="all"), "the λ that the write-up names"),
        "L2+BN, true": Entry("corrected", replace(A2_BN, **L2), "weight decay 0.001; the write-up names none"),
        "L1+L2+BN, true": Entry("corrected", replace(A2_BN, **L1 | L2), "weight decay 0.001"),
        "L1+L2+GBN, true": Entry(
            "corrected", replace(A2_BN, norm="ghost", ghost_splits=2, **L1 | L2), "weight decay 0.001"
        ),
        "BN": Entry("control", A2_BN),
        "no norm": Entry("control", replace(A2_BN, norm="none"), "at a learning rate chosen for batch norm"),
    },
    baseline="BN",
    claims=(
        Claim("as run", "adding L1 does not change the result", "L1+BN", ("BN",), "test_accuracy", "same"),
        Claim("corrected", "adding L1 does not change the result", "L1+BN, 0.001", ("BN",), "test_accuracy", "same"),
        Claim("as run", "L2 reduces accuracy slightly", "L2+BN", ("BN",), "test_accuracy", "lower"),
        Claim("corrected", "L2 reduces accuracy slightly", "L2+BN, true", ("BN",), "test_accuracy", "lower"),
        Claim("as run", "L1 and L2: no improvement, because of L2", "L1+L2+BN", ("L1+BN",), "test_accuracy", "lower"),
        Claim(
            "corrected",
            "L1 and L2: no improvement, because of L2",
            "L1+L2+BN, true",
            ("L1+BN",),
            "test_accuracy",
            "lower",
        ),
        Claim("as run", "ghost batch norm is a little below L1", "GBN", ("L1+BN",), "test_accuracy", "lower"),
        Claim("as run", "ghost batch norm lowers train accuracy", "GBN", ("BN",), "train_accuracy", "lower"),
        Claim("as run", "L1 improves ghost batch norm a little", "L1+L2+GBN", ("GBN",), "test_accuracy", "higher"),
    ),
    deviations=(
        VALIDATION,
        LAST_FIVE,
        JITTER,
        "The write-up names 15 epochs and an L1 of 0.001; its code ran 25 epochs and 0.0001.",
    ),
    mistakes_of=("GBN",),
    mistakes=(25, 5),
)
