"""Workers lost between two trials, when Ray Tune gives up the next one at once."""

import os
import signal

import pytest
import ray

from engine.plan import make_plan
from engine.tuning.callback import ListenerCallback
from tests.with_ray.audits import without_times
from tests.with_ray.conftest import SMALL
from tests.with_ray.test_audit import audit

pytestmark = pytest.mark.slow

LOST = 3  # Workers, in an audit.


def kill(trial):
    ray.kill(trial.temporary_state.ray_actor)


def suspend(trial):
    os.kill(trial.last_result["pid"], signal.SIGSTOP)


@pytest.fixture(scope="module")
def whole(ray_cluster, tmp_path_factory):
    """Returns the trials of an audit that nothing happens to."""
    _, summary, _ = audit(plan_of(), tmp_path_factory.mktemp("whole"))
    return [without_times(trial) for trial in summary["trials"]]


def plan_of(**compute):
    one = {"workers": 1, "searches_per_trial": 1} | compute
    return make_plan(SMALL | {"compute": one, "controls": []}, source="test")


@pytest.mark.fault("worker lost between two trials", tries=LOST)
@pytest.mark.parametrize(("lose", "hang_seconds"), [(kill, None), (suspend, 5)])
def test_a_worker_lost_between_two_trials_costs_neither_of_them(
    lose, hang_seconds, whole, ray_cluster, tmp_path, monkeypatch
):
    lost = []

    def on_trial_complete(self, iteration, trials, trial, **info):
        if len(lost) < LOST:
            lost.append(trial)
            lose(trial)

    monkeypatch.setattr(ListenerCallback, "on_trial_complete", on_trial_complete)

    _, summary, _ = audit(plan_of(hang_seconds=hang_seconds), tmp_path)

    assert len(lost) == LOST
    assert summary["failed"] == []
    assert list(map(without_times, summary["trials"])) == whole
