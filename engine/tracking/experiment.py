"""The experiment of an MLflow that runs go to: found or made, and tried before an audit begins."""

import contextlib
import os
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from engine.tracking.connection import (
    TrackingError,
    artifact_location,
    check_reachable,
    checked_uri,
    make_client,
    plain_reason,
    redacted,
    shown_uri,
)
from engine.tracking.views import experiment_tags

# Written whenever an experiment is opened: who may not write this may not record in it either.
TAG = "leaktune.experiment"

# What MLflow's client says of an answer that no MLflow gave; it has no error code for that.
NOT_MLFLOW = "not in a valid JSON format"

PATIENCE, CHECK_SECONDS = "MLFLOW_HTTP_REQUEST_TIMEOUT", 4
# Before its first artifact a server loads what speaks to its store.
ARTIFACT_SECONDS = 10

# Beside the folders of an experiment's runs, which nobody but MLflow looks at.
PROBE = ("leaktune-doctor.txt", "Put here by `leaktune doctor`, to see whether artifacts arrive.\n")

ANSWERS_FOR_LATER = (408, 429)  # Statuses of a server that would have obeyed another time.


def open_experiment(client: Any, uri: str, name: str) -> str:
    """Returns the id of the experiment, made if there is none, after having written to it."""
    found = client.get_experiment_by_name(name)
    experiment: str = (
        found.experiment_id if found else client.create_experiment(name, artifact_location(uri))
    )
    client.set_experiment_tag(experiment, TAG, "1")
    return experiment


def describe_experiment(client: Any, experiment: str) -> None:
    """Gives an experiment of audits views of its runs, and a note for its readers.

    What it has of these stays as its team left it.
    """
    present = client.get_experiment(experiment).tags
    for key, text in experiment_tags(experiment).items():
        if key not in present:
            client.set_experiment_tag(experiment, key, text)


def check_server(uri: str, experiment: str) -> str | None:
    """Tries a tracking server before any work is done for it.

    A server that is down stops no audit: what it misses is sent later. One that answers and
    refuses is a mistake in the configuration, which no waiting mends.

    Args:
        uri: MLflow's tracking URI; databases are not tried.
        experiment: Name of the MLflow experiment; created if there is none.

    Returns:
        Why the server did not answer, in a few words; None if it did, and will record.

    Raises:
        TrackingError: The server answers, and refuses.
        InfrastructureError: ``uri`` is of a kind that MLflow does not keep runs in.
    """
    checked = checked_uri(uri)
    if urlsplit(checked).scheme not in ("http", "https"):
        return None
    try:
        check_reachable(urlsplit(checked))
        with _short_of_patience(CHECK_SECONDS):
            open_experiment(make_client(checked), checked, experiment)
    except Exception as error:  # Whatever MLflow lets through of the libraries below it.
        if is_refusal(error):
            raise _refused(error, checked, experiment) from error
        return redacted(plain_reason(error), checked)
    return None


def check_artifacts(uri: str, experiment: str) -> str | None:
    """Tries whether a server passes artifacts on to its store, as an audit's end would need.

    It makes no run, which only a few may delete again: one small file, the same each time, is put
    beside the experiment's runs, and stays there. A store that clients write to by themselves is
    not tried; there is no bound to how long that may take.

    Args:
        uri: MLflow's tracking URI.
        experiment: Name of an MLflow experiment, which :func:`check_server` has found there.

    Returns:
        Why the artifact did not arrive, in a few words; None if it did, or was not tried.
    """
    checked = checked_uri(uri)
    if urlsplit(checked).scheme not in ("http", "https"):
        return None
    try:
        with _short_of_patience(ARTIFACT_SECONDS):
            place = make_client(checked).get_experiment_by_name(experiment).artifact_location
            if urlsplit(place).scheme == "mlflow-artifacts":
                _put_probe(place, checked)
    except Exception as error:  # Likewise.
        return redacted(plain_reason(error), checked)
    return None


def _put_probe(place: str, uri: str) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    name, text = PROBE
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_text(text, encoding="utf-8")
        get_artifact_repository(place, tracking_uri=uri).log_artifact(str(path))


@contextlib.contextmanager
def _short_of_patience(seconds: int) -> Iterator[None]:
    """Waits less long for answers than those who send in the background."""
    usual = os.environ.get(PATIENCE)
    os.environ[PATIENCE] = str(seconds)
    try:
        yield
    finally:
        if usual is None:
            del os.environ[PATIENCE]
        else:
            os.environ[PATIENCE] = usual


def is_refusal(error: BaseException) -> bool:
    """Says whether a server answered, and would answer the same at any other time."""
    if isinstance(_root(error), ssl.SSLError) or NOT_MLFLOW in str(error):
        return True
    status = _status(error)
    return status is not None and 400 <= status < 500 and status not in ANSWERS_FOR_LATER


def _refused(error: BaseException, uri: str, experiment: str) -> TrackingError:
    """Returns the error that says what was expected of the server, what it said, and the remedy."""
    from mlflow.utils.credentials import read_mlflow_creds  # Of the environment, or of a file.

    user = read_mlflow_creds().username
    who, status = f"the user {user!r}" if user else "a client without a login", _status(error)
    said = redacted(plain_reason(error), uri)
    if status == 401:
        wanted = f"MLflow at {shown_uri(uri)} to know {who}"
        remedy = "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
    elif status == 403:
        wanted = f"MLflow at {shown_uri(uri)} to let {who} record in {experiment!r}"
        remedy = "Have the permission EDIT granted on it, or set tracking.experiment to another."
    else:
        wanted = f"an MLflow server at {shown_uri(uri)}"
        remedy = "Correct MLFLOW_TRACKING_URI, or tracking.uri of the plan."
    return TrackingError(
        f"it refused: {said}",
        f"Expected {wanted}, got {said!r}. {remedy} To record nothing: --set tracking.mlflow=false",
    )


def _status(error: BaseException) -> int | None:
    """Returns the HTTP status of an MLflow error; None of any other."""
    status = getattr(error, "get_http_status_code", lambda: None)()
    return None if status is None else int(status)


def _root(error: BaseException) -> BaseException:
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error
