"""Layer normalisation over the last axes, then an affine map of each entry."""

from torch import Tensor, nn
from torch.nn import functional

from engine.attacks.matching.rules.base import Rule, by_candidate, rule_for


@rule_for(nn.LayerNorm)
class LayerNormRule(Rule):
    """``weight``: sum of delta * normalised input over all other axes; ``bias``: of delta."""

    def gradients(
        self, layer: nn.Module, inputs: Tensor, deltas: Tensor, candidates: int
    ) -> dict[str, Tensor]:
        assert isinstance(layer, nn.LayerNorm)
        normalised = functional.layer_norm(inputs, layer.normalized_shape, eps=layer.eps)
        axes = list(range(1, inputs.ndim + 1 - len(layer.normalized_shape)))
        return {
            "weight": by_candidate(deltas * normalised, candidates).sum(axes),
            "bias": by_candidate(deltas, candidates).sum(axes),
        }
