"""What events change in MLflow's runs, worked out without MLflow."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

RUN_TAG = "leaktune.run"  # Names the run folder.
LOSS_SO_FAR = "loss_so_far"  # Of a search under way.
AUDIT = ""  # Stands for the parent run where a child run has the id of its trial.

# What MLflow servers accept; the older ones allow 5000 characters in a tag.
MAX_KEY, MAX_PARAM, MAX_TAG = 250, 6000, 5000

Event = Mapping[str, Any]


@dataclass(frozen=True)
class MetricValue:
    """One point of a metric's curve; ``timestamp`` is in milliseconds since 1970."""

    key: str
    value: float
    timestamp: int
    step: int


@dataclass
class RunChange:
    """What one MLflow run still lacks; ``status_time`` is in milliseconds since 1970."""

    start_time: int
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: list[MetricValue] = field(default_factory=list)
    artifacts: list[str] = field(default_factory=list)
    status: str | None = None
    status_time: int = 0

    def set_status(self, status: str, event: Event) -> None:
        """Sets the status as of an event; the last one counts."""
        self.status, self.status_time = status, _milliseconds(event)


class EventReader:
    """Turns events, read in order from the first, into changes of MLflow runs.

    Attributes:
        complete: Whether the audit is over as far as it has been read.
    """

    def __init__(self) -> None:
        self.complete = False
        self._known: set[tuple[str, ...]] = set()
        self._running: set[str] = set()
        self._failed: set[str] = set()
        self._endings = 0

    def read(self, events: Iterable[Event]) -> dict[str, RunChange]:
        """Returns what the next events change, by trial; AUDIT stands for the parent run."""
        changes: dict[str, RunChange] = {}
        for event in events:
            handle = getattr(self, f"_on_{event['kind']}", None)
            if handle is not None:  # A kind that says nothing to MLflow may be added.
                trial = event.get("trial", AUDIT)
                handle(event, changes.setdefault(trial, RunChange(_milliseconds(event))))
                self._close_orphans(event, changes)
        return changes

    def _on_audit_started(self, event: Event, change: RunChange) -> None:
        self._add_params(event, change)
        change.tags |= _texts(event["tags"], MAX_TAG)

    def _on_audit_resumed(self, event: Event, change: RunChange) -> None:
        self.complete = False
        change.set_status("RUNNING", event)

    def _on_audit_interrupted(self, event: Event, change: RunChange) -> None:
        change.set_status("KILLED", event)

    def _on_audit_finished(self, event: Event, change: RunChange) -> None:
        self.complete = True
        change.tags["leaktune.verdict"] = cut(event["verdict"], MAX_TAG)
        # Finished again after a resume, the audit's metrics go on from step 0 to step 1.
        self._add_metrics(event, change, event["metrics"], step=self._endings)
        self._endings += 1
        change.artifacts = list(event["artifacts"])
        change.set_status("FINISHED", event)

    def _on_trial_started(self, event: Event, change: RunChange) -> None:
        self._running.add(event["trial"])
        self._add_params(event, change)
        if event["trial"] in self._failed:
            change.tags["leaktune.error"] = ""
        change.set_status("RUNNING", event)

    def _on_trial_progress(self, event: Event, change: RunChange) -> None:
        # Not `loss`: MLflow averages curves step by step, and progress comes at any step.
        so_far = {LOSS_SO_FAR: event["loss"]}
        self._add_metrics(event, change, so_far, step=event["evaluations"])

    def _on_trial_finished(self, event: Event, change: RunChange) -> None:
        trace = event["trace"]
        self._add_metrics(event, change, event["metrics"], step=trace[-1][0] if trace else 0)
        for evaluations, loss, psnr in trace:
            self._add_metrics(event, change, {"loss": loss, "psnr": psnr}, step=evaluations)
        if event.get("matching"):
            change.tags["leaktune.matching"] = cut(event["matching"], MAX_TAG)
        self._running.discard(event["trial"])
        change.set_status("FINISHED", event)

    def _on_trial_failed(self, event: Event, change: RunChange) -> None:
        change.tags["leaktune.error"] = cut(event["error"], MAX_TAG)
        self._failed.add(event["trial"])
        self._running.discard(event["trial"])
        change.set_status("FAILED", event)

    def _add_params(self, event: Event, change: RunChange) -> None:
        """Adds the params that the run does not have: MLflow refuses to change one."""
        for name, text in _texts(event["params"], MAX_PARAM).items():
            if self._is_unknown("param", event, name):
                change.params[name] = text

    def _add_metrics(
        self, event: Event, change: RunChange, values: Mapping[str, float | None], *, step: int
    ) -> None:
        """Adds the numbers that were measured and that have no value at this step."""
        for name, value in values.items():
            key = to_key(name)
            if value is None or not math.isfinite(value):
                continue
            if self._is_unknown("metric", event, key, str(step)):
                change.metrics.append(MetricValue(key, float(value), _milliseconds(event), step))

    def _is_unknown(self, what: str, event: Event, *names: str) -> bool:
        """Says whether the run hears of this for the first time, and remembers that it did."""
        fact = (what, event.get("trial", AUDIT), *names)
        if fact in self._known:
            return False
        self._known.add(fact)
        return True

    def _close_orphans(self, event: Event, changes: dict[str, RunChange]) -> None:
        """Ends the trials that were left running when the audit ended."""
        if event["kind"] not in ("audit_interrupted", "audit_finished"):
            return
        for trial in sorted(self._running):
            change = changes.setdefault(trial, RunChange(_milliseconds(event)))
            change.set_status("KILLED", event)
        self._running.clear()


def to_key(name: str) -> str:
    """Returns a name MLflow accepts: ``sparsification(percent=90)`` loses its brackets."""
    parts = (re.sub(r"[^\w.\- ]+", "_", part).strip("_. ") for part in name.split("/"))
    return "/".join(part for part in parts if part)[:MAX_KEY] or "_"


def cut(text: str, limit: int) -> str:
    """Returns the text, shortened to ``limit`` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _texts(values: Mapping[str, Any], limit: int) -> dict[str, str]:
    return {to_key(name): cut(str(value), limit) for name, value in values.items()}


def _milliseconds(event: Event) -> int:
    return int(event["time"] * 1000)
