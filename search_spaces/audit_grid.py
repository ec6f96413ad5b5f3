"""The audit grid: the outer space, every combination of target, defense, attack, searcher, seed."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any, Final, NamedTuple

# The axes that a control does not depend on: along each it runs at the first value alone.
INDEPENDENT: Final[Mapping[str, frozenset[str]]] = {
    "prior_only": frozenset({"searcher"}),
    "random_best": frozenset({"searcher"}),
    "oracle": frozenset({"defense", "searcher"}),
}


class GridPoint(NamedTuple):
    """One trial of an audit.

    Attributes:
        target: Index of the client whose private images are to be rebuilt.
        defense: Index of the defense in the plan; 0 for controls that depend on none.
        attack: Name of the attack or control.
        searcher: Index of the searcher in the plan; 0 for controls that depend on none.
        seed: Root of the trial's random streams.
    """

    target: int
    defense: int
    attack: str
    searcher: int
    seed: int


def audit_grid(
    *, targets: int, defenses: int, attacks: Sequence[str], searchers: int, seeds: Sequence[int]
) -> list[GridPoint]:
    """Returns the points of an audit in the order they run.

    Target by target, so that an interrupted audit has whole targets.
    """
    axes = audit_axes(
        targets=range(targets),
        defenses=range(defenses),
        attacks=attacks,
        searchers=range(searchers),
        seeds=seeds,
    )
    points = [GridPoint(**point) for point in grid_points(axes)]
    return [
        point
        for point in points
        if all(getattr(point, axis) == 0 for axis in INDEPENDENT.get(point.attack, ()))
    ]


def audit_axes(
    *,
    targets: Iterable[int],
    defenses: Iterable[Any],
    attacks: Iterable[str] = (),
    searchers: Iterable[Any] = (),
    seeds: Iterable[int] = (),
) -> dict[str, list[Any]]:
    """Returns the axes of an audit with their values, those left empty left out.

    Args:
        targets: Indices of clients.
        defenses: What tells defenses apart: their indices, or mappings from :func:`strengths`.
        attacks: Names of attacks and controls.
        searchers: What tells searchers apart: their indices, or names as in a plan.
        seeds: Roots of the trials' random streams.
    """
    axes = {
        "target": list(targets),
        "defense": list(defenses),
        "attack": list(attacks),
        "searcher": list(searchers),
        "seed": list(seeds),
    }
    return {name: values for name, values in axes.items() if values}


def strengths(name: str, **settings: Sequence[object]) -> list[dict[str, Any]]:
    """Returns a defense at every combination of its settings, as a plan would list it.

    ``strengths("clipping", max_norm=[1, 4])`` is ``[{name: clipping, max_norm: 1}, ...]``.
    """
    return [{"name": name, **point} for point in grid_points(settings)]


def grid_points(axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Returns every combination of the axes' values by axis, the last axis changing fastest."""
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
