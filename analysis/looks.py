"""Planned looks: the numbers of seeds at which a verdict may be taken, and the error that each look spends.

    plan_looks(5)[1]        # Look(number=1, planned=5): 10 seeds, judged at 1.5 %

Whoever judges after every few seeds, always at 5 %, and stops at the first significant difference, errs far more often
than in 5 % of cases: looks at 5, 10, 20 and 40 seeds find a difference where there is none in 15 % of comparisons.
So a study plans its number of seeds. The first look is at this number, the others are at its double, its fourfold and
its eightfold, and look k spends 0.03·2⁻ᵏ of the error. Added up that is 5.6 %; simulated, it is 4.9 % of comparisons
and at worst 5.1 % of studies, because the looks share seeds (`docs/simulate_looks.py`). A neighbour is AdaStop
(Mathieu et al. 2023, arXiv 2306.10882), which permutes runs.
"""

from dataclasses import dataclass

LOOKS = 4  # from the planned number of seeds to its eightfold
FIRST_LEVEL = 0.03  # the error that the first look may spend; each later look may spend half of the one before it


@dataclass(frozen=True)
class Look:
    """A planned look: its number, from 0, and the number of seeds that was planned for the first look."""

    number: int
    planned: int

    @property
    def seeds(self) -> int:
        """The number of seeds that the look uses."""
        return self.planned * 2**self.number

    @property
    def level(self) -> float:
        """The probability of an error that the look may spend."""
        return FIRST_LEVEL / 2**self.number

    def __str__(self) -> str:
        return f"look {self.number + 1} ({self.seeds} seeds)"


def plan_looks(planned: int) -> list[Look]:
    """List all looks of a study that plans this number of seeds."""
    return [Look(number, planned) for number in range(LOOKS)]
