"""The audit grid: the outer space, every combination of target, defense, attack and seed."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, Final, NamedTuple

# The controls that run once beside all attacks; then that which depends on no defense either.
COMMON: Final = ("prior_only", "random_best", "oracle")
INDEPENDENT: Final = "oracle"


class GridPoint(NamedTuple):
    """One trial of an audit.

    Attributes:
        target: Index of the client whose private images are to be rebuilt.
        defense: Index of the defense in the plan; 0 for the control that depends on none.
        control: Name of a control; empty for an attack.
        attack: Index of the attack, or of the one a control belongs to; 0 for those that depend on
            none.
        seed: Root of the trial's random streams.
    """

    target: int
    defense: int
    control: str
    attack: int
    seed: int


def audit_grid(
    *, targets: int, defenses: int, attacks: int, controls: Sequence[str], seeds: Sequence[int]
) -> list[GridPoint]:
    """Returns the points of an audit in the order they run.

    Target by target, so that an interrupted audit has whole targets; of a target those of one
    attack after the other, as searches of one kind are best evaluated together.

    Args:
        targets: Number of clients.
        defenses: Number of defenses.
        attacks: Number of attacks: of each kind one for each searcher.
        controls: Names of controls.
        seeds: Roots of the trials' random streams.
    """
    axes = {
        "target": range(targets),
        "control": ["", *controls],
        "attack": range(attacks),
        "defense": range(defenses),
        "seed": seeds,
    }
    points = [GridPoint(**point) for point in grid_points(axes)]
    return [point for point in points if not _is_repeated(point)]


def _is_repeated(point: GridPoint) -> bool:
    """Whether a control stands at another point already."""
    if point.control == INDEPENDENT and point.defense:
        return True
    return point.control in COMMON and point.attack > 0


def grid_points(axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Returns every combination of the axes' values by axis, the last axis changing fastest."""
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
