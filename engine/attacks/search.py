"""One latent search: ask, evaluate, tell, until the budget is spent."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from engine.attacks.searchers.base import Searcher
from engine.errors import InputError
from search_spaces.latent import LatentSpace

Objective = TypeVar("Objective", bound=Callable[[Tensor], Tensor])
Result = TypeVar("Result")


class Evaluation(NamedTuple, Generic[Objective]):
    """Latents ``(C, d)`` that wait for their losses ``(C,)`` by an objective."""

    objective: Objective
    latents: Tensor


# Yields what it needs evaluated and is sent the losses. So several searches can take their steps
# in turn, and be evaluated together.
Steps = Generator[Evaluation[Objective], Tensor, Result]


@dataclass(frozen=True)
class Progress:
    """The state of a search after a batch of candidates.

    Attributes:
        evaluations: Candidates evaluated so far.
        best_loss: Lowest finite loss so far; ``inf`` if there is none.
        best_latent: Its latent ``(1, d)``, or None if there is none.
        losses: Every loss so far in the order evaluated, ``(evaluations,)`` float32. With the
            searcher's seed they restore the search.
    """

    evaluations: int
    best_loss: float
    best_latent: Tensor | None
    losses: np.ndarray


@dataclass(frozen=True)
class SearchResult:
    """The outcome of one latent search.

    Attributes:
        latent: The latent ``(1, d)`` with the lowest finite loss, or None if no candidate had one.
        loss: Its loss; ``inf`` if there is none.
        losses: Every loss in the order evaluated, ``(budget,)`` float32.
    """

    latent: Tensor | None
    loss: float
    losses: np.ndarray

    @property
    def nonfinite(self) -> int:
        """Candidates whose loss was not finite."""
        return int((~np.isfinite(self.losses)).sum())


def run_steps(steps: Steps[Objective, Result]) -> Result:
    """Takes all steps of one search, each evaluated by itself, and returns its result."""
    try:
        wanted = next(steps)
        while True:
            wanted = steps.send(wanted.objective(wanted.latents))
    except StopIteration as end:
        result: Result = end.value
        return result


def search_steps(
    objective: Objective,
    searcher: Searcher,
    space: LatentSpace,
    *,
    budget: int,
    population: int,
    known_losses: np.ndarray | None = None,
    device: torch.device | str = "cpu",
    on_batch: Callable[[Progress], None] = lambda _: None,
) -> Steps[Objective, SearchResult]:
    """Minimises ``objective`` over ``space`` with exactly ``budget`` candidate evaluations.

    Args:
        objective: Maps latents ``(C, d)`` to losses ``(C,)``.
        searcher: Proposes points.
        space: Maps those points to latents.
        budget: Candidate evaluations to spend, exactly.
        population: Candidates per batch; the last batch may be smaller.
        known_losses: Losses of an interrupted search with the same arguments. They are told to
            the searcher instead of being evaluated again, which brings it to the same state.
        device: Where latents are evaluated.
        on_batch: Called after every batch, the known ones included.

    Raises:
        InputError: For more known losses than the budget.
    """
    if known_losses is not None and len(known_losses) > budget:
        raise InputError(
            f"Expected at most {budget} known losses, as many as the budget, "
            f"got {len(known_losses)}."
        )
    losses = np.empty(budget, dtype=np.float32)
    known = 0 if known_losses is None else len(known_losses)
    if known_losses is not None:
        losses[:known] = known_losses
    best_latent, best_loss, spent = None, float("inf"), 0
    while spent < budget:
        batch = slice(spent, min(spent + population, budget))
        points = searcher.ask(batch.stop - batch.start)
        latents = space.to_latents(torch.from_numpy(points), searcher.view).float().to(device)
        if batch.stop > known:
            losses[batch] = (yield Evaluation(objective, latents)).cpu().numpy()
        searcher.tell(points, tellable(losses[batch], best_loss))
        spent = batch.stop

        finite = np.where(np.isfinite(losses[batch]), losses[batch], np.inf)
        winner = int(finite.argmin())
        if finite[winner] < best_loss:
            best_latent, best_loss = latents[winner, None], float(finite[winner])
        on_batch(Progress(spent, best_loss, best_latent, losses[:spent]))
    return SearchResult(best_latent, best_loss, losses)


def run_search(
    objective: Callable[[Tensor], Tensor], searcher: Searcher, space: LatentSpace, **arguments: Any
) -> SearchResult:
    """Takes all steps of a search; arguments are those of :func:`search_steps`."""
    return run_steps(search_steps(objective, searcher, space, **arguments))


def tellable(losses: np.ndarray, best_loss: float) -> np.ndarray:
    """Returns losses a searcher may learn from, ``(C,)`` float64, all finite.

    A loss that is not finite is told as the worst finite loss of its batch (or, if there is none,
    as the best loss so far plus one): bad, but not so far off as to distort a model of the losses.
    """
    finite = np.isfinite(losses)
    if finite.all():
        return losses.astype(np.float64)
    fallback = best_loss + 1 if np.isfinite(best_loss) else 0.0
    worst = float(losses[finite].max()) if finite.any() else fallback
    return np.where(finite, losses, worst).astype(np.float64)
