import json
import sys

import pytest

from engine.cli import main
from engine.federation.captures import write_capture
from engine.lab import build_lab, trial_specs
from engine.plan import make_plan
from engine.reporting import markdown_table
from engine.trial import observe
from tests.with_ray.conftest import leaktune
from tests.with_ray.test_audit import audit


@pytest.fixture(scope="module")
def simulated_plan():
    """A plan whose one defense is random, so that a capture holds noise of its own."""
    return {
        "name": "captured",
        "targets": 2,
        "defenses": [{"name": "gaussian_noise", "std": 0.01}],
        "controls": ["prior_only"],
        "attack": {"budget": 70},
        "tracking": {"mlflow": False},
    }


@pytest.fixture(scope="module")
def captures(simulated_plan, tmp_path_factory):
    """The updates that the audit simulates, written as a server would have received them."""
    folder = tmp_path_factory.mktemp("captures")
    plan = make_plan(simulated_plan, source="test")
    spec, lab = trial_specs(plan)[0], build_lab(plan)
    for client in range(plan.targets):
        update, _ = observe(spec, lab, client)
        write_capture(folder / f"client-{client}.safetensors", update)
    return folder


def test_an_audit_of_captures_finds_what_the_simulated_audit_finds(
    ray_cluster, simulated_plan, captures, tmp_path, monkeypatch
):
    monkeypatch.chdir(captures)
    _, simulated, _ = audit(make_plan(simulated_plan, source="test"), tmp_path)
    received = simulated_plan | {"captures": ["client-0.safetensors", "client-1.safetensors"]}

    _, captured, shown = audit(make_plan(received, source="test"), tmp_path)

    assert captured["failed"] == [], shown
    assert len(captured["trials"]) == 4
    for one, other in zip(captured["trials"], simulated["trials"], strict=True):
        assert one["id"] == other["id"]
        assert one["loss"] == other["loss"]
        assert one["metrics"] == other["metrics"]


def test_a_report_is_written_anew_from_a_run_folder_alone(
    ray_cluster, simulated_plan, tmp_path, monkeypatch, capsys
):
    plan = make_plan(simulated_plan | {"targets": 1, "controls": []}, source="test")
    folder, summary, _ = audit(plan, tmp_path)
    page = (folder.path / "report" / "index.html").read_bytes()
    for name in ("summary.json", "metrics.csv", "report/index.html"):
        (folder.path / name).unlink()

    monkeypatch.setattr(sys, "argv", ["leaktune", "report", str(folder.path), "--format", "json"])
    with pytest.raises(SystemExit, match="0"):
        main()

    assert json.loads(capsys.readouterr().out) == summary
    assert json.loads((folder.path / "summary.json").read_text()) == summary
    assert (folder.path / "report" / "index.html").read_bytes() == page


def test_a_report_prints_its_table_to_paste(ray_cluster, simulated_plan, tmp_path, capsys):
    plan = make_plan(simulated_plan | {"targets": 1, "controls": []}, source="test")
    folder, summary, _ = audit(plan, tmp_path)
    before = (folder.path / "events.jsonl").read_bytes()
    capsys.readouterr()

    assert leaktune("report", folder.path, "--format", "markdown") == 0

    assert capsys.readouterr().out.strip() == markdown_table(summary).strip()
    assert (folder.path / "events.jsonl").read_bytes() == before


def test_a_report_of_an_unfinished_audit_does_not_end_it(ray_cluster, simulated_plan, tmp_path):
    plan = make_plan(simulated_plan | {"controls": []}, source="test")
    folder, summary, _ = audit(plan, tmp_path)
    left = summary["trials"][0]["id"]
    (folder.path / "trials" / left / "result.json").unlink()
    folder.append_event("audit_resumed", done=1)
    before = [event["kind"] for event in folder.events()]

    assert leaktune("report", folder.path) == 0

    interim = json.loads((folder.path / "summary.json").read_text())
    assert [trial["id"] for trial in interim["trials"]] == [summary["trials"][1]["id"]]
    assert [event["kind"] for event in folder.events()] == before
