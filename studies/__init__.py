"""The studies as plain data: what each asks, its experiments, what the original published and what it claimed.

STUDIES["mnist-norms"].experiments["GN"].experiment     # an experiments.Experiment

Five are published assignments, redone. An experiment of theirs is *as run* where it repeats the original's code,
mistakes included, *corrected* where code and write-up differ or a comparison was confounded, and a *control* where the
original lacked one. The claims are those of the write-ups in our words, each judged by the rule in `compare.py`.

A study of one's own is one more `Study` in STUDIES.
"""

from dataclasses import replace

from experiments import Experiment
from studies.study import Claim, Entry, Study


def last_five(accuracy, loss, train_accuracy):
    """Published means of test accuracy and loss over the last five epochs, and the last train accuracy, in percent."""
    return dict(test_accuracy=accuracy / 100, test_loss=loss, train_accuracy=train_accuracy / 100)


def accuracies(train, test):
    """Published accuracies in percent."""
    return dict(train_accuracy=train / 100, test_accuracy=test / 100)


VALIDATION = "Of the 60,000 train images 10,000 are the validation set, and 50,000 train the network."
FULL_VALIDATION = "Of the 50,000 train images 10,000 are the validation set, and 40,000 train the network."
LAST_FIVE = "The published figures are means over the last five epochs' test results; ours are the last epoch's."
JITTER = "Saturation and hue jitter, which do nothing to grey images, are left out."


# ---------------------------------------------------------------------------------------------------------------------
# Multi-layer perceptrons on Fashion-MNIST

THIRD = Experiment(model="mlp3")

FASHION_MLP = Study(
    asks="What do width and depth, dropout, early stopping, batch normalization, L1 and L2 do to an MLP?",
    experiments={
        "simple": Entry("as run", Experiment(model="mlp1"), published=accuracies(91.69, 88.02)),
        "second": Entry("as run", Experiment(model="mlp2"), published=accuracies(92, 87.21)),
        "third": Entry("as run", THIRD, published=accuracies(92.20, 88)),
        "dropout": Entry("as run", replace(THIRD, dropout=0.25), published=accuracies(91.55, 87.62)),
        "early stopping": Entry(
            "as run",
            replace(THIRD, epochs=20, patience=3, restore="last"),
            "the low figures suggest that the last epoch's weights were kept",
            published=accuracies(90.52, 86.56) | dict(epochs=11),
        ),
        "batch norm": Entry(
            "as run", replace(THIRD, norm="batch", norm_position="after"), published=accuracies(93, 88.46)
        ),
        "L1": Entry("as run", replace(THIRD, l1=0.001), published=accuracies(83.73, 82.43)),
        "L2": Entry(
            "as run",
            replace(THIRD, l2=0.001, l2_form="norm"),
            "the sum of the tensors' plain norms, the only form that fits the published figures",
            published=accuracies(91.66, 87.73),
        ),
        "weight decay": Entry("as run", replace(THIRD, weight_decay=0.001), published=accuracies(90, 86.86)),
        "early stopping, best": Entry("corrected", replace(THIRD, epochs=20, patience=3), "the best epoch's weights"),
        "L1, proximal": Entry("corrected", replace(THIRD, l1=0.001, l1_mode="proximal"), "weights that are exactly 0"),
        "L2, squared": Entry("corrected", replace(THIRD, l2=0.001), "λ·Σw², as the formulas of the write-up have it"),
        "weight decay, doubled": Entry("corrected", replace(THIRD, weight_decay=0.002), "the same as L2, squared"),
    },
    baseline="third",
    claims=(
        Claim("as run", "doubling the width raises train accuracy", "second", ("simple",), "train_accuracy", "higher"),
        Claim("as run", "doubling the width lowers test accuracy", "second", ("simple",), "test_accuracy", "lower"),
        Claim("as run", "the deeper model gains train accuracy", "third", ("simple",), "train_accuracy", "higher"),
        Claim("as run", "the deeper model gains no test accuracy", "third", ("simple",), "test_accuracy", "not higher"),
        Claim("as run", "dropout has no effect", "dropout", ("third",), "test_accuracy", "same"),
        Claim("as run", "early stopping ends before the limit of 20 epochs", "early stopping", 20, "epochs", "lower"),
        Claim(
            "corrected",
            "early stopping ends before the limit of 20 epochs",
            "early stopping, best",
            20,
            "epochs",
            "lower",
        ),
        Claim("as run", "batch norm improves train accuracy", "batch norm", ("third",), "train_accuracy", "higher"),
        Claim("as run", "batch norm improves test accuracy", "batch norm", ("third",), "test_accuracy", "higher"),
        Claim("as run", "L1 is very good at reducing overfitting", "L1", ("third",), "gap", "lower"),
        Claim("as run", "what that costs: L1 lowers test accuracy", "L1", ("third",), "test_accuracy", "lower"),
        Claim("as run", "L1 regularizes more than L2 at the same λ", "L1", ("L2",), "gap", "lower"),
        Claim("corrected", "L1 regularizes more than L2 at the same λ", "L1", ("L2, squared",), "gap", "lower"),
        Claim("as run", "L1 makes weights exactly zero", "L1", ("third",), "zeros", "higher"),
        Claim("corrected", "L1 makes weights exactly zero", "L1, proximal", ("third",), "zeros", "higher"),
    ),
    deviations=(
        "Unstated in the original and chosen here: a stratified split, ReLU, torch's initialisation, Adam's other "
        "settings, penalties on weights alone, and the third model for everything after the third row.",
    ),
)


