"""Has Ray Tune's search algorithms propose candidates in whole generations, in a fixed order."""

import time
import traceback
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from ray.tune.search import Searcher

from engine.attacks.search import tellable
from engine.tuning.candidate_log import CandidateLog
from engine.tuning.fan_out import WORKER_LOSSES

METRIC: Final = "loss"
MODE: Final = "min"
PROGRESS_SECONDS: Final = 1.0


class Proposals(Searcher):  # type: ignore[misc] # Ray is not typed for mypy.
    """A search algorithm of Tune's that another one proposes for, generation by generation.

    The inner one is told of a generation as a whole, in the order proposed, and proposes the next
    one then. So what it proposes depends neither on which worker is done first nor on how many
    there are, and a search is restored by proposing again and telling the losses known.

    A loss that is not finite is told as :func:`engine.attacks.search.tellable` has it. Candidates
    whose loss is known are not handed out.

    Attributes:
        suggestions: Every candidate proposed so far, in order.
        failure: ``error`` and ``traceback`` of what ended the search; None while all is well.
        error: What was raised where losses are kept and told of, which ends the whole audit.

    Args:
        algorithm: Proposes.
        generation: Candidates it is asked for before it is told.
        log: Keeps the losses.
        on_progress: Called with the number of losses known and the best, at most once a second.
    """

    def __init__(
        self,
        algorithm: Searcher,
        *,
        generation: int,
        log: CandidateLog,
        on_progress: Callable[[int, float], None],
    ) -> None:
        super().__init__(metric=METRIC, mode=MODE)
        self.suggestions: list[dict[str, float]] = []
        self.failure: dict[str, str] | None = None
        self.error: Exception | None = None
        self._algorithm = algorithm
        self._generation = generation
        self._log = log
        self._on_progress = on_progress
        self._told = 0
        self._waiting: deque[int] = deque()
        self._handed_out: dict[str, int] = {}
        self._missed: Counter[int] = Counter()
        self._next_progress = time.monotonic() + PROGRESS_SECONDS

    def __getstate__(self) -> dict[str, Any]:
        """Leaves everything out of what Tune pickles; resuming is ours, not Tune's."""
        return {}

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Keeps nothing: the log is all that a resume needs."""

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any
    ) -> bool:
        """Takes note of the parameter space, which the algorithm has already."""
        return True

    def advance(self) -> None:
        """Proposes, and tells of losses known, until a loss is needed or the budget is spent."""
        try:
            while self.failure is None and self._log.known[: len(self.suggestions)].all():
                self._tell()
                if not self._propose():
                    break
        except Exception as error:  # Shown to the user, counted as failed, never dropped.
            self.fail(f"{type(error).__name__}: {error}", traceback.format_exc())

    def suggest(self, trial_id: str) -> Any:
        if self.failure or self.error or self._log.known.all():
            return Searcher.FINISHED
        if not self._waiting:
            return None
        candidate = self._handed_out[trial_id] = self._waiting.popleft()
        return self.suggestions[candidate]

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        candidate = self._handed_out.pop(trial_id)
        if error:
            self._waiting.appendleft(candidate)
            self._missed[candidate] += 1
            if self._missed[candidate] > WORKER_LOSSES:
                self.lose()
        elif result and "error" in result:
            self.fail(result["error"], result["traceback"])
        elif result and METRIC in result:  # Not so where the user stopped it.
            try:
                self._log.add(candidate, result[METRIC])
                self._report_progress()
            except Exception as problem:  # Tune would kill the worker and have it all done again.
                self.error = problem
            else:
                self.advance()

    def lose(self) -> None:
        """Ends the search because the workers of a candidate were lost too often."""
        self.fail("worker lost", f"Candidate {self._waiting[0]} was begun too often.")

    def fail(self, error: str, trace: str) -> None:
        """Ends the search for a reason; the first one counts."""
        self.failure = self.failure or {"error": error, "traceback": trace}

    def _propose(self) -> bool:
        """Has the next generation proposed; returns whether the budget had room for one."""
        start = len(self.suggestions)
        stop = min(start + self._generation, len(self._log.losses))
        for candidate in range(start, stop):
            self.suggestions.append(self._algorithm.suggest(_name(candidate)))
        self._waiting.extend(n for n in range(start, stop) if not self._log.known[n])
        return stop > start

    def _tell(self) -> None:
        generation = slice(self._told, len(self.suggestions))
        losses = tellable(self._log.losses[generation], _best(self._log.losses[: self._told]))
        for candidate, loss in enumerate(losses, start=self._told):
            self._algorithm.on_trial_complete(_name(candidate), {METRIC: float(loss)})
        self._told = len(self.suggestions)

    def _report_progress(self) -> None:
        now = time.monotonic()
        if now >= self._next_progress:
            self._next_progress = now + PROGRESS_SECONDS
            known = self._log.losses[self._log.known]
            self._on_progress(len(known), _best(known))


def _name(candidate: int) -> str:
    return f"candidate{candidate}"


def _best(losses: np.ndarray) -> float:
    """Returns the lowest finite loss; ``inf`` if there is none."""
    return float(losses[np.isfinite(losses)].min(initial=np.inf))
