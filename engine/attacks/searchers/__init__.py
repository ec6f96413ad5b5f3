"""Latent searchers behind one ask/tell protocol, one file a library."""

from engine.attacks.searchers.base import SEARCHERS, Searcher
from engine.attacks.searchers.cma_searcher import CmaSearcher
from engine.attacks.searchers.nevergrad_searcher import NevergradSearcher
from engine.attacks.searchers.random_searcher import RandomSearcher
from engine.attacks.searchers.sepcma_searcher import SepCmaSearcher

__all__ = [
    "SEARCHERS",
    "CmaSearcher",
    "NevergradSearcher",
    "RandomSearcher",
    "Searcher",
    "SepCmaSearcher",
    "make_searcher",
]


def make_searcher(name: str, *, dim: int, budget: int, seed: int, **settings: object) -> Searcher:
    """Builds a searcher from its name, ``family`` or ``family:optimizer``.

    Args:
        name: ``random``, ``sepcma``, ``cma:diagonal``, ``cma:full``, or e.g.
            ``nevergrad:DiagonalCMA`` with any name of Nevergrad's registry.
        dim: Number of latent coordinates.
        budget: Candidate evaluations the search will spend.
        seed: Seeds everything the searcher draws.
        settings: Further arguments of the searcher's family.

    Raises:
        PlanError: For an unknown family or optimizer, or a missing package.
    """
    family, _, optimizer = name.partition(":")
    if optimizer:
        settings["optimizer"] = optimizer
    return SEARCHERS.make(family, dim=dim, budget=budget, seed=seed, **settings)
