"""An assignment on MLPs and Fashion-MNIST: width, depth, dropout, early stopping, batch norm, L1 and L2."""

from dataclasses import replace

from experiments import Experiment
from studies._assignments import accuracies
from studies.study import Claim, Entry, Study

THIRD = Experiment(model="mlp3")

FASHION_MLP = Study(
    name="fashion-mlp",
    asks="What do width and depth, dropout, early stopping, batch normalization, L1 and L2 do to an MLP?",
    experiments={
        "simple": Entry("as run", Experiment(model="mlp1"), published=accuracies(91.69, 88.02)),
        "second": Entry("as run", Experiment(model="mlp2"), published=accuracies(92, 87.21)),
        "third": Entry("as run", THIRD, published=accuracies(92.20, 88)),
        "dropout": Entry("as run", replace(THIRD, dropout=0.25), published=accuracies(91.55, 87.62)),
        "early stopping": Entry(
            "as run",
            replace(THIRD, epochs=20, patience=3, restore="last"),
            "the low accuracies suggest that the last epoch's weights were kept",
            published=accuracies(90.52, 86.56) | dict(epochs=11),
        ),
        "batch norm": Entry(
            "as run", replace(THIRD, norm="batch", norm_position="after"), published=accuracies(93, 88.46)
        ),
        "L1": Entry("as run", replace(THIRD, l1=0.001), published=accuracies(83.73, 82.43)),
        "L2": Entry(
            "as run",
            replace(THIRD, l2=0.001, l2_form="norm"),
            "the sum of the tensors' plain norms, the only form that fits the published accuracies",
            published=accuracies(91.66, 87.73),
        ),
        "weight decay": Entry("as run", replace(THIRD, weight_decay=0.001), published=accuracies(90, 86.86)),
        "early stopping, best": Entry("corrected", replace(THIRD, epochs=20, patience=3), "the best epoch's weights"),
        "L1, proximal": Entry("corrected", replace(THIRD, l1=0.001, l1_mode="proximal"), "weights that are exactly 0"),
        "L2, squared": Entry("corrected", replace(THIRD, l2=0.001), "λ·Σw², as the formulas of the write-up have it"),
        "weight decay, doubled": Entry("corrected", replace(THIRD, weight_decay=0.002), "the same as L2, squared"),
    },
    baseline="third",
    seeds=10,
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
