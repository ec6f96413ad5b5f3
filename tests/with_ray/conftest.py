import sys

import pytest

from engine import tuning
from engine.cli import main
from engine.plan import make_plan

SMALL = {
    "name": "small",
    "targets": 2,
    "defenses": ["none", {"name": "sparsification", "percent": 80}],
    "attack": {"budget": 70},
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
    """The one small Ray of the whole test session."""
    with tuning.connect(None):
        yield


@pytest.fixture
def small_plan():
    return make_plan(SMALL, source="test")
