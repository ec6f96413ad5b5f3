"""The state of an interrupted training, as safetensors and JSON: no pickle to resume from."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from engine.checkpoints import load_weights, read_tensors
from engine.errors import InputError

Part = nn.Module | torch.optim.Optimizer


def save_training_state(
    folder: Path,
    parts: Mapping[str, Part],
    progress: Mapping[str, float],
    *,
    settings: Mapping[str, object],
) -> None:
    """Writes the modules and optimisers of a training, and how far it has come."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{part}/{name}": tensor.detach().cpu().contiguous()
        for part, holder in parts.items()
        for name, tensor in _tensors(holder).items()
    }
    # One file, so that a training killed while it is replaced has the old state or the new one.
    card = {"training": json.dumps({"progress": progress, "settings": settings})}
    save_file(tensors, folder / "training.safetensors.new", metadata=card)
    os.replace(folder / "training.safetensors.new", folder / "training.safetensors")


def load_training_state(
    folder: Path, parts: Mapping[str, Part], *, settings: Mapping[str, object]
) -> dict[str, float]:
    """Restores the parts in place and returns how far the training had come.

    Raises:
        InputError: If the state is missing, damaged, or of a training with other settings.
    """
    path = folder / "training.safetensors"
    tensors = read_tensors(path)
    card = _read_card(path)
    if card["settings"] != dict(settings):
        raise InputError(
            f"Expected a training with the same settings in {folder}, got one with "
            f"{card['settings']}. Resume it with those, or start in another folder."
        )
    for part, holder in parts.items():
        prefix = f"{part}/"
        mine = {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}
        if isinstance(holder, nn.Module):
            load_weights(holder, mine, source=str(path))
        else:
            _load_optimizer(holder, mine)
    progress: dict[str, float] = card["progress"]
    return progress


def _read_card(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    try:
        card: dict[str, Any] = json.loads(metadata["training"])
        return {"progress": card["progress"], "settings": card["settings"]}
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"Expected the state of a training in {path}, got other safetensors. "
            "Start anew, without --resume."
        ) from error


def _tensors(holder: Part) -> dict[str, Tensor]:
    if isinstance(holder, nn.Module):
        return holder.state_dict()
    state = holder.state_dict()["state"]
    return {f"{i}/{key}": value for i, entry in state.items() for key, value in entry.items()}


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        index, key = name.split("/")
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
