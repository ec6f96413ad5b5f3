"""CMA-ES of the package cma (pycma) behind the ask/tell protocol."""

from collections.abc import Mapping
from functools import partial
from math import nan
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from engine import validate
from engine.attacks.searchers.base import SEARCHERS, matched_population
from engine.attacks.searchers.packages import needed
from engine.registry import unknown_name
from search_spaces.latent import View

OPTIMIZERS: Final = {
    "diagonal": "Separable CMA-ES: learns a scale for each coordinate.",
    "full": "CMA-ES: learns correlations too.",
}
# Smaller ones pycma does not take, or learns too little from.
SMALLEST_GENERATION: Final = 4
SMALLEST_DIM: Final = 2
# In those of the prior. Below, a latent's single precision ends; above, no generator was trained.
STD_LIMITS: Final = (1e-7, 1e3)


@SEARCHERS.register("cma")
class CmaSearcher:
    """Drives CMA-ES as pycma has it, ``diagonal`` (separable) or ``full``.

    Points are drawn from the present distribution, as many as asked for. It is adapted once the
    losses of a whole generation have been told: ``population`` of them, or 4 where that is less.
    All told by then are one generation, so a larger batch is a larger one, and a smaller last
    batch waits. Losses count by their order alone. pycma's own criteria never end the search; a
    distribution that has collapsed or exploded starts anew around zeros.

    Args:
        dim: Number of coordinates.
        budget: Candidate evaluations the search will spend; nothing is planned by it.
        seed: Seeds everything drawn.
        optimizer: ``diagonal`` learns a scale for each coordinate, ``full`` correlations too.
        population: Candidates per ask; ``2 (4 + 3 ln dim)`` if None, twice pycma's default.
        sigma: First standard deviation of every coordinate, 0.001 to 100, in those of the prior.
            Half of it beats the whole, see docs/decisions/0011.
    """

    view: View = "normal"
    optimizers: Mapping[str, str] = MappingProxyType(OPTIMIZERS)

    def __init__(
        self,
        *,
        dim: int,
        budget: int,
        seed: int,
        optimizer: str = "diagonal",
        population: int | None = None,
        sigma: float = 0.5,
    ) -> None:
        del budget  # Plans nothing.
        population = matched_population(dim) if population is None else population
        validate.count(population=population)
        if optimizer not in OPTIMIZERS:
            raise unknown_name("CMA optimizer", optimizer, OPTIMIZERS)
        validate.in_range(0.001, 100, sigma=sigma)
        self.preferred_population = population
        self._dim = dim
        self._generation = max(population, SMALLEST_GENERATION)
        rng = np.random.default_rng(seed)
        self._start = partial(_build, optimizer, dim, sigma, self._generation, rng)
        self._strategy = self._start()
        self._points: list[np.ndarray] = []
        self._losses: list[float] = []

    def ask(self, candidates: int) -> np.ndarray:
        asked = self._strategy.ask(candidates)
        self._points.extend(asked)
        return np.stack(asked)[:, : self._dim]

    def tell(self, points: np.ndarray, losses: np.ndarray) -> None:
        del points  # Kept as asked: a generation may be told in parts.
        self._losses.extend(losses.tolist())
        if len(self._losses) < self._generation:
            return
        self._strategy.tell(self._points, self._losses)
        self._points, self._losses = [], []
        low, high = STD_LIMITS
        stds = self._strategy.stds
        if not (low <= stds.min() and stds.max() <= high):
            self._strategy = self._start()


def _build(name: str, dim: int, sigma: float, generation: int, rng: np.random.Generator) -> Any:
    """Returns a silent strategy around zeros whose only source of randomness is ``rng``."""
    with needed("cma", searcher="cma"):
        import cma  # Deferred: only this searcher needs it.
    options = {
        "popsize": generation,
        "CMA_diagonal": name == "diagonal",
        "CMA_mirrors": 0,
        # From 300 coordinates on pycma's default is another one, which draws from numpy's global
        # random state and fails where a generation is asked for in parts.
        "AdaptSigma": cma.sigma_adaptation.CMAAdaptSigmaCSA,
        "randn": lambda *shape: rng.standard_normal(shape),
        "seed": nan,  # Leaves numpy's global random state alone.
        "verbose": -9,
    }
    return cma.CMAEvolutionStrategy(np.zeros(max(dim, SMALLEST_DIM)), sigma, options)
