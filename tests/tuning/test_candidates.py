"""How a search by candidates begins; audits of them are in `tests/with_ray/test_candidates.py`."""

import errno

import pytest

from engine.errors import InfrastructureError
from engine.lab import trial_specs
from engine.plan import make_plan
from engine.run_folder import RunFolder
from engine.tuning.candidates import run_candidates


class Listening:
    """A listener that hears that trials begin."""

    def holds(self):
        return True

    def started(self, trial):
        pass


def test_a_search_that_finds_no_room_for_its_losses_says_how_to_go_on(tmp_path, monkeypatch):
    plan = make_plan(
        {
            "targets": 1,
            "defenses": ["none"],
            "controls": [],
            "attack": {"searcher": "random", "label_hypotheses": 1},
            "compute": {"fan_out": "candidates"},
        },
        source="test",
    )
    [trial] = trial_specs(plan)

    def full(self, name):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RunFolder, "trial_folder", full)

    with pytest.raises(InfrastructureError, match=r"No space left on device.*leaktune resume"):
        run_candidates(plan, [trial.id], tmp_path, Listening(), None)
