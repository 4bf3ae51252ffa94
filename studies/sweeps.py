"""Two studies of our own, which each sweep one setting: λ of L1, and the size of ghost batches."""

from dataclasses import replace

from studies.fashion_mlp import THIRD
from studies.mnist_l1_l2_ghost import A1_BN
from studies.study import Claim, Entry, Study

LAMBDAS = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3)

L1_PATH = Study(
    name="l1-path",
    asks="How do sparsity and accuracy depend on λ, and on the way L1 is minimized?",
    experiments={
        "no L1": Entry("own", THIRD),
        **{
            f"{mode} {l1:g}": Entry("own", replace(THIRD, l1=l1, l1_mode=mode))
            for mode in ("subgradient", "proximal")
            for l1 in LAMBDAS
        },
    },
    baseline="no L1",
    seeds=10,
    claims=tuple(
        Claim(
            "own",
            f"at λ {l1:g} the proximal step makes more weights exactly zero",
            f"proximal {l1:g}",
            (f"subgradient {l1:g}",),
            "zeros",
            "higher",
        )
        for l1 in LAMBDAS
    ),
    sweep={f"{mode} {l1:g}": (mode, l1) for mode in ("subgradient", "proximal") for l1 in LAMBDAS},
    sweep_over="λ of L1",
    deviations=("A study of our own.",),
)

GHOST_SIZES = (2, 4, 8, 16, 32, 64)

GHOST_SIZE = Study(
    name="ghost-size",
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
