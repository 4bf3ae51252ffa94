"""An assignment on a small residual network and CIFAR-10: batch, layer and group normalization."""

from dataclasses import replace

from experiments import Experiment
from studies._assignments import FULL_VALIDATION, LAST_FIVE, last_five
from studies.study import Claim, Entry, Study

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
    name="cifar-norms",
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
