import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from engine import driver as drivers
from engine.driver import Driver, drive
from engine.errors import AuditError, InfrastructureError
from engine.run_folder.lease import lease_path, read_lease, request_path, take_lease, write_lease

PATIENCE_SECONDS = 20


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(drivers, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(drivers, "HEARTBEAT_SECONDS", 0.1)


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class StoppedError(AuditError):
    exit_code = 143


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "finished"),
        (KeyboardInterrupt(), "interrupted"),
        (StoppedError(), "stopped"),
        (SystemExit(143), "stopped"),
        (SystemExit("no"), "failed"),
        (RuntimeError(), "failed"),
    ],
)
def test_a_run_is_freed_at_once_however_its_driver_ends(error, outcome, tmp_path):
    def end():
        with drive(tmp_path, print):
            assert read_lease(tmp_path, 1).ended is None
            if error:
                raise error

    if error:
        with pytest.raises(type(error)):
            end()
    else:
        end()

    assert read_lease(tmp_path, 1).ended == outcome
    assert take_lease(tmp_path, print).number == 2


def test_a_driver_renews_its_lease(tmp_path):
    with drive(tmp_path, print):
        first = read_lease(tmp_path, 1)
        wait_until(lambda: read_lease(tmp_path, 1).clock > first.clock)
        later = read_lease(tmp_path, 1)

    assert later.heartbeat > first.heartbeat
    assert (later.started, later.pid) == (first.started, first.pid)


def test_a_request_ends_the_driver_as_sigterm_does(tmp_path):
    before = signal.getsignal(signal.SIGTERM)

    def work():
        with drive(tmp_path, print):
            request_path(tmp_path, 1).write_text("please\n")
            time.sleep(PATIENCE_SECONDS)

    with pytest.raises(SystemExit) as end:
        work()

    assert end.value.code == 143
    assert read_lease(tmp_path, 1).ended == "stopped"
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_request_is_passed_on_once_and_heartbeats_go_on_until_the_end(tmp_path):
    received = []
    with drive(tmp_path, print):
        signal.signal(signal.SIGTERM, lambda *_: received.append(1))
        request_path(tmp_path, 1).write_text("please\n")
        wait_until(lambda: received)
        clock = read_lease(tmp_path, 1).clock
        wait_until(lambda: read_lease(tmp_path, 1).clock > clock)

    assert received == [1]


def test_a_request_to_one_driver_does_not_end_the_next(tmp_path):
    with drive(tmp_path, print):
        pass
    request_path(tmp_path, 1).write_text("too late\n")

    with drive(tmp_path, print):
        time.sleep(0.3)

    assert read_lease(tmp_path, 2).ended == "finished"


def test_a_driver_outside_the_main_thread_leaves_signals_alone(tmp_path):
    received = []
    previous = signal.signal(signal.SIGTERM, lambda *_: received.append(1))
    done = []

    def hold():
        with drive(tmp_path, print):
            request_path(tmp_path, 1).write_text("please\n")
            time.sleep(0.3)
        done.append(1)

    thread = threading.Thread(target=hold)
    thread.start()
    thread.join()

    signal.signal(signal.SIGTERM, previous)
    assert (done, received) == ([1], [])


def test_a_driver_whose_run_was_taken_over_is_ended_and_told_by_whom(tmp_path):
    def work():
        with drive(tmp_path, print):
            taken_over = replace(read_lease(tmp_path, 1), number=2, host="node7", pid=4312)
            write_lease(tmp_path, taken_over)
            time.sleep(PATIENCE_SECONDS)

    with pytest.raises(InfrastructureError, match=r"took it over .*: host node7, process 4312"):
        work()

    assert read_lease(tmp_path, 1).ended == "failed"
    assert read_lease(tmp_path, 2).ended is None


def test_a_driver_that_wakes_looks_whether_the_run_is_still_its_own(tmp_path, monkeypatch):
    """Before the thread that renews the lease has had its turn."""
    monkeypatch.setattr(drivers, "LOOK_SECONDS", PATIENCE_SECONDS)
    now = [0.0]
    monkeypatch.setattr(drivers, "_now", lambda: now[0])
    driver = Driver(tmp_path, take_lease(tmp_path, print))
    lease_path(tmp_path, 2).touch()
    assert driver.holds()  # Nobody takes over what was renewed a moment ago.

    now[0] = drivers.STALE_SECONDS

    assert not driver.holds()
    with pytest.raises(InfrastructureError, match="it is just beginning"):
        driver.check()
    driver.end("failed")


def failing_with(error):
    """Returns a list that grows by one a call, and a function that raises at each."""
    tried = []

    def fail(*_):
        tried.append(1)
        raise error

    return tried, fail


def test_storage_that_fails_for_a_while_does_not_end_the_heartbeats(tmp_path, monkeypatch):
    tried, failing = failing_with(OSError(5, "Input/output error"))

    with drive(tmp_path, print) as driver:
        with monkeypatch.context() as patch:
            patch.setattr(drivers, "write_lease", failing)
            patch.setattr(drivers.Path, "exists", failing)
            wait_until(lambda: len(tried) > 4)
            assert driver.holds()
        before = read_lease(tmp_path, 1).heartbeat
        wait_until(lambda: read_lease(tmp_path, 1).heartbeat > before)


def test_a_full_disk_does_not_end_a_driver(tmp_path, monkeypatch):
    tried, full = failing_with(OSError(28, "No space left on device"))

    with drive(tmp_path, print) as driver:
        with monkeypatch.context() as patch:
            patch.setattr(drivers, "write_lease", full)
            wait_until(lambda: len(tried) > 2)
            assert driver.holds()
        driver.check()

    assert read_lease(tmp_path, 1).ended == "finished"


STUCK = """
import ctypes, threading
from engine import driver as drivers

drivers.LEAVE_SECONDS = 0.3
libc = ctypes.CDLL(None)
mutex = ctypes.create_string_buffer(128)
libc.pthread_mutex_lock(mutex)
with drivers.stop_signals(lambda: print("last words", flush=True)):
    threading.Timer(1, print, ["stuck"], {"flush": True}).start()
    libc.pthread_mutex_lock(mutex)  # Forever, and no handler of Python's has its turn.
"""


def test_sigterm_ends_a_process_whose_main_thread_is_stuck_outside_python():
    """As it is in a call of Ray's to what SIGTERM ended as well."""
    process = subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "stuck\n"
    process.terminate()

    out, _ = process.communicate(timeout=PATIENCE_SECONDS)

    assert (process.returncode, out) == (143, "last words\n")


def test_a_block_that_ends_soon_after_sigterm_goes_on_to_its_end(monkeypatch):
    monkeypatch.setattr(drivers, "LEAVE_SECONDS", 0.2)
    spoken = []
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)

    with drivers.stop_signals(lambda: spoken.append(1)) as received:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(PATIENCE_SECONDS)

    signal.signal(signal.SIGINT, previous)
    time.sleep(0.4)
    assert signal.SIGTERM in received
    assert not spoken
    assert signal.set_wakeup_fd(-1) == -1  # It was put back.
