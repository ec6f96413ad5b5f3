"""Watching an audit and ending it, as commands."""

import json
import threading
from dataclasses import replace

import pytest

from engine.cli import status_commands
from engine.run_folder import RunFolder, write_json
from engine.run_folder.lease import request_path, take_lease, write_lease

KEYS = [
    *("schema_version", "run", "state", "trials", "evaluations", "left_s"),
    *("losses", "failures", "driver", "next"),
]


@pytest.fixture
def folder(empty):
    """A run with one trial done, one failed, one under way and one to come."""
    folder = RunFolder.create(empty / "runs", "mine", plan="", resolved={"seed": 7})
    folder.append_event("audit_started", run=folder.name, trials=4, evaluations=4000)
    for trial in ("a", "b", "c"):
        params = {"defense": "clipping(max_norm=4)", "attack": "ggl", "searcher": "cma"}
        folder.append_event("trial_started", trial=trial, params=params | {"budget": 1000})
    folder.append_event("trial_progress", trial="a", evaluations=400, loss=0.5)
    metrics = {"evaluations": 1000, "loss": 0.03125, "psnr": 22.5}
    folder.append_event("trial_finished", trial="b", metrics=metrics)
    write_json(folder.trial_folder("b") / "result.json", {})
    folder.append_event("trial_failed", trial="c", error="ValueError: [no]", traceback="")
    return folder


def end(folder, ended):
    write_lease(folder.path, take_lease(folder.path, print).renewed(ended))


def test_the_status_of_a_running_audit_is_a_readable_table(leaktune, folder):
    lease = take_lease(folder.path, print)

    shown = leaktune("status", folder.path)

    assert shown.code == 0
    lines = shown.out.splitlines()
    assert lines[0] == f"{folder.name}: running"
    assert f"  driver       host {lease.host}, process {lease.pid}, since " in lines[1]
    assert "  trials       1 of 4 trials done, 1 running, 1 waiting, 1 FAILED" in lines
    assert any(line.startswith("  evaluations  1,400 of 4,000, ") for line in lines)
    assert any(line.startswith("  time left    ") for line in lines)
    assert "  failed       c: ValueError: [no]" in lines
    [row] = [line for line in lines if "clipping(max_norm=4)" in line]
    assert [cell.strip() for cell in row.strip("│").split("│")][1:] == [
        *("ggl", "cma", "2", "0.03125", "0.2656")
    ]
    assert "resume" not in shown.out
    assert "22.5" not in shown.out


@pytest.mark.parametrize(
    ("ended", "state"), [("interrupted", "interrupted"), ("stopped", "stopped")]
)
def test_the_status_of_an_interrupted_audit_names_what_goes_on_with_it(
    ended, state, leaktune, folder
):
    end(folder, ended)

    shown = leaktune("status", folder.path)

    assert f"{folder.name}: {state}" in shown.out
    assert f"  go on with   leaktune resume {folder.path}\n" in shown.out
    assert "time left" not in shown.out


def test_the_status_for_machines_has_the_documented_keys(leaktune, folder):
    take_lease(folder.path, print)

    status = json.loads(leaktune("status", folder.path, "--format", "json").out)

    assert list(status) == KEYS
    assert status["trials"] == {"total": 4, "done": 1, "running": 1, "failed": 1, "waiting": 1}
    names = ["total", "spent", "recent_per_s", "whole_per_s"]
    assert list(status["evaluations"]) == names
    names = ["alive", "number", "host", "pid", "started", "heartbeat", "ended", "age_s"]
    assert list(status["driver"]) == names


def test_watching_ends_with_the_driver(leaktune, folder):
    end(folder, "finished")

    watched = leaktune("status", folder.path, "--watch")

    assert watched.code == 0
    assert watched.out == leaktune("status", folder.path).out


def test_watching_shows_the_end_that_came_meanwhile(leaktune, folder, monkeypatch):
    lease = take_lease(folder.path, print)
    monkeypatch.setattr(status_commands, "WATCH_SECONDS", 0.05)
    end = threading.Timer(0.3, lambda: write_lease(folder.path, lease.renewed("stopped")))
    end.start()

    watched = leaktune("status", folder.path, "--watch")

    end.join()
    assert watched.out.count(folder.name) - watched.out.count(f"runs/{folder.name}") == 1
    assert f"{folder.name}: stopped" in watched.out


def test_watching_for_machines_is_refused(leaktune, folder):
    refused = leaktune("status", folder.path, "--watch", "--format", "json")

    assert refused.code == 2
    assert "Expected --watch or --format json, got both" in refused.err


@pytest.mark.parametrize("command", ["status", "stop"])
def test_a_folder_that_is_no_run_is_refused(command, leaktune, empty):
    refused = leaktune(command, empty)

    assert refused.code == 3
    assert f"Expected a run folder at {empty}" in refused.err


@pytest.mark.parametrize("command", ["status", "stop"])
@pytest.mark.parametrize("name", ["events.jsonl", "plan.resolved.yaml", "drivers/0001.json"])
def test_damaged_files_are_refused_in_one_message(name, command, leaktune, folder):
    take_lease(folder.path, print)
    (folder.path / name).write_text("[\n")

    refused = leaktune(command, folder.path)

    assert refused.code == 3
    assert refused.err.count("Expected") == 1
    assert str(folder.path / name) in refused.err


def test_where_nothing_runs_there_is_nothing_to_stop(leaktune, folder):
    end(folder, "interrupted")

    stopped = leaktune("stop", folder.path)

    assert stopped.code == 0
    assert f"Nothing to stop: no driver is at work on {folder.name}." in stopped.out
    assert f"Go on with: leaktune resume {folder.path}" in stopped.out
    assert request_path(folder.path, 1).read_bytes() == b""


def test_a_driver_that_does_not_end_in_time_is_a_failure(leaktune, folder):
    lease = take_lease(folder.path, print)

    stopped = leaktune("stop", folder.path, "--timeout", "0.1")

    assert stopped.code == 4
    assert f"still at work: host {lease.host}, process {lease.pid}" in stopped.err
    assert json.loads(request_path(folder.path, 1).read_text())["pid"] == lease.pid


def test_a_second_driver_is_refused_before_anything_is_loaded(leaktune, folder):
    lease = take_lease(folder.path, print)
    write_lease(folder.path, replace(lease, host="node7", pid=4312, machine="another"))

    refused = leaktune("resume", folder.path)

    assert refused.code == 4
    assert "host node7, process 4312" in refused.err
    assert refused.out == ""
