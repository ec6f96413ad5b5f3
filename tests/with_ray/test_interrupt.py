"""An audit stopped by Ctrl-C or by a scheduler keeps what it has, and a resume finishes it."""

import json
import os
import shutil
import signal
import time

import pytest
import yaml

from engine.run_folder.status import read_status
from tests.with_ray.audits import INCONCLUSIVE, finish, start, without_times

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PLAN = {
    "name": "interrupted",
    "targets": 7,
    "controls": ["shuffled", "random_best"],
    "attack": {"budget": 600},  # So that it is not over while `leaktune stop` starts.
    "compute": {"workers": 1},
    "tracking": {"mlflow": False},
}
TRIALS = 21
STOPPED = pytest.mark.fault("stopped")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the plan, in which every command of this module runs."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "plan.yaml").write_text(yaml.safe_dump(PLAN))
    return folder


def summary_of(run):
    return json.loads((run / "summary.json").read_text())


def results_in(output):
    return sorted(path.parent.name for path in output.glob("*/trials/*/result.json"))


@pytest.fixture(scope="module")
def whole(home):
    """The same plan, run without interruption."""
    code, _, err = finish(start("run", "--config", "plan.yaml", "--output", "whole", home=home))
    assert code in (0, INCONCLUSIVE), err
    (run,) = (home / "whole").iterdir()
    return summary_of(run)


def interrupt(process, run):
    process.send_signal(signal.SIGINT)


def terminate(process, run):
    process.send_signal(signal.SIGTERM)


def terminate_all(process, run):
    """As a scheduler does that stops a job, or a machine that shuts down: Ray's processes too."""
    os.killpg(process.pid, signal.SIGTERM)


def ask(process, run):
    code, out, err = finish(start("stop", run))
    assert code == 0, err
    assert f"process {process.pid}, has ended" in out
    assert f"Go on with: leaktune resume {run}" in out
    assert process.poll() is not None  # It waited for the end.


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        pytest.param(interrupt, 130, marks=STOPPED),
        pytest.param(terminate, 143, marks=STOPPED),
        pytest.param(ask, 143, marks=STOPPED),
        pytest.param(terminate_all, 143, marks=pytest.mark.fault("SIGTERM to all processes")),
    ],
)
def test_a_stopped_audit_keeps_its_trials_and_resumes_to_the_same_summary(
    stop, expected, home, whole, tmp_path, record_property
):
    output = tmp_path / "runs"
    stopped = start("run", "--config", "plan.yaml", "--output", output, home=home)
    deadline = time.monotonic() + 120
    while len(results_in(output)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    (run,) = output.iterdir()
    asked = time.monotonic()
    stop(stopped, run)

    code, _, err = finish(stopped)

    seconds = time.monotonic() - asked
    record_property("seconds", seconds)
    assert seconds < 30  # Less than schedulers wait until they kill.
    kept = results_in(output)
    status = read_status(run)
    assert status.state == ("interrupted" if stop is interrupt else "stopped")
    assert status.trials["done"] == len(kept) == TRIALS - status.trials["waiting"]
    assert code == expected, err
    assert "Traceback" not in err
    assert f"Interrupted with {len(kept)} of {TRIALS} trials done" in err
    assert f"leaktune resume {run}" in err
    assert 2 <= len(kept) < TRIALS
    before = {name: (run / "trials" / name / "result.json").stat().st_mtime_ns for name in kept}

    code, _, err = finish(start("resume", run))

    assert code in (0, INCONCLUSIVE), err
    for name, modified in before.items():
        assert (run / "trials" / name / "result.json").stat().st_mtime_ns == modified
    resumed = summary_of(run)
    assert [without_times(t) for t in resumed["trials"]] == [
        without_times(t) for t in whole["trials"]
    ]
    for key in ("verdict", "plan", "threat", "failed"):
        assert resumed[key] == whole[key]
    assert untimed(resumed["groups"]) == untimed(whole["groups"])


@STOPPED
@pytest.mark.parametrize("stop", [terminate, ask])
def test_an_audit_stopped_while_ray_starts_can_be_resumed(stop, home, tmp_path):
    output = tmp_path / "runs"
    stopped = start("run", "--config", "plan.yaml", "--output", output, home=home)
    deadline = time.monotonic() + 60
    while not list(output.glob("*/events.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(1)
    (run,) = output.iterdir()
    stop(stopped, run)

    code, _, err = finish(stopped)

    assert code == 143, err
    assert f"Interrupted with 0 of {TRIALS} trials done" in err
    assert f"leaktune resume {run}" in err
    assert [p.name for p in run.glob("private/*")] == []
    shutil.rmtree(output)


def untimed(groups):
    return [{k: v for k, v in group.items() if "wall" not in k} for group in groups]
