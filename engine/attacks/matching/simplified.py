"""The model a pass runs: the target model, frozen, with stand-ins for some of its layers."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from engine.attacks.matching.moments import Place
from engine.attacks.matching.rules import STAND_INS, StandIn


def simplified(model: nn.Module, images: Tensor) -> tuple[nn.Module, dict[int, Place]]:
    """Returns a frozen copy with stand-ins where there are some, and where parameters lie.

    Args:
        model: Target model in evaluation mode.
        images: Some, of the only shape the copy is good for.

    Returns:
        The copy, and the places of trainable parameters in an update by the ``id`` of the copy's.
    """
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    copied = frozen_copy(model)
    located = {id(p): Place(name) for name, p in copied.named_parameters() if name in trainable}
    shapes = _shapes_of_inputs(copied, images)
    made: dict[nn.Module, nn.Module] = {}

    def replace(module: nn.Module) -> nn.Module:
        if module not in made:
            make = STAND_INS.get(type(module), lambda *_: None)
            stand_in = make(module, shapes.get(module)) or StandIn(module, {})
            made[module] = stand_in.module
            for key, (source, ranges) in stand_in.parts.items():
                whole = located.get(id(module.get_parameter(source)))
                if whole is not None:
                    located[id(stand_in.module.get_parameter(key))] = Place(whole.name, ranges)
        return made[module]

    copied = replaced(copied, replace)
    return copied, {id(p): located[id(p)] for p in copied.parameters() if id(p) in located}


def _shapes_of_inputs(model: nn.Module, images: Tensor) -> dict[nn.Module, torch.Size]:
    """Returns the input's shape of layers used once, whose parameters no other layer has."""
    shapes: dict[nn.Module, torch.Size] = {}
    calls, owners = Counter[nn.Module](), Counter[int]()
    for module in model.modules():
        owners.update(id(p) for p in module.parameters(recurse=False))

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls[module] += 1
        if len(inputs) == 1 and isinstance(inputs[0], Tensor):
            shapes[module] = inputs[0].shape

    handles = [module.register_forward_pre_hook(note) for module in model.modules()]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return {
        module: shape
        for module, shape in shapes.items()
        if calls[module] == 1 and all(owners[id(p)] == 1 for p in module.parameters(recurse=False))
    }


def frozen_copy(model: nn.Module) -> nn.Module:
    """Returns a copy that shares the model's parameters and buffers but asks for no gradient."""
    shared: dict[int, Any] = {
        id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()
    }
    return copy.deepcopy(model, shared | {id(buffer): buffer for buffer in model.buffers()})


def replaced(module: nn.Module, replace: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Returns the module with ``replace`` applied to all its descendants, then to itself."""
    for name, child in module.named_children():
        setattr(module, name, replaced(child, replace))
    return replace(module)
