"""Finds the Ray cluster, and what would keep its machines from an audit, before work is spent."""

import contextlib
import gc
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from rich.console import Console

from engine.errors import InfrastructureError
from engine.plan.parts import ComputePlan

REACH_SECONDS: Final = 5.0
# Ray speaks gRPC, and that HTTP/2: each side opens with settings, here none (RFC 9113, 3.4, 6.5).
_HTTP2_SETTINGS: Final = b"\x04"
_HTTP2_GREETING: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + _HTTP2_SETTINGS + bytes(5)
NEVER_SECONDS: Final = 10**9
# A machine that does not answer for so long is not waited for: trials survive the loss of one.
ROLL_CALL_SECONDS: Final = 10.0
# What a machine that has just come has free is known a little later.
SETTLING_SECONDS: Final = 3.0
# What results depend on to the last bit.
EQUAL: Final = ("leaktune", "torch")
# What `ray up` writes on the head, with the resources of every kind of machine it may start.
GROWTH: Final = Path("~/ray_bootstrap_config.yaml")
# `ray up` returns before one's own machines have joined, each of which may fetch its image first.
JOINING_SECONDS: Final = 300.0
# Where Ray looks for its token, in this order.
AUTH_VARIABLES: Final = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
AUTH_FILE: Final = "~/.ray/auth_token"
# Set by KubeRay's operator in every pod; what its workers have is not known before they come.
KUBERAY: Final = "RAY_USAGE_STATS_KUBERAY_IN_USE"

Kinds = list[dict[str, Any]]  # Of machines, as the file GROWTH describes them.


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


def describe_machines() -> str:
    """Says how many machines the cluster has, and what they have together."""
    import ray

    total = ray.cluster_resources()
    machines = len(_machines())
    named = "1 machine" if machines == 1 else f"{machines} machines"
    return f"{named}, {total.get('CPU', 0):g} CPU, {total.get('GPU', 0):g} GPU"


def check_machines(
    compute: ComputePlan, folder: Path | None = None, *, alone: bool = False
) -> str | None:
    """Checks the machines of the cluster that this process is connected to.

    Where none has what a trial needs and others have yet to join, it tells so on standard error
    and waits for these, ``JOINING_SECONDS`` at the longest.

    Args:
        compute: What a trial needs.
        folder: The run folder, which all machines must see; None if nothing is kept in one.
        alone: Whether the cluster is this machine's own, which no other joins.

    Returns:
        What the audit has to wait for: machines that the cluster has yet to start, or others who
        occupy those it has.

    Raises:
        InfrastructureError: If no machine can ever run a trial; or some see another folder, or
            have other versions of what results depend on.
    """
    wanted = {"CPU": compute.cpus_per_trial, "GPU": compute.gpus_per_trial}
    asked = f"{wanted['CPU']} CPU and {wanted['GPU']:g} GPU for one trial"
    _call_roll(folder)
    kinds = [] if alone else _kinds()
    if not _is_there(wanted) and _absent(kinds):
        _await_joining(kinds, wanted, asked)
        _call_roll(folder)
    if _is_there(wanted):
        if not _are_occupied(wanted):
            return None
        return (
            f"No machine of the cluster has {asked} free; waiting for others to end. "
            "`ray status` on its head tells what they use."
        )
    if not alone and _starts_such(kinds, wanted):
        return (
            f"No machine of the cluster has {asked} yet; waiting for it to start one. "
            "`ray status` on its head tells how far it is."
        )
    have = "; ".join(
        f"{node['Resources'].get('CPU', 0):g} CPU, {node['Resources'].get('GPU', 0):g} GPU"
        for node in _machines()
    )
    if absent := _absent(kinds):
        have += f"; machines yet to join: {absent}"
    raise InfrastructureError(
        f"Expected a node with {asked}, the cluster has: {have}. "
        "Lower compute.cpus_per_trial or compute.gpus_per_trial, or add such a machine."
    )


def _machines() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def _is_there(wanted: Mapping[str, float]) -> bool:
    return any(_has(node["Resources"], wanted) for node in _machines())


