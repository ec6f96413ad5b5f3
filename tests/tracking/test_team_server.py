"""Audits recorded in the team's MLflow, which dies on the way and comes back: all of it, once."""

import contextlib
import json
import os
import re
import secrets
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from engine.run_folder import RunFolder
from engine.tracking import MlflowTracker, TrackingError
from tests.tracking.team_server import (
    ADMIN,
    BUCKET,
    ROOT,
    missing,
    s3_client,
    team_server,
    wait_until,
)

PLAN = {
    "name": "team",
    "targets": 5,
    "defenses": ["none", {"name": "gaussian_noise", "std": 0.1}],
    "controls": ["prior_only", "shuffled"],
    "attack": {"budget": 1500, "searcher": "sepcma"},
    "compute": {"workers": 1, "searches_per_trial": 1},
}
INCONCLUSIVE = 101
EXPERIMENT = "leaktune"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.filterwarnings(
        # SQLAlchemy 2.1 on how MLflow 3.17 loads its tables.
        "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"
    ),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if lacking := missing():
        pytest.skip(f"No team server without: {lacking}")
    with team_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def member(server):
    """The environment of a member of the team, made as the page says."""
    return make_user(server, "member")


@pytest.fixture(scope="module")
def audit(server, member, tmp_path_factory):
    """An audit's run folder; the server was killed in the middle of it and started again."""
    folder = tmp_path_factory.mktemp("audit")
    (folder / "plan.yaml").write_text(yaml.safe_dump(PLAN))
    process = start(member, "run", "--config", folder / "plan.yaml", "--output", folder / "runs")
    try:
        with as_client(member):
            wait_until(lambda: finished_runs(server) > 0, 300)
        server.kill()
        run = RunFolder(next((folder / "runs").iterdir()))
        done = len(run.results())
        wait_until(lambda: len(run.results()) > done, 300)
        server.start()
        assert process.poll() is None, "the audit was over before the server was back"
        said, _ = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == INCONCLUSIVE, said
    return run


@pytest.mark.fault("MLflow server killed")
def test_all_of_an_audit_is_there_once_after_the_server_died_in_the_middle(server, member, audit):
    first, second = command(member, "sync", audit.path), command(member, "sync", audit.path)

    assert re.search(r", \d+ figures sent", first)
    assert ", 0 figures sent" in second
    with as_client(member):
        recorded = runs(server)
        assert_recorded_once(server, recorded, audit)
        assert {run.info.status for run in recorded} == {"FINISHED"}


def test_artifacts_are_in_the_bucket_byte_for_byte(server, member, audit, tmp_path):
    command(member, "sync", audit.path)
    expected = [
        "metrics.csv",
        "plan.resolved.yaml",
        "private/montage.png",
        "provenance.json",
        "report/index.html",
        "summary.json",
    ]
    with as_client(member):
        (parent,) = (run for run in runs(server) if "leaktune.trial" not in run.data.tags)
        got = server.client().download_artifacts(parent.info.run_id, "", str(tmp_path))

    stored = [key.partition("/artifacts/")[2] for key in server.stored()]
    assert sorted(stored) == expected
    for name in stored:
        assert (tmp_path / name).read_bytes() == (audit.path / name).read_bytes()
    assert got.startswith(str(tmp_path))


@pytest.mark.fault("MLflow server killed")
def test_a_sync_that_the_server_dies_under_goes_on_without_repeating_anything(
    server, member, audit
):
    experiment = "again"
    with as_client(member):
        tracker = MlflowTracker(audit, uri=server.uri, experiment=experiment)
        with ThreadPoolExecutor() as pool:
            sync = pool.submit(tracker.sync)
            wait_until(lambda: len(runs(server, experiment)) > 10, 120)
            server.kill()
            with pytest.raises(TrackingError, match="Nothing is lost"):
                sync.result(120)
        server.start()

        tracker.sync()

        assert_recorded_once(server, runs(server, experiment), audit)


def test_a_member_reads_what_others_recorded_and_deletes_none_of_it(server, member, audit):
    from mlflow.exceptions import MlflowException

    with as_client(make_user(server, "other")):
        found = runs(server)
        with pytest.raises(MlflowException, match="Permission denied"):
            server.client().delete_run(found[0].info.run_id)

        assert len(found) > 20


def test_nobody_reads_anything_without_a_login(server, audit):
    from mlflow.exceptions import MlflowException

    with as_client(server.login(ADMIN, "wrong")), pytest.raises(MlflowException, match="401"):
        runs(server)


def test_a_wrong_login_is_refused_before_the_audit(server, tmp_path):
    said = command(server.login("ada", "wrong"), "run", "--output", tmp_path / "runs", code=4)

    assert "to know the user 'ada', got 'You are not authenticated" in said
    assert list(tmp_path.iterdir()) == []


