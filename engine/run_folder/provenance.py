"""Where results come from: versions, commit, hashes and machine, written beside them."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import engine
from engine.lab import input_hashes
from engine.plan import Plan

PACKAGES = (
    "torch",
    "ray",
    "nevergrad",
    "cma",
    "mlflow",
    "optuna",
    "cmaes",
    "ax-platform",
    "botorch",
    "numpy",
    "safetensors",
)


def collect_provenance(plan: Plan) -> dict[str, Any]:
    """Returns what another person needs to repeat the audit, as plain values."""
    return {
        "leaktune": engine.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        "command": " ".join(["leaktune", *sys.argv[1:]]),
        "seeds": list(plan.all_seeds()),
        "sha256": input_hashes(plan),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Returns the commit of the source tree leaktune runs from, if it is one."""
    root = Path(engine.__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],  # noqa: S607
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None
