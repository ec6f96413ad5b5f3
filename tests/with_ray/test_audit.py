import copy
import io
import json
import re
import stat

import numpy as np
import pytest
from rich.console import Console

from engine.attacks import Progress
from engine.audit import run_audit, start_audit
from engine.plan import make_plan
from engine.run_folder import RunFolder
from engine.run_folder.history_file import NOTHING, HistoryKeeper
from engine.run_folder.status import read_status
from engine.trial import run_trial
from engine.trial.record import spec_hash, to_record
from engine.tuning.worker import prepare
from tests.with_ray.audits import without_times
from tests.with_ray.conftest import SMALL


def audit(plan, parent):
    console = Console(file=io.StringIO(), width=120)
    folder, lab = start_audit(plan, "text of the plan", parent)
    summary = run_audit(folder, address=None, console=console, lab=lab)
    return folder, summary, console.file.getvalue()


def keep_history(folder, spec, losses):
    """Leaves in a run folder what an interrupted search without details leaves there."""
    keeper = HistoryKeeper(folder.trial_folder(spec.id), spec_hash(spec), NOTHING)
    keeper.keep(Progress(len(losses), 0.0, None, losses))


@pytest.fixture(scope="module")
def finished(ray_cluster, tmp_path_factory):
    return audit(make_plan(SMALL, source="test"), tmp_path_factory.mktemp("runs"))


def test_every_defense_attack_and_target_has_a_trial_and_every_trial_a_group(finished):
    folder, summary, _ = finished

    rows = {(trial["defense"], trial["attack"], trial["target"]) for trial in summary["trials"]}
    defended = ("none", "sparsification(percent=80)")
    attacks = ("ggl", "prior_only", "shuffled", "random_best")
    expected = {(d, a, t) for d in defended for a in attacks for t in (0, 1)}
    assert rows == expected | {("any", "oracle", 0), ("any", "oracle", 1)}
    assert {(group["defense"], group["attack"]) for group in summary["groups"]} == {
        (defense, attack) for defense, attack, _ in rows
    }
    assert json.loads((folder.path / "summary.json").read_text()) == summary


def test_searches_spend_exactly_their_budget(finished):
    _, summary, _ = finished

    spent = {trial["attack"]: trial["evaluations"] for trial in summary["trials"]}
    assert spent == {"ggl": 70, "shuffled": 70, "random_best": 70, "prior_only": 0, "oracle": 0}


def test_results_equal_those_of_the_same_trials_run_without_ray_to_the_bit(finished):
    folder, summary, _ = finished
    plan_json = json.dumps(folder.plan())

    for trial in copy.deepcopy(summary["trials"]):
        [spec], lab = prepare(plan_json, [trial["id"]])
        alone = run_trial(spec, lab)
        trial.pop("by")  # Which of the audit's attacks it is, no trial knows.
        assert without_times(to_record(spec, alone)) == without_times(trial)
        np.testing.assert_array_equal(alone.images, folder.load_images(spec.id))
        if alone.evaluations:
            losses = folder.load_losses(spec.id, spec_hash(spec))
            np.testing.assert_array_equal(alone.losses, losses)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "searches_per_trial"), [(1, 1), (2, 1), (2, 3)])
def test_results_depend_neither_on_the_workers_nor_on_what_each_carries(
    workers, searches_per_trial, finished, tmp_path
):
    compute = {"workers": workers, "searches_per_trial": searches_per_trial}

    _, summary, _ = audit(make_plan(SMALL | {"compute": compute}, source="test"), tmp_path)

    assert list(map(without_times, summary["trials"])) == list(
        map(without_times, finished[1]["trials"])
    )


def test_private_images_stay_in_the_private_folder_unless_the_plan_says_otherwise(finished):
    folder, _, _ = finished

    page = (folder.path / "report" / "index.html").read_text()
    assert "data:image/png" not in page
    outside = [
        path.name
        for path in folder.path.rglob("*")
        if path.suffix in (".png", ".npy", ".jpg") and folder.private not in path.parents
    ]
    assert outside == []
    assert stat.S_IMODE(folder.private.stat().st_mode) == 0o700
    finish = [event for event in folder.events() if event["kind"] == "audit_finished"][-1]
    assert not any(path.startswith("private/") for path in finish["artifacts"])