def test_who_is_kept_out_of_an_experiment_is_refused_before_the_audit(server, tmp_path):
    login = make_user(server, "guest")
    command(server.login(), "doctor")  # Makes the experiment.
    with as_client(server.login()):
        experiment = server.client().get_experiment_by_name(EXPERIMENT).experiment_id
    grant = {"resource_type": "experiment", "resource_id": experiment, "permission": "DENY"}
    ask(server, "3.0/mlflow/users/permissions/grant", {"username": "guest", **grant})

    said = command(login, "run", "--output", tmp_path / "runs", code=4)

    assert "to let the user 'guest' record in 'leaktune', got 'Permission denied'" in said
    assert list(tmp_path.iterdir()) == []


def test_doctor_says_whether_the_server_takes_this_login(server, member):
    wrong = server.login("member", "wrong")

    assert f"ok  MLflow at {server.uri}, experiment 'leaktune'" in command(member, "doctor")
    assert "to know the user 'member'" in command(wrong, "doctor", code=4)


def test_doctor_says_whether_artifacts_arrive_in_the_bucket_and_makes_no_run(
    server, member, tmp_path
):
    plan = tmp_path / "plan.yaml"
    plan.write_text(yaml.safe_dump({"tracking": {"experiment": "examined"}}))

    command(member, "doctor", "--config", plan)
    with without_bucket(server):
        said = command(member, "doctor", "--config", plan, code=4)

    assert "to store an artifact, but it answers with error 500" in said
    with as_client(member):
        experiment = server.client().get_experiment_by_name("examined").experiment_id
        assert runs(server, "examined") == []
    own = [key for key in server.stored() if key.startswith(f"mlflow/{experiment}/")]
    assert own == [f"mlflow/{experiment}/leaktune-doctor.txt"]


@contextlib.contextmanager
def without_bucket(server):
    """Takes the bucket away for as long as the block lasts."""
    s3, where = s3_client(server.environment), {"Bucket": BUCKET}
    kept = {key: s3.get_object(**where, Key=key)["Body"].read() for key in server.stored()}
    for key in kept:
        s3.delete_object(**where, Key=key)
    s3.delete_bucket(**where)
    try:
        yield
    finally:
        s3.create_bucket(**where)
        for key, content in kept.items():
            s3.put_object(**where, Key=key, Body=content)


def assert_recorded_once(server, recorded, audit):
    """Compares all that MLflow has of an audit with the event log, which shares no code with it."""
    events = list(audit.events())
    trials = {event["trial"] for event in events if "trial" in event}
    by_trial = {run.data.tags.get("leaktune.trial"): run for run in recorded}
    assert len(by_trial) == len(recorded)
    assert set(by_trial) == {None, *trials}
    parent = by_trial.pop(None)
    assert set(parent.data.metrics) >= {"psnr/none", "identification/none"}
    for trial, run in by_trial.items():
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        for key, expected in curves(events, trial).items():
            rows = server.client().get_metric_history(run.info.run_id, key)
            assert sorted((row.step, row.value) for row in rows) == sorted(expected.items())


def curves(events, trial):
    """Returns losses and PSNR by evaluations."""
    own = [event for event in events if event.get("trial") == trial]
    so_far = {e["evaluations"]: e["loss"] for e in own if e["kind"] == "trial_progress"}
    (end,) = (event for event in own if event["kind"] == "trial_finished")
    loss = {evaluations: best for evaluations, best, _ in end["trace"]}
    psnr = {evaluations: psnr for evaluations, _, psnr in end["trace"] if psnr is not None}
    psnr.setdefault(end["trace"][-1][0] if end["trace"] else 0, end["metrics"]["psnr"])
    return {"loss": loss, "loss_so_far": so_far, "psnr": psnr}


def runs(server, experiment=EXPERIMENT):
    found = server.client().get_experiment_by_name(experiment)
    return server.client().search_runs([found.experiment_id], max_results=1000) if found else []


def finished_runs(server):
    return sum(run.info.status == "FINISHED" for run in runs(server))


def make_user(server, name):
    """Makes a user by the request of the page; returns the login."""
    password = secrets.token_hex(24)
    ask(server, "2.0/mlflow/users/create", {"username": name, "password": password})
    return server.login(name, password)


def ask(server, what, body):
    """Asks the server for something as its administrator, with curl as the page does."""
    login = f"{ADMIN}:{server.environment['MLFLOW_AUTH_ADMIN_PASSWORD']}"
    subprocess.run(
        [
            *("curl", "--silent", "--show-error", "--fail", "--user", login),
            *(f"{server.uri}/api/{what}", "--json", json.dumps(body)),
        ],
        check=True,
        capture_output=True,
    )


def start(login, *words):
    """Starts a command of ours with a login to MLflow."""
    return subprocess.Popen(
        [sys.executable, ROOT / "engine" / "run.py", *map(str, words)],
        env={**os.environ, **login},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def command(login, *words, code=0):
    """Runs a command of ours with a login to MLflow; returns what it said."""
    with start(login, *words) as process:
        try:
            said, _ = process.communicate(timeout=300)
        finally:
            process.kill()
    assert process.returncode == code, said
    return said


@contextlib.contextmanager
def as_client(login):
    """Makes this process a client with that login."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in login.items():
            patch.setenv(name, value)
        yield
