"""Several searches of one update from different seeds, on one budget."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil
from typing import Final

import numpy as np

from engine.attacks.searchers.base import Detail, DetailSearcher, Searcher
from engine.errors import PlanError
from search_spaces.latent import View

# Name to what it does and the restarts it takes at least.
SCHEDULERS: Final = {
    "none": ("No restart is stopped: each gets an even share of the budget.", 1),
    "halving": ("Successive halving: the better half goes on, until one has the last share.", 2),
    "median": ("Stops a restart that is worse than the others' median was on average.", 4),
}
# Share of its even part of the budget that a restart has before the median may stop it.
GRACE: Final = 0.25


class Restarts:
    """A searcher made of several, which take turns; hopeless ones may be stopped early.

    Turns go round by generations, so all that are left have spent equally when they are compared:
    by their best loss, which is all an attacker has. What a stopped one leaves goes to the others.
    The losses told decide everything, so equal losses give equal turns, and a search is restored
    by telling them again.

    ``halving`` (`Jamieson and Talwalkar (2016) <https://arxiv.org/abs/1502.07943>`_) splits the
    budget into ``1 + ceil(log2 restarts)`` equal shares; at the end of each the better half of the
    restarts is kept, rounded up. ``median`` is the rule of Google Vizier (`Golovin et al. (2017)
    <https://doi.org/10.1145/3097983.3098043>`_, section 3.2): a restart is stopped if its best loss
    is worse than the median, over the others, of their best losses averaged over generations.

    Args:
        make: Builds the searcher of a restart, counted from 0.
        restarts: How many, at least 2.
        budget: Candidate evaluations of all together.
        scheduler: Which are stopped, one of ``SCHEDULERS``.

    Raises:
        PlanError: If the budget has no room for a generation of each.
    """

    def __init__(
        self, make: Callable[[int], Searcher], *, restarts: int, budget: int, scheduler: str
    ) -> None:
        self._all = [_Restart(make(place)) for place in range(restarts)]
        self._left = list(self._all)
        self._current = self._all[0]
        self._budget, self._scheduler = budget, scheduler
        self._shares_spent = 0
        self.view: View = self._current.searcher.view
        self.preferred_population = self._current.searcher.preferred_population
        if restarts * self.preferred_population > budget:
            raise PlanError(
                f"Expected a budget of at least {restarts * self.preferred_population}, a "
                f"generation of {self.preferred_population} for each of {restarts} restarts, got "
                f"budget: {budget}. Raise it, or lower restarts."
            )

    @property
    def stopped(self) -> list[int]:
        """Which restarts were stopped, counted from 0."""
        return [place for place, one in enumerate(self._all) if one not in self._left]

    @property
    def wants(self) -> Detail | None:
        """What the restart asked last wants beside losses."""
        searcher = self._current.searcher
        return searcher.wants if isinstance(searcher, DetailSearcher) else None

    def ask(self, candidates: int) -> np.ndarray:
        self._current = min(self._left, key=lambda one: one.spent)  # Of equal ones the first.
        return self._current.searcher.ask(candidates)

    def tell(self, points: np.ndarray, losses: np.ndarray) -> None:
        self._current.searcher.tell(points, losses)
        self._note(losses)

    def tell_details(self, points: np.ndarray, losses: np.ndarray, details: np.ndarray) -> None:
        assert isinstance(self._current.searcher, DetailSearcher)
        self._current.searcher.tell_details(points, losses, details)
        self._note(losses)

    def _note(self, losses: np.ndarray) -> None:
        self._current.note(losses)
        if len({one.spent for one in self._left}) > 1:
            return  # The round is not over.
        if self._scheduler == "halving":
            self._halve()
        elif self._scheduler == "median":
            self._stop_by_median()

    def _halve(self) -> None:
        """Keeps the better half at the end of each share of the budget."""
        shares = 1 + (len(self._all) - 1).bit_length()
        spent = sum(one.spent for one in self._all)
        if spent >= (self._shares_spent + 1) * self._budget / shares:
            self._shares_spent += 1
            ranked = sorted(self._left, key=lambda one: one.best)
            kept = ranked[: ceil(len(ranked) / 2)]
            self._left = [one for one in self._left if one in kept]

    def _stop_by_median(self) -> None:
        """Stops those worse than the others' median, as long as three others are left."""
        if self._left[0].spent < GRACE * self._budget / len(self._all):
            return
        if len(self._left) < SCHEDULERS["median"][1]:
            return
        means = {id(one): float(np.mean(one.bests)) for one in self._left}
        self._left = [
            one
            for one in self._left
            if one.best <= np.median([means[id(other)] for other in self._left if other is not one])
        ]


@dataclass(eq=False)
class _Restart:
    """One of the searches.

    Attributes:
        searcher: Proposes its points.
        spent: Candidates evaluated.
        bests: The best loss after each of its generations.
    """

    searcher: Searcher
    spent: int = 0
    bests: list[float] = field(default_factory=list)

    @property
    def best(self) -> float:
        return self.bests[-1] if self.bests else float("inf")

    def note(self, losses: np.ndarray) -> None:
        # Of a generation without a finite loss the search tells one number for all, zero at first.
        told_apart = losses.any() and (len(losses) == 1 or losses.min() < losses.max())
        best = float(losses.min()) if told_apart else float("inf")
        self.spent += len(losses)
        self.bests.append(min(self.best, best))
