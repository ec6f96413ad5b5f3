"""Checkpoints: weights as safetensors beside a JSON card that says what they are."""

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from engine.errors import InputError

# First bytes of what people mistake for safetensors, with what to call it.
PICKLE_SIGNATURES = {
    b"PK\x03\x04": "a zip archive, as torch.save writes it, which holds a pickle",
    b"\x80\x02": "a pickle",
    b"\x80\x03": "a pickle",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
    b"\x93NUMPY": "a NumPy array",
    b"\x89HDF": "an HDF5 file",
}
MAX_HEADER_BYTES = 10 * 1024**2


def read_tensors(path: Path, *, sha256: str | None = None) -> dict[str, Tensor]:
    """Reads a safetensors file, refusing everything else by content.

    Args:
        path: The file.
        sha256: Expected hash of the file in hexadecimal; not checked if None.

    Raises:
        InputError: If the file is missing, is a pickle or another format, is truncated, or has
            another hash.
    """
    if not path.is_file():
        raise InputError(f"Expected a safetensors file at {path}, found none. Check the path.")
    _refuse_other_formats(path)
    check_sha256(path, sha256)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(
            f"Expected a whole safetensors file, got a damaged one: {path} ({error}). "
            "Write or fetch it again."
        ) from error


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Copies weights into ``module``; raises InputError unless names and shapes all agree."""
    wanted = module.state_dict()
    problems = [f"missing {name}" for name in wanted if name not in tensors]
    problems += [f"unexpected {name}" for name in tensors if name not in wanted]
    problems += [
        f"{name} is {tuple(tensors[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    if problems:
        shown = "; ".join(problems[:5]) + ("; ..." if len(problems) > 5 else "")
        raise InputError(
            f"Expected weights of {type(module).__name__}, but {source} has other ones: {shown}."
        )
    module.load_state_dict(dict(tensors))


def read_card(path: Path) -> dict[str, Any]:
    """Reads the JSON card of a checkpoint; raises InputError if it is missing or malformed."""
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"Expected a card at {path} that says what the weights beside it are, found none."
        ) from error
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"Expected JSON in {path}, got something else: {error}.") from error
    if not isinstance(card, dict):
        raise InputError(f"Expected a JSON object in {path}, got a {type(card).__name__}.")
    return card


def check_sha256(path: Path, expected: str | None) -> None:
    """Raises InputError unless the file has the expected hash; None expects nothing."""
    if expected is not None and (found := file_sha256(path)) != expected.lower():
        raise InputError(
            f"Expected {path.name} with sha256 {expected}, got {found}. "
            "The file is damaged or another one; fetch it again or correct the hash."
        )


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_other_formats(path: Path) -> None:
    """Raises InputError unless the file begins like safetensors."""
    with path.open("rb") as file:
        start = file.read(9)
    for signature, name in PICKLE_SIGNATURES.items():
        if start.startswith(signature):
            raise InputError(
                f"Expected safetensors, got {name}: {path}. Loading such a file can run code of "
                "its author, so it is never opened; convert it to safetensors where you trust it."
            )
    size = path.stat().st_size
    header = struct.unpack("<Q", start[:8])[0] if len(start) == 9 else 0
    if start[8:] != b"{" or not 0 < header <= min(MAX_HEADER_BYTES, size - 8):
        raise InputError(f"Expected safetensors, got another format: {path}.")
