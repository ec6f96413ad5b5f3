"""The state of an interrupted training, as safetensors and JSON: no pickle to resume from."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from engine.checkpoints import read_card, read_tensors
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
    save_file(tensors, folder / "training.safetensors.new")
    card = json.dumps({"progress": progress, "settings": settings}, indent=1)
    (folder / "training.json.new").write_text(card, encoding="utf-8")
    os.replace(folder / "training.safetensors.new", folder / "training.safetensors")
    os.replace(folder / "training.json.new", folder / "training.json")


def load_training_state(
    folder: Path, parts: Mapping[str, Part], *, settings: Mapping[str, object]
) -> dict[str, float]:
    """Restores the parts in place and returns how far the training had come.

    Raises:
        InputError: If the state is missing, damaged, or of a training with other settings.
    """
    card = read_card(folder / "training.json")
    if card.get("settings") != dict(settings):
        raise InputError(
            f"Expected a training with the same settings in {folder}, got one with "
            f"{card.get('settings')}. Resume it with those, or start in another folder."
        )
    tensors = read_tensors(folder / "training.safetensors")
    for part, holder in parts.items():
        prefix = f"{part}/"
        mine = {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}
        if isinstance(holder, nn.Module):
            holder.load_state_dict(mine)
        else:
            _load_optimizer(holder, mine)
    progress: dict[str, float] = card["progress"]
    return progress


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
