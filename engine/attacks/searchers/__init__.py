"""Latent searchers behind one ask/tell protocol, one file a library."""

from engine import validate
from engine.attacks.searchers.adam_searcher import AdamSearcher
from engine.attacks.searchers.ax_searcher import AxSearcher
from engine.attacks.searchers.base import SEARCHERS, Searcher
from engine.attacks.searchers.cma_searcher import CmaSearcher
from engine.attacks.searchers.gauss_newton_searcher import GaussNewtonSearcher
from engine.attacks.searchers.group_adam_searcher import GroupAdamSearcher
from engine.attacks.searchers.lbfgs_searcher import LbfgsSearcher
from engine.attacks.searchers.listing import ListedSearcher, list_searchers
from engine.attacks.searchers.nevergrad_searcher import NevergradSearcher
from engine.attacks.searchers.optuna_searcher import OptunaSearcher
from engine.attacks.searchers.random_searcher import RandomSearcher
from engine.attacks.searchers.sepcma_searcher import SepCmaSearcher
from engine.attacks.searchers.turbo_searcher import TurboSearcher
from engine.errors import PlanError

__all__ = [
    "SEARCHERS",
    "AdamSearcher",
    "AxSearcher",
    "CmaSearcher",
    "GaussNewtonSearcher",
    "GroupAdamSearcher",
    "LbfgsSearcher",
    "ListedSearcher",
    "NevergradSearcher",
    "OptunaSearcher",
    "RandomSearcher",
    "Searcher",
    "SepCmaSearcher",
    "TurboSearcher",
    "is_white_box",
    "list_searchers",
    "make_searcher",
    "takes_image_shape",
]


def make_searcher(name: str, *, dim: int, budget: int, seed: int, **settings: object) -> Searcher:
    """Builds a searcher from its name, ``family`` or ``family:optimizer``.

    Args:
        name: One of :func:`list_searchers`, or ``nevergrad:`` and any name of Nevergrad's registry.
        dim: Number of latent coordinates.
        budget: Candidate evaluations the search will spend.
        seed: Seeds everything the searcher draws, 0 to 2^63 - 1 (see ``engine/seeding.py``).
        settings: Further arguments of the searcher's family.

    Raises:
        PlanError: For an unknown family or optimizer, a missing package, or an impossible number.
    """
    validate.count(dim=dim, budget=budget)
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise PlanError(f"Expected seed to be a whole number from 0 to 2^63 - 1, got {seed!r}.")
    family, _, optimizer = name.partition(":")
    if optimizer:
        settings["optimizer"] = optimizer
    return SEARCHERS.make(family, dim=dim, budget=budget, seed=seed, **settings)


def takes_image_shape(name: str) -> bool:
    """Tells whether a searcher has a use for the shape of the images whose pixels it searches."""
    return getattr(SEARCHERS.get(name.partition(":")[0]), "takes_image_shape", False)


def is_white_box(name: str) -> bool:
    """Tells whether a searcher differentiates generator and target model."""
    return getattr(SEARCHERS.get(name.partition(":")[0]), "wants", None) == "gradients"
