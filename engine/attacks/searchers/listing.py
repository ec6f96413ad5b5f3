"""What there is to search with: every searcher a plan may name, without importing its library."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import engine
from engine.attacks.searchers import packages
from engine.attacks.searchers.base import SEARCHERS

# What a family needs; families that are not here are our own. An optimizer may need more.
NEEDS: Final[Mapping[str, tuple[str, ...]]] = {
    "ax": ("ax-platform",),
    "cma": ("cma",),
    "nevergrad": ("nevergrad",),
    "optuna": ("optuna",),
    "optuna:CmaEs": ("optuna", "cmaes"),
    "optuna:SepCmaEs": ("optuna", "cmaes"),
    "turbo": ("botorch",),
}


@dataclass(frozen=True)
class ListedSearcher:
    """A searcher as a plan names it.

    Attributes:
        name: ``family`` or ``family:optimizer``.
        family: What the searcher is registered as.
        version: Installed version of its library, leaktune's for our own, None if there is none.
        available: Whether all it needs is installed, in versions known to work.
        summary: What it does, in one line.
    """

    name: str
    family: str
    version: str | None
    available: bool
    summary: str


def list_searchers() -> tuple[ListedSearcher, ...]:
    """Returns every searcher there is, sorted by name.

    ``nevergrad:`` takes any name of Nevergrad's registry; only those tested here are listed.
    """
    listed = []
    for family, summary in SEARCHERS.summaries().items():
        optimizers = getattr(SEARCHERS.get(family), "optimizers", {})
        named = {f"{family}:{name}": text for name, text in optimizers.items()}
        listed += [_row(name, family, text) for name, text in (named or {family: summary}).items()]
    return tuple(sorted(listed, key=lambda row: row.name))


def _row(name: str, family: str, summary: str) -> ListedSearcher:
    needs = NEEDS.get(name, NEEDS.get(family, ()))
    return ListedSearcher(
        name=name,
        family=family,
        version=packages.version(needs[0]) if needs else engine.__version__,
        available=all(packages.problem(package) is None for package in needs),
        summary=summary,
    )
