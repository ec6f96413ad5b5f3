"""Separable CMA-ES, written for what a short search with a cheap model can afford."""

import numpy as np

from engine import validate
from engine.attacks.searchers.base import SEARCHERS, matched_population
from engine.attacks.searchers.separable import SeparableDistribution, SeparableEvolution
from search_spaces.latent import View


@SEARCHERS.register("sepcma")
class SepCmaSearcher:
    """Searches by separable CMA-ES (Ros and Hansen 2008): a mean, a step, a scale a coordinate.

    The better half of a generation draws the mean and the scales to itself, the worse half pushes
    the scales away (active CMA, as in Hansen's tutorial, arXiv 1604.00772). Losses count by their
    order alone. Its ask and tell cost a tenth of pycma's, see docs/decisions/0014.

    Points are drawn from the present distribution, as many as asked for. It is adapted once the
    losses of a whole generation have been told: ``population`` of them, or 4 where that is less.
    All told by then are one generation, so a larger batch is a larger one, and a smaller last
    batch waits. A distribution that has collapsed or exploded starts anew around zeros.

    Args:
        dim: Number of coordinates.
        budget: Candidate evaluations the search will spend; nothing is planned by it.
        seed: Seeds everything drawn.
        population: Candidates per ask; ``2 (4 + 3 ln dim)`` if None, twice the tutorial's default.
        sigma: First standard deviation of every coordinate, 0.001 to 100, in those of the prior.
            Half of it beats the whole, see docs/decisions/0011.
    """

    view: View = "normal"

    def __init__(
        self, *, dim: int, budget: int, seed: int, population: int | None = None, sigma: float = 0.5
    ) -> None:
        del budget  # Plans nothing.
        population = matched_population(dim) if population is None else population
        validate.count(population=population)
        validate.in_range(0.001, 100, sigma=sigma)
        self.preferred_population = population
        self._dim, self._sigma = dim, sigma
        self._rng = np.random.default_rng(seed)
        self._evolution = self._start()

    def ask(self, candidates: int) -> np.ndarray:
        return self._evolution.ask(candidates, self._rng)

    def tell(self, points: np.ndarray, losses: np.ndarray) -> None:
        del points  # Kept as drawn: a generation may be told in parts.
        self._evolution.tell(losses)
        if not self._evolution.distribution.usable:
            self._evolution = self._start()

    def _start(self) -> SeparableEvolution:
        around_zeros = SeparableDistribution.around_zeros(self._dim, self._sigma)
        return SeparableEvolution(around_zeros, self.preferred_population)
