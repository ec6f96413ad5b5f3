"""Batch normalisation in evaluation mode: an affine map of every channel."""

import torch
from torch import Tensor, nn

from engine.attacks.matching.rules.base import Rule, by_candidate, rule_for


@rule_for(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
class BatchNormRule(Rule):
    """``weight``: sum of delta * (input - mean) / std with running statistics; ``bias``: of delta.

    A layer without running statistics mixes its examples in evaluation mode too, and so has no
    rule; the kernels' own check against autograd finds it.
    """

    def gradients(
        self, layer: nn.Module, inputs: Tensor, deltas: Tensor, candidates: int
    ) -> dict[str, Tensor]:
        assert isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)
        mean, variance = layer.running_mean, layer.running_var
        if mean is None or variance is None:
            raise RuntimeError("batch normalisation without running statistics mixes examples")
        flat, slopes = (some.reshape(*some.shape[:2], -1) for some in (inputs, deltas))
        bias = slopes.sum(2)
        weight = (torch.linalg.vecdot(slopes, flat) - mean * bias) * torch.rsqrt(
            variance + layer.eps
        )
        return {
            "weight": by_candidate(weight, candidates).sum(1),
            "bias": by_candidate(bias, candidates).sum(1),
        }
