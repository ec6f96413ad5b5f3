"""Records the training of a generator in MLflow, as one run, while it goes on."""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from engine.errors import AuditError
from engine.run_folder import write_json
from engine.tracking.connection import (
    TrackingError,
    check_reachable,
    checked_uri,
    make_client,
    plain_reason,
    redacted,
    shown_uri,
)
from engine.tracking.experiment import open_experiment

PICTURES = "samples"


class TrainingTracker:
    """Sends figures and pictures of one training to one MLflow run.

    A resumed training goes on in its run, whose id is in ``tracking.json`` of the folder.

    Args:
        folder: Where the training writes.
        uri: MLflow's tracking URI: a database such as ``sqlite:///mlflow.db``, or a server.
        experiment: Name of the MLflow experiment; created if there is none.

    Raises:
        InfrastructureError: ``uri`` is of a kind that MLflow does not keep runs in.
    """

    def __init__(self, folder: Path, *, uri: str, experiment: str) -> None:
        self._folder, self._experiment = folder, experiment
        self._uri = checked_uri(uri)
        self._client: Any = None
        self._run = ""

    def start(self, settings: Mapping[str, object], *, resume: bool) -> None:
        """Makes the training's run, or finds it again; raises TrackingError if MLflow refuses."""
        with self._explained():
            check_reachable(urlsplit(self._uri))
            self._client = make_client(self._uri)
            self._run = (self._earlier_run() if resume else None) or self._new_run(settings)
            self._client.update_run(self._run, status="RUNNING")
        self._folder.mkdir(parents=True, exist_ok=True)
        place = {"uri": shown_uri(self._uri), "experiment": self._experiment}
        write_json(self._state_path, {**place, "run": self._run})

    def log_epoch(self, epoch: int, values: Mapping[str, float], picture: Path | None) -> None:
        """Sends an epoch's figures, and the picture of samples drawn after it."""
        self._log(values, epoch)
        if picture is not None:
            with self._explained():
                self._client.log_artifact(self._run, str(picture), PICTURES)

    def finish(self, figures: Mapping[str, float], epoch: int, card: Path) -> None:
        """Sends the quality figures and the card, and ends the run."""
        self._log(figures, epoch)
        with self._explained():
            self._client.log_artifact(self._run, str(card))
            self._client.set_terminated(self._run, "FINISHED")

    def _log(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(name.replace(" ", "_"), value, now, step) for name, value in values.items()
        ]
        with self._explained():
            self._client.log_batch(self._run, metrics=metrics)

    def _new_run(self, settings: Mapping[str, object]) -> str:
        from mlflow.entities import Param

        experiment = open_experiment(self._client, self._uri, self._experiment)
        run: str = self._client.create_run(experiment, run_name=self._folder.name).info.run_id
        params = [Param(name, str(value)) for name, value in settings.items()]
        self._client.log_batch(run, params=params)
        return run

    def _earlier_run(self) -> str | None:
        """Returns the run of the interrupted training, if it is this MLflow's."""
        try:
            state = json.loads(self._state_path.read_text(encoding="utf-8"))
            same = (state["uri"], state["experiment"]) == (shown_uri(self._uri), self._experiment)
            run = str(state["run"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if not same:
            return None
        found = self._client.search_runs(
            [experiment.experiment_id for experiment in self._client.search_experiments()],
            f"attributes.run_id = '{run}'",
        )
        return run if found else None

    @property
    def _state_path(self) -> Path:
        return self._folder / "tracking.json"

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns whatever MLflow and its databases raise into one error with the remedy."""
        try:
            yield
        except AuditError:
            raise
        except Exception as error:  # MLflow lets those of its many back ends through.
            reason = redacted(plain_reason(error), self._uri)
            raise TrackingError(
                reason,
                f"Expected to record the training in MLflow at {shown_uri(self._uri)}, but "
                f"{reason}. Check that it runs and that the URI is right, or leave --tracking out.",
            ) from error
