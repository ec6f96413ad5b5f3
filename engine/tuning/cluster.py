"""Connects to the Ray cluster, or says what keeps this machine from it."""

import contextlib
import gc
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Final

from engine.errors import InfrastructureError

REACH_SECONDS: Final = 5.0
# Ray speaks gRPC, and that HTTP/2: each side opens with settings, here none (RFC 9113, 3.4, 6.5).
_HTTP2_SETTINGS: Final = b"\x04"
_HTTP2_GREETING: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + _HTTP2_SETTINGS + bytes(5)
NEVER_SECONDS: Final = 10**9
# Where Ray looks for its token, in this order.
AUTH_VARIABLES: Final = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
AUTH_FILE: Final = "~/.ray/auth_token"


@contextlib.contextmanager
def connect(address: str | None) -> Iterator[None]:
    """Connects to a Ray cluster, or starts one on this machine, for as long as the block lasts.

    Args:
        address: ``auto``, an address, or None for a cluster of this machine's own. In a process
            that is connected already, that connection is used and kept.

    Raises:
        InfrastructureError: If there is no such cluster, it refuses the token, or it is of another
            Ray or Python.
    """
    set_defaults()
    if address == "auto":  # Ray looks there first.
        address = os.environ.get("RAY_ADDRESS") or address
    if address:
        # What does not answer as a cluster keeps Ray for half a minute, twenty times over.
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")
        os.environ.setdefault("RAY_py_gcs_connect_timeout_s", f"{REACH_SECONDS:.0f}")
    import ray  # Deferred: slow to import.

    if ray.is_initialized():
        yield
        return
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        _reach(address)
        ray.init(
            address=address or "local",
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise _no_cluster(address, error) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray put its own in place.
    try:
        yield
    finally:
        # Tune's handles of actors lie in cycles; one freed by another thread while Ray shuts down
        # would end the process.
        gc.collect()
        ray.shutdown()


def set_defaults() -> None:
    """Sets what Ray and Tune are to do, where the user has not said otherwise."""
    # Before Ray is imported; its processes inherit it.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    # Tune writes the state of all its trials out again and again; resuming is ours, not Tune's.
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", str(NEVER_SECONDS))
    # A lost worker is no failure of its trials, and told of as what it is.
    os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Under `uv run`, Ray would have every worker build an environment of its own.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")


def _reach(address: str | None) -> None:
    """Raises OSError if no Ray listens at ``host:port``; Ray itself would try for minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return
    with socket.create_connection((host, int(port)), REACH_SECONDS) as there:
        if "RAY_USE_TLS" in os.environ:  # Then it does not speak in clear.
            return
        there.sendall(_HTTP2_GREETING)
        answer = there.recv(9, socket.MSG_WAITALL)
    if answer[3:4] != _HTTP2_SETTINGS:
        raise OSError("what listens there is not Ray, whose port is 6379 unless set")


def _no_cluster(address: str | None, error: Exception) -> InfrastructureError:
    reason = str(error)
    # Of a cluster that refuses, Ray tells in the text of the cause alone.
    if "AuthenticationError" in f"{error!r} {error.__cause__}":
        return _no_token(address, getattr(error, "message", None))
    if "Version mismatch" in reason:
        versions = " ".join(reason.split()).partition("Version mismatch: ")[2].rstrip(".")
        return InfrastructureError(
            f"Expected the Ray and the Python of the cluster at {address!r}, got others: "
            f"{versions}. Run on the cluster itself, with `ray submit`, or install its versions."
        )
    return InfrastructureError(
        f"Expected a Ray cluster at {address!r}, could not connect: {reason.rstrip('.')}. "
        "Start one with `ray start --head` or `ray up`, or leave --address out to use this machine."
    )


def _no_token(address: str | None, found_none: str | None) -> InfrastructureError:
    """Returns the error of a cluster that asks for a token, or of Ray, which found none to send."""
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        got = "none, since RAY_AUTH_MODE is not token"
    elif found_none:
        got = f"none: {found_none}"
    else:
        got = f"another, from {next(filter(os.environ.get, AUTH_VARIABLES), AUTH_FILE)}"
    where = f"at {address!r}" if address else "on this machine"
    return InfrastructureError(
        f"Expected the token of the Ray cluster {where}, got {got}. Set RAY_AUTH_MODE=token and "
        "give the token in RAY_AUTH_TOKEN, or in a file that RAY_AUTH_TOKEN_PATH names, or in "
        f"{AUTH_FILE}; the first of them counts. `ray get-auth-token` on the head prints it."
    )
