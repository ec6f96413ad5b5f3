"""Translates Ray Tune's callbacks into what a listener hears."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from ray.tune import Callback

from engine.tuning.fan_out import HUNG, WORKER_LOSSES, Listener
from engine.tuning.silence import Silences
from engine.tuning.worker import News, for_want_of_memory

LOOK_AT_ALL_SECONDS: Final = 1.0  # Going through thousands of trials takes a few milliseconds.


class ListenerCallback(Callback):  # type: ignore[misc] # Ray is not typed for mypy.
    """Tells a listener of trials by their own ids.

    Attributes:
        over: Those that finished or failed.
        missed: Those that have to be run again, since they never came to a worker.

    Args:
        listener: Hears of every trial.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self.over: set[str] = set()
        self.missed: set[str] = set()
        self._times_missed: Counter[str] = Counter()
        self._started: set[str] = set()
        self._hung: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Leaves the listener out of what Tune pickles; resuming is ours, not Tune's."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tune started or restarted a trial."""
        for name in self._waiting(trial):
            self._start(name)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A worker reported progress or outcomes."""
        heard: News | None = result.get("news")
        # Tune keeps the last result, and writes it into a state that nobody resumes from. It
        # prints the end of a trial whose last result is empty.
        result["news"] = "told"
        for name, news in heard.by_trial.items() if heard else ():
            if name not in self.over:
                self._tell(name, news)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's workers were lost too often, or one before the trial was handed over to it."""
        for name in self._waiting(trial):
            self._times_missed[name] += 1
            if never_handed_over(trial) and self._times_missed[name] <= WORKER_LOSSES:
                self.missed.add(name)
                continue
            if name not in self._started:
                self._start(name)
            self.over.add(name)
            reason = HUNG if name in self._hung else worker_lost(trial)
            self._listener.failed(name, reason, last_error(trial))

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's worker was lost, and the trial waits for another."""
        for name in self._waiting(trial):
            if name not in self._hung:  # Of which the listener has heard.
                self._listener.lost(name, worker_lost(trial))

    def hung(self, trial: Any, seconds: float) -> None:
        """A worker was killed because nothing was heard of it for so long."""
        for name in self._waiting(trial):
            self._hung.add(name)
            self._listener.hung(name, seconds)

    def _start(self, name: str) -> None:
        self._started.add(name)
        self._hung.discard(name)
        self._listener.started(name)

    def _waiting(self, trial: Any) -> list[str]:
        return [name for name in trial.config["trials"] if name not in self.over]

    def _tell(self, name: str, news: Mapping[str, Any]) -> None:
        if "result" in news:
            self.over.add(name)
            self._listener.finished(name, news["result"], news["arrays"])
        elif "error" in news:
            self.over.add(name)
            self._listener.failed(name, news["error"], news["traceback"])
        else:
            self._listener.progressed(name, news["evaluations"], news["loss"])
            if "unsaved" in news:
                self._listener.unsaved(name, news["unsaved"])


def worker_lost(trial: Any) -> str:
    """Returns why a trial's last worker was lost, in Ray's words, and what may help."""
    text = last_error(trial)
    reason = text.partition("\n")[0].rstrip(".")
    return f"worker lost: {reason}{for_want_of_memory(RuntimeError(text))}"


def last_error(trial: Any) -> str:
    """Returns the text of a trial's last error; Tune's own way looks where it comes at the end."""
    if trial.error_file is None:
        return ""
    errors = Path(trial.error_file).read_text(encoding="utf-8")
    return errors.rpartition("Failure # ")[2].partition("\n")[2].strip()


def is_handed_over(trial: Any) -> bool:
    """Whether a worker that ended another trial is being made ready for this one.

    Tune has given it the worker by then, and does not count it as running yet.
    """
    return bool(trial.status == trial.PENDING and trial.temporary_state.ray_actor is not None)


def never_handed_over(trial: Any) -> bool:
    """Whether a trial that Tune gave up lost its worker while that was being made ready for it.

    Tune gives such a trial up at once, whatever number of losses it may have.
    """
    return bool(trial.should_recover())


class HangCallback(Callback):  # type: ignore[misc] # Ray is not typed for mypy.
    """Kills the workers of trials that are silent for too long; Tune then starts the trials again.

    Args:
        patience: Seconds; None for ever.
        on_hung: Called with the Tune trial whose worker is killed, and the seconds of its silence.
    """

    def __init__(self, patience: float | None, on_hung: Callable[[Any, float], None]) -> None:
        self._silences = Silences(patience)
        self._on_hung = on_hung
        self._next_look_at_all = 0.0

    def __getstate__(self) -> dict[str, Any]:
        """Leaves everything out of what Tune pickles, which nobody resumes from."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tune started or restarted a trial."""
        self._silences.heard(trial)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A worker reported."""
        self._silences.heard(trial)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial ended of itself."""
        self._silences.left(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's workers were lost too often."""
        self._silences.left(trial)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's worker was lost, and the trial waits for another."""
        self._silences.left(trial)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Tune looked for news, ten times a second or more often."""
        import ray

        now = time.monotonic()
        if now >= self._next_look_at_all:
            self._next_look_at_all = now + LOOK_AT_ALL_SECONDS
            for trial in filter(is_handed_over, trials):
                self._silences.expect(trial)
        for trial, seconds in self._silences.look(now).items():
            self._on_hung(trial, seconds)
            worker = trial.temporary_state.ray_actor
            if worker is not None:  # None where it has just ended.
                ray.kill(worker)


class LossCallback(Callback):  # type: ignore[misc] # Ray is not typed for mypy.
    """Tells of lost workers.

    Args:
        on_lost: Called with the reason where the trial goes on with another worker.
        on_given_up: Called where a trial has lost too many.
    """

    def __init__(self, on_lost: Callable[[str], None], on_given_up: Callable[[], None]) -> None:
        self._on_lost, self._on_given_up = on_lost, on_given_up

    def __getstate__(self) -> dict[str, Any]:
        """Leaves the callables out of what Tune pickles, which nobody resumes from."""
        return {}

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's worker was lost, and the trial waits for another."""
        self._on_lost(worker_lost(trial))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's workers were lost too often, or one before the trial was handed over to it."""
        if not never_handed_over(trial):
            self._on_given_up()


class DoneCallback(Callback):  # type: ignore[misc] # Ray is not typed for mypy.
    """Tells of trials that are over, by their configs.

    Args:
        on_done: Called with the config.
    """

    def __init__(self, on_done: Callable[[Mapping[str, Any]], None]) -> None:
        self._on_done = on_done

    def __getstate__(self) -> dict[str, Any]:
        """Leaves the callable out of what Tune pickles, which nobody resumes from."""
        return {}

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial ended of itself."""
        self._on_done(trial.config)
