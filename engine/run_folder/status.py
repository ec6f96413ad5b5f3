"""How far an audit has come, from the files of its run folder alone; see ``docs/run-folder.md``.

It shows what an attacker knows of its own searches, their matching losses, and no figure that comes
of a comparison with a private image.
"""

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from engine.errors import InfrastructureError, InputError
from engine.run_folder import json_lines
from engine.run_folder.lease import Lease, is_alive, last_lease
from engine.run_folder.run_folder import RunFolder

RECENT_SECONDS: Final = 300.0
State = Literal["running", "finished", "interrupted", "stopped"]


@dataclass
class TrialStatus:
    """How far one trial has come.

    Attributes:
        params: Of its spec, as tracking shows them.
        phase: Whether it waits (perhaps to go on), runs, or is over.
        evaluations: Spent on it.
        loss: Its best matching loss so far, lower is better; None before the first finite one.
        error: Why it failed, in a line.
    """

    params: Mapping[str, Any]
    phase: Literal["waiting", "running", "done", "failed"] = "running"
    evaluations: int = 0
    loss: float | None = None
    error: str | None = None

    @property
    def searches(self) -> bool:
        """Whether it is a search, and no control that evaluates nothing."""
        return "searcher" in self.params


@dataclass
class Tally:
    """What the events of a run add up to.

    Times are the driver's; between two drivers, whose clocks may differ, none is subtracted.

    Attributes:
        trials: Those taken up at least once, by id.
        total: Trials of the audit.
        budget: Evaluations of the audit; None in logs of versions that did not write it.
        concluded: Whether summary and report were written after all that was run.
        before: Seconds that earlier drivers were at work.
        began: When the last driver began.
        last: When it was last heard of.
        gains: Times at which it reported further evaluations, and how many.
        gained: Evaluations reported by all drivers, each once.
    """

    total: int
    budget: int | None
    began: float
    last: float
    trials: dict[str, TrialStatus] = field(default_factory=dict)
    concluded: bool = False
    before: float = 0.0
    gains: list[tuple[float, int]] = field(default_factory=list)
    gained: int = 0

    def add(self, event: Mapping[str, Any]) -> None:
        """Takes in the next event."""
        kind, time = str(event["kind"]), float(event["time"])
        if kind == "audit_resumed":
            self._begin_again(time)
        elif kind == "audit_finished":
            self.concluded = True
        elif kind == "trial_started":
            trial = self.trials.setdefault(str(event["trial"]), TrialStatus(dict(event["params"])))
            trial.phase = "running"
        elif kind in ("trial_progress", "trial_finished", "trial_failed"):
            trial = self.trials.setdefault(str(event["trial"]), TrialStatus({}))
            self._hear(kind, trial, time, event)
        self.last = max(self.last, time)

    def _begin_again(self, time: float) -> None:
        """Notes a further driver; it tries failed trials again too."""
        self.before += self.last - self.began
        self.began = self.last = time
        self.concluded, self.gains = False, []
        for trial in self.trials.values():
            if trial.phase != "done":
                trial.phase = "waiting"

    def _hear(self, kind: str, trial: TrialStatus, time: float, event: Mapping[str, Any]) -> None:
        if kind == "trial_failed":
            trial.phase, trial.error = "failed", str(event["error"])
            return
        news = event["metrics"] if kind == "trial_finished" else event
        loss = None if news.get("loss") is None else float(news["loss"])
        if kind == "trial_finished":
            trial.phase, trial.loss = "done", loss
        elif loss is not None:
            trial.loss = min(loss, loss if trial.loss is None else trial.loss)
        # A search that was restored counts from 0 again while it is told what it had found.
        more = int(news["evaluations"]) - trial.evaluations
        if more > 0:
            trial.evaluations += more
            self.gains.append((time, more))
            self.gained += more


@dataclass(frozen=True)
class Status:
    """An audit as it stands; the keys of ``leaktune status --format json``.

    Attributes:
        schema_version: Of these keys.
        run: Name of the run folder.
        state: ``running`` while a driver is at work; ``finished``; ``stopped`` by SIGTERM or
            ``leaktune stop``; ``interrupted`` in any other way.
        trials: How many there are in all (``total``), and how many of them are ``done``,
            ``running``, ``failed`` and ``waiting``.
        evaluations: How many are ``spent`` of ``total``; a second, ``recent_per_s`` over the last
            five minutes and ``whole_per_s`` over all the time that drivers were at work.
        left_s: Seconds until the searches are done at that rate; None unless they run.
        losses: For each defense and attack, over its targets and seeds: how many searches have a
            loss (``trials``), their ``lowest`` and their ``median`` best matching loss.
        failures: The failed trials, each with its ``error``.
        driver: The last one; None for a run of a version without leases.
        next: The command that goes on with the audit; None where there is nothing to go on with.
    """

    schema_version: int
    run: str
    state: State
    trials: Mapping[str, int]
    evaluations: Mapping[str, float | None]
    left_s: float | None
    losses: tuple[Mapping[str, Any], ...]
    failures: tuple[Mapping[str, str], ...]
    driver: Mapping[str, Any] | None
    next: str | None

    def to_dict(self) -> dict[str, Any]:
        """Returns the status as plain values."""
        return asdict(self)


