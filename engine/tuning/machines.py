"""Finds what would keep a cluster's machines from an audit, before work is spent."""

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from rich.console import Console

from engine.errors import InfrastructureError
from engine.plan.parts import ComputePlan

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
# Set by KubeRay's operator in every pod; what its workers have is not known before they come.
KUBERAY: Final = "RAY_USAGE_STATS_KUBERAY_IN_USE"

Kinds = list[dict[str, Any]]  # Of machines, as the file GROWTH describes them.


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