def _await_joining(kinds: Kinds, wanted: Mapping[str, float], asked: str) -> None:
    """Waits until a machine that has what is wanted has joined, or all have."""
    Console(stderr=True).print(
        f"No machine of the cluster has {asked} yet; waiting for those that join: "
        f"{_absent(kinds)}. `ray status` on its head tells how far they are.",
        highlight=False,
        soft_wrap=True,
    )
    until = time.monotonic() + JOINING_SECONDS
    while not _is_there(wanted) and _absent(kinds) and time.monotonic() < until:
        time.sleep(1)


def _absent(kinds: Kinds) -> int:
    """Returns how many of one's own machines, whose resources Ray cannot know, have yet to join."""
    own = [kind for kind in kinds if not kind["resources"]]
    head_and_workers = 1 + sum(kind["min_workers"] for kind in own)
    return max(0, head_and_workers - len(_machines())) if own else 0


def _are_occupied(wanted: Mapping[str, float]) -> bool:
    """Returns whether others use so much that all machines together have less left."""
    import ray

    until = time.monotonic() + SETTLING_SECONDS
    while not _has(ray.available_resources(), wanted):
        if time.monotonic() > until:
            return True
        time.sleep(0.1)
    return False


def _has(resources: Mapping[str, float], wanted: Mapping[str, float]) -> bool:
    return all(resources.get(key, 0) >= amount for key, amount in wanted.items())


def _starts_such(kinds: Kinds, wanted: Mapping[str, float]) -> bool:
    """Returns whether the cluster starts machines when they are needed, and of such a kind."""
    if os.environ.get(KUBERAY) == "1":
        return True
    return any(kind.get("max_workers") and _has(kind["resources"], wanted) for kind in kinds)


def _kinds() -> Kinds:
    """Returns the kinds of machines of the file this head was started from; none without one."""
    try:
        config = yaml.safe_load(GROWTH.expanduser().read_text(encoding="utf-8"))
    except OSError:
        return []
    return list(config["available_node_types"].values())


def _call_roll(run_folder: Path | None) -> None:
    """Asks every other machine what it sees of the run folder, and which versions it has."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    folder = None if run_folder is None else str(run_folder.absolute())
    look, here = _look(folder), ray.get_runtime_context().get_node_id()
    ask = ray.remote(num_cpus=0, max_retries=0)(look)
    asked = [
        ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote()
        for node in (machine["NodeID"] for machine in _machines())
        if node != here
    ]
    if not asked:
        return
    answered, silent = ray.wait(asked, num_returns=len(asked), timeout=ROLL_CALL_SECONDS)
    for late in silent:
        ray.cancel(late, force=True)
    own, found = look(), []
    for answer in answered:
        with contextlib.suppress(ray.exceptions.RayError):  # Lost meanwhile.
            found.append(ray.get(answer))
    _check_folder(found, folder)
    _check_versions(found, own)


def _look(folder: str | None) -> Callable[[], dict[str, Any]]:
    """Returns what a machine is asked; it travels by value, as that may have no leaktune."""

    def look() -> dict[str, Any]:
        import importlib.metadata
        import os
        import socket

        versions = {}
        for package in EQUAL:
            try:
                versions[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                versions[package] = "none"
        sees = folder is None or os.path.isdir(folder)
        return {"host": socket.gethostname(), "sees": sees, "versions": versions}

    return look


def _check_folder(found: Sequence[Mapping[str, Any]], folder: str | None) -> None:
    blind = sorted({answer["host"] for answer in found if not answer["sees"]})
    if blind:
        raise InfrastructureError(
            f"Expected the run folder {folder} on every machine of the cluster, where a trial goes "
            f"on that has lost its machine; {', '.join(blind)} {_have(blind)} no such folder. "
            "Mount one storage at the same path on all of them, and run with --output there."
        )


def _check_versions(found: Sequence[Mapping[str, Any]], own: Mapping[str, Any]) -> None:
    for answer in found:
        for package, version in answer["versions"].items():
            if version != own["versions"][package]:
                raise InfrastructureError(
                    f"Expected {package} {own['versions'][package]} on every machine, as here, got "
                    f"{version} on {answer['host']}. Use one image, or one requirements.lock, "
                    "for all of them: figures depend on it."
                )


def _have(names: list[str]) -> str:
    return "has" if len(names) == 1 else "have"
