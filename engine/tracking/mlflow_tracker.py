"""Records an audit in MLflow from its event log.

The audit becomes a parent run and every trial a child run. The event log decides everything,
timestamps included, so that sending an event again changes nothing:

- :mod:`engine.tracking.changes` turns events into what the runs still lack, without repeating a
  metric;
- :class:`MlflowTracker` sends it, and counts the events that arrived in ``tracking.json``.
"""

import contextlib
import fcntl
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from engine.errors import AuditError, InputError
from engine.run_folder import RunFolder, json_lines, write_json
from engine.tracking.changes import AUDIT, RUN_TAG, Event, EventReader, RunChange
from engine.tracking.connection import (
    TrackingError,
    check_reachable,
    checked_uri,
    make_client,
    plain_reason,
    redacted,
    shown_uri,
)
from engine.tracking.experiment import describe_experiment, open_experiment

DEFAULT_URI = "sqlite:///mlflow.db"
TRIAL_TAG, PARENT_TAG = "leaktune.trial", "mlflow.parentRunId"

# MLflow takes 1000 values in a request, of which 100 params and 100 tags.
METRICS_PER_BATCH, TEXTS_PER_BATCH = 800, 100
EVENTS_PER_STEP = 500  # After as many events it is written down what has arrived.


@dataclass(frozen=True)
class SyncReport:
    """What one sync did.

    Attributes:
        events: Events in the log; all of them have arrived.
        runs: MLflow runs of this audit, the parent included.
        metrics: Metric values this sync sent.
        complete: Whether the audit is over, so that there is nothing left to wait for.
    """

    events: int
    runs: int
    metrics: int
    complete: bool


@dataclass
class Arrived:
    """What a tracking server has of an audit: a count of events, and run ids by trial."""

    events: int = 0
    runs: dict[str, str] = field(default_factory=dict)


@dataclass
class _Log:
    """The event log, as far as it has been read and sent.

    Attributes:
        reader: What it has said of runs.
        events: How many events.
        end: The byte behind them.
        run: Name of the audit; empty before the first event.
    """

    reader: EventReader = field(default_factory=EventReader)
    events: int = 0
    end: int = 0
    run: str = ""


