"""L-BFGS asked and told: the optimiser of DLG."""

from collections import deque
from typing import Final

import numpy as np

from engine import validate
from engine.attacks.searchers.base import SEARCHERS, Detail
from search_spaces.latent import View

# Armijo's condition: the share of the decrease that a linear loss would have, from the highest of
# so many losses before. Steps that have to lower every loss stay in the first of the many minima
# that gradients of networks of ReLUs have.
SUFFICIENT: Final = 1e-4
RECENT: Final = 100
# Of a step that did not suffice, the shares that may be tried next.
SHORTER: Final = (0.1, 0.5)
# Steps in a row that do not suffice before the memory is dropped; as many more give the point up.
PATIENCE: Final = 12
# Curvature along a step, relative to its length and the gradient's change, from which it is kept.
CURVED: Final = 1e-10


@SEARCHERS.register("lbfgs")
class LbfgsSearcher:
    """White-box: L-BFGS from several points, with steps shortened until the loss is low enough.

    The optimiser of `DLG <https://arxiv.org/abs/1906.08935>`_ (Zhu et al. 2019), after Nocedal and
    Wright, *Numerical Optimization*, algorithms 7.4 and 3.1, where low enough is below the highest
    of the last 100 losses (Grippo, Lampariello and Lucidi 1986). Each loss with its gradient counts
    as one evaluation, those of steps that were too long included. A point from which no step is
    short enough is drawn anew; the best of all losses is the reconstruction.

    *Differences from DLG*, which takes every step at its full length and fails where one was too
    long.

    Args:
        dim: Number of coordinates.
        budget: Candidate evaluations the search will spend; nothing is planned by it.
        seed: Seeds the first points.
        population: Points that descend side by side.
        memory: Steps remembered of each.
        start_std: Standard deviation of the coordinates of first points.
    """

    view: View = "normal"
    wants: Detail | None = "gradients"

    def __init__(
        self,
        *,
        dim: int,
        budget: int,
        seed: int,
        population: int = 4,
        memory: int = 50,
        start_std: float = 1.0,
    ) -> None:
        del budget  # Plans nothing.
        validate.count(population=population, memory=memory)
        validate.positive(start_std=start_std)
        self.preferred_population = population
        self._rng, self._dim, self._memory = np.random.default_rng(seed), dim, memory
        self._start_std = start_std
        self._descents = [self._new() for _ in range(population)]
        self._next = 0
        self._asked: list[int] = []

    def ask(self, candidates: int) -> np.ndarray:
        population = len(self._descents)
        self._asked = [(self._next + place) % population for place in range(candidates)]
        self._next = (self._next + candidates) % population
        points = [self._descents[place].trial for place in self._asked[:population]]
        # Of a point asked for more than once, each but the first is a new draw, and only shown.
        points += [self._draw() for _ in range(max(0, candidates - population))]
        return np.stack(points)

    def tell_details(self, points: np.ndarray, losses: np.ndarray, details: np.ndarray) -> None:
        del points  # Known: those asked.
        own = self._asked[: len(self._descents)]
        for place, loss, gradient in zip(own, losses, details.astype(np.float64), strict=False):
            if not self._descents[place].step(float(loss), gradient):
                self._descents[place] = self._new()

    def tell(self, points: np.ndarray, losses: np.ndarray) -> None:
        """Draws all points told anew: without gradients this is random search."""
        del points, losses
        for place in set(self._asked):
            self._descents[place] = self._new()

    def _new(self) -> "_Descent":
        return _Descent(self._draw(), self._memory)

    def _draw(self) -> np.ndarray:
        return self._start_std * self._rng.standard_normal(self._dim)


class _Descent:
    """One point on its way.

    Attributes:
        trial: Where the loss is wanted next.

    Args:
        start: Where it begins.
        memory: Steps remembered.
    """

    def __init__(self, start: np.ndarray, memory: int) -> None:
        self.trial = start
        self._memory = memory
        self._point = start
        self._loss = np.inf
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._gradient = self._direction = np.zeros_like(start)
        self._length, self._failures = 1.0, 0
        self._moves: list[np.ndarray] = []
        self._changes: list[np.ndarray] = []

    def step(self, loss: float, gradient: np.ndarray) -> bool:
        """Learns the loss and the gradient at ``trial``; returns whether there is a next one."""
        slope = float(self._gradient @ self._direction)
        if not np.isfinite(gradient).all():
            return self._shorten(SHORTER[0])
        if loss <= max(self._recent, default=np.inf) + SUFFICIENT * self._length * slope:
            self._remember(gradient)
            self._point, self._loss, self._gradient = self.trial, loss, gradient
            self._recent.append(loss)
            self._failures = 0
            return self._head_for(self._newton(), 1.0)
        # The lowest point of the parabola through both losses and the slope.
        rise = loss - self._loss - self._length * slope
        lowest = -self._length * slope / (2 * rise) if rise > 0 else SHORTER[1]
        return self._shorten(min(max(lowest, SHORTER[0]), SHORTER[1]))

    def _shorten(self, factor: float) -> bool:
        self._failures += 1
        if not np.isfinite(self._loss) or self._failures >= 2 * PATIENCE:
            return False
        if self._failures == PATIENCE:
            self._moves, self._changes = [], []
            return self._head_for(-self._gradient, 1.0)
        return self._go(self._length * factor)

    def _head_for(self, direction: np.ndarray, length: float) -> bool:
        if not direction.any():
            return False  # A stationary point.
        self._direction = direction
        # Nothing is known of the scale at first.
        first = 1.0 / max(float(np.abs(direction).sum()), 1e-300)
        return self._go(length if self._moves else min(1.0, first))

    def _go(self, length: float) -> bool:
        self._length = length
        self.trial = self._point + length * self._direction
        return not np.array_equal(self.trial, self._point)

    def _remember(self, gradient: np.ndarray) -> None:
        move, change = self.trial - self._point, gradient - self._gradient
        if move @ change > CURVED * np.linalg.norm(move) * np.linalg.norm(change):
            self._moves = [*self._moves, move][-self._memory :]
            self._changes = [*self._changes, change][-self._memory :]

    def _newton(self) -> np.ndarray:
        """Returns minus the gradient times the inverse Hessian as the memory has it."""
        direction = -self._gradient
        pairs = list(zip(self._moves, self._changes, strict=True))
        shares = []
        for move, change in reversed(pairs):
            share = (move @ direction) / (move @ change)
            shares.append(share)
            direction = direction - share * change
        if pairs:
            move, change = pairs[-1]
            direction = direction * (move @ change) / (change @ change)
        for (move, change), share in zip(pairs, reversed(shares), strict=True):
            direction = direction + (share - (change @ direction) / (move @ change)) * move
        return direction
