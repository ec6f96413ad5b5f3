"""One run has one driver: a second one is refused, and one that lost the run writes no more."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from engine.run_folder import RunFolder
from engine.run_folder.lease import last_number
from engine.run_folder.status import read_status
from tests.with_ray.audits import INCONCLUSIVE, LAUNCHER, PATIENCE_SECONDS, without_times

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PLAN = {
    "name": "twice",
    "targets": 5,
    "controls": [],
    "attack": {"budget": 6000},
    "compute": {"workers": 1},
    "tracking": {"mlflow": False},
}
# The command line, with leases that are given up sooner.
HASTY = """
import sys
from engine.run_folder import lease
lease.HEARTBEAT_SECONDS, lease.STALE_SECONDS = 1.0, 4.0
from engine.cli import main
main()
"""


@pytest.fixture
def start(tmp_path):
    """Starts commands, and ends those that are left."""
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(PLAN))
    started = []

    def call(*words, program=(LAUNCHER,)):
        started.append(
            subprocess.Popen(
                [sys.executable, *program, *words],
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
        return started[-1]

    yield call
    for process in started:
        with contextlib.suppress(ProcessLookupError):  # A killed driver's Ray may be left.
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(condition):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def searching(home):
    """Waits for a run with a trial under way, and another one done."""
    run = wait_for(lambda: next((p.parent for p in home.glob("runs/*/events.jsonl")), None))
    wait_for(lambda: is_searching(read_status(run)))
    return run


def is_searching(status):
    return status.trials["done"] and status.trials["running"]


@pytest.mark.fault("a second driver")
def test_a_second_driver_is_refused_and_a_killed_one_makes_room_at_once(
    start, tmp_path, record_property
):
    first = start("run", "--config", "plan.yaml")
    run = searching(tmp_path)
    started = time.monotonic()

    second = start("resume", run)
    _, refusal = second.communicate(timeout=60)

    seconds = time.monotonic() - started
    record_property("seconds", seconds)
    assert seconds < 5
    assert second.returncode == 4
    assert f"process {first.pid}, since" in refusal
    assert refusal.count("Expected") == 1
    assert read_status(run).state == "running"

    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert read_status(run).state == "interrupted"
    third = start("resume", run)
    wait_for(lambda: last_number(run) == 2)
    assert third.wait(PATIENCE_SECONDS) in (0, INCONCLUSIVE)
    assert read_status(run).state == "finished"


@pytest.mark.fault("suspended driver comes back")
def test_a_driver_that_was_suspended_until_another_took_over_writes_no_more(start, tmp_path):
    hasty = ("-c", HASTY)
    whole = start("run", "--config", "plan.yaml", "--output", "whole")
    assert whole.wait(PATIENCE_SECONDS) in (0, INCONCLUSIVE)
    first = start("run", "--config", "plan.yaml", program=hasty)
    run = searching(tmp_path)
    os.killpg(first.pid, signal.SIGSTOP)
    time.sleep(5)

    second = start("resume", run, program=hasty)
    wait_for(lambda: last_number(run) == 2 and is_searching(read_status(run)))
    before = (run / "events.jsonl").read_text().splitlines()
    os.killpg(first.pid, signal.SIGCONT)
    _, told = first.communicate(timeout=PATIENCE_SECONDS)
    assert second.wait(PATIENCE_SECONDS) in (0, INCONCLUSIVE)

    assert first.returncode == 4, told
    assert "another one took it over" in told
    assert f"process {second.pid}, since" in told
    after = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    kinds = [event["kind"] for event in after]
    assert "audit_interrupted" not in kinds
    assert len(before) < len(after)
    finished = [event["trial"] for event in after if event["kind"] == "trial_finished"]
    assert sorted(finished) == sorted(set(finished))
    (other,) = (tmp_path / "whole").iterdir()
    assert trials_of(run) == trials_of(other)


def trials_of(run):
    results = RunFolder.open(run).results()
    return {name: without_times(result) for name, result in results.items()}
