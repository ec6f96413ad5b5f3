"""Stand-ins for workers: all of an audit is real but the evaluation of candidates, which sleeps."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import ray
from ray import tune
from ray.actor import ActorClass

from engine.attacks.scores import Scores
from engine.attacks.together import MatchingEvaluation
from engine.lab import trial_specs
from engine.plan import make_plan
from engine.trial.parts import Outcome, TrialResult
from engine.tuning import worker
from engine.tuning.worker import News, news_of

SEATS = 25  # Stand-ins a process.


def sleeping_work(seconds: float) -> Callable[..., None]:
    """Returns what a real worker does, but for evaluations: those sleep, and find a bowl's losses.

    Args:
        seconds: Of sleep for a candidate.
    """

    def work(config: Mapping[str, Any], plan: str, folder: str) -> None:
        def evaluate(evaluations: Sequence[MatchingEvaluation]) -> list[Scores]:
            time.sleep(seconds * sum(len(one.latents) for one in evaluations))
            return [Scores(one.latents.square().sum(1)) for one in evaluations]

        with patch("engine.attacks.turns.evaluate_together", evaluate):
            worker.work(config, plan, folder)

    return work


@dataclass(frozen=True)
class Script:
    """What stand-ins do in place of trials.

    Attributes:
        plan: Of the audit, as JSON.
        result: Which every trial comes to.
        seconds: That a trial takes.
    """

    plan: str
    result: TrialResult
    seconds: float


class StandIn(tune.Trainable):  # type: ignore[misc] # Ray is not typed for mypy.
    """A worker that sleeps for as long as a trial takes, and reports what real ones report.

    It is asked by Tune's controller, as often as a real one, for what a real one answers.
    """

    script: Script
    specs: Mapping[str, Any]

    def setup(self, config: dict[str, Any]) -> None:
        self._trials = list(config["trials"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        # A function's last result comes a second time, as its end.
        if not self._trials:
            return {"done": True}
        time.sleep(self.script.seconds)
        result = replace(self.script.result, wall_s=self.script.seconds)
        over = [Outcome(self.specs[name], result) for name in self._trials]
        self._trials = []
        return {"news": News({one.spec.id: news_of(one) for one in over})}


class Office:
    """A process with room for several stand-ins, each with calls of its own."""

    def __init__(self, script: Script) -> None:
        plan = make_plan(json.loads(script.plan), source="plan")
        StandIn.script = script
        StandIn.specs = {spec.id: spec for spec in trial_specs(plan)}
        self._seats: dict[int, StandIn] = {}

    def seat(self, number: int, arguments: Mapping[str, Any]) -> None:
        """Seats a stand-in."""
        self._seats[number] = StandIn(**arguments)

    def call(self, number: int, method: str, *args: Any, **kwargs: Any) -> Any:
        """Calls a method of one."""
        return getattr(self._seats[number], method)(*args, **kwargs)

    def leave(self, number: int) -> None:
        """Frees a seat."""
        del self._seats[number]


class Seat:
    """What Tune holds of a worker: here a seat in an office, with methods like an actor's."""

    def __init__(self, office: Any, number: int, arguments: Mapping[str, Any]) -> None:
        self._office, self._number = office, number
        self._seated = office.seat.remote(number, arguments)

    def __getattr__(self, method: str) -> Any:
        """Returns what calls a method there."""
        if method == "__ray_ready__":
            return SimpleNamespace(remote=lambda: self._seated)
        if method == "__ray_terminate__":
            return SimpleNamespace(remote=lambda: self._office.leave.remote(self._number))
        call = self._office.call
        return SimpleNamespace(
            remote=lambda *args, **kwargs: call.remote(self._number, method, *args, **kwargs)
        )


class Offices(ActorClass):  # type: ignore[misc] # Ray is not typed for mypy.
    """Stands for the actor class that Tune starts workers of, which take a seat instead."""

    def __init__(self, script: Script, workers: int) -> None:
        actor = ray.remote(num_cpus=0, max_concurrency=2 * SEATS)(Office)
        held = ray.put(script)
        self._offices = [actor.remote(held) for _ in range(-(-workers // SEATS))]
        ray.get([office.__ray_ready__.remote() for office in self._offices])
        self._taken = 0

    def options(self, **options: Any) -> "Offices":
        """Leaves out where Ray would put the actor; the resources are taken all the same."""
        del options
        return self

    def remote(self, **arguments: Any) -> Seat:
        """Starts a worker."""
        number, self._taken = self._taken, self._taken + 1
        return Seat(self._offices[number % len(self._offices)], number, arguments)


@contextlib.contextmanager
def standing_in(script: Script, workers: int) -> Iterator[None]:
    """Has Tune start stand-ins in place of workers."""
    offices = Offices(script, workers)
    with patch("ray.tune.execution.class_cache._ActorClassCache.get", return_value=offices):
        yield
