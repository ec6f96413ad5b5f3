"""Modules that stand for others in the model a pass runs: equal outputs, sooner matched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import torch
from torch import nn

# Start and stop along the first axes of a tensor; all of it where there are none.
Ranges: TypeAlias = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class StandIn:
    """What stands for a module.

    Attributes:
        module: It computes what the original does on the inputs the original gets. Its parameters
            are the original's or views of them.
        parts: Its parameters' names, to the original's name and which part of it.
    """

    module: nn.Module
    parts: Mapping[str, tuple[str, Ranges]]


# From a module, and the shape of its input if it is used once and its parameters nowhere else, to
# what stands for it, if anything can.
MakeStandIn: TypeAlias = Callable[[nn.Module, torch.Size | None], StandIn | None]

STAND_INS: Final[dict[type[nn.Module], MakeStandIn]] = {}


def stand_in_for(*modules: type[nn.Module]) -> Callable[[MakeStandIn], MakeStandIn]:
    """Registers how to stand for exactly these types; a subclass may compute something else."""

    def decorator(make: MakeStandIn) -> MakeStandIn:
        STAND_INS.update(dict.fromkeys(modules, make))
        return make

    return decorator
