import pytest

from engine import tuning
from engine.plan import make_plan

SMALL = {
    "name": "small",
    "targets": 2,
    "defenses": ["none", {"name": "sparsification", "percent": 80}],
    "attack": {"budget": 70},
    "tracking": {"mlflow": False},
}


@pytest.fixture(scope="session")
def ray_cluster():
    """The one small Ray of the whole test session."""
    with tuning.connect(None):
        yield


@pytest.fixture
def small_plan():
    return make_plan(SMALL, source="test")
