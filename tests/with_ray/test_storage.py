"""Audits on storage that is full, fails, is slow, or does not answer for a while."""

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from engine.errors import InfrastructureError
from tests.with_ray.audits import INCONCLUSIVE, finish, start, without_times

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STORAGE = Path(__file__).with_name("faulty_storage.py")
PLAN = {
    "name": "stored",
    "targets": 4,
    "controls": ["shuffled"],
    "attack": {"budget": 600},
    "compute": {"workers": 1, "searches_per_trial": 1},
    "tracking": {"mlflow": False},
}
ROOM, MORE_ROOM = "300k", "64m"

needs_root = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="only root of a Linux mounts"
)
needs_fuse = pytest.mark.skipif(
    not Path("/dev/fuse").exists() or shutil.which("fusermount3") is None,
    reason="FUSE is not there",
)


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "plan.yaml"
    path.write_text(yaml.safe_dump(PLAN))
    return path


def outcome_of(run):
    summary = json.loads((run / "summary.json").read_text())
    return [without_times(trial) for trial in summary["trials"]], summary["verdict"]


@pytest.fixture(scope="module")
def undisturbed(plan, tmp_path_factory):
    """The audit's run folder where nothing is wrong."""
    output = tmp_path_factory.mktemp("whole")
    code, _, err = finish(start("run", "--config", plan, "--output", output))
    assert code in (0, INCONCLUSIVE), err
    (run,) = output.iterdir()
    return run


@pytest.fixture(scope="module")
def whole(undisturbed):
    return outcome_of(undisturbed)


@contextlib.contextmanager
def small_disk(at):
    at.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", at], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", "--lazy", at], check=True)


@pytest.fixture
def storage(tmp_path):
    """A folder on faulty storage, and what switches its faults."""
    for name in ("shown", "shared"):
        (tmp_path / name).mkdir()
    switch = tmp_path / "switch"

    def set_state(**state):
        (tmp_path / "new").write_text(json.dumps(state))
        os.replace(tmp_path / "new", switch)

    set_state()
    mounted = tmp_path / "shared"
    server = subprocess.Popen([sys.executable, STORAGE, tmp_path / "shown", mounted, switch])
    wait_for(lambda: os.path.ismount(mounted))
    yield mounted, set_state
    set_state()
    subprocess.run(["umount", "--lazy", mounted], check=True)
    server.wait(timeout=60)


def wait_for(condition, seconds=200):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def results_in(output):
    return list(output.glob("*/trials/*/result.json"))


def assert_one_message(code, err, run, why):
    assert code == InfrastructureError.exit_code
    (line,) = [line for line in err.splitlines() if line.startswith("Expected")]
    assert why in line
    assert f"leaktune resume {run}" in line
    assert "Traceback" not in err


def assert_resumed_to(whole, run):
    code, _, err = finish(start("resume", run))
    assert code in (0, INCONCLUSIVE), err
    assert outcome_of(run) == whole


@pytest.mark.fault("storage full")
@needs_root
def test_an_audit_on_a_full_disk_says_so_and_goes_on_once_there_is_room(plan, whole, tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        code, _, err = finish(start("run", "--config", plan, "--output", disk))

        (run,) = disk.iterdir()
        assert_one_message(code, err, run, os.strerror(errno.ENOSPC))
        subprocess.run(["mount", "-o", f"remount,size={MORE_ROOM}", disk], check=True)
        assert_resumed_to(whole, run)


@pytest.mark.fault("storage fails")
@needs_root
@needs_fuse
def test_an_audit_on_storage_that_fails_says_so_and_goes_on_once_it_works(plan, whole, storage):
    shared, set_state = storage
    audit = start("run", "--config", plan, "--output", shared)
    wait_for(lambda: len(results_in(shared)) >= 2)

    set_state(error=errno.EIO)
    code, _, err = finish(audit)

    set_state()
    (run,) = shared.iterdir()
    assert len(results_in(shared)) < len(whole[0])
    assert_one_message(code, err, run, os.strerror(errno.EIO))
    assert_resumed_to(whole, run)


@pytest.mark.fault("storage slow, or silent for a while")
@needs_root
@needs_fuse
@pytest.mark.parametrize(
    ("fault", "seconds"), [({"delay": 0.05}, None), ({"hangs": True}, 15)], ids=["slow", "hangs"]
)
def test_an_audit_waits_for_storage_that_is_slow(fault, seconds, plan, whole, storage):
    shared, set_state = storage
    audit = start("run", "--config", plan, "--output", shared)
    wait_for(lambda: len(results_in(shared)) >= 2)

    set_state(**fault)
    if seconds is not None:
        time.sleep(seconds)
        set_state()
    code, _, err = finish(audit)

    assert code in (0, INCONCLUSIVE), err
    set_state()
    (run,) = shared.iterdir()
    assert outcome_of(run) == whole


@pytest.mark.fault("machine lost its power")
def test_what_a_crash_of_the_machine_damaged_is_computed_again(undisturbed, whole, tmp_path):
    run = tmp_path / undisturbed.name
    shutil.copytree(undisturbed, run)
    for name in ("summary.json", "metrics.csv"):
        (run / name).unlink()
    first, second, third, *_ = sorted(path.parent for path in run.glob("trials/*/result.json"))
    (first / "result.json").write_bytes(b"")
    os.truncate(run / "private" / f"{second.name}.safetensors", 30)
    (third / "state.safetensors").write_bytes(b"\0" * 100)
    with (run / "events.jsonl").open("ab") as file:
        file.write(b"\0" * 50 + b"\n")

    code, out, err = finish(start("resume", run))

    assert code in (0, INCONCLUSIVE), err
    assert f"Damaged, so run again: {second.name}, {third.name}." in " ".join(out.split())
    assert outcome_of(run) == whole
