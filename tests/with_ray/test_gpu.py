"""Audits on a GPU, and what becomes of them when others take its memory."""

import subprocess
import sys

import pytest
import torch

from tests.with_ray.audits import INCONCLUSIVE, SEARCHERS, plan_of, started

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="This machine has no GPU."),
]

PLAN = plan_of(SEARCHERS[0]) | {"targets": 2}
PLAN["compute"] |= {"gpus_per_trial": 0.5, "searches_per_trial": 1}
# Takes all the memory of a GPU that is free, until it is told to end.
TAKER = """
import torch
taken, size = [], 2**30
while size >= 2**21:
    try:
        taken.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
    except torch.OutOfMemoryError:
        size //= 2
print(torch.cuda.mem_get_info()[0], flush=True)
input()
"""


class Taker:
    """Another program on the GPU, which has all its memory from now on."""

    def __init__(self):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen([sys.executable, "-c", TAKER], **pipes, text=True)
        left = int(self.process.stdout.readline())
        assert left < 2**26, left

    def end(self):
        if self.process.poll() is None:
            self.process.communicate("\n")


@pytest.fixture
def audit(tmp_path):
    """Starts an audit on the GPU; ends what is left of it."""
    made = []

    def start():
        made.append(started(tmp_path / "audit", PLAN))
        return made[-1]

    yield start
    for one in made:
        one.clear_away()


@pytest.fixture
def taker():
    """Has another program take the GPU's memory; ends it."""
    made = []

    def start():
        made.append(Taker())
        return made[-1]

    yield start
    for one in made:
        one.end()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The trials of an audit on a GPU of its own."""
    return started(tmp_path_factory.mktemp("whole"), PLAN).finish()


def test_equal_plans_give_equal_results_on_a_gpu(audit, whole):
    assert audit().finish() == whole


@pytest.mark.fault("GPU full")
def test_trials_that_find_no_memory_on_the_gpu_say_so_and_are_run_by_a_resume(audit, taker, whole):
    other = taker()
    without = audit()

    assert ended(without)["failed"]
    other.end()
    without.start()
    assert without.finish() == whole


@pytest.mark.fault("GPU full")
def test_trials_whose_gpu_is_full_meanwhile_end_as_they_would_have_or_say_so(audit, taker, whole):
    disturbed = audit()
    assert disturbed.wait_searching()
    other = taker()

    if ended(disturbed)["failed"]:
        other.end()
        disturbed.start()
    assert disturbed.finish() == whole


def ended(audit):
    """Waits for the end of an audit; returns its summary, in which trials failed for one reason."""
    audit.wait(lambda: False)
    assert audit.process.returncode in (0, INCONCLUSIVE), audit.log()
    summary = audit.summary()
    for trial in summary["failed"]:
        assert "memory" in trial["error"], trial["error"]
    return summary
