"""Gauss-Newton without derivatives: candidates' sketches tell how the update follows the latent."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from engine import validate
from engine.attacks.searchers.base import SEARCHERS, Detail, matched_population
from engine.attacks.searchers.curvature import Model, fit_model
from engine.attacks.searchers.separable import SeparableDistribution, SeparableEvolution
from search_spaces.latent import View

# Damping of the steps tried in a generation, around what was best in the one before.
DAMPINGS: Final = np.array([0.01, 0.1, 1.0, 10.0])
# What the damping becomes after each of them was the best.
NEXT_DAMPINGS: Final = (0.1, 0.3, 1.0, 3.0)
DAMPING_LIMITS: Final = (1e-4, 1e4)
# Smaller generations have no room for samples beside the steps.
SMALLEST_GENERATION: Final = 2 * len(DAMPINGS)
# Candidates that the model of the update is fitted to, in coordinates.
MEMORY: Final = 4
# Evaluations of a descent, in coordinates: by Gauss-Newton, and with what follows.
STEPS: Final = 16
DESCENT: Final = 160
# How much wider the evolution begins than the samples were drawn: it looks for better minima.
WIDENING: Final = 3.0


@SEARCHERS.register("gauss_newton")
class GaussNewtonSearcher:
    """Descends by a model of the whole update, not of its loss alone, then by separable CMA-ES.

    The matching loss is a sum of squares, of which one candidate shows far more than their sum: its
    update. Sketches of the latest candidates' updates are regressed on their points. That gives the
    curvature of the loss (JᵀJ of Gauss-Newton) and, with the exact losses, its gradient, with no
    derivative of the generator. A generation tries Levenberg-Marquardt steps of several dampings
    from the best point, and draws the rest around one of them, from the normal distribution in
    which the model expects as much loss as the step gains. After ``STEPS`` evaluations a
    coordinate, separable CMA-ES goes on from the best point along the axes of the curvature, which
    is better at the end. After ``DESCENT`` evaluations a coordinate a new descent starts
    elsewhere. See docs/decisions/0019.

    Where it is told losses without sketches, it is separable CMA-ES.

    Args:
        dim: Number of coordinates.
        budget: Candidate evaluations the search will spend; nothing is planned by it.
        seed: Seeds everything drawn.
        population: Candidates per ask; ``2 (4 + 3 ln dim)`` if None. Learns from at least 8.
        sigma: Largest standard deviation drawn with, 0.001 to 100, in those of the prior.
    """

    view: View = "normal"

    def __init__(
        self, *, dim: int, budget: int, seed: int, population: int | None = None, sigma: float = 0.7
    ) -> None:
        del budget  # Plans nothing.
        population = matched_population(dim) if population is None else population
        validate.count(population=population)
        validate.in_range(0.001, 100, sigma=sigma)
        self.preferred_population = population
        self._generation = max(population, SMALLEST_GENERATION)
        self._dim, self._sigma = dim, sigma
        self._rng = np.random.default_rng(seed)
        self._phase: _Steps | _Evolution = self._start(np.zeros(dim))
        self._told = 0

    @property
    def wants(self) -> Detail | None:
        return "sketches" if isinstance(self._phase, _Steps) else None

    def ask(self, candidates: int) -> np.ndarray:
        return self._phase.ask(candidates, self._rng)

    def tell_details(self, points: np.ndarray, losses: np.ndarray, details: np.ndarray) -> None:
        assert isinstance(self._phase, _Steps)
        self._told += len(points)
        learnt = self._phase.tell(_Candidates(points.copy(), losses.copy(), details.copy()))
        if learnt and self._told >= STEPS * self._dim:
            self._phase = self._phase.evolution()

    def tell(self, points: np.ndarray, losses: np.ndarray) -> None:
        self._told += len(points)
        if isinstance(self._phase, _Steps):
            self._phase = self._phase.evolution()  # Learns nothing of these.
            return
        self._phase.tell(losses)
        if self._told >= DESCENT * self._dim or not self._phase.usable:
            self._phase = self._start(self._sigma * self._rng.standard_normal(self._dim))
            self._told = 0

    def _start(self, centre: np.ndarray) -> "_Steps":
        return _Steps(centre, self._sigma, self._generation)


class _Candidates(NamedTuple):
    """Points ``(N, dim)``, losses ``(N,)`` and sketches ``(N, m)`` of candidates."""

    points: np.ndarray
    losses: np.ndarray
    sketches: np.ndarray

    def rows(self, which: np.ndarray | slice) -> "_Candidates":
        return _Candidates(self.points[which], self.losses[which], self.sketches[which])

    def usable(self) -> "_Candidates":
        """Returns those whose sketch is finite."""
        return self.rows(np.isfinite(self.sketches).all(axis=1))


def _joined(parts: Sequence[_Candidates]) -> _Candidates:
    return _Candidates(*map(np.concatenate, zip(*parts, strict=True)))


class _Steps:
    """The first phase of a descent: Levenberg-Marquardt steps, and samples around them.

    Args:
        centre: Where to begin, ``(dim,)``.
        sigma: Largest standard deviation of samples.
        generation: Candidates to be told before the model is fitted again.
    """

    def __init__(self, centre: np.ndarray, sigma: float, generation: int) -> None:
        self._sigma, self._generation = sigma, generation
        self._planned, self._centre = centre[None], centre
        self._damping = 1.0
        self._memory: _Candidates | None = None
        self._model: Model | None = None
        self._told: list[_Candidates] = []

    def ask(self, candidates: int, rng: np.random.Generator) -> np.ndarray:
        planned, self._planned = self._planned[:candidates], self._planned[candidates:]
        samples = rng.standard_normal((candidates - len(planned), len(self._centre)))
        if self._model is None:
            samples = self._sigma * samples
        else:
            spread = self._model.deviations(self._damping, self._sigma)
            samples = (spread * samples) @ self._model.basis.T
        return np.concatenate([planned, self._centre + samples])

    def tell(self, told: _Candidates) -> bool:
        """Takes candidates; returns whether the model was fitted to them."""
        self._told.append(told)
        if sum(len(some.losses) for some in self._told) < self._generation:
            return False
        found = _joined(self._told)
        self._told = []
        self._adapt_damping(found.losses)
        kept = [found] if self._memory is None else [self._memory, found]
        candidates = _joined(kept).usable()
        if len(candidates.losses) > 1:
            self._learn(candidates)
        return True

    def evolution(self) -> "_Evolution":
        """Returns the second phase, from the best point on."""
        dim, population = len(self._centre), self._generation
        if self._model is None:
            start = SeparableDistribution.around_zeros(dim, self._sigma)
            return _Evolution(self._centre, np.eye(dim), SeparableEvolution(start, population))
        scales = WIDENING * self._model.deviations(self._damping, self._sigma)
        start = SeparableDistribution.around_zeros(dim, 1.0, scales)
        evolution = SeparableEvolution(start, population)
        return _Evolution(self._model.centre, self._model.basis, evolution)

    def _adapt_damping(self, losses: np.ndarray) -> None:
        """Follows the damping of the step that was best, grows it where none was an advance."""
        if self._model is None:
            return
        steps = losses[: len(DAMPINGS)]
        better = steps.min() < self._model.loss
        factor = NEXT_DAMPINGS[int(steps.argmin())] if better else NEXT_DAMPINGS[-1]
        self._damping = float(np.clip(self._damping * factor, *DAMPING_LIMITS))

    def _learn(self, candidates: _Candidates) -> None:
        best = int(candidates.losses.argmin())
        size = MEMORY * max(self._generation, len(self._centre))
        latest = candidates.rows(slice(-size, None))
        self._memory = _joined([candidates.rows(slice(best, best + 1)), latest])
        self._model = fit_model(*self._memory, before=self._model)
        self._planned = self._model.steps(self._damping * DAMPINGS)
        self._centre = self._planned[len(DAMPINGS) // 2]


@dataclass
class _Evolution:
    """The second phase of a descent: separable CMA-ES along the axes of the curvature.

    Attributes:
        origin: Where its coordinates are zero, ``(dim,)``.
        basis: Their directions, the columns of ``(dim, dim)``.
        evolution: In these coordinates.
    """

    origin: np.ndarray
    basis: np.ndarray
    evolution: SeparableEvolution

    @property
    def usable(self) -> bool:
        return self.evolution.distribution.usable

    def ask(self, candidates: int, rng: np.random.Generator) -> np.ndarray:
        return self.origin + self.evolution.ask(candidates, rng) @ self.basis.T

    def tell(self, losses: np.ndarray) -> None:
        self.evolution.tell(losses)
