import itertools
import json
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from engine.errors import InfrastructureError, InputError
from engine.run_folder import lease as leases
from engine.run_folder.lease import (
    Lease,
    is_alive,
    is_process,
    last_lease,
    lease_path,
    read_lease,
    request_path,
    take_lease,
    write_lease,
)

HOUR = 3600.0
RACERS, ROUNDS = 6, 24
RACER = """
import sys, time
from pathlib import Path
from engine.errors import InfrastructureError
from engine.run_folder.lease import take_lease

folder, rounds = Path(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
start = float(sys.stdin.readline())
won = []
for number in range(rounds):
    time.sleep(max(0, start + number * 0.03 - time.time()))
    try:
        take_lease(folder / str(number), print)
        won.append(number)
    except InfrastructureError as error:
        assert "one is at work" in str(error), error
print(won, flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def said():
    """What taking a lease told the user."""
    return []


@pytest.fixture
def run(tmp_path):
    return tmp_path


@pytest.fixture
def elsewhere(run):
    """A lease that a driver of another machine holds."""
    own = take_lease(run, print)
    lease = replace(own, host="node7", pid=4312, machine="another boot", process="1")
    write_lease(run, lease)
    return lease


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(leases, "STALE_SECONDS", 0.4)
    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 0.3)
    monkeypatch.setattr(leases, "LOOK_SECONDS", 0.02)


@pytest.fixture
def ended_process():
    """Id and start of a process of this machine that is gone."""
    process = subprocess.Popen(["sleep", "60"])
    started = leases._process_start(process.pid)
    assert is_process(process.pid, started)
    process.kill()
    process.wait()
    return process.pid, started


def renewing(run, lease):
    """Renews a lease once, a moment from now."""
    timer = threading.Timer(0.1, lambda: write_lease(run, lease.renewed()))
    timer.start()
    return timer


def test_the_first_driver_takes_a_lease_that_names_it(run, said):
    lease = take_lease(run, said.append)

    assert read_lease(run, 1) == lease == last_lease(run)
    assert lease.is_held()
    assert request_path(run, 1).read_bytes() == b""
    assert said == []


def test_a_second_driver_is_refused_at_once_and_told_who_is_at_work(run, said):
    first = take_lease(run, said.append)
    started = time.monotonic()

    with pytest.raises(InfrastructureError) as refusal:
        take_lease(run, said.append)

    assert time.monotonic() - started < 1
    message = str(refusal.value)
    assert f"host {first.host}, process {first.pid}, since " in message
    assert "last heartbeat 0 s ago" in message
    assert f"`leaktune stop {run}`" in message
    assert not lease_path(run, 2).exists()


def test_a_lease_that_was_ended_is_free_at_once(run, said):
    write_lease(run, take_lease(run, said.append).renewed("interrupted"))

    assert take_lease(run, said.append).number == 2
    assert said == []


def test_a_process_that_is_gone_holds_nothing(run, said, ended_process):
    pid, process = ended_process
    write_lease(run, replace(take_lease(run, said.append), pid=pid, process=process))

    assert take_lease(run, said.append).number == 2
    assert said == []


def test_a_process_that_was_killed_and_not_waited_for_is_gone():
    process = subprocess.Popen(["sleep", "60"])
    started = leases._process_start(process.pid)
    process.kill()
    time.sleep(0.2)

    gone = not is_process(process.pid, started)

    process.wait()
    assert gone


def test_a_later_process_of_the_same_id_holds_nothing(run, said):
    lease = take_lease(run, said.append)
    write_lease(run, replace(lease, process=str(int(lease.process) - 1)))

    assert take_lease(run, said.append).number == 2


def test_a_driver_of_this_machine_that_was_suspended_for_long_holds_nothing(run, said):
    lease = take_lease(run, said.append)
    write_lease(run, replace(lease, clock=lease.clock - leases.STALE_SECONDS))

    assert take_lease(run, said.append).number == 2


def test_a_wall_clock_that_was_set_means_nothing_on_one_machine(run, said):
    lease = take_lease(run, said.append)
    write_lease(run, replace(lease, heartbeat=lease.heartbeat - HOUR))

    with pytest.raises(InfrastructureError, match="last heartbeat 0 s ago"):
        take_lease(run, said.append)


def test_a_driver_of_another_machine_is_believed_at_once_while_clocks_agree(run, said, elsewhere):
    with pytest.raises(InfrastructureError, match="host node7, process 4312"):
        take_lease(run, said.append)

    assert said == []


@pytest.mark.parametrize("skew", [-HOUR, HOUR])
def test_a_driver_whose_clock_differs_is_found_by_its_heartbeat(
    skew, run, said, elsewhere, impatient
):
    timer = renewing(run, elsewhere)
    write_lease(run, replace(elsewhere, heartbeat=elsewhere.heartbeat + skew))

    with pytest.raises(InfrastructureError, match="host node7, process 4312"):
        take_lease(run, said.append)

    timer.join()
    [told] = said
    assert "node7" in told


@pytest.mark.parametrize("skew", [-HOUR, HOUR])
def test_a_driver_of_another_machine_is_given_up_only_after_watching(
    skew, run, said, elsewhere, impatient
):
    write_lease(run, replace(elsewhere, heartbeat=elsewhere.heartbeat + skew))
    started = time.monotonic()

    assert take_lease(run, said.append).number == 2
    assert time.monotonic() - started >= 0.4


def test_a_driver_that_ends_while_it_is_watched_leaves_the_run_free(
    run, said, elsewhere, impatient
):
    late = replace(elsewhere, heartbeat=elsewhere.heartbeat - HOUR)
    write_lease(run, late)
    timer = threading.Timer(0.1, lambda: write_lease(run, late.renewed("finished")))
    timer.start()

    assert take_lease(run, said.append).number == 2
    timer.join()


@pytest.mark.parametrize("content", ["", '{"number": 1}', "[]"])
def test_a_lease_that_cannot_be_read_is_watched_too(content, run, said, impatient):
    take_lease(run, said.append)
    lease_path(run, 1).write_text(content)

    assert take_lease(run, said.append).number == 2


def test_a_lease_that_cannot_be_read_is_refused_where_it_is_to_be_shown(run, said):
    take_lease(run, said.append)
    lease_path(run, 1).write_text("[]")

    with pytest.raises(InputError, match=r"Expected the lease of a driver in .*0001\.json"):
        last_lease(run)


@pytest.mark.parametrize("renewed", [True, False])
def test_whether_a_driver_lives_whose_clock_differs_is_seen_by_its_heartbeat(
    renewed, run, elsewhere, impatient
):
    late = replace(elsewhere, heartbeat=elsewhere.heartbeat - HOUR)
    write_lease(run, late)
    timer = renewing(run, late) if renewed else None

    assert is_alive(run, late) == renewed
    if timer:
        timer.join()


def test_a_folder_that_cannot_be_written_to_is_named(run, said):
    (run / "drivers").write_text("a file")

    with pytest.raises(InfrastructureError, match="Make the run folder writable"):
        take_lease(run, said.append)


@pytest.mark.fault("many drivers at once", tries=ROUNDS)
def test_of_many_drivers_that_start_at_once_exactly_one_wins(tmp_path, ended_process):
    """On runs that never had a driver, on those of one that ended, and of one that was killed."""
    for number in range(ROUNDS):
        run = tmp_path / str(number)
        run.mkdir()
        if number % 3:
            leave_lease(run, "finished" if number % 3 == 1 else None, ended_process)
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, tmp_path, str(ROUNDS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(RACERS)
    ]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    start = time.time() + 0.2
    for racer in racers:
        racer.stdin.write(f"{start}\n")
        racer.stdin.flush()
    wins = [json.loads(racer.stdout.readline()) for racer in racers]
    for racer in racers:  # Until now, those that won were at work.
        racer.communicate("\n", timeout=30)

    assert sorted(itertools.chain(*wins)) == list(range(ROUNDS))
    assert sum(map(bool, wins)) > 1  # It was a race.


def leave_lease(run, ended, process):
    """Leaves in a run folder the lease of a driver that has ended."""
    pid, started = process
    lease = take_lease(run, print)
    write_lease(run, replace(lease, pid=pid, process=started, ended=ended))


def test_a_lease_says_all_that_the_documentation_names(run):
    take_lease(run, print)

    keys = json.loads(lease_path(run, 1).read_text())
    assert list(keys) == list(Lease.__dataclass_fields__)
