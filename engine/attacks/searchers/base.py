"""The ask/tell protocol of latent searchers, and their registry."""

from typing import Protocol, runtime_checkable

import numpy as np

from engine.registry import Registry
from search_spaces.latent import View


class Searcher(Protocol):
    """Proposes points and learns from their losses.

    Guarantees, checked for every searcher by ``tests/contracts/searcher.py``:
        - ``ask(n)`` returns exactly ``n`` rows as float64, inside the view;
        - ``tell`` takes the points of the last ``ask`` in the order asked, and neither changes
          nor keeps the caller's arrays;
        - two searchers built with the same arguments and told the same losses agree, in another
          process too. So a search is restored by telling a new searcher its losses again.

    Attributes:
        view: The view of the latent space the points live in.
        preferred_population: Candidates per ask it works best with.
    """

    view: View
    preferred_population: int

    def ask(self, candidates: int) -> np.ndarray:
        """Returns points ``(candidates, dim)`` to evaluate."""

    def tell(self, points: np.ndarray, losses: np.ndarray) -> None:
        """Reports the losses ``(candidates,)`` of the points asked last, all finite."""


@runtime_checkable
class SketchSearcher(Searcher, Protocol):
    """A searcher that can learn from sketches of candidates' updates beside their losses.

    Attributes:
        wants_sketches: Whether it does of the points asked last.
    """

    wants_sketches: bool

    def tell_sketched(self, points: np.ndarray, losses: np.ndarray, sketches: np.ndarray) -> None:
        """Reports losses and sketches ``(candidates, m)`` of the points asked last.

        A candidate whose loss was not finite has a sketch that is not.
        """


SEARCHERS: Registry[Searcher] = Registry("searcher")
