"""Several searches in turn: what all of them wait for is evaluated as one population."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

from engine.attacks.objective import GradientMatchingObjective
from engine.attacks.scores import Scores
from engine.attacks.search import Steps
from engine.attacks.together import MatchingEvaluation, evaluate_together

Result = TypeVar("Result")


class Over(NamedTuple, Generic[Result]):
    """Steps that came to an end.

    Attributes:
        place: Which of them, counted from 0.
        outcome: Their result, or the exception that ended them.
        seconds: Time spent on them; of what they shared with others, their part.
    """

    place: int
    outcome: Result | Exception
    seconds: float


def run_in_turn(
    steps: Sequence[Steps[GradientMatchingObjective, Result]],
) -> Iterator[list[Over[Result]]]:
    """Takes the steps of several searches, generation by generation, evaluated together.

    Each has the outcome it would have by itself, on GPUs but for rounding: one that fails does not
    disturb the others.

    Yields:
        Those that are over as they come, those that come at once together.
    """
    running = [_Running(place, some) for place, some in enumerate(steps)]
    while running:
        over = [
            Over(one.place, one.outcome, one.seconds) for one in running if one.outcome is not None
        ]
        if over:
            yield over
        running = [one for one in running if one.outcome is None]
        _step(running)


class _Running(Generic[Result]):
    """Steps under way.

    Attributes:
        place: Which they are.
        wanted: What they need evaluated next.
        outcome: How they ended; None while they run.
        seconds: Time spent on them.
    """

    def __init__(self, place: int, steps: Steps[GradientMatchingObjective, Result]) -> None:
        self.place, self._steps = place, steps
        self.wanted: MatchingEvaluation
        self.outcome: Result | Exception | None = None
        self.seconds = 0.0
        self._advance(lambda: next(steps))

    def answer(self, scores: Scores | Exception) -> None:
        """Takes the next step with the scores of what was wanted, or with why there are none."""
        if isinstance(scores, Exception):
            error = scores
            self._advance(lambda: self._steps.throw(error))
        else:
            found = scores
            self._advance(lambda: self._steps.send(found))

    def _advance(self, step: Callable[[], MatchingEvaluation]) -> None:
        started = time.monotonic()
        try:
            self.wanted = step()
        except StopIteration as end:
            self.outcome = end.value
        except Exception as error:  # Ends these steps alone.
            self.outcome = error
        self.seconds += time.monotonic() - started


def _step(running: Sequence[_Running[Result]]) -> None:
    """Evaluates what all running steps want, and lets each go on."""
    if not running:
        return
    started = time.monotonic()
    found = _evaluate([one.wanted for one in running])
    seconds = time.monotonic() - started
    candidates = sum(len(one.wanted.latents) for one in running)
    for one, scores in zip(running, found, strict=True):
        one.seconds += seconds * len(one.wanted.latents) / candidates
        one.answer(scores)


def _evaluate(
    wanted: Sequence[MatchingEvaluation],
) -> Sequence[Scores | Exception]:
    """Returns the scores of each; where one cannot be evaluated, the others are nonetheless."""
    try:
        return evaluate_together(wanted)
    except Exception as error:
        if len(wanted) == 1:
            return [error]
        return [_evaluate([one])[0] for one in wanted]
