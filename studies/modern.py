"""Two studies of our own: label smoothing, mixup, averaged weights and others, each alone, on an MLP and on a CNN."""

from dataclasses import replace

from experiments import Experiment
from studies.fashion_mlp import THIRD
from studies.study import Claim, Entry, Study

PAPERS = "A study of our own. The claims are those of the papers in the notes, which used other networks and data."

DROPOUT = replace(THIRD, dropout=0.25)

MODERN = Study(
    name="modern",
    asks="What do label smoothing, mixup, cutout, max-norm, averaged weights, schedules and clipping do to an MLP?",
    experiments={
        "third": Entry("own", THIRD, "the baseline of fashion-mlp"),
        "label smoothing": Entry("own", replace(THIRD, label_smoothing=0.1), "ε of Szegedy et al. 2016"),
        "mixup": Entry("own", replace(THIRD, mixup=0.2), "within the 0.1 to 0.4 of Zhang et al. 2018 for ImageNet"),
        "cutout": Entry(
            "own", replace(THIRD, cutout=14), "half an image's side, as DeVries and Taylor 2017 on CIFAR-10"
        ),
        "max-norm": Entry("own", replace(THIRD, max_norm=3.0), "Srivastava et al. 2014, who advise 3 to 4"),
        "dropout": Entry("own", DROPOUT),
        "dropout, max-norm": Entry("own", replace(DROPOUT, max_norm=3.0), "the pair of Srivastava et al. 2014"),
        "average": Entry("own", replace(THIRD, average=0.999), "over some thousand steps, which are one or two epochs"),
        "cosine": Entry("own", replace(THIRD, lr_scheduler="cosine"), "Loshchilov and Hutter 2017, without restarts"),
        "warm-up": Entry("own", replace(THIRD, warmup=1), "Goyal et al. 2017, who used it for large batches"),
        "clipping": Entry(
            "own", replace(THIRD, clip_norm=1.0), "Pascanu et al. 2013, who used it for recurrent networks"
        ),
    },
    baseline="third",
    seeds=10,
    claims=(
        Claim("own", "label smoothing helps", "label smoothing", ("third",), "test_accuracy", "higher"),
        Claim("own", "mixup helps", "mixup", ("third",), "test_accuracy", "higher"),
        Claim("own", "mixup reduces overfitting", "mixup", ("third",), "gap", "lower"),
        Claim("own", "cutout helps", "cutout", ("third",), "test_accuracy", "higher"),
        Claim("own", "max-norm helps without dropout, too", "max-norm", ("third",), "test_accuracy", "higher"),
        Claim("own", "dropout is better with max-norm", "dropout, max-norm", ("dropout",), "test_accuracy", "higher"),
        Claim(
            "own", "averaged weights are better than the last ones", "average", ("third",), "test_accuracy", "higher"
        ),
        Claim("own", "a learning rate that falls to zero helps", "cosine", ("third",), "test_accuracy", "higher"),
        Claim("own", "small batches need no warm-up", "warm-up", ("third",), "test_accuracy", "same"),
        Claim(
            "own", "a network that is not recurrent needs no clipping", "clipping", ("third",), "test_accuracy", "same"
        ),
    ),
    deviations=(PAPERS,),
)

PLAIN = Experiment(model="cnn3", dropout=0.0)

MODERN_CNN = Study(
    name="modern-cnn",
    asks="What do channel dropout, cutout and label smoothing do to a small CNN on MNIST?",
    experiments={
        "plain": Entry("own", PLAIN, "cnn3 without its dropout"),
        "dropout": Entry("own", replace(PLAIN, dropout=0.1)),
        "channel dropout": Entry("own", replace(PLAIN, channel_dropout=0.1), "Tompson et al. 2015, as much as dropout"),
        "cutout": Entry(
            "own", replace(PLAIN, cutout=14), "half an image's side, as DeVries and Taylor 2017 on CIFAR-10"
        ),
        "label smoothing": Entry("own", replace(PLAIN, label_smoothing=0.1), "ε of Szegedy et al. 2016"),
    },
    baseline="plain",
    claims=(
        Claim("own", "channel dropout helps", "channel dropout", ("plain",), "test_accuracy", "higher"),
        Claim(
            "own", "channels are better to drop than pixels", "channel dropout", ("dropout",), "test_accuracy", "higher"
        ),
        Claim("own", "cutout helps", "cutout", ("plain",), "test_accuracy", "higher"),
        Claim("own", "cutout reduces overfitting", "cutout", ("plain",), "gap", "lower"),
        Claim("own", "label smoothing helps", "label smoothing", ("plain",), "test_accuracy", "higher"),
    ),
    deviations=(PAPERS,),
)
