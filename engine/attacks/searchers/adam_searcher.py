"""Adam through the generator: the gradient-based competitor, with more access than a server has."""

from typing import Final

import numpy as np

from engine import validate
from engine.attacks.searchers.base import SEARCHERS, Detail
from search_spaces.latent import View

# Kingma and Ba, arXiv 1412.6980.
BETAS: Final = (0.9, 0.999)
EPSILON: Final = 1e-8


@SEARCHERS.register("adam")
class AdamSearcher:
    """White-box: descends by Adam along gradients through generator and target model.

    The competitor in table 2 of `Li et al. (2022) <https://arxiv.org/abs/2203.15696>`_. Several
    latents descend side by side, drawn from the prior; the best of all their losses is the
    reconstruction. A candidate whose loss was not finite is drawn anew. Each loss with its
    gradient counts as one evaluation, though it takes several times as long.

    Args:
        dim: Number of coordinates.
        budget: Candidate evaluations the search will spend; nothing is planned by it.
        seed: Seeds the first latents.
        population: Latents that descend side by side.
        learning_rate: Of Adam, in standard deviations of the prior.
    """

    view: View = "normal"
    wants: Detail | None = "gradients"

    def __init__(
        self, *, dim: int, budget: int, seed: int, population: int = 8, learning_rate: float = 0.1
    ) -> None:
        del budget  # Plans nothing.
        validate.count(population=population)
        validate.positive(learning_rate=learning_rate)
        self.preferred_population = population
        self._learning_rate = learning_rate
        self._rng = np.random.default_rng(seed)
        self._points = self._rng.standard_normal((population, dim))
        self._mean, self._square = np.zeros((population, dim)), np.zeros((population, dim))
        self._steps = np.zeros(population)
        self._next = 0
        self._asked = np.empty(0, dtype=int)

    def ask(self, candidates: int) -> np.ndarray:
        population = len(self._points)
        self._asked = (self._next + np.arange(candidates)) % population
        self._next = (self._next + candidates) % population
        points = self._points[self._asked]
        # Of a latent asked for more than once, each but the first is a new draw, and only shown.
        again = np.arange(candidates) >= population
        points[again] = self._rng.standard_normal((again.sum(), points.shape[1]))
        return points

    def tell_details(self, points: np.ndarray, losses: np.ndarray, details: np.ndarray) -> None:
        del points, losses  # A step follows from its gradient alone.
        own = self._asked[: len(self._points)]
        gradients = details[: len(own)].astype(np.float64)
        lost = ~np.isfinite(gradients).all(axis=1)
        self._step(own[~lost], gradients[~lost])
        self._renew(own[lost])

    def tell(self, points: np.ndarray, losses: np.ndarray) -> None:
        """Draws all points told anew: without gradients this is random search."""
        del points, losses
        self._renew(np.unique(self._asked))

    def _step(self, own: np.ndarray, gradients: np.ndarray) -> None:
        decay, decay_square = BETAS
        self._steps[own] += 1
        self._mean[own] = decay * self._mean[own] + (1 - decay) * gradients
        square = decay_square * self._square[own] + (1 - decay_square) * gradients**2
        self._square[own] = square
        steps = self._steps[own][:, None]
        mean = self._mean[own] / (1 - decay**steps)
        scale = np.sqrt(square / (1 - decay_square**steps)) + EPSILON
        self._points[own] -= self._learning_rate * mean / scale

    def _renew(self, own: np.ndarray) -> None:
        self._points[own] = self._rng.standard_normal((len(own), self._points.shape[1]))
        self._mean[own] = self._square[own] = 0.0
        self._steps[own] = 0
