"""Nevergrad optimizers behind the ask/tell protocol."""

from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from engine import validate
from engine.attacks.searchers.base import SEARCHERS, matched_population
from engine.attacks.searchers.packages import needed
from engine.errors import PlanError
from engine.registry import nearest
from search_spaces.latent import View

INITS = ("zeros", "uniform")
OPTIMIZERS: Final = {
    "CMA": "CMA-ES of a kind Nevergrad chooses by dimension, budget and population.",
    "DE": "Differential evolution.",
    "DiagonalCMA": "Separable CMA-ES: learns a scale for each coordinate.",
    "NGOpt": "What Nevergrad's competence map chooses by dimension, budget and population.",
    "OldCMA": "CMA-ES with full covariance, which was called CMA when GGL was written.",
    "OnePlusOne": "(1+1) evolution strategy: one candidate at a time.",
    "PSO": "Particle swarm.",
    "TwoPointsDE": "Differential evolution with two-point crossover.",
}
# In one dimension Nevergrad's CMA-ES asks for another package, and from then on in all others too.
SMALLEST_DIM: Final = 2
# From here on its CMA-ES ends with an error where a generation is asked for in parts.
WHOLE_GENERATIONS_DIM: Final = 300
# Populations a generation may be made of.
MOST_POPULATIONS: Final = 16
# It clips larger losses to 5e20 itself, and warns of it.
LARGEST_LOSS: Final = 4.9e20


@SEARCHERS.register("nevergrad")
class NevergradSearcher:
    """Drives one optimizer of Nevergrad's registry, e.g. ``DiagonalCMA`` or ``OldCMA``.

    Nevergrad's CMA-ES loses what it is told of a generation that was asked for in parts of
    another one. So ``preferred_population`` is the optimizer's own generation, or, where a
    population is given, the optimizer is built for so many workers that its generation is one or
    several of those populations. Only ``workers`` of one's own can put them out of step.

    Nevergrad's metamodels end with an error on NumPy 2.4 and stop by the clock. ``NGOpt`` goes on
    as ``CMA`` where it would choose one, which is in few dimensions or on a small budget.

    Args:
        dim: Number of coordinates.
        budget: Candidate evaluations the optimizer may plan for.
        seed: Seeds the optimizer's own random state.
        optimizer: A key of ``nevergrad.optimizers.registry``.
        population: Candidates per ask. If None, 1 for optimizers that learn from one candidate at
            a time, the optimizer's own generation where it has one, and else
            ``2 (4 + 3 ln dim)``, twice pycma's default.
        workers: Parallel candidates the optimizer is told of; follows from ``population`` if None.
        planned_budget: Budget the optimizer is told of; ``budget`` if None.
        init: First mean: ``zeros``, or ``uniform`` in [0, 1) as GGL does for BigGAN.
    """

    view: View = "normal"
    optimizers: Mapping[str, str] = MappingProxyType(OPTIMIZERS)

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
        planned_budget = budget if planned_budget is None else planned_budget
        validate.count(planned_budget=planned_budget)
        validate.choice(INITS, init=init)
        parametrize = partial(_array, max(dim, SMALLEST_DIM), init)
        build = partial(_build, optimizer, parametrize, seed, planned_budget)
        self._optimizer, self.preferred_population = _sized(
            optimizer, build, dim, population=population, workers=workers
        )
        self._dim = dim
        self._asked: deque[Any] = deque()

    def ask(self, candidates: int) -> np.ndarray:
        asked = [self._optimizer.ask() for _ in range(candidates)]
        self._asked.extend(asked)
        points = [np.array(candidate.value, dtype=np.float64) for candidate in asked]
        return np.stack(points)[:, : self._dim]

    def tell(self, points: np.ndarray, losses: np.ndarray) -> None:
        del points  # Nevergrad identifies candidates by object, in the order asked.
        for loss in np.minimum(losses, LARGEST_LOSS):
            self._optimizer.tell(self._asked.popleft(), float(loss))


def make_optimizer(
    parametrize: Callable[[], Any],
    *,
    optimizer: str,
    dim: int,
    budget: int,
    seed: int,
    population: int | None = None,
) -> tuple[Any, int]:
    """Returns an optimizer of a parametrization of one's own, and the candidates to ask it for.

    Args:
        parametrize: Makes the parametrization.
        optimizer: A key of ``nevergrad.optimizers.registry``.
        dim: Number of its coordinates.
        budget: Candidate evaluations the optimizer may plan for.
        seed: Seeds its random state.
        population: Candidates per ask, see :class:`NevergradSearcher`.
    """
    build = partial(_build, optimizer, lambda _: parametrize(), seed, budget)
    return _sized(optimizer, build, dim, population=population)