def read_status(run: Path) -> Status:
    """Returns how far an audit has come.

    Raises:
        InputError: If ``run`` is no run folder, or its files are damaged.
        InfrastructureError: If the storage fails.
    """
    try:
        return _read(run)
    except OSError as error:
        raise InfrastructureError(
            f"Expected to read the run folder {run}, got: {error}. Try again when it can be read."
        ) from error


def _read(run: Path) -> Status:
    folder = RunFolder.open(run)
    folder.plan()  # A run whose plan is damaged cannot be gone on with.
    lease = last_lease(run)
    alive = lease is not None and is_alive(run, lease)
    tally = _tally(folder)
    if alive and lease is not None:
        tally.last = max(tally.last, lease.heartbeat)  # By the clock that the events have.
    phases = [_phase(folder, name, trial, alive) for name, trial in tally.trials.items()]
    counts = {phase: phases.count(phase) for phase in ("done", "running", "failed")}
    over = counts["done"] + counts["failed"] == tally.total
    state = _state(lease, alive=alive, finished=over and tally.concluded)
    recent = _recent(tally) if alive else None
    whole = _rate(tally.gained, tally.before + tally.last - tally.began)
    failures = {n: t for n, t in tally.trials.items() if t.phase == "failed"}
    can_go_on = not alive and (state != "finished" or bool(failures))
    return Status(
        schema_version=1,
        run=folder.name,
        state=state,
        trials={"total": tally.total, **counts, "waiting": tally.total - sum(counts.values())},
        evaluations={
            "total": tally.budget,
            "spent": sum(trial.evaluations for trial in tally.trials.values()),
            "recent_per_s": recent,
            "whole_per_s": whole,
        },
        left_s=_seconds_left(tally, recent or whole) if alive else None,
        losses=_losses(tally),
        failures=tuple({"trial": n, "error": t.error or ""} for n, t in failures.items()),
        driver=_driver(lease, alive) if lease else None,
        next=f"leaktune resume {run}" if can_go_on else None,
    )


def _tally(folder: RunFolder) -> Tally:
    path = folder.path / "events.jsonl"
    lines, tally = 0, None
    try:
        for event in json_lines.read(path):
            if tally is None:
                began = float(event["time"])
                tally = Tally(int(event["trials"]), event.get("evaluations"), began, began)
            tally.add(event)
            lines += 1
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"Expected an event in each line of {path}, got something else after line {lines}: "
            f"{type(error).__name__}: {error}. Put the file back from a copy."
        ) from error
    if tally is None:
        raise InputError(
            f"Expected the start of an audit in {path}, got an empty log. Start the audit anew."
        )
    return tally


def _phase(folder: RunFolder, name: str, trial: TrialStatus, alive: bool) -> str:
    """Returns a trial's phase, in view of what is left of its driver."""
    if trial.phase == "running" and not alive:
        return "waiting"
    # A driver may have been killed between the two; the result is what counts.
    if trial.phase == "done" and not (folder.path / "trials" / name / "result.json").is_file():
        return "running" if alive else "waiting"
    return trial.phase


def _state(lease: Lease | None, *, alive: bool, finished: bool) -> State:
    if alive:
        return "running"
    if finished:
        return "finished"
    return "stopped" if lease is not None and lease.ended == "stopped" else "interrupted"


def _driver(lease: Lease, alive: bool) -> dict[str, Any]:
    shown = ("number", "host", "pid", "started", "heartbeat", "ended")
    values = asdict(lease)
    return {"alive": alive, **{name: values[name] for name in shown}, "age_s": lease.age()}


def _recent(tally: Tally) -> float | None:
    """Returns evaluations a second over the last minutes of the driver at work."""
    start = max(tally.began, tally.last - RECENT_SECONDS)
    return _rate(sum(more for time, more in tally.gains if time > start), tally.last - start)


def _rate(evaluations: int, seconds: float) -> float | None:
    return evaluations / seconds if seconds > 0 else None


def _seconds_left(tally: Tally, rate: float | None) -> float | None:
    if tally.budget is None or not rate:
        return None
    left = tally.budget
    for trial in tally.trials.values():
        if trial.searches:
            is_over = trial.phase in ("done", "failed")
            left -= int(trial.params["budget"]) if is_over else trial.evaluations
    return left / rate


def _losses(tally: Tally) -> tuple[Mapping[str, Any], ...]:
    """Returns the best matching losses by defense and attack, in the order they were taken up."""
    groups: dict[tuple[Any, ...], list[float]] = {}
    names = ("defense", "attack", "of", "searcher")
    for trial in tally.trials.values():
        if trial.searches and trial.loss is not None:
            group = tuple(trial.params.get(name) for name in names)
            groups.setdefault(group, []).append(trial.loss)
    return tuple(
        {
            **dict(zip(names, group, strict=True)),
            "trials": len(losses),
            "lowest": min(losses),
            "median": statistics.median(losses),
        }
        for group, losses in groups.items()
    )
