import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from engine.errors import InfrastructureError
from engine.run_folder import stop
from engine.run_folder.lease import request_path, take_lease, write_lease
from engine.run_folder.stop import stop_driver

DRIVER = """
import signal, sys, time
from pathlib import Path
from engine.driver import drive

with drive(Path(sys.argv[1]), print):
    if sys.argv[2] == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("at work", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def start(tmp_path):
    """Starts a driver of the run, in a process of its own."""
    processes = []

    def call(kind="well-behaved"):
        words = [sys.executable, "-c", DRIVER, tmp_path, kind]
        processes.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
        assert processes[-1].stdout.readline() == "at work\n"
        return processes[-1]

    yield call
    for process in processes:
        process.kill()
        process.communicate()


def test_a_driver_ends_within_seconds_of_being_asked(start, tmp_path):
    process = start()
    started = time.monotonic()

    lease = stop_driver(tmp_path, timeout_seconds=20, say=print)

    assert time.monotonic() - started < 5
    assert (lease.pid, lease.ended) == (process.pid, "stopped")
    assert process.wait(5) == 143


def test_a_driver_that_does_not_end_in_time_is_named(start, tmp_path, monkeypatch):
    monkeypatch.setattr(stop, "SAY_SECONDS", 0.2)
    process, said = start("deaf"), []

    with pytest.raises(InfrastructureError, match=f"still at work: .*process {process.pid}"):
        stop_driver(tmp_path, timeout_seconds=0.7, say=said.append)

    assert len(said) > 1
    assert f"process {process.pid}" in said[0]


def test_a_driver_that_is_killed_while_it_is_waited_for_has_ended_too(start, tmp_path, monkeypatch):
    monkeypatch.setattr(stop, "SAY_SECONDS", 0.3)
    process = start("deaf")

    lease = stop_driver(tmp_path, timeout_seconds=20, say=lambda _: process.kill())

    assert lease.ended is None
    assert process.wait(5) == -9


def test_a_driver_whose_machine_is_lost_while_it_is_waited_for_has_ended_too(tmp_path, monkeypatch):
    monkeypatch.setattr(stop, "STALE_SECONDS", 0.5)
    elsewhere = replace(take_lease(tmp_path, print), machine="another boot")
    write_lease(tmp_path, elsewhere)

    assert stop_driver(tmp_path, timeout_seconds=20, say=print) == elsewhere


def test_a_driver_of_this_machine_that_is_suspended_has_not_ended(start, tmp_path, monkeypatch):
    monkeypatch.setattr(stop, "STALE_SECONDS", 0.3)
    process = start()
    process.send_signal(signal.SIGSTOP)

    with pytest.raises(InfrastructureError, match="still at work"):
        stop_driver(tmp_path, timeout_seconds=1.5, say=print)


def test_without_a_driver_nobody_is_asked(tmp_path):
    assert stop_driver(tmp_path, timeout_seconds=20, say=print) is None

    write_lease(tmp_path, take_lease(tmp_path, print).renewed("finished"))

    assert stop_driver(tmp_path, timeout_seconds=20, say=print) is None
    assert request_path(tmp_path, 1).read_bytes() == b""
