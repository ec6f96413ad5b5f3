"""Nevergrad optimizers behind the ask/tell protocol."""

from collections import deque
from math import log
from typing import Any

import numpy as np

from engine import validate
from engine.attacks.searchers.base import SEARCHERS
from engine.errors import PlanError
from engine.registry import unknown_name
from search_spaces.latent import View

INITS = ("zeros", "uniform")


@SEARCHERS.register("nevergrad")
class NevergradSearcher:
    """Drives one optimizer of Nevergrad's registry, e.g. ``DiagonalCMA`` or ``OldCMA``.

    The population should be the optimizer's own: its CMA family plans one generation for
    ``workers`` parallel candidates, and loses generations when asked in batches of another size.
    So ``preferred_population`` is ``population``, and the optimizer is built for as many workers.

    Args:
        dim: Number of coordinates.
        budget: Candidate evaluations the optimizer may plan for.
        seed: Seeds the optimizer's own random state.
        optimizer: A key of ``nevergrad.optimizers.registry``.
        population: Candidates per ask; ``2 (4 + 3 ln dim)`` if None, twice pycma's default.
        workers: Parallel candidates the optimizer is told of; ``population`` if None.
        planned_budget: Budget the optimizer is told of; ``budget`` if None.
        init: First mean: ``zeros``, or ``uniform`` in [0, 1) as GGL does for BigGAN.
    """

    view: View = "normal"

    def __init__(
        self,
        *,
        dim: int,
        budget: int,
        seed: int,
        optimizer: str = "DiagonalCMA",
        population: int | None = None,
        workers: int | None = None,
        planned_budget: int | None = None,
        init: str = "zeros",
    ) -> None:
        population = 2 * (4 + int(3 * log(dim))) if population is None else population
        workers = population if workers is None else workers
        planned_budget = budget if planned_budget is None else planned_budget
        validate.count(population=population, workers=workers, planned_budget=planned_budget)
        validate.choice(INITS, init=init)
        self.preferred_population = population
        rng = np.random.RandomState(seed % 2**32)
        start = np.zeros(dim) if init == "zeros" else rng.uniform(size=dim)
        self._optimizer = _build(optimizer, start, rng, planned_budget, workers)
        self._asked: deque[Any] = deque()

    def ask(self, candidates: int) -> np.ndarray:
        asked = [self._optimizer.ask() for _ in range(candidates)]
        self._asked.extend(asked)
        return np.stack([np.array(candidate.value, dtype=np.float64) for candidate in asked])

    def tell(self, points: np.ndarray, losses: np.ndarray) -> None:
        del points  # Nevergrad identifies candidates by object, in the order asked.
        for loss in losses:
            self._optimizer.tell(self._asked.popleft(), float(loss))


def _build(
    name: str, start: np.ndarray, rng: np.random.RandomState, budget: int, workers: int
) -> Any:
    """Returns the Nevergrad optimizer ``name`` starting at ``start``."""
    try:
        import nevergrad as ng  # Deferred: imports take seconds.
    except ImportError as error:
        raise PlanError(
            f"The searcher 'nevergrad' needs the package nevergrad >= 1.0.12: {error}. "
            "Install it with: pip install nevergrad."
        ) from error
    if name not in ng.optimizers.registry:
        raise unknown_name("Nevergrad optimizer", name, ng.optimizers.registry)
    parametrization = ng.p.Array(init=start)
    parametrization.random_state = rng
    return ng.optimizers.registry[name](parametrization, budget=budget, num_workers=workers)