def test_the_losses_of_a_finished_search_stay_and_its_history_goes(finished):
    folder, _, _ = finished

    left = {path.name for path in folder.path.glob("trials/*/*")}
    assert left == {"result.json", "state.json", "state.safetensors"}


def test_the_event_log_tells_the_whole_audit(finished):
    folder, summary, _ = finished

    events = list(folder.events())
    kinds = [event["kind"] for event in events]
    assert kinds[0] == "audit_started"
    assert kinds[-1] == "audit_finished"
    assert kinds.count("trial_started") == kinds.count("trial_finished") == len(summary["trials"])


def test_the_status_of_a_finished_audit_is_that_of_its_summary(finished):
    folder, summary, _ = finished

    status = read_status(folder.path)

    total = len(summary["trials"])
    expected = {"total": total, "done": total, "running": 0, "failed": 0, "waiting": 0}
    assert (status.state, status.trials) == ("finished", expected)
    assert (status.driver["alive"], status.driver["ended"]) == (False, "finished")
    spent = sum(trial["evaluations"] for trial in summary["trials"])
    assert status.evaluations["spent"] == status.evaluations["total"] == spent
    for row in status.losses:
        names = ("defense", "attack", "of", "searcher")
        found = [
            trial["loss"]
            for trial in summary["trials"]
            if all(trial[name] == row[name] for name in names)
        ]
        assert (row["trials"], row["lowest"]) == (len(found), min(found))
    assert {row["attack"] for row in status.losses} == {"ggl", "shuffled", "random_best"}


def test_an_interrupted_audit_resumes_to_the_same_numbers(finished, tmp_path):
    whole, summary, _ = finished
    plan = make_plan(SMALL, source="test")
    broken, _ = start_audit(plan, "text of the plan", tmp_path)
    kept = [trial["id"] for trial in summary["trials"]][::2]
    for name in kept:
        (broken.trial_folder(name) / "result.json").write_bytes(
            (whole.path / "trials" / name / "result.json").read_bytes()
        )
        broken.save_images(name, whole.load_images(name))
        (broken.trial_folder(name) / "history-001.bin").touch()  # Left by a driver that was killed.
    started = next(t for t in summary["trials"] if t["id"] not in kept and t["evaluations"])
    [spec], _ = prepare(json.dumps(broken.plan()), [started["id"]])
    losses = whole.load_losses(spec.id, spec_hash(spec))
    keep_history(broken, spec, losses[:28])

    resumed = run_audit(RunFolder.open(broken.path), address=None, console=Console(quiet=True))

    assert [without_times(t) for t in resumed["trials"]] == [
        without_times(t) for t in summary["trials"]
    ]
    again = [e["trial"] for e in broken.events() if e["kind"] == "trial_started"]
    assert list(broken.path.glob("trials/*/history-*")) == []
    assert sorted(again) == sorted({t["id"] for t in summary["trials"]} - set(kept))


def test_a_failing_trial_is_shown_counted_and_never_taken_for_a_protected_one(
    ray_cluster, tmp_path, monkeypatch
):
    # A searcher that dies in the worker alone: the driver's check builds it with seed 0.
    plan = make_plan(
        SMALL | {"defenses": ["none"], "controls": ["prior_only"], "targets": 1}, source="test"
    )
    folder, lab = start_audit(plan, "text", tmp_path)
    target = folder.path / "trials" / "defense0-ggl-target0"
    [spec], _ = prepare(json.dumps(folder.plan()), [target.name])
    keep_history(folder, spec, np.zeros(71, dtype=np.float32))

    console = Console(file=io.StringIO(), width=200)
    summary = run_audit(folder, address=None, console=console, lab=lab)

    [failure] = summary["failed"]
    named = [failure[name] for name in ("id", "searcher", "seed")]
    assert named == ["defense0-ggl-target0", "gauss_newton", 0]
    assert summary["verdict"]["status"] == "inconclusive"
    assert [failed["trial"] for failed in read_status(folder.path).failures] == [target.name]
    shown = console.file.getvalue()
    assert "Trial defense0-ggl-target0 failed" in shown
    assert re.search(r"Traceback .*search_steps", shown, re.DOTALL)
