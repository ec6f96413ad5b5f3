"""One latent search: ask, evaluate, tell, until the budget is spent."""

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from engine.attacks.scores import Scores
from engine.attacks.searchers.base import Detail, DetailSearcher, Searcher
from engine.errors import InputError
from search_spaces.latent import LatentSpace

Objective = TypeVar("Objective", bound=Callable[[Tensor], Tensor])
Result = TypeVar("Result")


class Evaluation(NamedTuple, Generic[Objective]):
    """Latents that wait for their scores.

    Attributes:
        objective: Maps latents to losses, and by ``scores`` to what is wanted beside them.
        latents: ``(C, d)``.
        wanted: What is wanted beside losses.
    """

    objective: Objective
    latents: Tensor
    wanted: Detail | None = None


# Yields what it needs evaluated and is sent the scores. So several searches can take their steps
# in turn, and be evaluated together.
Steps = Generator[Evaluation[Objective], Scores, Result]


@dataclass(frozen=True)
class History:
    """All that is needed beside its seed to restore a search.

    Attributes:
        losses: Every loss in the order evaluated, ``(evaluations,)`` float32.
        details: The details of those candidates of which some were wanted, ``(n, m)`` float32, in
            the same order.
    """

    losses: np.ndarray
    details: np.ndarray = field(default_factory=lambda: np.empty((0, 0), dtype=np.float32))


@dataclass(frozen=True)
class Progress:
    """The state of a search after a batch of candidates.

    Attributes:
        evaluations: Candidates evaluated so far.
        best_loss: Lowest finite loss so far; ``inf`` if there is none.
        best_latent: Its latent ``(1, d)``, or None if there is none.
        losses: Every loss so far in the order evaluated, ``(evaluations,)`` float32.
        details: Those of the batch's candidates ``(C, m)`` float32, if they were wanted.
        known: Whether the batch was restored, not evaluated.
    """

    evaluations: int
    best_loss: float
    best_latent: Tensor | None
    losses: np.ndarray
    details: np.ndarray | None = None
    known: bool = False


@dataclass(frozen=True)
class SearchResult:
    """The outcome of one latent search.

    Attributes:
        latent: The latent ``(1, d)`` with the lowest finite loss, or None if no candidate had one.
        loss: Its loss; ``inf`` if there is none.
        losses: Every loss in the order evaluated, ``(budget,)`` float32; fewer if it was cut short.
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
            wanted = steps.send(_evaluate(wanted))
    except StopIteration as end:
        result: Result = end.value
        return result


def _evaluate(wanted: Evaluation[Any]) -> Scores:
    if wanted.wanted is not None:
        scores: Scores = wanted.objective.scores(wanted.latents, wanted.wanted)
        return scores
    return Scores(wanted.objective(wanted.latents))


def search_steps(
    objective: Objective,
    searcher: Searcher,
    space: LatentSpace,
    *,
    budget: int,
    population: int,
    known: History | None = None,
    max_seconds: float | None = None,
    device: torch.device | str = "cpu",
    on_batch: Callable[[Progress], None] = lambda _: None,
) -> Steps[Objective, SearchResult]:
    """Minimises ``objective`` over ``space`` with exactly ``budget`` candidate evaluations.

    With ``max_seconds`` there may be fewer, and how many depends on the machine and its load.

    Args:
        objective: Maps latents ``(C, d)`` to losses ``(C,)``.
        searcher: Proposes points.
        space: Maps those points to latents.
        budget: Candidate evaluations to spend, exactly.
        population: Candidates per batch; the last batch may be smaller.
        known: History of an interrupted search with the same arguments. It is told to the
            searcher instead of being evaluated again, which brings it to the same state.
        max_seconds: Time after which no further batch is begun, that of searches whose steps are
            taken in turn included; None for as long as it takes.
        device: Where latents are evaluated.
        on_batch: Called after every batch, the known ones included.

    Raises:
        InputError: For more known losses than the budget.
    """
    record = _Record(budget, known or History(np.empty(0, dtype=np.float32)))
    best_latent, best_loss = None, float("inf")
    end = time.monotonic() + (float("inf") if max_seconds is None else max_seconds)
    while record.spent < budget and (not record.spent or time.monotonic() < end):
        points = searcher.ask(min(population, budget - record.spent))
        latents = space.to_latents(torch.from_numpy(points), searcher.view).float().to(device)
        wanted = searcher.wants if isinstance(searcher, DetailSearcher) else None
        restored = record.restore(len(points), detailed=wanted is not None)
        if not restored:
            scores = yield Evaluation(objective, latents, wanted)
            if wanted == "gradients":
                scores = scores._replace(
                    details=_by_points(scores.details, points, searcher, space)
                )
            record.add(scores)
        losses = record.last_losses
        told = tellable(losses, best_loss)
        if isinstance(searcher, DetailSearcher) and wanted is not None:
            searcher.tell_details(points, told, record.last_details)
        else:
            searcher.tell(points, told)

        finite = np.where(np.isfinite(losses), losses, np.inf)
        winner = int(finite.argmin())
        if finite[winner] < best_loss:
            best_latent, best_loss = latents[winner, None], float(finite[winner])
        on_batch(
            Progress(
                record.spent,
                best_loss,
                best_latent,
                record.losses[: record.spent],
                record.last_details if wanted is not None else None,
                restored,
            )
        )
    return SearchResult(best_latent, best_loss, record.losses[: record.spent])


def _by_points(
    gradients: Tensor | None, points: np.ndarray, searcher: Searcher, space: LatentSpace
) -> Tensor:
    """Returns the gradients of losses by the searcher's points, from those by latents."""
    assert gradients is not None
    with torch.enable_grad():
        leaves = torch.from_numpy(points).requires_grad_()
        latents = space.to_latents(leaves, searcher.view)
        [found] = torch.autograd.grad(latents, [leaves], gradients.cpu().to(latents.dtype))
    return found


class _Record:
    """What a search was told so far, batch by batch: first what is known, then what is found.

    Attributes:
        losses: ``(budget,)`` float32, the first ``spent`` of them filled.
        spent: Candidates told.
        last_losses: Those of the last batch, ``(C,)``.
        last_details: Details of the last batch that had some, ``(C, m)``.

    Raises:
        InputError: For more known losses than the budget.
    """

    def __init__(self, budget: int, known: History) -> None:
        if len(known.losses) > budget:
            raise InputError(
                f"Expected at most {budget} known losses, as many as the budget, "
                f"got {len(known.losses)}."
            )
        self.losses = np.empty(budget, dtype=np.float32)
        self.spent, self._detailed = 0, 0
        self.last_losses = self.last_details = np.empty(0, dtype=np.float32)
        self._known = known

    def restore(self, candidates: int, *, detailed: bool) -> bool:
        """Takes a batch from what is known; returns whether all of it was there."""
        stop, stop_details = self.spent + candidates, self._detailed + candidates
        if stop > len(self._known.losses):
            return False
        if detailed and stop_details > len(self._known.details):
            return False
        self._take(self._known.losses[self.spent : stop])
        if detailed:
            self.last_details = self._known.details[self._detailed : stop_details]
            self._detailed = stop_details
        return True

    def add(self, scores: Scores) -> None:
        """Takes a batch that was evaluated."""
        self._take(scores.losses.cpu().numpy())
        if scores.details is not None:
            self.last_details = scores.details.cpu().float().numpy()

    def _take(self, losses: np.ndarray) -> None:
        self.last_losses = losses.astype(np.float32)
        self.losses[self.spent : self.spent + len(losses)] = losses
        self.spent += len(losses)


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
