"""The lease of a run: which process drives it, renewed while it does, so that no second one joins.

Leases are numbered files, ``drivers/0001.json``, and the one with the highest number is in force. A
run is taken over by creating the next number, which of several processes one alone succeeds in, on
network file systems too; no process ever changes or removes a lease of another. So a driver has
lost the run when the number after its own exists.

Clocks of two machines may differ. A lease whose driver cannot be asked after is therefore taken
over only after it was watched for ``STALE_SECONDS`` and did not change. See ``docs/run-folder.md``.
"""

import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from engine.errors import InfrastructureError, InputError
from engine.run_folder.run_folder import write_json

HEARTBEAT_SECONDS: Final = 10.0
STALE_SECONDS: Final = 60.0
LOOK_SECONDS: Final = 0.2
_TIMES: Final = ("started", "heartbeat", "clock")


@dataclass(frozen=True)
class Lease:
    """A driver's word that it is at work.

    Attributes:
        number: Of the driver among those the run had, from 1.
        host: Its machine's name.
        pid: Its process id there.
        machine: Tells this boot of its machine, and its container, from all others.
        process: Tells the process from later ones of the same id.
        started: When it took the lease, in UTC seconds since 1970 by its clock.
        heartbeat: When it last renewed it, likewise.
        clock: The same by the monotonic clock of its machine, in seconds.
        ended: How it ended: ``finished``, ``interrupted``, ``stopped`` or ``failed``. None while it
            is at work, and for ever if it was killed.
    """

    number: int
    host: str
    pid: int
    machine: str
    process: str
    started: float
    heartbeat: float
    clock: float
    ended: str | None = None

    def renewed(self, ended: str | None = None) -> "Lease":
        """Returns the lease as of this moment."""
        return replace(self, heartbeat=time.time(), clock=time.monotonic(), ended=ended)

    def age(self) -> float:
        """Returns the seconds since the last heartbeat, by the best clock there is.

        Of another machine's lease it is off by what the two clocks differ.
        """
        if self.machine == this_machine():
            return time.monotonic() - self.clock
        return time.time() - self.heartbeat

    def is_held(self) -> bool | None:
        """Returns whether the driver is at work; None where that takes watching its lease."""
        if self.ended is not None:
            return False
        if self.machine == this_machine():
            return is_process(self.pid, self.process) and self.age() < STALE_SECONDS
        return True if abs(self.age()) < STALE_SECONDS else None

    def describe(self) -> str:
        """Returns who drives, since when, and when it was last heard of."""
        since = datetime.fromtimestamp(self.started, UTC).strftime("%Y-%m-%d %H:%M:%S")
        return (
            f"host {self.host}, process {self.pid}, since {since} UTC, "
            f"last heartbeat {self.age():.0f} s ago"
        )


def lease_path(run: Path, number: int) -> Path:
    """Returns the file of a lease."""
    return run / "drivers" / f"{number:04}.json"


def request_path(run: Path, number: int) -> Path:
    """Returns the file whose content asks a driver to stop; empty until somebody does."""
    return run / "drivers" / f"{number:04}.stop"


def last_number(run: Path) -> int:
    """Returns the number of the lease in force, 0 if the run never had a driver."""
    names = (path.stem for path in (run / "drivers").glob("*.json"))
    return max((int(name) for name in names if name.isdecimal()), default=0)


def read_lease(run: Path, number: int) -> Lease | None:
    """Returns a lease; None if its file is being written at this moment, or was damaged."""
    try:
        values: dict[str, Any] = json.loads(lease_path(run, number).read_text(encoding="utf-8"))
        return Lease(**values | {name: float(values[name]) for name in _TIMES})
    except (ValueError, TypeError, KeyError):
        return None


def write_lease(run: Path, lease: Lease) -> None:
    """Writes this process's own lease anew, atomically."""
    write_json(lease_path(run, lease.number), asdict(lease))


def changes(run: Path, number: int, before: Lease | None, seconds: float) -> bool:
    """Returns whether a lease becomes another than it was, within so many seconds of this machine.

    Args:
        run: The run folder.
        number: Of the lease.
        before: As it was read; None if it could not be.
        seconds: How long to watch it.
    """
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if read_lease(run, number) != before:
            return True
        time.sleep(LOOK_SECONDS)
    return read_lease(run, number) != before  # This process may have been suspended itself.


