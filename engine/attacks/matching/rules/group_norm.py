"""Group normalisation: every example normalised by itself, then an affine map of its channels."""

from torch import Tensor, nn
from torch.nn import functional

from engine.attacks.matching.rules.base import Rule, by_candidate, rule_for


@rule_for(nn.GroupNorm)
class GroupNormRule(Rule):
    """``weight``: sum of delta * normalised input over positions; ``bias``: of delta."""

    def gradients(
        self, layer: nn.Module, inputs: Tensor, deltas: Tensor, candidates: int
    ) -> dict[str, Tensor]:
        assert isinstance(layer, nn.GroupNorm)
        normalised = functional.group_norm(inputs, layer.num_groups, eps=layer.eps)
        axes = [1, *range(3, inputs.ndim + 1)]  # Examples and positions.
        return {
            "weight": by_candidate(deltas * normalised, candidates).sum(axes),
            "bias": by_candidate(deltas, candidates).sum(axes),
        }
