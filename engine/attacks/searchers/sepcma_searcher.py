"""Separable CMA-ES, written for what a short search with a cheap model can afford."""

from dataclasses import dataclass
from functools import cache
from math import exp, log, sqrt
from typing import Final

import numpy as np

from engine import validate
from engine.attacks.searchers.base import SEARCHERS
from search_spaces.latent import View

# Smaller generations leave too few parents to learn from.
SMALLEST_GENERATION: Final = 4
# In those of the prior. Below, a latent's single precision ends; above, no generator was trained.
STD_LIMITS: Final = (1e-7, 1e3)


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
        population = 2 * (4 + int(3 * log(dim))) if population is None else population
        validate.count(population=population)
        validate.in_range(0.001, 100, sigma=sigma)
        self.preferred_population = population
        self._sigma = sigma
        self._rng = np.random.default_rng(seed)
        self._distribution = _Distribution.around_zeros(dim, sigma)
        self._steps: list[np.ndarray] = []
        self._losses: list[np.ndarray] = []

    def ask(self, candidates: int) -> np.ndarray:
        now = self._distribution
        steps = self._rng.standard_normal((candidates, len(now.mean)))
        self._steps.append(steps)
        return now.mean + (now.sigma * now.scales) * steps

    def tell(self, points: np.ndarray, losses: np.ndarray) -> None:
        del points  # Kept as drawn: a generation may be told in parts.
        self._losses.append(losses.copy())
        if sum(map(len, self._losses)) < max(self.preferred_population, SMALLEST_GENERATION):
            return
        steps, told = np.concatenate(self._steps), np.concatenate(self._losses)
        self._steps, self._losses = [], []
        ranked = steps[told.argsort(kind="stable")]
        self._distribution = self._distribution.adapted(ranked)
        if not self._distribution.usable:
            self._distribution = _Distribution.around_zeros(len(ranked[0]), self._sigma)


@dataclass(frozen=True)
class _Distribution:
    """A normal distribution with standard deviations ``sigma * scales``, and its evolution paths.

    ``mean``, ``scales``, ``sigma_path`` and ``scales_path`` are ``(dim,)``.
    """

    mean: np.ndarray
    sigma: float
    scales: np.ndarray
    sigma_path: np.ndarray
    scales_path: np.ndarray
    generations: int

    @classmethod
    def around_zeros(cls, dim: int, sigma: float) -> "_Distribution":
        return cls(np.zeros(dim), sigma, np.ones(dim), np.zeros(dim), np.zeros(dim), 0)

    @property
    def usable(self) -> bool:
        low, high = STD_LIMITS
        return bool(
            low <= self.sigma * self.scales.min() and self.sigma * self.scales.max() <= high
        )

    def adapted(self, ranked: np.ndarray) -> "_Distribution":
        """Returns the next distribution.

        Args:
            ranked: What was drawn, in standard deviations ``(population, dim)``, best first.
        """
        rates = _rates(*ranked.shape)
        parents = rates.weights[: rates.parents]
        move = parents @ ranked[: rates.parents]
        sigma_path = (1 - rates.sigma) * self.sigma_path + rates.sigma_push * move
        length = sqrt(sigma_path @ sigma_path)
        # A path stretched by fast growth of sigma says nothing about the scales.
        settled = sqrt(1 - (1 - rates.sigma) ** (2 * (self.generations + 1)))
        stretched = length >= rates.longest * settled
        push = 0.0 if stretched else rates.path_push
        scales_path = (1 - rates.path) * self.scales_path + push * (move * self.scales)

        squared = ranked**2
        # Only a direction's variance may shrink by a bad candidate, not with how far it went.
        lengths = squared[rates.parents :].sum(axis=1)
        weights = rates.weights.copy()
        weights[rates.parents :] *= ranked.shape[1] / np.maximum(lengths, 1e-300)
        lost = rates.one * rates.path * (2 - rates.path) if stretched else 0.0
        kept = 1 - rates.one + lost - rates.many * rates.weights.sum()
        variances = self.scales**2 * (kept + rates.many * (weights @ squared))
        variances += rates.one * scales_path**2
        growth = rates.sigma / rates.damping * (length / rates.expected - 1)
        return _Distribution(
            mean=self.mean + self.sigma * self.scales * move,
            sigma=self.sigma * exp(min(1.0, growth)),
            scales=np.sqrt(variances),
            sigma_path=sigma_path,
            scales_path=scales_path,
            generations=self.generations + 1,
        )


@dataclass(frozen=True)
class _Rates:
    """Weights ``(population,)`` and learning rates for a population and a dimension.

    Attributes:
        weights: Of candidates, best first; those of the parents sum to one, the rest are negative.
        parents: Candidates the mean moves to.
        sigma: Rate of sigma's path, ``sigma_push`` its scale of a move, ``damping`` of sigma.
        path: Rate of the scales' path, ``path_push`` its scale of a move.
        one: Rate of the variances by their path, ``many`` by the candidates.
        expected: Length of a standard normal vector; ``longest``, beyond which a path is stretched.
    """

    weights: np.ndarray
    parents: int
    sigma: float
    sigma_push: float
    damping: float
    path: float
    path_push: float
    one: float
    many: float
    expected: float
    longest: float


@cache
def _rates(population: int, dim: int) -> _Rates:
    """Returns Hansen's defaults, arXiv 1604.00772, table 1; by Ros and Hansen for the variances."""
    raw = log((population + 1) / 2) - np.log(np.arange(1, population + 1))
    parents = population // 2
    best, worst = raw[:parents], raw[parents:]
    effective = best.sum() ** 2 / (best**2).sum()
    effective_worst = worst.sum() ** 2 / (worst**2).sum()

    sigma = (effective + 2) / (dim + effective + 5)
    path = (4 + effective / dim) / (dim + 4 + 2 * effective / dim)
    separable = (dim + 2) / 3  # As many fewer numbers to learn.
    one = min(1.0, separable * 2 / ((dim + 1.3) ** 2 + effective))
    many = separable * 2 * (effective - 1.75 + 1 / effective) / ((dim + 2) ** 2 + effective)
    many = min(1 - one, many)
    # No sum of negative weights may make a variance negative.
    limits = (
        1 + one / many,
        1 + 2 * effective_worst / (effective + 2),
        (1 - one - many) / (dim * many),
    )
    negative = min(limits) * worst / abs(worst.sum())
    expected = sqrt(dim) * (1 - 1 / (4 * dim) + 1 / (21 * dim**2))
    return _Rates(
        weights=np.concatenate([best / best.sum(), negative]),
        parents=parents,
        sigma=sigma,
        sigma_push=sqrt(sigma * (2 - sigma) * effective),
        damping=1 + 2 * max(0.0, sqrt((effective - 1) / (dim + 1)) - 1) + sigma,
        path=path,
        path_push=sqrt(path * (2 - path) * effective),
        one=one,
        many=many,
        expected=expected,
        longest=(1.4 + 2 / (dim + 1)) * expected,
    )
