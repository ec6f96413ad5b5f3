"""Workers that run out of memory in the middle of an audit."""

import resource
from pathlib import Path

import pytest

from tests.with_ray.audits import INCONCLUSIVE, without_times

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def take_memory_from(pid):
    """Leaves a process the memory it has."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    size = pages * resource.getpagesize()
    resource.prlimit(pid, resource.RLIMIT_AS, (size, size))


@pytest.mark.fault("worker out of memory")
def test_trials_of_a_worker_without_memory_end_as_they_would_have_or_say_what_was_missing(audits):
    whole = {trial["id"]: trial for trial in audits().finish()}
    audit = audits()
    assert audit.wait_searching()

    for pid in audit.workers():
        take_memory_from(pid)

    audit.wait(lambda: False)
    assert audit.process.returncode == INCONCLUSIVE, audit.log()
    summary = audit.summary()
    assert len(summary["trials"]) + len(summary["failed"]) == len(whole)
    for trial in summary["trials"]:
        assert without_times(trial) == whole[trial["id"]]
    for trial in summary["failed"]:
        assert "memory" in trial["error"].lower(), trial["error"]
