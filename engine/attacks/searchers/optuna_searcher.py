"""Optuna's samplers behind the ask/tell protocol."""

import warnings
from collections import deque
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from engine import validate
from engine.attacks.searchers.base import SEARCHERS, matched_population
from engine.attacks.searchers.packages import needed
from engine.registry import unknown_name
from search_spaces.latent import View

OPTIMIZERS: Final = {
    "CmaEs": "CMA-ES with full covariance.",
    "GP": "Bayesian optimization by a Gaussian process, for a few hundred evaluations.",
    "NSGAII": "Genetic algorithm.",
    "QMC": "Scrambled Sobol points: ignores losses.",
    "Random": "Independent uniform points: ignores losses.",
    "SepCmaEs": "Separable CMA-ES: learns a scale for each coordinate.",
    "TPE": "Tree-structured Parzen estimator: densities of good points and of others.",
}
CMA: Final = ("CmaEs", "SepCmaEs")
# Their first points would be independent uniform ones but for a trial that names the coordinates.
INTRODUCED: Final = (*CMA, "QMC")
# They look at every trial for every candidate, so the time of one grows with those before it.
MODEL_BASED: Final = ("GP", "TPE")
# Of those trials the best and the latest are kept: TPE calls 25 good at most, as a tenth of 250,
# and gives the 25 latest the largest weight among the others.
KEPT: Final = 250
KEPT_BEST: Final = 25
KEPT_AT_MOST: Final = 350
MODEL_BASED_POPULATION: Final = 10
SMALLEST_GENERATION: Final = 4


@SEARCHERS.register("optuna")
class OptunaSearcher:
    """Drives one of Optuna's samplers by its ask and tell, in a study that lives in memory.

    Each coordinate is a parameter that Optuna stores by itself, which costs a candidate 1 ms in 32
    dimensions and 3 ms in 128; what a sampler costs comes on top. ``TPE`` and ``GP`` are shown
    250 to 350 trials, the best and the latest. Even so ``TPE`` takes 14 and 50 ms a candidate, and
    ``GP`` 240 and 630 ms among the first hundred, and more later: it is for a few hundred.

    CMA-ES is adapted once the losses of a whole generation have been told, ``population`` of them
    or 4 where that is less. It starts from the middle of the cube by a sixth of its side.

    Args:
        dim: Number of coordinates.
        budget: Candidate evaluations the search will spend; nothing is planned by it.
        seed: Seeds everything drawn, modulo 2^32.
        optimizer: ``CmaEs``, ``GP``, ``NSGAII``, ``QMC``, ``Random``, ``SepCmaEs`` or ``TPE``.
        population: Candidates per ask. If None, ``2 (4 + 3 ln dim)`` for CMA-ES, 10 for ``TPE``
            and ``GP``, which learn after each ask, and 50 for the others.
    """

    view: View = "unit"
    optimizers: Mapping[str, str] = MappingProxyType(OPTIMIZERS)

    def __init__(
        self,
        *,
        dim: int,
        budget: int,
        seed: int,
        optimizer: str = "TPE",
        population: int | None = None,
    ) -> None:
        del budget  # Plans nothing.
        if optimizer not in OPTIMIZERS:
            raise unknown_name("Optuna optimizer", optimizer, OPTIMIZERS)
        population = _population(optimizer, dim) if population is None else population
        validate.count(population=population)
        self.preferred_population = population
        self._optimizer = optimizer
        self._dim = dim
        self._rng = np.random.RandomState(seed % 2**32)
        with needed("optuna", *(["cmaes"] if optimizer in CMA else []), searcher="optuna"):
            import optuna

            if optimizer in CMA:
                import cmaes  # noqa: F401 # Optuna would miss it at its first ask.
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        distribution = optuna.distributions.FloatDistribution(0.0, 1.0)
        self._space = {f"x{index:04}": distribution for index in range(dim)}
        self._study = self._start([])
        self._asked: deque[Any] = deque()

    @property
    def sampler(self) -> Any:
        """Optuna's own sampler, as it stands."""
        return self._study.sampler

    @property
    def is_introduced(self) -> bool:
        """Whether the sampler is first told of the middle of the cube, with a loss of 0."""
        return self._optimizer in INTRODUCED

    def ask(self, candidates: int) -> np.ndarray:
        asked = [self._study.ask(self._space) for _ in range(candidates)]
        self._asked.extend(asked)
        return np.array([list(trial.params.values()) for trial in asked], dtype=np.float64)

    def tell(self, points: np.ndarray, losses: np.ndarray) -> None:
        del points  # Optuna identifies candidates by trial, in the order asked.
        for loss in losses:
            self._study.tell(self._asked.popleft(), float(loss))
        if self._optimizer in MODEL_BASED and not self._asked:
            trials = self._study.get_trials(deepcopy=False)
            if len(trials) > KEPT_AT_MOST:
                self._study = self._start(_kept(trials))

    def _start(self, trials: list[Any]) -> Any:
        """Returns a study of ``trials`` whose sampler draws from the next seed."""
        import optuna

        sampler = _SAMPLERS[self._optimizer]
        generation = max(self.preferred_population, SMALLEST_GENERATION)
        seed = int(self._rng.randint(2**32, dtype=np.uint64))
        with warnings.catch_warnings():
            # That some samplers' arguments may change is for us to follow.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = optuna.create_study(
                sampler=sampler(optuna.samplers, seed, generation, self._dim)
            )
        if self.is_introduced:
            middle = dict.fromkeys(self._space, 0.5)
            trials = [
                optuna.trial.create_trial(params=middle, distributions=self._space, value=0.0)
            ]
        study.add_trials(trials)
        return study


# By name, from optuna.samplers, a seed, a generation's size and the dimension.
_SAMPLERS: Final[Mapping[str, Callable[[Any, int, int, int], Any]]] = {
    "CmaEs": lambda samplers, seed, generation, _: samplers.CmaEsSampler(
        seed=seed, popsize=generation
    ),
    "GP": lambda samplers, seed, *_: samplers.GPSampler(seed=seed),
    "NSGAII": lambda samplers, seed, generation, _: samplers.NSGAIISampler(
        seed=seed, population_size=generation
    ),
    "QMC": lambda samplers, seed, *_: samplers.QMCSampler(seed=seed, scramble=True),
    "Random": lambda samplers, seed, *_: samplers.RandomSampler(seed=seed),
    "SepCmaEs": lambda samplers, seed, generation, dim: samplers.CmaEsSampler(
        seed=seed,
        popsize=generation,
        use_separable_cma=dim > 1,  # One scale is a covariance matrix.
    ),
    "TPE": lambda samplers, seed, *_: samplers.TPESampler(seed=seed),
}


def _population(optimizer: str, dim: int) -> int:
    if optimizer in CMA:
        return matched_population(dim)
    return MODEL_BASED_POPULATION if optimizer in MODEL_BASED else 50


def _kept(trials: list[Any]) -> list[Any]:
    """Returns the best trials and the latest others, in the order asked."""
    ranked = sorted(trials, key=lambda trial: float(trial.value))
    best, others = ranked[:KEPT_BEST], ranked[KEPT_BEST:]
    latest = sorted(others, key=lambda trial: int(trial.number))[KEPT_BEST - KEPT :]
    return sorted(best + latest, key=lambda trial: int(trial.number))
