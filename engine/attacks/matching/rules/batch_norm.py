"""Batch normalisation in evaluation mode: an affine map of every channel."""

from typing import TypeAlias

import torch
from torch import Tensor, nn

from engine.attacks.matching.rules.base import Rule, over_examples, rule_for
from engine.attacks.matching.rules.stand_ins import StandIn, stand_in_for

BatchNorm: TypeAlias = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


class ChannelAffine(nn.Module):
    """Batch normalisation in evaluation mode, as the affine map of channels that it is.

    On small maps torch's own backward pass takes ten times as long.

    Args:
        original: A layer with running statistics, which are shared.
    """

    def __init__(self, original: BatchNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = original.weight, original.bias, original.eps
        self.running_mean: Tensor | None = original.running_mean
        self.running_var: Tensor | None = original.running_var

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns maps ``(N, ch, ...)`` of maps."""
        assert self.running_mean is not None
        assert self.running_var is not None
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        shift = self.bias - self.running_mean * scale
        axes = (-1,) + (1,) * (inputs.ndim - 2)
        return torch.addcmul(shift.view(axes), inputs, scale.view(axes))


@stand_in_for(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
def as_affine(module: nn.Module, shape: torch.Size | None) -> StandIn | None:
    """Returns the affine map, if the layer has running statistics, factors and summands."""
    del shape
    assert isinstance(module, BatchNorm)
    if module.running_mean is None or module.weight is None or module.bias is None:
        return None
    return StandIn(ChannelAffine(module), {name: (name, ()) for name in ("weight", "bias")})


@rule_for(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, ChannelAffine)
class BatchNormRule(Rule):
    """``weight``: sum of delta * (input - mean) / std with running statistics; ``bias``: of delta.

    A layer without running statistics mixes its examples in evaluation mode too, and so has no
    rule; the kernels' own check against autograd finds it.
    """

    def gradients(
        self, layer: nn.Module, inputs: Tensor, deltas: Tensor, candidates: int
    ) -> dict[str, Tensor]:
        assert isinstance(layer, BatchNorm | ChannelAffine)
        mean, variance = layer.running_mean, layer.running_var
        if mean is None or variance is None:
            raise RuntimeError("batch normalisation without running statistics mixes examples")
        flat, slopes = (some.reshape(*some.shape[:2], -1) for some in (inputs, deltas))
        bias = slopes.sum(2)
        weight = (torch.linalg.vecdot(slopes, flat) - mean * bias) * torch.rsqrt(
            variance + layer.eps
        )
        return {
            "weight": over_examples(weight, candidates),
            "bias": over_examples(bias, candidates),
        }
