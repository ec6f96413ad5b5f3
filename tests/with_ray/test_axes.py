"""An audit that compares searchers and repeats over seeds, through the command line."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest
import yaml

from engine.attacks.searchers import list_searchers
from engine.run_folder import RunFolder
from tests.with_ray.audits import INCONCLUSIVE, without_times
from tests.with_ray.conftest import leaktune

SEARCHERS, SEEDS = ("gauss_newton", "sepcma"), (4, 7)
PLAN = {
    "name": "axes",
    "targets": 2,
    "seeds": list(SEEDS),
    "compute": {"searches_per_trial": 1},  # Resumed in the company it had: alone.
    "attack": {"searchers": ["gauss_newton", {"name": "sepcma", "population": 8}], "budget": 40},
}


@pytest.fixture(scope="module")
def finished(ray_cluster, tmp_path_factory):
    place = tmp_path_factory.mktemp("axes")
    store = f"sqlite:///{place / 'mlflow.db'}"
    (place / "plan.yaml").write_text(yaml.safe_dump(PLAN | {"tracking": {"uri": store}}))
    code = leaktune("run", "--config", place / "plan.yaml", "--output", place / "runs")
    [path] = (place / "runs").iterdir()
    assert code == INCONCLUSIVE
    return RunFolder.open(path), json.loads((path / "summary.json").read_text()), store


def test_every_searcher_and_seed_attacks_every_target_and_shared_controls_run_once(finished):
    _, summary, _ = finished

    ran = Counter(trial["attack"] for trial in summary["trials"])
    assert ran == {"ggl": 8, "shuffled": 8, "prior_only": 4, "random_best": 4, "oracle": 4}
    searched = {
        (trial["target"], trial["searcher"], trial["seed"], trial["evaluations"])
        for trial in summary["trials"]
        if trial["attack"] == "ggl"
    }
    assert searched == {(t, name, seed, 40) for t in (0, 1) for name in SEARCHERS for seed in SEEDS}


def test_each_searcher_has_its_group_row_and_verdict_with_the_means_over_seeds(finished):
    folder, summary, _ = finished

    found = [(entry["defense"], entry["by"]) for entry in summary["verdict"]["defenses"]]
    assert found == [("none", name) for name in SEARCHERS]
    groups = {g["searcher"]: g for g in summary["groups"] if g["attack"] == "ggl"}
    for name in SEARCHERS:
        psnrs = [
            trial["metrics"]["psnr"]
            for trial in summary["trials"]
            if (trial["attack"], trial["searcher"]) == ("ggl", name)
        ]
        assert (groups[name]["n"], groups[name]["targets"]) == (4, 2)
        assert groups[name]["metrics"]["psnr"]["mean"] == pytest.approx(np.mean(psnrs))
    page = (folder.path / "report" / "index.html").read_text()
    assert all(f"none · {name}" in page for name in SEARCHERS)


def test_runs_can_be_found_by_their_searcher_and_seed_in_mlflow(finished):
    from mlflow import MlflowClient

    folder, _, store = finished
    client = MlflowClient(store)
    [experiment] = (client.get_experiment_by_name("leaktune"),)

    def runs(query):
        return client.search_runs([experiment.experiment_id], query)

    assert len(runs("params.searcher = 'sepcma'")) == 8
    assert len(runs("params.searcher = 'sepcma' and params.seed = '7'")) == 4
    [parent] = runs(f"tags.`leaktune.run` = '{folder.name}' and params.seed = '4, 7'")
    assert parent.data.params["searcher"] == "gauss_newton, sepcma"
    assert {f"psnr/none/{name}" for name in SEARCHERS} <= set(parent.data.metrics)


def test_a_resume_runs_what_is_missing_to_the_same_numbers(finished, tmp_path):
    folder, summary, _ = finished
    path = tmp_path / folder.name
    shutil.copytree(folder.path, path)
    lost = ("defense0-ggl-target1-searcher1-seed7", "any-oracle-target0-seed4")
    for trial in lost:
        shutil.rmtree(path / "trials" / trial)
    before = len(list(RunFolder.open(path).events()))

    assert leaktune("resume", path) == INCONCLUSIVE

    resumed = json.loads((path / "summary.json").read_text())
    assert [without_times(t) for t in resumed["trials"]] == [
        without_times(t) for t in summary["trials"]
    ]
    events = list(RunFolder.open(path).events())[before:]
    assert {e["trial"] for e in events if e["kind"] == "trial_started"} == set(lost)


@pytest.mark.slow
def test_one_audit_compares_every_searcher_there_is(ray_cluster, tmp_path):
    listed = [row.name for row in list_searchers()]
    plan = {
        "targets": 1,
        "controls": ["prior_only"],
        "attack": {"searchers": listed, "budget": 30},
        "tracking": {"mlflow": False},
    }
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))

    code = leaktune("run", "--config", tmp_path / "plan.yaml", "--output", tmp_path / "runs")

    assert code == INCONCLUSIVE
    [path] = (tmp_path / "runs").iterdir()
    summary = json.loads((path / "summary.json").read_text())
    assert summary["failed"] == []
    losses = {
        trial["searcher"]: trial["loss"] for trial in summary["trials"] if trial["attack"] == "ggl"
    }
    assert set(losses) == set(listed)
    assert all(0 < loss < 1 for loss in losses.values())
