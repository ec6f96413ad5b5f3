"""Ax's generation strategies behind the ask/tell protocol."""

import logging
import random
import warnings
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import torch

from engine import validate
from engine.attacks.searchers.base import SEARCHERS
from engine.attacks.searchers.packages import needed
from engine.errors import InfrastructureError
from engine.registry import unknown_name
from search_spaces.latent import View

OPTIMIZERS: Final = {
    "BO": "Bayesian optimization as Ax does it by default, for a hundred evaluations.",
    "Sobol": "Scrambled Sobol points: ignores losses.",
}
METHODS: Final = {"BO": "fast", "Sobol": "random_search"}


@SEARCHERS.register("ax")
class AxSearcher:
    """Drives Ax's client: ``BO``, its default generation strategy, or ``Sobol`` points alone.

    Ax keeps every candidate as a trial of an experiment and is made for tens of them. ``Sobol``
    costs 30 ms a candidate at first and 200 ms by the five hundredth. ``BO`` draws a few Sobol
    points and then fits a Gaussian process at every ask: more than a second a candidate among the
    first fifty, and growing, so it is good for budgets of a hundred or two. For more, see
    ``turbo``; for many thousands, the evolution strategies.

    Args:
        dim: Number of coordinates.
        budget: Candidate evaluations the search will spend; nothing is planned by it.
        seed: Seeds everything drawn, modulo 2^32. No global random state is read or moved.
        optimizer: ``BO`` or ``Sobol``.
        population: Candidates per ask. If None, 5 for ``BO``, which asks for them together, and
            50 for ``Sobol``.
    """

    view: View = "unit"
    optimizers: Mapping[str, str] = MappingProxyType(OPTIMIZERS)

    def __init__(
        self,
        *,
        dim: int,
        budget: int,
        seed: int,
        optimizer: str = "BO",
        population: int | None = None,
    ) -> None:
        del budget  # Plans nothing.
        if optimizer not in OPTIMIZERS:
            raise unknown_name("Ax optimizer", optimizer, OPTIMIZERS)
        population = (5 if optimizer == "BO" else 50) if population is None else population
        validate.count(population=population)
        self.preferred_population = population
        self._rng = np.random.RandomState(seed % 2**32)
        self._names = [f"x{index:04}" for index in range(dim)]
        with _isolated(self._rng):
            self._client = self._make_client(optimizer)
        self._asked: deque[int] = deque()

    def ask(self, candidates: int) -> np.ndarray:
        points: list[list[float]] = []
        with _isolated(self._rng):
            while len(points) < candidates:  # It may give fewer than asked for.
                trials = self._client.get_next_trials(max_trials=candidates - len(points))
                if not trials:
                    raise InfrastructureError(
                        f"Expected {candidates} candidates of Ax, got {len(points)}. "
                        "Use a smaller population, or another searcher."
                    )
                for index, parameters in trials.items():
                    self._asked.append(index)
                    points.append([parameters[name] for name in self._names])
        return np.array(points, dtype=np.float64)

    def tell(self, points: np.ndarray, losses: np.ndarray) -> None:
        del points  # Ax identifies candidates by trial, in the order asked.
        with _isolated(self._rng):
            for loss in losses:
                self._client.complete_trial(self._asked.popleft(), raw_data={"loss": float(loss)})

    def _make_client(self, optimizer: str) -> Any:
        disabled = logging.root.manager.disable
        logging.disable(logging.INFO)  # It logs as it is imported, before it can be told not to.
        try:
            with needed("ax-platform", searcher="ax"):
                from ax.api.client import Client
                from ax.api.configs import RangeParameterConfig
                from ax.utils.common.logger import set_ax_logger_levels
        finally:
            logging.disable(disabled)
        set_ax_logger_levels(logging.ERROR)
        client = Client(random_seed=int(self._rng.randint(2**31)))
        client.configure_experiment(
            [
                RangeParameterConfig(name=name, bounds=(0.0, 1.0), parameter_type="float")
                for name in self._names
            ]
        )
        client.configure_optimization("-loss")
        client.configure_generation_strategy(method=METHODS[optimizer])
        return client


@contextmanager
def _isolated(rng: np.random.RandomState) -> Iterator[None]:
    """Seeds the global random states, which Ax draws from, by ``rng`` and puts them back."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    seed = int(rng.randint(2**32, dtype=np.uint64))
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # Of dependencies' deprecations, jitter and unfinished fits: nothing for a user to act on.
        warnings.simplefilter("ignore")
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
