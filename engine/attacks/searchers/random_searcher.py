"""Random search: the control every other searcher must beat."""

import numpy as np

from engine.attacks.searchers.base import SEARCHERS
from search_spaces.latent import View


@SEARCHERS.register("random")
class RandomSearcher:
    """Draws independent points from the generator's prior and ignores losses."""

    view: View = "normal"
    preferred_population = 64

    def __init__(self, *, dim: int, budget: int, seed: int) -> None:
        del budget  # Plans nothing.
        self._dim = dim
        self._rng = np.random.default_rng(seed)

    def ask(self, candidates: int) -> np.ndarray:
        return self._rng.standard_normal((candidates, self._dim))

    def tell(self, points: np.ndarray, losses: np.ndarray) -> None:
        del points, losses  # Memoryless.
