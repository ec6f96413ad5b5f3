"""The cluster files as the tests read them, and as the installed Ray does."""

import copy
from pathlib import Path

import pytest
import yaml

# Ray's own validation, which it offers to no one: `ray up` has no dry run.
ray_util = pytest.importorskip("ray.autoscaler._private.util", reason="Ray moved its private API")

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "clusters"
KUBERAY = FOLDER / "kuberay-rayjob.yaml"
FILES = sorted(FOLDER.glob("*.yaml"))
LAUNCHER_FILES = [path for path in FILES if path != KUBERAY]  # Those that `ray up` takes.
IMAGE = r"registry\.example\.org/leaktune@sha256:\w+"


def load(name):
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text("utf-8"))


def as_ray_sees_it(config):
    """The file with Ray's defaults filled in: what we do not override, they decide."""
    prepared = ray_util.prepare_config(copy.deepcopy(config))
    ray_util.validate_config(prepared)
    return prepared


def strings(node):
    """Every key and value of a document, as text."""
    if isinstance(node, dict):
        node = [*node, *node.values()]
    if isinstance(node, list):
        return [text for item in node for text in strings(item)]
    return [str(node)]
