"""Adam along the gradients of losses, for whoever may differentiate what makes them."""

from math import prod
from typing import Final

import numpy as np

from engine import validate
from engine.attacks.searchers.base import SEARCHERS, Detail
from engine.attacks.searchers.schedules import SCHEDULES
from search_spaces.latent import View

# Kingma and Ba, arXiv 1412.6980.
BETAS: Final = (0.9, 0.999)
EPSILON: Final = 1e-8


@SEARCHERS.register("adam")
class AdamSearcher:
    """White-box: descends by Adam along gradients through generator and target model.

    The competitor in table 2 of `Li et al. (2022) <https://arxiv.org/abs/2203.15696>`_; on pixels
    instead of latents, with signs of gradients, falling steps and a box, the descent of
    `Geiping et al. (2020) <https://arxiv.org/abs/2003.14053>`_. Several points descend side by
    side, drawn from N(0, I); the best of all their losses is the reconstruction. A candidate whose
    loss was not finite is drawn anew. Each loss with its gradient counts as one evaluation, though
    it takes several times as long.

    Args:
        dim: Number of coordinates.
        budget: Candidate evaluations the search will spend; step sizes are planned by it.
        seed: Seeds the first points.
        population: Points that descend side by side.
        learning_rate: Of Adam, in standard deviations of the first points.
        schedule: How it changes along the steps: ``constant``, ``stepwise`` or ``cosine``.
        signed: Whether Adam is given the signs of gradients alone.
        box: Largest absolute value of a coordinate, kept after every step; None for no bound.
        images: ``(B, ch, H, W)`` of the images whose pixels the first coordinates are: the box is
            theirs alone. None where all coordinates are alike.
    """

    takes_images = True
    view: View = "normal"
    wants: Detail | None = "gradients"

    def __init__(
        self,
        *,
        dim: int,
        budget: int,
        seed: int,
        population: int = 8,
        learning_rate: float = 0.1,
        schedule: str = "constant",
        signed: bool = False,
        box: float | None = None,
        images: tuple[int, int, int, int] | None = None,
    ) -> None:
        validate.count(population=population)
        validate.positive(learning_rate=learning_rate)
        validate.choice(tuple(SCHEDULES), schedule=schedule)
        if box is not None:
            validate.positive(box=box)
        self.preferred_population = population
        self._learning_rate, self._schedule = learning_rate, SCHEDULES[schedule]
        self._signed = signed
        self._box = np.full(dim, np.inf)
        self._box[: None if images is None else prod(images)] = np.inf if box is None else box
        self._planned = max(1, budget // population)
        self._rng = np.random.default_rng(seed)
        self._points = self._draw((population, dim))
        self._mean, self._square = np.zeros((population, dim)), np.zeros((population, dim))
        self._steps = np.zeros(population)
        self._next = 0
        self._asked = np.empty(0, dtype=int)

    def ask(self, candidates: int) -> np.ndarray:
        population = len(self._points)
        self._asked = (self._next + np.arange(candidates)) % population
        self._next = (self._next + candidates) % population
        points = self._points[self._asked]
        # Of a point asked for more than once, each but the first is a new draw, and only shown.
        again = np.arange(candidates) >= population
        points[again] = self._draw((again.sum(), points.shape[1]))
        return points

    def tell_details(self, points: np.ndarray, losses: np.ndarray, details: np.ndarray) -> None:
        del points, losses  # A step follows from its gradient alone.
        own = self._asked[: len(self._points)]
        gradients = details[: len(own)].astype(np.float64)
        lost = ~np.isfinite(gradients).all(axis=1)
        self._step(own[~lost], self._pulled(own[~lost], gradients[~lost]))
        self._renew(own[lost])

    def tell(self, points: np.ndarray, losses: np.ndarray) -> None:
        """Draws all points told anew: without gradients this is random search."""
        del points, losses
        self._renew(np.unique(self._asked))

    def _pulled(self, own: np.ndarray, gradients: np.ndarray) -> np.ndarray:
        """Returns what points descend along, given the gradients of their losses."""
        del own
        return np.sign(gradients) if self._signed else gradients

    def _step(self, own: np.ndarray, gradients: np.ndarray) -> None:
        decay, decay_square = BETAS
        rates = self._rates(own)
        self._steps[own] += 1
        self._mean[own] = decay * self._mean[own] + (1 - decay) * gradients
        square = decay_square * self._square[own] + (1 - decay_square) * gradients**2
        self._square[own] = square
        steps = self._steps[own][:, None]
        mean = self._mean[own] / (1 - decay**steps)
        scale = np.sqrt(square / (1 - decay_square**steps)) + EPSILON
        moved = self._points[own] - self._learning_rate * rates * mean / scale
        self._points[own] = moved.clip(-self._box, self._box)

    def _rates(self, own: np.ndarray) -> np.ndarray:
        """Returns the factors of the step size of points, ``(n, 1)``."""
        factors = [self._schedule(done / self._planned) for done in self._steps[own]]
        return np.reshape(factors, (-1, 1))

    def _renew(self, own: np.ndarray) -> None:
        self._points[own] = self._draw((len(own), self._points.shape[1]))
        self._mean[own] = self._square[own] = 0.0
        self._steps[own] = 0

    def _draw(self, shape: tuple[int, ...]) -> np.ndarray:
        return self._rng.standard_normal(shape).clip(-self._box, self._box)
