"""Examines a machine before an audit is trusted to it."""

import importlib.metadata
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from engine import assets, tuning
from engine.checkpoints import file_sha256, read_card
from engine.errors import InfrastructureError, InputError
from engine.plan import Plan
from engine.plan.parts import ComputePlan, TrackingPlan
from engine.scoring.perceptual import BACKBONES, FOLDER, lpips_weights
from engine.tracking import check_artifacts, check_server, shown_uri

NEEDED_BYTES = 1024**3
PACKAGES = ("torch", "ray", "cma", "nevergrad", "mlflow", "pydantic")


def examine(folder: Path, plan: Plan, address: str | None) -> Iterator[str]:
    """Yields one line for each thing found in order.

    Args:
        folder: Where audits would write.
        plan: Where they would find data, what they would need of machines, and where MLflow would
            keep their runs.
        address: The Ray cluster they would run on; None for this machine alone.

    Raises:
        InfrastructureError: At the first thing that would stop an audit, or keep it out of
            MLflow, with its remedy.
        InputError: If an embedded file is damaged.
    """
    for package in PACKAGES:
        yield f"ok  {package} {_version(package)}"
    yield f"ok  {os.cpu_count()} processors"
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    yield f"ok  GPU: {', '.join(gpus) or 'none; audits run on the processors'}"
    data = Path(plan.data_folder).absolute()
    for name, backbone in BACKBONES.items():
        measured = "measured" if name in lpips_weights(data) else "not measured, no weights"
        yield f"ok  LPIPS ({backbone.name}): {measured} at {data / FOLDER / name}.safetensors"
    yield from _check_storage(folder)
    yield from _check_assets()
    yield _check_tracking(plan.tracking)
    if address:
        yield from _check_cluster(address, plan.compute, folder)
    elif plan.compute.gpus_per_trial > len(gpus):
        raise InfrastructureError(
            f"Expected {plan.compute.gpus_per_trial:g} GPU for a trial, this machine has "
            f"{len(gpus)}. Lower compute.gpus_per_trial, or name a cluster by --address."
        )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise InfrastructureError(
            f"Expected the package {package}, it is not installed. Install leaktune again."
        ) from error


def _check_storage(folder: Path) -> Iterator[str]:
    free = shutil.disk_usage(folder).free
    if not os.access(folder, os.W_OK) or free < NEEDED_BYTES:
        raise InfrastructureError(
            f"Expected a writable {folder} with 1 GiB free, got {free / 1024**3:.1f} GiB"
            f"{'' if os.access(folder, os.W_OK) else ', not writable'}. Use --output elsewhere."
        )
    yield f"ok  {folder} is writable, {free / 1024**3:.0f} GiB free"


def _check_assets() -> Iterator[str]:
    for dataset in assets.datasets():
        for path in sorted((assets.FOLDER / dataset).glob("*.safetensors")):
            expected = read_card(path.with_suffix(".json"))["sha256"]
            if file_sha256(path) != expected:
                raise InputError(f"Expected {path} as its card says, got another file. Reinstall.")
            yield f"ok  {dataset}/{path.name}"


def _check_tracking(tracking: TrackingPlan) -> str:
    if not tracking.mlflow:
        return "ok  MLflow: not used"
    place = shown_uri(tracking.uri)
    if reason := check_server(tracking.uri, tracking.experiment):
        raise InfrastructureError(
            f"Expected MLflow at {place} to answer, but {reason}. Start it, or correct "
            "MLFLOW_TRACKING_URI. Audits run without it; `leaktune sync` sends them later."
        )
    if reason := check_artifacts(tracking.uri, tracking.experiment):
        raise InfrastructureError(
            f"Expected MLflow at {place} to store an artifact, but {reason}. Whoever runs it finds "
            "the cause in its log: the bucket or folder of --artifacts-destination, or its key; or "
            "your login may not write to the experiment. "
            "Audits run without it; `leaktune sync` sends them later."
        )
    return f"ok  MLflow at {place}, experiment {tracking.experiment!r}"


def _check_cluster(address: str, compute: ComputePlan, folder: Path) -> Iterator[str]:
    # A folder that is not shared may exist on every machine; what was just made in it does not.
    with (
        tuning.connect(address),
        tempfile.TemporaryDirectory(prefix="leaktune-doctor-", dir=folder) as made,
    ):
        awaited = tuning.check_machines(compute, Path(made))
        yield f"ok  Ray cluster at {address}: {tuning.describe_machines()}"
        yield f"ok  {awaited or 'a trial has room there'}"
        where = "GPUs" if compute.gpus_per_trial else "processors, whatever GPUs there are"
        yield f"ok  trials compute on {where} (compute.gpus_per_trial: {compute.gpus_per_trial:g})"
