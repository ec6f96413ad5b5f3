"""Settings chosen by the matching loss, through the command line."""

import contextlib
import json
import time

import pytest

from engine.tuning.attack_settings import Failed, Tuned
from tests.with_ray.audits import finish, is_worker, kill, processes_of, start
from tests.with_ray.conftest import leaktune

SMALL = ("--set", "targets=1", "--set", "attack.budget=130", "--set", "defenses=[none]")
KILLS = 3


def test_every_combination_is_tried_and_the_best_is_shown_first(ray_cluster, capsys):
    over = ("--over", "attack.searcher=[random, sepcma]", "--over", "attack.restarts=[1, 2]")

    code = leaktune("tune", *over, *SMALL, "--format", "json")

    out, err = capsys.readouterr()
    assert code == 0, err
    found = json.loads(out)
    assert len(found) == 4
    assert sorted(one["rank"] for one in found) == [one["rank"] for one in found]
    assert found[0]["relative_loss"] == 1.0
    tried = {
        (one["settings"]["attack.searcher"], one["settings"]["attack.restarts"]) for one in found
    }
    assert tried == {(name, n) for name in ("random", "sepcma") for n in (1, 2)}
    assert "4 of 4 settings done" in err


@pytest.mark.parametrize("form", ["text", "json"])
def test_settings_that_fail_are_told_after_the_ranking_of_the_others(form, monkeypatch, capsys):
    ranked = [Tuned({"attack.restarts": 1}, 1.0, 1.0, best_on=1, updates=1, seconds=2.0)]
    failed = [Failed({"attack.restarts": 2}, "OutOfMemoryError: full")]
    monkeypatch.setattr("engine.tuning.connect", lambda address: contextlib.nullcontext())
    monkeypatch.setattr("engine.tuning.check_machines", lambda compute, **options: "")
    monkeypatch.setattr("engine.tuning.tune_attack", lambda *args, **names: (ranked, failed))

    code = leaktune("tune", "--over", "attack.restarts=[1, 2]", *SMALL, "--format", form)

    out, err = capsys.readouterr()
    assert code == 1
    assert "restarts=1" in out if form == "text" else len(json.loads(out)) == 1
    assert "Expected losses of 2 settings, got those of 1." in err
    assert "restarts=2: OutOfMemoryError: full" in err


@pytest.mark.slow
def test_killed_workers_change_nothing():
    over = ("--over", "attack.restarts=[1, 2, 3]")
    words = ("tune", *over, *SMALL, "--set", "attack.budget=600", "--format", "json")
    expected = outcome_of(start(*words))
    disturbed, killed = start(*words), set()

    while len(killed) < KILLS and disturbed.poll() is None:
        new = {pid for pid in processes_of(disturbed.pid) if is_worker(pid)} - killed
        kill(new)
        killed |= new
        time.sleep(0.1)

    assert len(killed) >= KILLS
    assert outcome_of(disturbed) == expected


def outcome_of(command):
    code, out, err = finish(command)
    assert code == 0, err
    return [
        {key: value for key, value in one.items() if key != "seconds"} for one in json.loads(out)
    ]


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ("attack.distance=[cosine]", "The matching loss cannot choose others"),
        ("attack.restarts=2", "Expected --over 'key=[value, value]', got 'attack.restarts=2'"),
        ("attack.restarts=[1, 1]", "each once"),
        ("attack.restarts=[", "Expected a YAML list"),
        ("attack.searcher=[sepcma, gauss]", "Unknown searcher 'gauss'"),
        ("attack.space=[gaussian, w]", "regulariser"),
    ],
)
def test_what_cannot_be_tuned_is_refused_before_work_is_spent(over, message, capsys, monkeypatch):
    monkeypatch.setattr("engine.tuning.connect", None)  # No cluster is even started.

    assert leaktune("tune", "--over", over, *SMALL) == 2

    assert message in " ".join(capsys.readouterr().err.split())
