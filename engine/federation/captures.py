"""Captured updates: what a server of a real federation received, as safetensors.

A capture holds one tensor for each trainable parameter of the target model, under the parameter's
name and with its shape: what a client sent after its defenses, the gradient or, after several local
steps, the change of its weights divided by minus the learning rate.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from engine.checkpoints import read_tensors
from engine.errors import InputError
from engine.federation.update import Update

SHOWN_PROBLEMS = 5


def read_capture(path: Path, model: nn.Module) -> Update:
    """Reads one client's update, ``C = 1``, and checks it against the target model.

    Raises:
        InputError: If the file is missing, unsafe or damaged, or if a tensor is missing, unknown,
            of another shape, not floating point, or holds values that are not finite.
    """
    tensors = read_tensors(path)
    wanted = {name: p for name, p in model.named_parameters() if p.requires_grad}
    problems = [f"no tensor {name}" for name in wanted if name not in tensors]
    problems += [f"unknown tensor {name}" for name in tensors if name not in wanted]
    for name, parameter in wanted.items():
        tensor = tensors.get(name)
        if tensor is None:
            continue
        if tensor.shape != parameter.shape:
            problems.append(
                f"{name} of shape {tuple(tensor.shape)}, expected {tuple(parameter.shape)}"
            )
        elif not tensor.is_floating_point():
            problems.append(f"{name} of type {tensor.dtype}, expected floating point")
        elif not tensor.isfinite().all():
            count = int((~tensor.isfinite()).sum())
            problems.append(f"{count} values of {name} are not finite")
    if problems:
        shown = "; ".join(problems[:SHOWN_PROBLEMS])
        hidden = len(problems) - SHOWN_PROBLEMS
        more = f"; and {hidden} more" if hidden > 0 else ""
        raise InputError(
            f"Expected an update of {type(model).__name__} in {path}, got: {shown}{more}. "
            "Capture it again, or name the target model it was made with."
        )
    return Update({name: tensors[name].to(p.dtype)[None] for name, p in wanted.items()})


def write_capture(path: Path, update: Update) -> None:
    """Writes one client's update, ``C = 1``, as a capture readable by its owner alone."""
    save_file({name: tensor[0].contiguous() for name, tensor in update.tensors.items()}, path)
    path.chmod(0o600)


def describe_capture(update: Update) -> dict[str, float]:
    """Returns what an update shows at a glance: entries, L2 norm, share of zeros, largest entry."""
    entries = torch.cat([tensor.flatten() for tensor in update.tensors.values()])
    return {
        "tensors": len(update.tensors),
        "entries": entries.numel(),
        "l2_norm": float(entries.norm()),
        "zeros": float((entries == 0).float().mean()),
        "largest": float(entries.abs().max()),
    }
