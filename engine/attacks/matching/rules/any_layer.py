"""Layers without a rule of their own: one gradient a candidate, by differentiating the layer."""

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from engine.attacks.matching.rules.base import Rule, by_candidate


class AnyLayerRule(Rule):
    """Holds for any layer of one input and one output that treats its examples independently."""

    def gradients(
        self, layer: nn.Module, inputs: Tensor, deltas: Tensor, candidates: int
    ) -> dict[str, Tensor]:
        own = {name: p.detach() for name, p in layer.named_parameters(recurse=False)}

        def one(some: Tensor, slopes: Tensor) -> dict[str, Tensor]:
            _, pull, *_ = vjp(lambda parameters: functional_call(layer, parameters, (some,)), own)
            found: dict[str, Tensor] = pull(slopes)[0]
            return found

        with torch.enable_grad():
            return vmap(one)(by_candidate(inputs, candidates), by_candidate(deltas, candidates))