# ---------------------------------------------------------------------------------------------------------------------
# L1, L2 and ghost batch normalization on MNIST, two assignments

FAMILY_A = dict(
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
L1, L2 = dict(l1=1e-4, penalize="all"), dict(weight_decay=1e-3, penalize="all")

A1_BN = Experiment(model="cnn1", **FAMILY_A, affine_degrees=10, lr=0.022, lr_step_size=6)
A1_GHOST = dict(norm="ghost", ghost_splits=2, freeze_gamma=True, batch_size=256)
SMALLER_GHOST = dict(norm="ghost", ghost_splits=4)
A1_GHOSTS = {"as run": ("GBN", "L1+L2+GBN"), "corrected": ("GBN, batch 128", "L1+L2+GBN, batch 128")}

MNIST_L1_L2_GHOST = Study(
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
            Claim(kind, f"{one} beats every other combination", one, ("L1+L2+BN", *ghosts), figure, direction)
            for kind, ghosts in A1_GHOSTS.items()
            for one in ("L1+BN", "L2+BN")
            for figure, direction in (("test_accuracy", "higher"), ("test_loss", "lower"))
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

GHOST_SIZES = (2, 4, 8, 16, 32, 64)

GHOST_SIZE = Study(
    asks="How does accuracy depend on the number of images that ghost batch normalization averages over?",
    experiments={
        **{str(size): Entry("own", replace(A1_BN, norm="ghost", ghost_splits=128 // size)) for size in GHOST_SIZES},
        "128": Entry("own", A1_BN, "plain batch norm: the whole batch"),
    },
    baseline="128",
    claims=(
        Claim(
            "own",
            "accuracy has one peak over ghost sizes: both large and very small ones are worse",
            tuple(map(str, GHOST_SIZES[1:])),
            ("128", "2"),
            "test_accuracy",
            "higher",
        ),
    ),
    sweep={str(size): ("ghost batch norm", size) for size in (*GHOST_SIZES, 128)},
    sweep_over="images that are normalized together",
    deviations=("A study of our own, in the setting of mnist-l1-l2-ghost; the claim is one that its write-up quotes.",),
)


# ---------------------------------------------------------------------------------------------------------------------
# Batch, group and layer normalization on MNIST

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


# ---------------------------------------------------------------------------------------------------------------------
# Batch, layer and group normalization on CIFAR-10

C_BATCH = Experiment(
    model="resnet",
    standardize=True,
    crop_padding=4,
    crop_mode="reflect",
    flip=True,
    rotation=15,
    epochs=20,
    batch_size=512,
    optimizer="sgd",
    lr=0.1,
    lr_scheduler="one_cycle",
    weight_decay=1e-4,
    penalize="all",
)
C_PLAIN = replace(C_BATCH, weight_decay=0.0, penalize="weights")

CIFAR_NORMS = Study(
    asks="Which of batch, layer and group normalization suits a small residual network on CIFAR-10 best?",
    experiments={
        "batch": Entry("as run", C_BATCH, published=last_five(72.524, 0.7724, 72.91)),
        "layer": Entry("as run", replace(C_BATCH, norm="layer"), published=last_five(70.888, 0.8273, 70.69)),
        "group": Entry("as run", replace(C_BATCH, norm="group"), published=last_five(70.968, 0.8316, 70.41)),
        "batch+L1": Entry(
            "corrected", replace(C_PLAIN, l1=1e-4), "in the write-up only: L1 of 0.0001, no weight decay"
        ),
        "batch+L2": Entry(
            "corrected", replace(C_PLAIN, weight_decay=5e-4), "in the write-up only: weight decay 0.0005"
        ),
        "batch, no decay": Entry("control", C_PLAIN, "the originals all had an unmentioned weight decay of 0.0001"),
        "no norm": Entry("control", replace(C_BATCH, norm="none"), "at a learning rate chosen for batch norm"),
    },
    baseline="batch",
    claims=(
        Claim("as run", "batch norm outperforms the others", "batch", ("layer", "group"), "test_accuracy", "higher"),
        Claim(
            "as run",
            "batch norm outperforms the others in train accuracy too",
            "batch",
            ("layer", "group"),
            "train_accuracy",
            "higher",
        ),
        Claim(
            "as run", "group norm is a little better than layer norm", "group", ("layer",), "test_accuracy", "higher"
        ),
    ),
    deviations=(FULL_VALIDATION, LAST_FIVE),
    mistakes_of=("batch", "layer", "group"),
)


# ---------------------------------------------------------------------------------------------------------------------
# The path of L1

LAMBDAS = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3)

L1_PATH = Study(
    asks="How do sparsity and accuracy depend on λ, and on the way L1 is minimized?",
    experiments={
        "no L1": Entry("own", THIRD),
        **{
            f"{mode} {weight:g}": Entry("own", replace(THIRD, l1=weight, l1_mode=mode))
            for mode in ("subgradient", "proximal")
            for weight in LAMBDAS
        },
    },
    baseline="no L1",
    claims=tuple(
        Claim(
            "own",
            f"at λ {weight:g} the proximal step makes more weights exactly zero",
            f"proximal {weight:g}",
            (f"subgradient {weight:g}",),
            "zeros",
            "higher",
        )
        for weight in LAMBDAS
    ),
    sweep={f"{mode} {weight:g}": (mode, weight) for mode in ("subgradient", "proximal") for weight in LAMBDAS},
    sweep_over="λ of L1",
    deviations=("A study of our own.",),
)

STUDIES = {
    "fashion-mlp": FASHION_MLP,
    "mnist-l1-l2-ghost": MNIST_L1_L2_GHOST,
    "mnist-dropout-ghost": MNIST_DROPOUT_GHOST,
    "mnist-norms": MNIST_NORMS,
    "cifar-norms": CIFAR_NORMS,
    "ghost-size": GHOST_SIZE,
    "l1-path": L1_PATH,
}


def name_of(table):
    """The study whose records a table holds, whatever settings it was given beside its own; None if it is none's."""
    name = table.partition(",")[0]
    return name if name in STUDIES else None
