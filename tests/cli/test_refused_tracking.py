"""A tracking server that answers and refuses: said before any work, once, with the remedy."""

import time

import pytest

from tests.tracking import answers
from tests.tracking.answers import answering

INFRASTRUCTURE = 4


@pytest.fixture(params=[answers.UNKNOWN_USER, answers.NO_PERMISSION, answers.A_PAGE])
def refusing(request, monkeypatch):
    with answering(*request.param) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        yield uri


def test_a_run_is_refused_before_any_work_and_writes_nothing(refusing, leaktune, empty):
    began = time.monotonic()

    refused = leaktune("run")

    assert refused.code == INFRASTRUCTURE
    assert refused.err.startswith("Expected ")
    assert len(refused.err.splitlines()) == 1
    assert refusing in refused.err
    assert list(empty.iterdir()) == []
    assert time.monotonic() - began < 10


def test_doctor_refuses_too(refusing, leaktune):
    refused = leaktune("doctor")

    assert refused.code == INFRASTRUCTURE
    assert refused.err.startswith("Expected ")
    assert refusing in refused.err


def test_an_audit_that_records_nothing_asks_nobody(refusing, leaktune):
    with pytest.raises(AssertionError, match="Ray was started"):
        leaktune("run", "--set", "tracking.mlflow=false")


def test_a_server_that_is_down_stops_no_run_but_doctor_tells_of_it(leaktune, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")

    with pytest.raises(AssertionError, match="Ray was started"):
        leaktune("run")
    told = leaktune("doctor")

    assert told.code == INFRASTRUCTURE
    assert "to answer, but nothing listens there" in told.err
    assert "`leaktune sync` sends them later" in told.err


def test_doctor_examines_the_mlflow_of_a_plan(leaktune, empty):
    (empty / "plan.yaml").write_text("tracking: {uri: 'http://127.0.0.1:9'}")

    told = leaktune("doctor", "--config", "plan.yaml")

    assert told.code == INFRASTRUCTURE
    assert "http://127.0.0.1:9" in told.err


def test_doctor_finds_a_server_that_records(leaktune, monkeypatch):
    with answering(*answers.RECORDS) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        examined = leaktune("doctor")

    assert examined.code == 0
    assert f"ok  MLflow at {uri}, experiment 'leaktune'" in examined.out
