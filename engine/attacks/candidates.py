"""Candidates proposed and evaluated one by one, outside the search loop: by Ray Tune, say."""

from typing import Final

import numpy as np

from engine.attacks.settings import AttackSettings
from engine.errors import PlanError
from search_spaces.latent import LatentSpace, View

# Searchers that Tune has an algorithm for, or that ours for Tune drives.
FAMILIES: Final = ("random", "optuna", "nevergrad", "ax")
# Settings of searchers that such an algorithm has a place for.
KNOWN_SETTINGS: Final = frozenset({"population"})
# Nevergrad's CMA-ES asks for another package below.
SMALLEST_DIM: Final = 2


class RecordedSearcher:
    """Proposes points that were proposed before, in their order.

    Args:
        points: ``(candidates, dim)`` of the unit view.
    """

    view: View = "unit"
    preferred_population = 1

    def __init__(self, points: np.ndarray) -> None:
        self._points = points
        self._asked = 0

    def ask(self, candidates: int) -> np.ndarray:
        start, self._asked = self._asked, self._asked + candidates
        return self._points[start : self._asked].copy()

    def tell(self, points: np.ndarray, losses: np.ndarray) -> None:
        del points, losses  # All is proposed.


def check_candidates(settings: AttackSettings, space: LatentSpace) -> None:
    """Raises a PlanError unless Tune can propose the candidates of such an attack."""
    family = settings.searcher.partition(":")[0]
    if family not in FAMILIES:
        raise PlanError(
            "Expected, with compute.fan_out: candidates, a searcher that Ray Tune can propose by, "
            f"one of: random, optuna:<Sampler>, nevergrad:<Name>, ax:<Strategy>, "
            f"got {settings.searcher!r}. Use one of those, or fan_out: searches."
        )
    others = sorted(set(settings.searcher_settings) - KNOWN_SETTINGS)
    if others:
        raise PlanError(
            "Expected, with compute.fan_out: candidates, no searcher_settings but population, "
            f"got {', '.join(others)}. Leave them out, or use fan_out: searches."
        )
    if settings.restarts > 1:
        raise PlanError(
            "Expected, with compute.fan_out: candidates, one search of each update, got "
            f"restarts: {settings.restarts}. Leave them out, or use fan_out: searches."
        )
    if settings.max_seconds is not None:
        raise PlanError(
            "Expected no max_seconds with compute.fan_out: candidates, got "
            f"{settings.max_seconds:g}. Leave it out, or use fan_out: searches."
        )
    if "unit" not in space.views:
        raise PlanError(
            "Expected a bounded space with compute.fan_out: candidates, got "
            f"space={settings.space!r}. Use space: gaussian."
        )
    if family == "nevergrad" and space.dim < SMALLEST_DIM:
        raise PlanError(
            f"Expected at least {SMALLEST_DIM} coordinates for Nevergrad's optimizers with "
            f"compute.fan_out: candidates, got {space.dim}. Search more directions."
        )