def _find(name: str) -> Any:
    """Returns the optimizer called ``name``."""
    with needed("nevergrad", searcher="nevergrad"):
        import nevergrad as ng  # Deferred: imports take seconds.
    registry = ng.optimizers.registry
    if name not in registry:
        raise PlanError(
            f"Unknown Nevergrad optimizer {name!r}; expected one of: {', '.join(OPTIMIZERS)}, or "
            f"another of nevergrad.optimizers.registry.{nearest(name, registry)}"
        )
    return registry[name]


def _is_sequential(name: str) -> bool:
    # The step of a (1+1) strategy follows from the success of the last candidate.
    return "OnePlusOne" in name or bool(getattr(_find(name), "no_parallelization", False))


def _sized(
    name: str,
    build: Callable[[int], Any],
    dim: int,
    *,
    population: int | None,
    workers: int | None = None,
) -> tuple[Any, int]:
    """Returns an optimizer and the candidates to ask it for, its own number if none is given."""
    own = 1 if _is_sequential(name) else matched_population(dim)
    asked = own if population is None else population
    validate.count(population=asked, workers=asked if workers is None else workers)
    if workers is not None:
        built = build(workers)
    elif population is None:
        built = build(asked)
        asked = asked if asked == 1 else _generation(built) or asked
    else:
        built = _in_step(build, population)
    _check_step(built, asked, dim)
    return built, asked


def _array(dim: int, init: str, rng: np.random.RandomState) -> Any:
    import nevergrad as ng

    return ng.p.Array(init=np.zeros(dim) if init == "zeros" else rng.uniform(size=dim))


def _build(
    name: str,
    parametrize: Callable[[np.random.RandomState], Any],
    seed: int,
    budget: int,
    workers: int,
) -> Any:
    """Returns an optimizer whose only source of randomness is ``seed``."""
    rng = np.random.RandomState(seed % 2**32)
    parametrization = parametrize(rng)
    parametrization.random_state = rng
    factory = _find(name)
    if workers > 1 and getattr(factory, "no_parallelization", False):
        raise PlanError(
            f"Nevergrad's {name!r} takes one candidate at a time, got {workers}. Set population: 1."
        )
    built = factory(parametrization, budget=budget, num_workers=workers)
    chosen = _chosen(built)
    if "MetaModel" not in chosen.name:
        return built
    if name != "NGOpt":
        raise PlanError(
            f"Expected an optimizer without a metamodel, got {name!r}: those of Nevergrad end with "
            "an error on NumPy 2.4 and stop by the clock. Use nevergrad:CMA."
        )
    return _find("CMA")(parametrization, budget=budget, num_workers=workers)


def _in_step(build: Callable[[int], Any], population: int) -> Any:
    """Returns an optimizer whose generation is one or several populations, if one can be built."""
    for whole in range(population, MOST_POPULATIONS * population + 1, population):
        for workers in (whole, max(whole - 1, 1)):  # An elitist one generates one more.
            built = build(workers)
            if (_generation(built) or population) % population == 0:
                return built
    return build(population)


def _chosen(optimizer: Any) -> Any:
    """Returns the optimizer that one which chooses by dimension, budget and workers has chosen."""
    while hasattr(optimizer, "optim"):
        optimizer = optimizer.optim
    return optimizer


def _generation(optimizer: Any) -> int | None:
    """Returns how many candidates a CMA-ES adapts by; None for all others."""
    return getattr(_chosen(optimizer), "_popsize", None)


def _check_step(optimizer: Any, population: int, dim: int) -> None:
    """Raises PlanError where a CMA-ES would end with an error in the middle of a search."""
    generation = _generation(optimizer)
    if generation is not None and dim >= WHOLE_GENERATIONS_DIM and generation % population:
        raise PlanError(
            f"Expected a population that divides the optimizer's generation of {generation}, as "
            f"Nevergrad's CMA-ES needs from {WHOLE_GENERATIONS_DIM} dimensions on (this search "
            f"has {dim}), got population={population}. "
            f"Leave out workers, or set population: {generation}."
        )
