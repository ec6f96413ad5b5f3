"""Workers that stop in the middle of an audit: noticed, replaced, and given up in the end."""

import os
import signal

import pytest

from tests.with_ray.audits import INCONCLUSIVE, is_worker, is_working

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LONG_SECONDS, SHORT_SECONDS = 20, 1  # More and less than a worker's start takes.


@pytest.mark.fault("worker hangs")
def test_a_stopped_workers_trials_go_on_with_another_and_come_to_the_same_results(audits):
    whole = audits().finish()
    audit = audits(hang_seconds=LONG_SECONDS)
    assert audit.wait_searching()

    stopped = audit.suspend_worker()

    assert audit.finish() == whole
    hung = audit.events("trial_hung")
    assert hung
    assert all(event["seconds"] > LONG_SECONDS for event in hung)
    assert f"Nothing was heard of the worker of {hung[0]['trial']} for" in audit.log()
    assert not is_worker(stopped)
    assert audit.repeated().total() == 0


@pytest.mark.fault("worker hangs every time")
def test_trials_that_hang_again_and_again_are_given_up_and_make_no_verdict(audits):
    audit = audits(hang_seconds=SHORT_SECONDS, searches_per_trial=12)  # All of them in one.
    audit.wait_searching()

    while not audit.over():
        for pid in audit.workers():
            if is_working(pid):
                os.kill(pid, signal.SIGSTOP)
        audit.sleep(0.2)

    assert audit.process.returncode == INCONCLUSIVE, audit.log()
    summary = audit.summary()
    assert summary["trials"] == []
    assert {trial["error"] for trial in summary["failed"]} == {
        "worker lost after hanging; was it slow, raise compute.hang_seconds"
    }
