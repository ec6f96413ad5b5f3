import socket
import time

import pytest

from engine.errors import InfrastructureError
from engine.run_folder import RunFolder
from engine.tracking import MlflowTracker, Uploader, uploader
from tests.tracking import answers

pytestmark = pytest.mark.filterwarnings(
    # SQLAlchemy 2.1 on how MLflow 3.17 loads its tables.
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"
)


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder.create(tmp_path / "runs", "small", plan="name: small\n", resolved={})
    folder.append_event(
        "audit_started", run=folder.name, name="small", params={}, tags={}, trials=1
    )
    folder.append_event("trial_started", trial="t0", params={"defense": "none"})
    folder.append_event("trial_progress", trial="t0", evaluations=20, loss=0.5)
    return folder


@pytest.fixture
def hanging_server():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def finish_in_time(upload, seconds):
    begun = time.monotonic()
    sentence = upload.finish(seconds)
    assert time.monotonic() - begun < seconds + 1
    return sentence


def test_everything_arrives_while_the_audit_goes_on(folder, tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    upload = Uploader(folder, uri, "audits")
    upload.start()
    folder.append_event("audit_finished", verdict="leaks", metrics={}, artifacts=[])

    assert upload.finish(120) is None

    report = MlflowTracker(folder, uri=uri, experiment="audits").sync()
    assert (report.events, report.runs, report.metrics, report.complete) == (4, 2, 0, True)


@pytest.mark.fault("MLflow down or silent")
def test_an_unreachable_server_is_reported_and_leaves_the_events_alone(folder, tmp_path):
    before = (folder.path / "events.jsonl").read_bytes()
    upload = Uploader(folder, "http://127.0.0.1:9", "audits")
    upload.start()

    sentence = finish_in_time(upload, 5)

    assert sentence == (
        "MLflow at http://127.0.0.1:9 lacks 3 of 3 events of this audit (nothing listens there); "
        f"`leaktune sync {folder.path}` completes it."
    )
    assert (folder.path / "events.jsonl").read_bytes() == before


@pytest.mark.fault("MLflow down or silent")
def test_a_server_that_never_answers_is_not_waited_for(folder, hanging_server, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    before = (folder.path / "events.jsonl").read_bytes()
    upload = Uploader(folder, hanging_server, "audits")
    upload.start()

    sentence = finish_in_time(upload, 0.5)

    assert "lacks 3 of 3 events of this audit (it was not done within 0.5 s)" in sentence
    assert (folder.path / "events.jsonl").read_bytes() == before
    upload._thread.join(60)
    assert upload._failure == "it did not answer in time"


@pytest.mark.fault("MLflow down or silent")
def test_a_later_sync_completes_what_an_upload_missed(folder, tmp_path):
    upload = Uploader(folder, "http://127.0.0.1:9", "audits")
    upload.start()
    upload.finish(5)
    tracker = MlflowTracker(folder, uri=f"sqlite:///{tmp_path / 'mlflow.db'}", experiment="audits")

    counts = [tracker.sync().metrics, tracker.sync().metrics]

    assert counts == [1, 0]
    assert tracker.pending() == (0, 3)


@pytest.mark.fault("MLflow answers with errors")
@pytest.mark.parametrize("answer", [answers.BROKEN, answers.BUSY, answers.GATEWAY])
def test_a_server_that_answers_with_errors_is_reported_and_a_later_sync_completes_the_record(
    answer, folder, tmp_path
):
    with answers.answering(*answer) as uri:
        upload = Uploader(folder, uri, "audits")
        upload.start()
        sentence = finish_in_time(upload, 20)

    assert f"lacks 3 of 3 events of this audit (it answers with error {answer[0]}" in sentence
    tracker = MlflowTracker(folder, uri=f"sqlite:///{tmp_path / 'mlflow.db'}", experiment="audits")
    assert [tracker.sync().metrics, tracker.sync().metrics] == [1, 0]


def test_of_an_audit_that_was_refused_before_it_began_nothing_is_sent(folder, tmp_path):
    upload = Uploader(folder, f"sqlite:///{tmp_path / 'mlflow.db'}", "audits")

    assert upload.finish(5) is None
    assert not (tmp_path / "mlflow.db").exists()


def test_tries_again_after_a_longer_and_longer_pause(folder, monkeypatch):
    pauses = []
    upload = Uploader(folder, "http://127.0.0.1:9", "audits")
    monkeypatch.setattr(upload, "_try_to_sync", lambda: False)
    monkeypatch.setattr(
        upload._finishing, "wait", lambda pause: pauses.append(pause) or pause == 60
    )

    upload._run()

    assert pauses == [uploader.INTERVAL_SECONDS, 5, 10, 20, 40, 60]


def test_the_first_failure_is_remembered_until_a_sync_succeeds(folder, monkeypatch):
    upload = Uploader(folder, "http://127.0.0.1:9", "audits")
    errors = iter([OSError("first"), OSError("second")])

    def sync():
        error = next(errors, None)
        if error:
            raise error

    monkeypatch.setattr(upload._tracker, "sync", sync)
    assert not upload._try_to_sync()
    assert not upload._try_to_sync()
    assert upload._failure == "first"
    assert upload._try_to_sync()
    assert upload._failure is None


def test_a_uri_where_mlflow_keeps_no_runs_is_refused_before_the_audit(folder):
    with pytest.raises(InfrastructureError, match=r"sqlite:///mlflow\.db"):
        Uploader(folder, "file:///tmp/mlruns", "audits")
