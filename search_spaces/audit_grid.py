"""The audit grid: the outer space, every combination of defense, attack and target once."""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple


class GridPoint(NamedTuple):
    """One trial of an audit.

    Attributes:
        defense: Index of the defense in the plan; 0 for the oracle, which depends on none.
        attack: Name of the attack or control.
        target: Index of the client whose private images are to be rebuilt.
    """

    defense: int
    attack: str
    target: int


def audit_grid(defenses: int, attacks: Sequence[str], targets: int) -> list[GridPoint]:
    """Returns the points of an audit in the order they run.

    Target by target, so that an interrupted audit has whole targets; the oracle once a target.
    """
    return [
        GridPoint(defense, attack, target)
        for target, defense, attack in product(range(targets), range(defenses), attacks)
        if attack != "oracle" or defense == 0
    ]
