"""A head lost with everything on it, in the middle of an audit; the run folder is left."""

import pytest

from tests.with_ray.audits import SEARCHERS, kill, plan_of, processes_of, started
from tests.with_ray.test_cluster import environment, folder, head

__all__ = ["folder"]  # The fixture.

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.fault("head lost")
def test_an_audit_goes_on_on_a_new_cluster(tmp_path, folder, monkeypatch, record_property):
    plan = plan_of(SEARCHERS[0])
    whole = started(tmp_path / "whole", plan).finish()
    for name, value in environment(folder).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with head(folder) as (address, node):
        audit = started(tmp_path / "audit", plan, "--address", address)
        assert audit.wait_searching()
        kill([*processes_of(node.pid), *processes_of(audit.process.pid)])
        audit.process.wait()
        assert audit.over()  # And notes what was kept.
    with head(folder) as (address, _):
        audit.options = ("--address", address)
        audit.start()
        assert audit.finish() == whole
    assert audit.repeated().total() == 0
    for seconds in audit.back:
        record_property("seconds", seconds)
