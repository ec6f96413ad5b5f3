import contextlib
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from engine.errors import InfrastructureError
from engine.tracking import TrackingError, check_server
from engine.tracking.experiment import check_artifacts
from tests.tracking import answers
from tests.tracking.answers import answering


@pytest.fixture(autouse=True)
def login(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")


def check(answer):
    with answering(*answer) as uri:
        return check_server(uri, "leaktune")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (answers.UNKNOWN_USER, ["to know the user 'ada'", "not authenticated", "_PASSWORD"]),
        (answers.NO_PERMISSION, ["the user 'ada' record in 'leaktune'", "Permission denied"]),
        (answers.OTHER_HOST, ["Invalid Host header"]),
        (answers.A_PAGE, ["an MLflow server at", "Welcome to nginx", "MLFLOW_TRACKING_URI"]),
        (answers.NOT_FOUND, ["an MLflow server at", "Not Found", "MLFLOW_TRACKING_URI"]),
    ],
)
def test_a_server_that_answers_and_refuses_is_an_error_with_its_remedy(answer, said):
    with pytest.raises(TrackingError) as caught:
        check(answer)

    message = str(caught.value)
    assert message.startswith("Expected ")
    assert message.endswith("--set tracking.mlflow=false")
    assert all(words in message for words in said)
    assert "secret" not in message
    assert caught.value.exit_code == 4


def test_a_client_without_a_login_is_told_so(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")

    with pytest.raises(TrackingError, match="to know a client without a login"):
        check(answers.UNKNOWN_USER)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (answers.BROKEN, "it answers with error 500"),
        (answers.BUSY, "it answers with error 429"),
        (answers.GATEWAY, "it answers with error 502"),
    ],
)
def test_a_server_in_trouble_is_no_error(answer, reason):
    assert reason in check(answer)


def test_a_server_that_is_down_or_unknown_or_silent_is_no_error(monkeypatch):
    monkeypatch.setattr("engine.tracking.connection.CONNECT_SECONDS", 1)
    monkeypatch.setattr("engine.tracking.experiment.CHECK_SECONDS", 1)
    began = time.monotonic()

    assert check_server("http://127.0.0.1:9", "leaktune") == "nothing listens there"
    assert check_server("http://mlflow.invalid", "leaktune") == "its host name is unknown"
    with socket.create_server(("127.0.0.1", 0)) as server:
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert check_server(uri, "leaktune") == "it did not answer in time"
    assert time.monotonic() - began < 20


def test_a_server_of_http_asked_for_https_is_the_wrong_address():
    with (
        answering(*answers.RECORDS) as uri,
        pytest.raises(TrackingError, match="MLFLOW_TRACKING_URI"),
    ):
        check_server(uri.replace("http:", "https:"), "leaktune")


def test_a_server_that_records_is_fine():
    assert check(answers.RECORDS) is None


@pytest.mark.parametrize("uri", ["sqlite:///nowhere/mlflow.db", "postgresql://127.0.0.1:9/mlflow"])
def test_a_database_is_not_tried(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert check_server(uri, "leaktune") is None
    assert check_artifacts(uri, "leaktune") is None
    assert list(tmp_path.iterdir()) == []


def test_where_mlflow_keeps_no_runs_is_refused():
    with pytest.raises(InfrastructureError, match=r"sqlite:///mlflow\.db"):
        check_server("file:///tmp/mlruns", "leaktune")


@contextlib.contextmanager
def storing(answer, place="mlflow-artifacts:/1"):
    """An MLflow whose experiment has its artifacts there, and what it was asked, with the paths."""
    asked = []
    found = {"experiment_id": "1", "name": "leaktune", "artifact_location": place}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.say(200, json.dumps({"experiment": found}))

        def do_PUT(self):
            if answer is None:
                time.sleep(3)
            else:
                self.say(*answer)

        def say(self, status, text):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked.append(f"{self.command} {self.path.partition('?')[0]}")
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *words):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


LOOK = "GET /api/2.0/mlflow/experiments/get-by-name"
PUT = "PUT /api/2.0/mlflow-artifacts/artifacts/1/leaktune-doctor.txt"


def test_a_server_that_stores_artifacts_is_sent_one_file_and_no_run():
    with storing((200, "{}")) as (uri, asked):
        assert check_artifacts(uri, "leaktune") is None

    assert asked == [LOOK, PUT]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (answers.BROKEN, "it answers with error 500"),
        (answers.NO_PERMISSION, "403 Client Error: Forbidden"),
        (None, "it did not answer in time"),
    ],
)
def test_a_server_that_stores_no_artifacts_says_why(answer, reason, monkeypatch):
    monkeypatch.setattr("engine.tracking.experiment.ARTIFACT_SECONDS", 1)

    with storing(answer) as (uri, _):
        assert reason in check_artifacts(uri, "leaktune")


def test_a_store_that_clients_write_to_by_themselves_is_not_tried():
    with storing((200, "{}"), place="s3://bucket/1") as (uri, asked):
        assert check_artifacts(uri, "leaktune") is None

    assert asked == [LOOK]
