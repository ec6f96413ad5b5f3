"""Clients of MLflow: which URIs it takes, and what its errors mean in a few words."""

import logging
import os
import re
import socket
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from engine.errors import InfrastructureError
from engine.tracking.changes import cut

CONNECT_SECONDS = 5.0

# MLflow's own retries are off, and a slow answer is waited for: a request that was only slow would
# create a second run.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}


class TrackingError(InfrastructureError):
    """MLflow did not take what was sent; nothing is lost, and the next sync goes on.

    Args:
        reason: What happened, in a few words.
        message: The same as whole sentences, with the remedy.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def make_client(uri: str) -> Any:
    """Returns a client that neither counts its users nor sends a request twice."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient  # Deferred: the import takes seconds.

    logging.getLogger("mlflow").setLevel(logging.ERROR)  # No chatter about migrations.
    return MlflowClient(uri)


def absolute_uri(uri: str) -> str:
    """Returns the URI, the path of an SQLite file as one finds it from any folder."""
    parts = urlsplit(uri)
    if not _is_sqlite_file(parts, uri):
        return uri
    return f"{parts.scheme}:///{os.path.abspath(uri.partition(':///')[2])}"


def checked_uri(uri: str) -> str:
    """Returns the URI, made absolute; refuses what MLflow cannot use."""
    parts = urlsplit(uri)
    if _is_sqlite_file(parts, uri) or (_kind(parts) in PORTS and parts.netloc):
        return absolute_uri(uri)
    raise InfrastructureError(
        f"Expected a tracking URI of one of the kinds sqlite, {', '.join(PORTS)}, "
        f"got {shown_uri(uri)!r}. MLflow keeps no runs in plain folders; "
        "write e.g. sqlite:///mlflow.db or http://host:5000."
    )


def _is_sqlite_file(parts: SplitResult, uri: str) -> bool:
    slashes = f"{parts.scheme}:///"
    return _kind(parts) == "sqlite" and bool(parts.path.strip("/")) and uri.startswith(slashes)


def _kind(parts: SplitResult) -> str:
    return parts.scheme.partition("+")[0]


def artifact_location(uri: str) -> str | None:
    """Returns the folder beside an SQLite file; a server has a place of its own."""
    parts = urlsplit(uri)
    return str(Path(parts.path[1:]).parent / "mlruns") if _kind(parts) == "sqlite" else None


def check_reachable(parts: SplitResult) -> None:
    """Raises OSError at once where MLflow would try for minutes; proxies are left to MLflow."""
    has_proxy = urllib.request.getproxies().keys() & {"http", "https", "all"}
    if parts.hostname and not has_proxy:
        port = parts.port or PORTS[_kind(parts)]
        socket.create_connection((parts.hostname, port), CONNECT_SECONDS).close()


def shown_uri(uri: str) -> str:
    """Returns the URI without user, password and query."""
    return re.sub("//.*@", "//***@", uri).partition("?")[0]


def redacted(text: str, uri: str) -> str:
    """Takes the secrets of a URI out of a text."""
    userinfo = "".join(re.findall("//(.*)@", uri))
    password, query = userinfo.partition(":")[2], uri.partition("?")[2]
    for secret in (userinfo, password, unquote(password), query):
        text = text.replace(secret, "***") if secret else text
    return text


def plain_reason(error: BaseException) -> str:
    """Says in a few words what is at the root of an error, or what a server said."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionRefusedError):
            return "nothing listens there"
        if isinstance(cause, TimeoutError):
            return "it did not answer in time"
        if isinstance(cause, socket.gaierror):
            return "its host name is unknown"
        cause = cause.__cause__ or cause.__context__
    if trouble := re.search(r"too many (\d+) error responses", str(error)):
        return f"it answers with error {trouble[1]}"
    said = str(error).partition("Response body: '")[2].rstrip("'") or str(error)
    lines = said.strip().splitlines() or [type(error).__name__]
    return cut(lines[0].rstrip("."), 200)
