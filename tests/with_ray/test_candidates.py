"""Audits whose candidates are Ray Tune trials: the same results, and nothing evaluated twice."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from rich.console import Console

from engine.audit import run_audit
from engine.plan import make_plan
from engine.run_folder import RunFolder
from engine.run_folder.status import read_status
from engine.trial import run_trial
from engine.trial.record import spec_hash
from engine.tuning.candidates import score
from engine.tuning.worker import prepare
from tests.with_ray.audits import INCONCLUSIVE, LAUNCHER, without_times
from tests.with_ray.test_audit import audit

BUDGET = 12


def plan_of(searcher, **changes):
    values = {
        "name": "candidates",
        "targets": 1,
        "controls": ["prior_only"],
        "attack": {"budget": BUDGET, "searcher": searcher},
        "compute": {"fan_out": "candidates", "workers": 2},
        "tracking": {"mlflow": False},
    }
    return make_plan(values | changes, source="test")


def losses_of(folder, trial):
    [spec], _ = prepare(json.dumps(folder.plan()), [trial])
    return folder.load_losses(trial, spec_hash(spec))


def assert_whole(folder, summary, searcher):
    assert summary["failed"] == []
    found = {trial["attack"]: trial for trial in summary["trials"]}
    ggl = found["ggl"]
    assert (ggl["searcher"], ggl["evaluations"], ggl["population"]) == (searcher, BUDGET, 1)
    losses = losses_of(folder, ggl["id"])
    assert len(losses) == BUDGET
    assert ggl["loss"] == losses.min()
    assert ggl["trace"][-1][:2] == [BUDGET, ggl["loss"]]
    assert ggl["metrics"].keys() >= found["prior_only"]["metrics"].keys() - {"label_accuracy"}
    assert (folder.path / "report" / "index.html").is_file()


def test_an_audit_by_candidates_gives_all_that_one_by_searches_gives(ray_cluster, tmp_path):
    folder, summary, _ = audit(plan_of("optuna:Random"), tmp_path)

    assert_whole(folder, summary, "optuna:Random")
    status = read_status(folder.path)
    assert (status.state, status.trials["done"]) == ("finished", 2)
    assert status.evaluations["spent"] == status.evaluations["total"] == BUDGET
    [spec], lab = prepare(json.dumps(folder.plan()), ["defense0-ggl-target0"])
    whole = run_trial(spec, lab)  # Memoryless: the rounding of losses moves nothing.
    record = next(trial for trial in summary["trials"] if trial["attack"] == "ggl")
    np.testing.assert_allclose(losses_of(folder, spec.id), whole.losses, rtol=1e-4)
    np.testing.assert_allclose(folder.load_images(spec.id), whole.images, atol=1e-5)
    assert record["metrics"] == pytest.approx(whole.metrics, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("searcher", ["random", "optuna:TPE", "nevergrad:DiagonalCMA", "ax:Sobol"])
def test_results_depend_on_neither_workers_nor_an_interruption(searcher, ray_cluster, tmp_path):
    folder, summary, _ = audit(plan_of(searcher), tmp_path / "two")
    one = {"fan_out": "candidates", "workers": 1}
    _, alone, _ = audit(plan_of(searcher, compute=one), tmp_path / "one")
    finished = next(trial for trial in summary["trials"] if trial["attack"] == "ggl")
    kept = folder.path / "trials" / finished["id"]
    (kept / "result.json").unlink()
    lines = (kept / "candidates.jsonl").read_text().splitlines(keepends=True)
    (kept / "candidates.jsonl").write_text("".join(lines[: BUDGET // 2]))

    resumed = run_audit(RunFolder.open(folder.path), address=None, console=Console(quiet=True))

    assert_whole(folder, summary, searcher)
    assert list(map(without_times, alone["trials"])) == list(map(without_times, summary["trials"]))
    assert list(map(without_times, resumed["trials"])) == list(map(without_times, alone["trials"]))


@pytest.mark.slow
def test_candidates_of_every_searcher_and_seed_are_tune_trials(ray_cluster, tmp_path):
    attack = {"budget": BUDGET, "searchers": ["random", "optuna:Random"]}
    folder, summary, _ = audit(plan_of("random", attack=attack, seeds=[0, 3]), tmp_path)

    assert summary["failed"] == []
    searched = {
        (trial["searcher"], trial["seed"]): losses_of(folder, trial["id"])
        for trial in summary["trials"]
        if trial["attack"] == "ggl"
    }
    assert {len(losses) for losses in searched.values()} == {BUDGET}
    assert set(searched) == {(n, seed) for n in ("random", "optuna:Random") for seed in (0, 3)}
    assert len({losses.tobytes() for losses in searched.values()}) == 4
    assert sum(trial["attack"] == "prior_only" for trial in summary["trials"]) == 2


def test_a_search_that_fails_is_shown_and_counted(ray_cluster, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise OSError("no algorithm")

    monkeypatch.setattr("engine.tuning.algorithms.make_algorithm", broken)

    _, summary, shown = audit(plan_of("random"), tmp_path)

    assert [failure["id"] for failure in summary["failed"]] == ["defense0-ggl-target0"]
    assert "OSError: no algorithm" in shown
    assert summary["verdict"]["status"] == "inconclusive"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_interrupted_driver_loses_only_what_was_in_flight(tmp_path):
    budget, plan = 150, tmp_path / "plan.yaml"
    values = plan_of("nevergrad:DiagonalCMA").to_dict()
    values["attack"] |= {"budget": budget}
    values["controls"] = []
    plan.write_text(yaml.safe_dump(values))
    words = [sys.executable, LAUNCHER]
    run = [*words, "run", "--config", str(plan), "--output", str(tmp_path / "runs")]
    stopped = subprocess.Popen(run, start_new_session=True)
    log = "*/trials/*/candidates.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        lines = [path.read_text().splitlines() for path in (tmp_path / "runs").glob(log)]
        if lines and len(lines[0]) > 40:
            break
        time.sleep(0.02)
    stopped.send_signal(signal.SIGINT)
    assert stopped.wait(60) == 130
    (path,) = (tmp_path / "runs").glob(log)
    before = path.read_text().splitlines()
    assert 40 < len(before) <= budget
    status = read_status(path.parents[2])
    assert (status.state, status.trials["waiting"]) == ("interrupted", 1)
    assert 0 < status.evaluations["spent"] < status.evaluations["total"] == budget

    resumed = subprocess.run(
        [*words, "resume", str(path.parents[2])], capture_output=True, text=True, timeout=200
    )

    assert resumed.returncode in (0, INCONCLUSIVE), resumed.stderr
    after = path.read_text().splitlines()
    assert after[: len(before)] == before
    assert sorted(json.loads(line)["candidate"] for line in after[1:]) == list(range(budget))
    summary = json.loads((path.parents[2] / "summary.json").read_text())
    assert [trial["evaluations"] for trial in summary["trials"]] == [budget]


@pytest.mark.slow
def test_a_worker_that_hangs_while_it_scores_is_replaced(ray_cluster, tmp_path, monkeypatch):
    tried = tmp_path / "tried"

    def hanging(*words):
        if not tried.exists():
            tried.touch()
            time.sleep(600)
        return score(*words)

    monkeypatch.setattr("engine.tuning.candidates.score", hanging)
    compute = {"fan_out": "candidates", "workers": 1, "hang_seconds": 25}

    folder, summary, shown = audit(plan_of("random", compute=compute), tmp_path / "runs")

    assert tried.exists()
    assert "Nothing was heard of the worker of defense0-ggl-target0" in " ".join(shown.split())
    assert_whole(folder, summary, "random")
