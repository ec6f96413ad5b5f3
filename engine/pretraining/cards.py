"""Writes weights with their two cards: JSON for loaders, Markdown for people."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from engine.checkpoints import file_sha256
from engine.pretraining.public_data import PublicData


@dataclass(frozen=True, kw_only=True)
class Made:
    """How something was made, for its card.

    Attributes:
        command: The command line that makes it again.
        seed: Root of its randomness.
        device: Where it was made.
    """

    command: str
    seed: int
    device: str


def write_weights(
    path: Path, module: nn.Module, card: Mapping[str, Any], data: PublicData, made: Made
) -> None:
    """Writes a module's weights and their cards."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: t.contiguous() for name, t in module.state_dict().items()}, path)
    parameters = sum(tensor.numel() for tensor in module.state_dict().values())
    write_cards(path, {**card, "parameters": parameters}, data, made)


def write_cards(path: Path, card: Mapping[str, Any], data: PublicData, made: Made) -> None:
    """Writes the cards of a file: what it is, of which data, made how, and its hash."""
    full = {
        **card,
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": file_sha256(path),
        "data": data.source,
        "licence": data.licence,
        "class_names": list(data.classes),
        **asdict(made),
        "torch": torch.__version__,
    }
    path.with_suffix(".json").write_text(json.dumps(full, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(_markdown(full), encoding="utf-8")


def _markdown(card: Mapping[str, Any]) -> str:
    """Returns the card as a page a person reads."""
    title = f"# {str(card['kind']).capitalize()}: `{card['file']}`\n\n"
    drawn = card["kind"] in ("generator", "private images")
    picture = f"![{card['kind']}]({Path(card['file']).stem}.png)\n\n" if drawn else ""
    flat = {key: value for key, value in card.items() if key not in ("kind", "file", "figures")}
    figures = "".join(
        f"| {key.replace('_', ' ')} | {value} |\n" for key, value in card["figures"].items()
    )
    rows = "".join(f"| {key.replace('_', ' ')} | `{value}` |\n" for key, value in flat.items())
    return (
        f"{title}{picture}| figure | value |\n|---|---|\n{figures}\n"
        f"| made from | |\n|---|---|\n{rows}"
    )
