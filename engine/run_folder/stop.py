"""Ends the driver of a run from any machine that reaches its folder."""

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from engine.errors import InfrastructureError
from engine.run_folder.lease import (
    LOOK_SECONDS,
    STALE_SECONDS,
    Lease,
    is_alive,
    is_process,
    last_lease,
    read_lease,
    request_path,
    this_machine,
)

SAY_SECONDS: Final = 5.0


def stop_driver(run: Path, *, timeout_seconds: float, say: Callable[[str], None]) -> Lease | None:
    """Asks the driver of a run to end, and waits until it has.

    The request names that driver, so it cannot end a later one.

    Args:
        run: The run folder.
        timeout_seconds: How long to wait.
        say: Told every few seconds what is being waited for.

    Returns:
        The driver's lease as it left it; None if none was at work.

    Raises:
        InputError: If the lease is damaged.
        InfrastructureError: If the driver has not ended in time, or cannot be asked.
    """
    lease = last_lease(run)
    if lease is None or not is_alive(run, lease):
        return None
    _ask(run, lease)
    started = said = renewed = now = time.monotonic()
    # One of another machine says nothing when it is killed meanwhile, and its clock may differ.
    here = lease.machine == this_machine()
    while _is_there(lease) and (here or now - renewed < STALE_SECONDS):
        if now - started > timeout_seconds:
            raise InfrastructureError(
                f"Expected the driver of {run} to end within {timeout_seconds:g} s of being asked, "
                f"but it is still at work: {lease.describe()}. It may yet end; look with "
                f"`leaktune status {run}`, or end the process on its own machine."
            )
        if now - said >= SAY_SECONDS:
            said = now
            say(f"Waiting for the driver to end ({lease.describe()}): {now - started:.0f} s.")
        time.sleep(LOOK_SECONDS)
        now, latest = time.monotonic(), read_lease(run, lease.number) or lease
        if latest != lease:
            lease, renewed = latest, now
    return lease


def _ask(run: Path, lease: Lease) -> None:
    request = {"host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
    try:
        with request_path(run, lease.number).open("ab") as file:
            file.write(json.dumps(request).encode() + b"\n")
    except OSError as error:
        raise InfrastructureError(
            f"Expected to leave a request for the driver of {run}, got: {error}. "
            "Make the run folder writable, or end the process on its own machine."
        ) from error


def _is_there(lease: Lease) -> bool:
    """Returns whether a driver is at work; one of this machine, until its process is gone."""
    if lease.machine == this_machine():
        return is_process(lease.pid, lease.process)
    return lease.is_held() is not False
