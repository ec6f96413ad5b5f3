"""A separable normal distribution adapted as CMA-ES does."""

from dataclasses import dataclass
from functools import cache
from math import exp, log, sqrt
from typing import Final

import numpy as np

# Smaller generations leave too few parents to learn from.
SMALLEST_GENERATION: Final = 4
# In those of the prior. Below, a latent's single precision ends; above, no generator was trained.
STD_LIMITS: Final = (1e-7, 1e3)


class SeparableEvolution:
    """Draws from a separable distribution, and adapts it whenever a generation has been told.

    All told by then are one generation, so a larger batch is a larger one, and a smaller last
    batch waits.

    Args:
        distribution: To begin with.
        population: Candidates of a generation, of which there are at least 4.
    """

    def __init__(self, distribution: "SeparableDistribution", population: int) -> None:
        self.distribution = distribution
        self._generation = max(population, SMALLEST_GENERATION)
        self._steps: list[np.ndarray] = []
        self._losses: list[np.ndarray] = []

    def ask(self, candidates: int, rng: np.random.Generator) -> np.ndarray:
        """Returns points ``(candidates, dim)``."""
        now = self.distribution
        steps = rng.standard_normal((candidates, len(now.mean)))
        self._steps.append(steps)
        return now.mean + (now.sigma * now.scales) * steps

    def tell(self, losses: np.ndarray) -> None:
        """Takes the losses of the points asked last."""
        self._losses.append(losses.copy())
        if sum(map(len, self._losses)) < self._generation:
            return
        steps, told = np.concatenate(self._steps), np.concatenate(self._losses)
        self._steps, self._losses = [], []
        self.distribution = self.distribution.adapted(steps[told.argsort(kind="stable")])


@dataclass(frozen=True)
class SeparableDistribution:
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
    def around_zeros(
        cls, dim: int, sigma: float, scales: np.ndarray | None = None
    ) -> "SeparableDistribution":
        """Returns one with nothing learnt yet; ``scales`` are ones if None."""
        scales = np.ones(dim) if scales is None else scales
        return cls(np.zeros(dim), sigma, scales, np.zeros(dim), np.zeros(dim), 0)

    @property
    def usable(self) -> bool:
        low, high = STD_LIMITS
        return bool(
            low <= self.sigma * self.scales.min() and self.sigma * self.scales.max() <= high
        )

    def adapted(self, ranked: np.ndarray) -> "SeparableDistribution":
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
        return SeparableDistribution(
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