def last_lease(run: Path) -> Lease | None:
    """Returns the lease in force, None if the run has none; raises InputError if it is damaged."""
    number = last_number(run)
    if not number:
        return None
    lease = read_lease(run, number)
    if lease is None and changes(run, number, None, 0.5):  # It was just being created.
        lease = read_lease(run, number)
    if lease is None:
        raise InputError(
            f"Expected the lease of a driver in {lease_path(run, number)}, got something else. "
            f"If none is at work, `leaktune resume {run}` takes the run over."
        )
    return lease


def is_alive(run: Path, lease: Lease) -> bool:
    """Returns whether a driver is at work; where its clock may differ, after up to 15 seconds."""
    held = lease.is_held()
    if held is not None:
        return held
    if not changes(run, lease.number, lease, 1.5 * HEARTBEAT_SECONDS):
        return False
    latest = read_lease(run, lease.number)
    return latest is not None and latest.ended is None


def take_lease(run: Path, say: Callable[[str], None]) -> Lease:
    """Makes this process the driver of a run.

    Args:
        run: The run folder.
        say: Told why it takes long, where another machine's lease has to be watched.

    Raises:
        InfrastructureError: If another driver is at work, or the folder cannot be written to.
    """
    try:
        (run / "drivers").mkdir(exist_ok=True)
        number = last_number(run)
        while True:
            if number:
                _await_free(run, number, say)
            # Not listed again where another process was faster: a network file system may show an
            # old listing, but it never creates a file twice.
            number += 1
            lease = _own_lease(number)
            if _create(lease_path(run, number), lease):
                request_path(run, number).touch()
                return lease
    except OSError as error:
        raise InfrastructureError(
            f"Expected to write this driver's lease into {run / 'drivers'}, got: {error}. "
            "Make the run folder writable."
        ) from error


def this_machine() -> str:
    """Returns what tells this boot of this machine, and this container, from all others."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # No Linux.
        return socket.gethostname()


def is_process(pid: int, started: str) -> bool:
    """Returns whether a process of this machine is there, and is the one that started then."""
    found = _process_start(pid)
    if found is not None:
        return found == started
    if Path("/proc/self/stat").exists():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _process_start(pid: int) -> str | None:
    """Returns when a process started, in ticks since the boot; None if it is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # From the third of proc(5) on: the state.
    return None if fields[0] in "ZX" else fields[19]


def _own_lease(number: int) -> Lease:
    now, pid = time.time(), os.getpid()
    return Lease(
        number=number,
        host=socket.gethostname(),
        pid=pid,
        machine=this_machine(),
        process=_process_start(pid) or "",
        started=now,
        heartbeat=now,
        clock=time.monotonic(),
    )


def _create(path: Path, lease: Lease) -> bool:
    """Creates the file of a lease; returns False if there is one."""
    content = json.dumps(asdict(lease), indent=1).encode() + b"\n"
    try:
        with path.open("xb", buffering=0) as file:
            try:
                file.write(content)
                os.fsync(file.fileno())
            except OSError:  # As on a full disk. Nobody must wait for a driver that never was.
                path.unlink()
                raise
    except FileExistsError:
        return False
    return True


def _await_free(run: Path, number: int, say: Callable[[str], None]) -> None:
    """Returns when the lease is free; raises InfrastructureError if its driver is at work."""
    lease = read_lease(run, number)
    held = lease.is_held() if lease else None
    if held is None:
        if lease:
            say(
                f"A driver that has not ended its lease ({lease.describe()}, if its clock and this "
                f"machine's agree): watching for a heartbeat, for {STALE_SECONDS:.0f} s at most."
            )
        changed = changes(run, number, lease, STALE_SECONDS)
        lease = read_lease(run, number)
        held = changed and (lease is None or lease.ended is None)
    if held:
        who = lease.describe() if lease else "it is just beginning"
        raise InfrastructureError(
            f"Expected no other driver of {run}, but one is at work: {who}. Watch it with "
            f"`leaktune status {run}`, or end it first with `leaktune stop {run}`. If its "
            f"machine was lost, the run is free {STALE_SECONDS:.0f} s after that heartbeat."
        )
