"""Ray Tune's search algorithms by the names of our searchers."""

from collections import deque
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from ray.tune.search import Searcher
from ray.tune.search.variant_generator import generate_variants

from engine.attacks import AttackSettings
from engine.attacks.attack import lone_searcher
from engine.attacks.searchers import AxSearcher, OptunaSearcher
from engine.attacks.searchers.nevergrad_searcher import make_optimizer
from engine.seeding import stream_seed
from engine.tuning.proposals import METRIC, MODE
from search_spaces.latent import LatentSpace
from search_spaces.native import to_nevergrad, to_optuna, to_suggestion, to_tune


class Algorithm(NamedTuple):
    """A search algorithm, and the candidates it is asked for before it is told."""

    search: Searcher
    generation: int


def make_algorithm(
    settings: AttackSettings, space: LatentSpace, *, budget: int, seed: int
) -> Algorithm:
    """Returns the algorithm of an attack that :func:`check_candidates` let pass.

    Args:
        settings: Of the attack.
        space: Whose unit view is searched.
        budget: Candidates that will be proposed.
        seed: Root of the search's randomness.
    """
    family, _, optimizer = settings.searcher.partition(":")
    if family == "random":
        own = stream_seed(seed, "searcher")
        return Algorithm(TuneSampling(space, seed=own), budget)
    if family == "nevergrad":
        return _nevergrad(settings, optimizer or "DiagonalCMA", space, budget=budget, seed=seed)
    searcher = lone_searcher(settings, dim=space.dim, budget=budget, seed=seed)
    if isinstance(searcher, OptunaSearcher):
        return Algorithm(_optuna(searcher, space), searcher.preferred_population)
    assert isinstance(searcher, AxSearcher)
    return Algorithm(AxSearch(searcher, space, budget=budget), searcher.preferred_population)


class TuneSampling(Searcher):  # type: ignore[misc] # Ray is not typed for mypy.
    """Draws what Tune's BasicVariantGenerator draws, which cannot go on where it was stopped.

    Args:
        space: Whose unit view is drawn from.
        seed: Seeds the draws.
    """

    def __init__(self, space: LatentSpace, *, seed: int) -> None:
        super().__init__(metric=METRIC, mode=MODE)
        self._space = to_tune(space)
        self._rng = np.random.default_rng(seed)

    def suggest(self, trial_id: str) -> dict[str, Any]:
        del trial_id
        [(_, config)] = generate_variants({"config": self._space}, random_state=self._rng)
        drawn: dict[str, Any] = config["config"]
        return drawn

    def on_trial_complete(self, trial_id: str, *args: Any, **result: Any) -> None:
        del trial_id, args, result  # Memoryless.


class AxSearch(Searcher):  # type: ignore[misc] # Ray is not typed for mypy.
    """Ax's current client as a search algorithm of Tune's, whose own is for an older Ax.

    Trials must be completed in the order suggested, as :class:`Proposals` does.

    Args:
        searcher: Drives the client.
        space: Whose unit view it searches.
        budget: Candidates that will be suggested.
    """

    def __init__(self, searcher: AxSearcher, space: LatentSpace, *, budget: int) -> None:
        super().__init__(metric=METRIC, mode=MODE)
        self._searcher = searcher
        self._space = space
        self._left = budget
        self._waiting: deque[np.ndarray] = deque()

    def suggest(self, trial_id: str) -> dict[str, Any]:
        del trial_id
        if not self._waiting:
            self._waiting.extend(
                self._searcher.ask(min(self._searcher.preferred_population, self._left))
            )
        self._left -= 1
        return to_suggestion(self._space, self._waiting.popleft())

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        del trial_id, error
        assert result is not None
        self._searcher.tell(np.empty((1, 0)), np.array([result[METRIC]]))


def _optuna(searcher: OptunaSearcher, space: LatentSpace) -> Any:
    """Returns Tune's own algorithm with the sampler that our searcher would have used."""
    from ray.tune.search.optuna import OptunaSearch

    search = OptunaSearch(
        space=to_optuna(space), sampler=searcher.sampler, metric=METRIC, mode=MODE
    )
    if searcher.is_introduced:
        search.add_evaluated_point(to_suggestion(space, np.full(space.dim, 0.5)), 0.0)
    return search


def _nevergrad(
    settings: AttackSettings, optimizer: str, space: LatentSpace, *, budget: int, seed: int
) -> Algorithm:
    from ray.tune.search.nevergrad import NevergradSearch

    built, generation = make_optimizer(
        partial(to_nevergrad, space),
        optimizer=optimizer,
        dim=space.dim,
        budget=budget,
        seed=stream_seed(seed, "searcher"),
        **settings.searcher_settings,  # type: ignore[arg-type] # Checked to be a population.
    )
    return Algorithm(NevergradSearch(optimizer=built, metric=METRIC, mode=MODE), generation)
