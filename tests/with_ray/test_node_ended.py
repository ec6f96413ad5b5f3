"""A worker's machine that is told of its end, in the middle of an audit, and ends in order."""

import contextlib
import time

import pytest

from tests.with_ray.audits import SEARCHERS, is_worker, plan_of, processes_of, started
from tests.with_ray.test_cluster import environment, folder, head, ray_command, ray_node, ray_start

__all__ = ["folder"]  # The fixture.

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# For how long a machine told of its end lets its workers go on; 30 seconds unless set.
GRACE = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
LONG = 12_000  # Evaluations that take much longer than a second.


@pytest.fixture
def searching(folder, tmp_path, monkeypatch):
    """Starts an audit of four searches on a cluster whose head runs none.

    Takes its plan, and variables for the cluster's three machines, one of them to spare. Returns
    it once both pairs of searches are under way, with the machine that runs one of them.
    """
    for name, value in environment(folder).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with contextlib.ExitStack() as stack:

        def start(plan, **variables):
            address, _ = stack.enter_context(head(folder, cpus=0))
            command = [ray_command(), *ray_start([f"--address={address}", "--num-cpus=1"])]
            nodes = []
            for number in range(3):
                own = tmp_path / f"machine{number}"
                own.mkdir()
                node = ray_node(command, own, **environment(folder), **variables)
                nodes.append(stack.enter_context(node))
            audit = started(tmp_path / "audit", plan, "--address", address)
            stack.callback(audit.clear_away)
            assert audit.wait(lambda: len(audit.under_way()) == 4), audit.log()
            return audit, next(filter(runs_a_worker, nodes))

        yield start


def runs_a_worker(node):
    return any(map(is_worker, processes_of(node.pid)))


def attempts(audit):
    """Returns how often each search was taken up, in ascending order."""
    return sorted(map(len, audit.kept.values()))


@pytest.mark.fault("machine ended in order")
def test_searches_that_it_breaks_off_go_on_on_another(tmp_path, searching, record_property):
    plan = plan_of(SEARCHERS[0]) | {"targets": 4}
    plan["attack"]["budget"] = LONG
    whole = started(tmp_path / "whole", plan).finish()
    audit, machine = searching(plan, **{GRACE: "1"})

    machine.terminate()
    audit.hit = time.monotonic()

    assert audit.finish() == whole
    assert attempts(audit) == [1, 1, 2, 2]
    assert audit.repeated().total() == 0
    for seconds in audit.back:
        record_property("seconds", seconds)


@pytest.mark.fault("machine ended in order")
def test_searches_that_end_before_it_are_not_broken_off(tmp_path, searching):
    plan = plan_of(SEARCHERS[0]) | {"targets": 4}
    whole = started(tmp_path / "whole", plan).finish()
    audit, machine = searching(plan)

    machine.terminate()

    assert audit.finish() == whole
    assert attempts(audit) == [1, 1, 1, 1]
    machine.wait(60)
