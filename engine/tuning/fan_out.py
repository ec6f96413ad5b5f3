"""Runs latent searches as Ray Tune trials, one or several a trial."""

import contextlib
import json
import os
import signal
import tempfile
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from engine.errors import AuditError, InfrastructureError
from engine.plan import Plan
from engine.plan.parts import ComputePlan
from engine.tuning.worker import work

if TYPE_CHECKING:
    from engine.tuning.callback import ListenerCallback

# A trial whose worker was lost is started again, from its saved history, until Tune has counted so
# many losses; a worker that it was waiting for two things of, it counts twice. One whose worker
# was lost before it had the trial is run again as often, for that Tune does not do.
WORKER_LOSSES = 6
HUNG: Final = "worker lost after hanging; was it slow, raise compute.hang_seconds"
NO_HANDLER: Final = "TUNE_DISABLE_SIGINT_HANDLER"


class Listener(Protocol):
    """Hears, in the driver, of what happens to trials; ids are those of the trial specs."""

    def started(self, trial: str) -> None:
        """A worker takes the trial up, perhaps for the second time."""

    def progressed(self, trial: str, evaluations: int, loss: float | None) -> None:
        """The trial has spent ``evaluations`` and its best loss is ``loss``."""

    def unsaved(self, trial: str, error: str) -> None:
        """The trial goes on, but what it finds from here on cannot be saved."""

    def hung(self, trial: str, seconds: float) -> None:
        """The trial goes on with another worker: for so long nothing was heard of its own."""

    def lost(self, trial: str, error: str) -> None:
        """The trial goes on with another worker: its own was lost."""

    def finished(self, trial: str, result: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
        """The trial is done; ``result`` is plain values, ``arrays`` its images and losses."""

    def failed(self, trial: str, error: str, trace: str) -> None:
        """The trial raised, or its workers were lost too often."""

    def holds(self) -> bool:
        """Whether the run folder is still this driver's to write to."""


def run_trials(plan: Plan, trials: Sequence[str], folder: Path, listener: Listener) -> None:
    """Runs the named trials of a plan in Tune trials and tells ``listener`` of each.

    A Tune trial carries ``plan.compute.searches_per_trial`` of them, in the order given.

    Args:
        plan: The audit's plan.
        trials: Ids of the trials to run.
        folder: The run folder. A worker that can write to it saves unfinished searches there.
        listener: Hears of every trial, in this process.

    Raises:
        KeyboardInterrupt: If the user interrupts; which trials finished is what the listener heard.
    """
    from engine.tuning.callback import ListenerCallback

    callback, waiting = ListenerCallback(listener), list(trials)
    while waiting:
        callback.missed.clear()
        _run(plan, waiting, folder, callback)
        waiting = [trial for trial in waiting if trial in callback.missed]


def _run(plan: Plan, trials: Sequence[str], folder: Path, callback: "ListenerCallback") -> None:
    """Gives every trial to a worker once; those that missed theirs are in ``callback.missed``."""
    from ray import tune

    from engine.tuning.callback import HangCallback
    from engine.tuning.scheduler import InOrder

    carried = _carried(trials, plan.compute)
    with tempfile.TemporaryDirectory(prefix="leaktune-tune-") as scratch:
        trainable = tune.with_resources(
            tune.with_parameters(
                work, plan=json.dumps(plan.to_dict()), folder=str(folder.absolute())
            ),
            resources_of(plan.compute),
        )
        tuner = tune.Tuner(
            trainable,
            param_space=in_turn(carried),
            tune_config=tune.TuneConfig(
                num_samples=len(carried),
                scheduler=InOrder(),
                max_concurrent_trials=plan.compute.workers,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=folder.name,
                storage_path=scratch,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=WORKER_LOSSES),
                callbacks=[callback, HangCallback(plan.compute.hang_seconds, callback.hung)],
            ),
        )
        fit(tuner)


def _carried(trials: Sequence[str], compute: ComputePlan) -> list[list[str]]:
    """Returns the trials that each Tune trial carries."""
    size = compute.searches_per_trial
    return [list(trials[start : start + size]) for start in range(0, len(trials), size)]


def in_turn(carried: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Returns the parameter space of which one sample after the other is the next Tune trial's.

    A grid would be copied whole for each of its points.
    """
    from ray import tune

    waiting = iter(carried)
    return {"trials": tune.sample_from(lambda _: next(waiting))}


def resources_of(compute: ComputePlan) -> dict[str, float]:
    """Returns what a Tune trial gets, in Tune's words."""
    return {"cpu": compute.cpus_per_trial, "gpu": compute.gpus_per_trial}


def fit(tuner: Any) -> Any:
    """Runs a tuner and returns its results.

    Raises:
        KeyboardInterrupt: If the user interrupts, after Tune has ended its trials.
        AuditError: What the listener raised.
        InfrastructureError: If Tune itself fails.
    """
    from ray import tune

    try:
        with _interrupts():
            return tuner.fit()
    except tune.TuneError as error:
        if own := _own(error):
            raise own from None
        raise InfrastructureError(f"Ray Tune failed: {error}\n{traceback.format_exc()}") from error


@contextlib.contextmanager
def _interrupts() -> Iterator[None]:
    """Raises KeyboardInterrupt at the end of the block if Tune, which is run in it, had one.

    At the first SIGINT Tune ends its trials, puts back the handler it found, and says nothing. If
    none came it leaves its own handler behind, which would swallow the next one.
    """
    handler = signal.getsignal(signal.SIGINT)
    other_thread = threading.current_thread() is not threading.main_thread()
    if other_thread or handler is None or NO_HANDLER in os.environ:
        yield
        return
    try:
        yield
        if signal.getsignal(signal.SIGINT) is handler:
            raise KeyboardInterrupt
    finally:
        signal.signal(signal.SIGINT, handler)


def _own(error: BaseException | None) -> AuditError | None:
    """Returns the error of ours that Tune's was raised over, if it was one."""
    while error is not None and not isinstance(error, AuditError):
        error = error.__cause__ or error.__context__
    return error
