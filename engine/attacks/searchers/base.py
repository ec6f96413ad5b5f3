"""The ask/tell protocol of latent searchers, and their registry."""

from math import log
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from engine.registry import Registry
from search_spaces.latent import View

# Of a candidate, beside its loss: a sketch of its update (see ``engine/attacks/sketches.py``), or
# the loss's gradient, for which generator and target model are differentiated.
Detail = Literal["sketches", "gradients"]


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
class DetailSearcher(Searcher, Protocol):
    """A searcher that learns from more of a candidate than its loss.

    Attributes:
        wants: What it wants beside the losses of the points asked last; None if nothing, and then
            they are told by ``tell``.
    """

    @property
    def wants(self) -> Detail | None: ...

    def tell_details(self, points: np.ndarray, losses: np.ndarray, details: np.ndarray) -> None:
        """Reports losses and details of the points asked last.

        Args:
            points: ``(candidates, dim)``.
            losses: ``(candidates,)``, all finite.
            details: Sketches ``(candidates, m)``, or gradients of the losses by the points
                ``(candidates, dim)``. Not finite where the loss was not.
        """


def matched_population(dim: int) -> int:
    """Returns ``2 (4 + 3 ln dim)``, twice the population that Hansen's tutorial gives CMA-ES."""
    return 2 * (4 + int(3 * log(dim)))


SEARCHERS: Registry[Searcher] = Registry("searcher")
