"""A discrete coordinate, for searchers of continuous ones: each of its values is a search."""

import numpy as np

from engine.attacks.searchers.base import Detail, DetailSearcher, Searcher
from search_spaces.latent import View


class AtChoice:
    """A searcher of all coordinates but the last, which stays where it is.

    Args:
        searcher: Proposes the other coordinates.
        last: The last coordinate, in the searcher's view.
    """

    def __init__(self, searcher: Searcher, last: float) -> None:
        self._searcher, self._last = searcher, last
        self.view: View = searcher.view
        self.preferred_population = searcher.preferred_population

    @property
    def wants(self) -> Detail | None:
        """What the searcher wants beside losses."""
        return self._searcher.wants if isinstance(self._searcher, DetailSearcher) else None

    def ask(self, candidates: int) -> np.ndarray:
        points = self._searcher.ask(candidates)
        return np.column_stack([points, np.full(candidates, self._last)])

    def tell(self, points: np.ndarray, losses: np.ndarray) -> None:
        self._searcher.tell(points[:, :-1], losses)

    def tell_details(self, points: np.ndarray, losses: np.ndarray, details: np.ndarray) -> None:
        assert isinstance(self._searcher, DetailSearcher)
        own = details[:, :-1] if self.wants == "gradients" else details
        self._searcher.tell_details(points[:, :-1], losses, own)