class MlflowTracker:
    """Sends the events of one run folder to one MLflow experiment, each exactly once.

    Every call goes through an explicit client: MLflow's global active run is never touched.
    Making a tracker neither imports MLflow nor connects; the first sync does.

    Args:
        folder: The run folder whose events are sent.
        uri: MLflow's tracking URI: a database such as ``sqlite:///mlflow.db``, or a server.
        experiment: Name of the MLflow experiment; created if there is none.

    Raises:
        InfrastructureError: ``uri`` is of a kind that MLflow does not keep runs in.
    """

    def __init__(self, folder: RunFolder, *, uri: str = DEFAULT_URI, experiment: str) -> None:
        self._folder = folder
        self._uri = checked_uri(uri)
        self._experiment = experiment
        self._client: Any = None
        self._experiment_id = ""
        self._log: _Log | None = None  # Where the next sync goes on, after one without a failure.

    @property
    def shown_uri(self) -> str:
        """The tracking URI without its secrets."""
        return shown_uri(self._uri)

    def sync(self) -> SyncReport:
        """Sends what MLflow lacks; can be called again at any time, also after a failure.

        Raises:
            TrackingError: The server cannot be reached or refuses; the next sync goes on.
            InputError: An artifact that the log lists is not a file of the run folder.
        """
        if not self._events_path.exists():
            return SyncReport(0, 0, 0, complete=False)
        with self._alone():
            arrived = self._load()
            log, self._log = self._log, None
            # Read from its beginning where something failed, or another process has sent some.
            if log is None or self._client is None or log.events != arrived.events:
                log = _Log()
            events, log.end = json_lines.read_on(self._events_path, log.end)
            log.run = log.run or _run_name(events)
            if not log.run:
                return SyncReport(0, 0, 0, complete=False)
            if self._client is None:
                with self._explained():
                    arrived = self._connect(arrived, log.run)
            report = self._send_events(log, events, arrived)
            self._log = log
            return report

    def pending(self) -> tuple[int, int]:
        """Returns how many events have not arrived, of how many."""
        events = sum(1 for _ in self._folder.events())
        return max(0, events - self._load().events), events

    def _send_events(
        self, log: _Log, events: Sequence[dict[str, Any]], arrived: Arrived
    ) -> SyncReport:
        """Sends those of the log's next events that have not arrived."""
        known = arrived.events - log.events
        log.reader.read(events[:known])
        metrics = 0
        for start in range(known, len(events), EVENTS_PER_STEP):
            step = events[start : start + EVENTS_PER_STEP]
            changes = log.reader.read(step)
            with self._explained():
                self._create_runs(changes, arrived.runs, log.run)
                self._send_changes(changes, arrived.runs)
            arrived.events += len(step)
            self._save(arrived)
            metrics += sum(len(change.metrics) for change in changes.values())
        log.events += len(events)
        return SyncReport(log.events, len(arrived.runs), metrics, log.reader.complete)

    def _connect(self, arrived: Arrived, run: str) -> Arrived:
        """Opens the experiment; returns what it really holds of the audit.

        Runs are found by their tags, because a crash may have come between creating a run and
        writing its id down. If one is missing, all events are sent again; MLflow keeps a metric
        value that comes twice with the same step and timestamp once.
        """
        check_reachable(urlsplit(self._uri))
        client = make_client(self._uri)
        self._experiment_id = open_experiment(client, self._uri, self._experiment)
        describe_experiment(client, self._experiment_id)
        found = _find_runs(client, self._experiment_id, run)
        known = set(arrived.runs.values())
        runs = {trial: _pick(ids, known) for trial, ids in found.items()}
        self._client = client
        return Arrived(arrived.events if known and known <= set(runs.values()) else 0, runs)

    def _create_runs(
        self, changes: Mapping[str, RunChange], runs: dict[str, str], run: str
    ) -> None:
        for trial, change in sorted(changes.items()):  # AUDIT, the parent, comes first.
            if trial in runs:
                continue
            tags = {RUN_TAG: run}
            if trial != AUDIT:
                tags |= {TRIAL_TAG: trial, PARENT_TAG: runs[AUDIT]}
            name = _trial_name(trial, change.params) if trial != AUDIT else run
            created = self._client.create_run(
                self._experiment_id, start_time=change.start_time, tags=tags, run_name=name
            )
            runs[trial] = created.info.run_id

    def _send_changes(self, changes: Mapping[str, RunChange], runs: Mapping[str, str]) -> None:
        for trial, change in sorted(changes.items(), reverse=True):  # The parent ends last.
            self._send_values(runs[trial], change)
            self._send_status(runs[trial], change)
            self._upload(runs[trial], change.artifacts)

    def _send_values(self, run_id: str, change: RunChange) -> None:
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(**asdict(value)) for value in change.metrics]
        params = [Param(name, text) for name, text in change.params.items()]
        tags = [RunTag(name, text) for name, text in change.tags.items()]
        requests = zip_longest(
            _batches(metrics, METRICS_PER_BATCH),
            _batches(params, TEXTS_PER_BATCH),
            _batches(tags, TEXTS_PER_BATCH),
            fillvalue=(),
        )
        for request in requests:
            self._client.log_batch(run_id, *request)

    def _send_status(self, run_id: str, change: RunChange) -> None:
        if change.status == "RUNNING":
            self._client.update_run(run_id, status="RUNNING")
        elif change.status is not None:
            self._client.set_terminated(run_id, change.status, end_time=change.status_time)

    def _upload(self, run_id: str, artifacts: Iterable[str]) -> None:
        """Uploads the listed files and no others: a link or a folder is refused."""
        root = self._folder.path.resolve()
        for name in artifacts:
            path = (root / name).resolve()
            if name.startswith("private/") and not path.exists():
                continue  # Emptied since, as one may.
            if path != root / name or not path.is_relative_to(root) or not path.is_file():
                raise InputError(
                    f"Expected the artifact {name!r} to be a plain file in {root}, but it is not. "
                    "Everything else is in MLflow; put the file back and sync again."
                )
            parent = path.parent.relative_to(root).as_posix()
            self._client.log_artifact(run_id, str(path), None if parent == "." else parent)

    @property
    def _events_path(self) -> Path:
        return self._folder.path / "events.jsonl"

    @property
    def _state_path(self) -> Path:
        return self._folder.path / "tracking.json"

    def _load(self) -> Arrived:
        for entry in _read_entries(self._state_path):
            if (entry["uri"], entry["experiment"]) == (self.shown_uri, self._experiment):
                return Arrived(entry["events"], {AUDIT: entry["run"], **entry["trials"]})
        return Arrived()

    def _save(self, arrived: Arrived) -> None:
        trials = {trial: run_id for trial, run_id in arrived.runs.items() if trial != AUDIT}
        place = {"uri": self.shown_uri, "experiment": self._experiment}
        others = [e for e in _read_entries(self._state_path) if not place.items() <= e.items()]
        entry = place | {"events": arrived.events, "run": arrived.runs[AUDIT], "trials": trials}
        try:
            write_json(self._state_path, [*others, entry])
        except OSError as error:
            raise self._error(f"cannot note what has arrived: {error}", "Make room.") from error

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keeps two processes from sending the same folder at once."""
        with self._open_log() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                reason = "another process is sending this run"
                raise self._error(reason, "Let it finish.") from None
            except OSError:
                pass  # A file system without locks.
            yield

    def _open_log(self) -> BinaryIO:
        try:
            return self._events_path.open("r+b")  # Some network file systems lock no other.
        except OSError:
            return self._events_path.open("rb")

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns whatever MLflow and its databases raise into one error with the remedy."""
        try:
            yield
        except AuditError:
            raise
        except Exception as error:  # MLflow lets those of its many back ends through.
            self._client = None  # A request that failed may have been obeyed: look again.
            reason = redacted(plain_reason(error), self._uri)
            raise self._error(reason, "Check that it runs and that the URI is right.") from error

    def _error(self, reason: str, remedy: str) -> TrackingError:
        return TrackingError(
            reason,
            f"Expected to send {self._folder.name} to MLflow at {self.shown_uri}, but {reason}. "
            f"{remedy} Nothing is lost: `leaktune sync {self._folder.path}` goes on from here.",
        )


