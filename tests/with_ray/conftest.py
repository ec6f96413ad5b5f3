import sys

import pytest

from engine import tuning
from engine.cli import main
from engine.plan import make_plan
from tests.with_ray.audits import SEARCHERS, plan_of, started

SMALL = {
    "name": "small",
    "targets": 2,
    "defenses": ["none", {"name": "sparsification", "percent": 80}],
    "attack": {"budget": 70},
    "images": {"report": False, "tracking": False},
    "tracking": {"mlflow": False},
}


def leaktune(*words):
    """Runs a command line in this process and returns its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["leaktune", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
    return stop.value.code


@pytest.fixture(scope="session")
def ray_cluster():
    """The one small Ray of the whole test session, or of each process that shares it."""
    with tuning.connect(None):
        yield


@pytest.fixture
def small_plan():
    return make_plan(SMALL, source="test")


@pytest.fixture
def audits(tmp_path, record_property):
    """Starts audits by their searcher and ``compute``, and ends what is left of them.

    Has JUnit's file say how long it took each time until they went on after a fault.
    """
    made = []

    def start(searcher=SEARCHERS[0], **compute):
        plan = plan_of(searcher)
        plan["compute"] |= compute
        made.append(started(tmp_path / str(len(made)), plan))
        return made[-1]

    yield start
    for audit in made:
        audit.clear_away()
        for seconds in audit.back:
            record_property("seconds", seconds)
