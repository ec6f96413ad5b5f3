"""The driver of a run: the one process that writes to its folder, and how others may end it."""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Final

from engine.errors import InfrastructureError
from engine.run_folder.lease import (
    HEARTBEAT_SECONDS,
    STALE_SECONDS,
    Lease,
    lease_path,
    read_lease,
    request_path,
    take_lease,
    write_lease,
)

LOOK_SECONDS: Final = 1.0
STOPPED_EXIT: Final = 143
# Schedulers kill ten to thirty seconds after SIGTERM; Tune takes three to five where Ray lives.
LEAVE_SECONDS: Final = 8.0
# By exit code; every other end is a failure.
OUTCOMES: Final = {130: "interrupted", STOPPED_EXIT: "stopped"}
# Unlike the monotonic clock, this one also counts while the whole machine is suspended.
_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Driver:
    """Holds a run's lease: renews it, and sends this process SIGTERM when it is to end.

    That is when somebody asks for it (``leaktune stop``), and when another driver has taken the run
    over, as one may when this process was suspended for longer than ``STALE_SECONDS``.

    Args:
        run: The run folder.
        lease: This process's.
    """

    def __init__(self, run: Path, lease: Lease) -> None:
        self._run, self._lease = run, lease
        self._renewed = _now()
        self._lost = False
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._obeys = threading.current_thread() is threading.main_thread()
        self._thread = threading.Thread(target=self._watch, name="leaktune-driver", daemon=True)
        self._thread.start()

    def holds(self) -> bool:
        """Returns whether the run is still this process's to write to."""
        with self._lock:
            # For so long nobody takes it over; after that, it may have happened.
            if not self._lost and _now() - self._renewed > STALE_SECONDS / 2:
                self._renew()
            return not self._lost

    def check(self) -> None:
        """Raises InfrastructureError if another driver has taken the run over."""
        if self.holds():
            return
        other = read_lease(self._run, self._lease.number + 1)
        by = other.describe() if other else "it is just beginning"
        raise InfrastructureError(
            f"Expected to be the only driver of {self._run}, but another one took it over while "
            f"this one gave no sign of life for {STALE_SECONDS:.0f} s or longer: {by}. "
            "Leave it to that one; nothing is lost."
        )

    def end(self, outcome: str) -> None:
        """Frees the run."""
        self._ending.set()
        try:
            self._thread.join()
        finally:
            with contextlib.suppress(OSError):  # Then the end of this process frees the run.
                write_lease(self._run, self._lease.renewed(outcome))

    def _watch(self) -> None:
        told = False
        while not self._ending.wait(LOOK_SECONDS):
            with self._lock:
                if not self._lost and _now() - self._renewed >= HEARTBEAT_SECONDS:
                    self._renew()
            if self._obeys and not told and (self._lost or self._is_asked_to_stop()):
                told = True
                main = threading.main_thread().ident
                assert main is not None  # It runs.
                signal.pthread_kill(main, signal.SIGTERM)

    def _renew(self) -> None:
        self._renewed = _now()
        with contextlib.suppress(OSError):  # A disk that is full for a while.
            write_lease(self._run, self._lease.renewed())
        # Looked for after writing beside it, upon which a network file system forgets its cache.
        with contextlib.suppress(OSError):  # Storage that fails for a while tells nothing.
            self._lost = lease_path(self._run, self._lease.number + 1).exists()

    def _is_asked_to_stop(self) -> bool:
        # A file that is there before anybody asks: to open one, network file systems ask the
        # server, whereas they believe for half a minute that one is not there.
        try:
            return bool(request_path(self._run, self._lease.number).read_bytes())
        except OSError:
            return False


@contextlib.contextmanager
def drive(run: Path, say: Callable[[str], None]) -> Iterator[Driver]:
    """Makes this process the driver of a run for as long as the block lasts.

    In the block, SIGTERM ends the process with exit code 143, unless something inside handles it.

    Args:
        run: The run folder.
        say: Told why it takes long, where another machine's lease has to be watched.

    Raises:
        InfrastructureError: If another driver is at work, or took the run over.
    """
    driver = Driver(run, take_lease(run, say))
    outcome = "failed"
    with _sigterm_exits():  # Until the very end: a request to stop may come as late as that.
        try:
            yield driver
            outcome = "finished"
        except SystemExit as error:
            driver.check()
            outcome = OUTCOMES.get(_exit_code(error), outcome)
            raise
        except KeyboardInterrupt:
            outcome = "interrupted"
            raise
        except Exception as error:
            outcome = OUTCOMES.get(getattr(error, "exit_code", 1), outcome)
            raise
        finally:
            driver.end(outcome)


@contextlib.contextmanager
def stop_signals(last_words: Callable[[], None]) -> Iterator[set[int]]:
    """Ends the block at SIGINT or SIGTERM, as calmly as Tune can; yields the signals that came.

    SIGTERM becomes the SIGINT that Tune handles. While Ray connects, Tune does not handle SIGINT
    yet, and Ray answers SIGTERM with an exit of its own.

    Who stops a job or a machine often sends SIGTERM to all its processes, Ray's too; Tune then
    waits a minute for what is gone. So the process ends ``LEAVE_SECONDS`` after SIGTERM at the
    latest, with exit code 143.

    Args:
        last_words: Called before the process ends like that, in another thread.
    """
    received: set[int] = set()

    def leave() -> None:
        try:
            last_words()
        finally:
            os._exit(STOPPED_EXIT)

    def forward(number: int, frame: FrameType | None) -> None:
        del frame
        received.add(number)
        signal.raise_signal(signal.SIGINT)

    with _on_sigterm(forward), _after_sigterm(LEAVE_SECONDS, leave):
        try:
            yield received
        except KeyboardInterrupt:
            received.add(signal.SIGINT)
        except SystemExit:
            received.add(signal.SIGTERM)


@contextlib.contextmanager
def _after_sigterm(seconds: float, leave: Callable[[], None]) -> Iterator[None]:
    """Calls ``leave`` in another thread, seconds after SIGTERM, if the block lasts that long.

    Also where no handler of Python's has its turn, for the main thread is in a call of Ray's that
    waits for what is gone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers, told = socket.socketpair()
    told.setblocking(False)

    def watch() -> None:
        with numbers:
            while (number := numbers.recv(1)) not in (b"", bytes([signal.SIGTERM])):
                pass
            if number and not over.wait(seconds):
                leave()

    over = threading.Event()
    threading.Thread(target=watch, name="leaktune-leave", daemon=True).start()
    previous = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(previous)
        told.close()


@contextlib.contextmanager
def _sigterm_exits() -> Iterator[None]:
    def leave(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise SystemExit(STOPPED_EXIT)

    with _on_sigterm(leave):
        yield


@contextlib.contextmanager
def _on_sigterm(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handles SIGTERM in the block; only the main thread can, in others it is left alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _now() -> float:
    return time.clock_gettime(_CLOCK)


def _exit_code(error: SystemExit) -> int:
    return error.code if isinstance(error.code, int) else 1