def _find_runs(client: Any, experiment_id: str, run: str) -> dict[str, list[str]]:
    """Returns the ids of the audit's runs by trial."""
    found: dict[str, list[str]] = {}
    token = None
    while True:
        page = client.search_runs(
            [experiment_id], f"tags.`{RUN_TAG}` = '{run}'", max_results=1000, page_token=token
        )
        for each in page:
            found.setdefault(each.data.tags.get(TRIAL_TAG, AUDIT), []).append(each.info.run_id)
        token = page.token
        if not token:
            return found


def _pick(ids: Iterable[str], known: set[str]) -> str:
    """Returns the run id that is known already, or else the same one on every call."""
    return min(ids, key=lambda run_id: (run_id not in known, run_id))


def _trial_name(trial: str, params: Mapping[str, str]) -> str:
    """Returns what tells a trial from others, even where only its beginning is seen."""
    told = {name: f"{name} {params[name]}" for name in ("target", "seed") if name in params}
    told |= {name: params[name] for name in ("defense", "attack", "searcher") if name in params}
    order = ("target", "defense", "attack", "searcher", "seed")
    return ", ".join(told[name] for name in order if name in told) or trial


def _run_name(events: Iterable[Event]) -> str:
    started = (str(event["run"]) for event in events if event["kind"] == "audit_started")
    return next(started, "")


def _read_entries(path: Path) -> list[dict[str, Any]]:
    try:
        entries: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []  # Nothing usable: the runs are found by their tags.
    return entries


def _batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
