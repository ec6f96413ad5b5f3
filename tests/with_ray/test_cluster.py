"""The launcher alone, against clusters that are there and that are not."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import engine

pytestmark = pytest.mark.slow

LAUNCHER = Path(engine.__file__).parent / "run.py"
SMOKE = Path(__file__).parents[1] / "data" / "smoke.yaml"
INCONCLUSIVE, INFRASTRUCTURE = 101, 4


@pytest.fixture
def home(tmp_path):
    """The folder `ray submit` uploads to: the launcher and a plan, and none of our sources."""
    shutil.copy(LAUNCHER, tmp_path)
    shutil.copy(SMOKE, tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def cluster():
    """A head node with a token of its own; yields its address and what a user on it has set."""
    # Unix sockets live in Ray's folder and their paths must be short.
    folder = Path(tempfile.mkdtemp(prefix="lt-"))
    (folder / "token").write_text("0123456789abcdef" * 4)
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    environment = {
        # Without what a Ray in this process has left there.
        **{k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "RAY_AUTH_MODE")},
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    ray = Path(sys.executable).parent / "ray"
    options = "--dashboard-host=127.0.0.1 --include-dashboard=false --num-cpus=2 --block"
    with (folder / "log").open("w") as log:
        head = subprocess.Popen(
            [ray, "start", "--head", f"--port={port}", f"--temp-dir={folder}", *options.split()],
            env=environment | {"RAY_AUTH_MODE": "token"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 90
        while "Ray runtime started" not in (folder / "log").read_text():
            assert head.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.2)
        yield f"127.0.0.1:{port}", environment
    finally:
        # `ray stop` would stop every Ray of this machine; the head takes its own processes along.
        head.terminate()
        try:
            head.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def launch(home, address, **environment):
    words = ["run", "--config", "smoke.yaml", "--set", "tracking.mlflow=false"]
    return subprocess.run(
        [sys.executable, "run.py", *words, "--address", address],
        cwd=home,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_the_launcher_alone_audits_on_a_cluster(home, cluster):
    address, environment = cluster

    ran = launch(home, address, **environment, RAY_AUTH_MODE="token")

    assert ran.returncode == INCONCLUSIVE, ran.stderr
    (run,) = (home / "runs").iterdir()
    summary = json.loads((run / "summary.json").read_text())
    assert len(summary["trials"]) == 18
    assert summary["failed"] == []
    assert (run / "report" / "index.html").is_file()


def test_a_cluster_found_by_itself_needs_no_further_setting(home, cluster):
    address, environment = cluster

    ran = launch(home, "auto", **environment, RAY_ADDRESS=address, RAY_AUTH_MODE="token")

    assert ran.returncode == INCONCLUSIVE, ran.stderr


def test_a_cluster_that_asks_for_a_token_is_named_with_the_setting_that_sends_it(home, cluster):
    address, environment = cluster

    refused = launch(home, address, **environment, RAY_AUTH_MODE="disabled")

    assert_no_cluster(refused, address)
    assert "RAY_AUTH_MODE=token" in refused.stderr


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere.invalid:6379", "nonsense"])
def test_a_wrong_address_is_named_at_once(address, home):
    started = time.monotonic()

    refused = launch(home, address)

    assert_no_cluster(refused, address)
    assert len(refused.stderr.splitlines()) == 1
    assert time.monotonic() - started < 30


def assert_no_cluster(outcome, address):
    assert outcome.returncode == INFRASTRUCTURE, outcome.stderr
    assert f"Expected a Ray cluster at '{address}', could not connect: " in outcome.stderr
    assert "leave --address out to use this machine" in outcome.stderr
    assert "Traceback" not in outcome.stderr
