"""How the step size of a descent changes along its budget."""

from collections.abc import Callable
from math import cos, pi
from typing import Final

# Inverting Gradients' milestones, at each of which the step size falls to a tenth.
MILESTONES: Final = (3 / 8, 5 / 8, 7 / 8)


def constant(progress: float) -> float:
    """Returns 1."""
    del progress
    return 1.0


def stepwise(progress: float) -> float:
    """Returns 1, a tenth less from each of 3/8, 5/8 and 7/8 of the steps on (Geiping et al.)."""
    return 0.1 ** sum(progress >= milestone for milestone in MILESTONES)


def cosine(progress: float) -> float:
    """Returns half a wave of the cosine from 1 to 0."""
    return 0.5 * (1 + cos(pi * min(progress, 1.0)))


# Share of the steps done, in [0, 1], to the factor of the step size.
SCHEDULES: Final[dict[str, Callable[[float], float]]] = {
    "constant": constant,
    "cosine": cosine,
    "stepwise": stepwise,
}
