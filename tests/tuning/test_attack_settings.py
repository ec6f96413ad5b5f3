import json
from types import SimpleNamespace

import numpy as np
import pytest

from engine.errors import PlanError
from engine.lab import build_lab, trial_specs
from engine.plan import make_plan
from engine.trial import run_trial
from engine.tuning.attack_settings import (
    Failed,
    rank_settings,
    search_updates,
    tune_attack,
    with_settings,
)

PLAN = {"targets": 1, "attack": {"budget": 40}, "controls": [], "defenses": ["none"]}


def plan_of(**changes):
    return make_plan(PLAN | changes, source="test")


def test_settings_are_ranked_by_their_place_on_each_update_whatever_its_scale():
    names = [{"attack.restarts": n} for n in (1, 2, 3)]
    losses = np.array([[3.0, 30.0, 1e-6], [1.0, 20.0, 2e-6], [2.0, 10.0, 4e-6]])

    found = rank_settings(names, losses, [1.0, 2.0, 3.0])

    assert [one.settings["attack.restarts"] for one in found] == [2, 3, 1]
    assert [one.rank for one in found] == pytest.approx([5 / 3, 2, 7 / 3])
    assert [one.best_on for one in found] == [1, 1, 1]
    assert [one.seconds for one in found] == [2.0, 3.0, 1.0]
    assert found[0].relative_loss == pytest.approx((1 * 2 * 2) ** (1 / 3))
    assert {one.updates for one in found} == {3}


def test_equal_losses_share_their_places():
    found = rank_settings([{"a": 1}, {"a": 2}, {"a": 3}], np.array([[1.0], [1.0], [2.0]]), [1] * 3)

    assert [one.rank for one in found] == [1.5, 1.5, 3.0]
    assert [one.best_on for one in found] == [1, 1, 0]


def test_settings_are_put_into_the_plan_and_the_rest_is_kept():
    plan = plan_of(seed=4)

    changed = with_settings(
        plan, {"attack.searcher": "sepcma", "attack.searcher_settings.population": 8}
    )

    [settings] = [attack.settings for attack in changed.lineup()]
    assert (settings.searcher, settings.searcher_settings) == ("sepcma", {"population": 8})
    assert (changed.seed, changed.attack.budget, changed.targets) == (4, 40, 1)
    assert plan.lineup()[0].settings.searcher == "gauss_newton"


def test_settings_that_do_not_go_together_are_refused_by_name():
    plan = plan_of(attack={"searchers": ["random", "sepcma"]})

    with pytest.raises(PlanError, match=r"attack\.searcher=random:\n.*searchers"):
        with_settings(plan, {"attack.searcher": "random"})


def test_the_losses_are_those_an_audit_has(monkeypatch):
    plan = plan_of(defenses=["none", {"name": "clipping", "max_norm": 1.0}], controls=["shuffled"])
    reported = []
    monkeypatch.setattr("ray.tune.report", reported.append)

    search_updates({"attack.searcher": "sepcma"}, json.dumps(plan.to_dict()))

    [report] = reported
    audit = with_settings(plan, {"attack.searcher": "sepcma"})
    lab = build_lab(audit)
    expected = [run_trial(spec, lab).loss for spec in trial_specs(audit) if spec.attack == "ggl"]
    assert report["losses"] == expected
    assert len(expected) == 2
    assert report["seconds"] > 0


def test_a_failure_is_told_with_its_reason(monkeypatch):
    reported = []
    monkeypatch.setattr("ray.tune.report", reported.append)

    search_updates({"attack.space": "w"}, json.dumps(plan_of().to_dict()))

    assert set(reported[0]) == {"error"}
    assert "regulariser" in reported[0]["error"]


def test_settings_that_fail_leave_the_others_ranked(monkeypatch):
    results = [
        SimpleNamespace(config={"attack.restarts": 1}, metrics={"losses": [2.0], "seconds": 1.0}),
        SimpleNamespace(config={"attack.restarts": 2}, metrics={"error": "OutOfMemoryError: full"}),
        SimpleNamespace(config={"attack.restarts": 3}, metrics=None),
        SimpleNamespace(config={"attack.restarts": 4}, metrics={"losses": [1.0], "seconds": 1.0}),
    ]
    monkeypatch.setattr("engine.tuning.attack_settings.fit", lambda tuner: results)

    ranked, failed = tune_attack(plan_of(), {"attack.restarts": [1, 2, 3, 4]}, on_done=print)

    assert [one.settings["attack.restarts"] for one in ranked] == [4, 1]
    assert failed == [
        Failed({"attack.restarts": 2}, "OutOfMemoryError: full"),
        Failed({"attack.restarts": 3}, "its workers were lost too often"),
    ]


def test_where_all_settings_fail_none_is_ranked(monkeypatch):
    results = [SimpleNamespace(config={"attack.restarts": 1}, metrics={"error": "no"})]
    monkeypatch.setattr("engine.tuning.attack_settings.fit", lambda tuner: results)

    ranked, failed = tune_attack(plan_of(), {"attack.restarts": [1]}, on_done=print)

    assert (ranked, failed) == ([], [Failed({"attack.restarts": 1}, "no")])


def test_several_attacks_are_not_tuned():
    plan = make_plan({"attacks": {"dlg": {}, "ggl": {}}}, source="test")

    with pytest.raises(PlanError, match="Expected one attack to tune, got attacks: dlg, ggl"):
        with_settings(plan, {"attack.restarts": 2})
