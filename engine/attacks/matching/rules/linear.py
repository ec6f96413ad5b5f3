"""Linear layers: outer products over examples and whatever axes precede the features."""

from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from engine.attacks.matching.contributions import Sums, dot, sums_of
from engine.attacks.matching.moments import Target
from engine.attacks.matching.rules.base import ProductRule, by_candidate, rule_for


class LinearFactors:
    """Factors of a weight ``(out, in)``; see :class:`engine.attacks.matching.products.Factors`."""

    groups, patch_entries = 1, 0

    def __init__(self, inputs: Tensor, deltas: Tensor, candidates: int) -> None:
        self._inputs = by_candidate(inputs, candidates).flatten(1, -2)
        self.deltas = by_candidate(deltas, candidates).flatten(1, -2).mT
        self.columns = inputs.shape[-1]
        self.input_gram_cost: float = self.deltas.shape[2] ** 2 * self.columns

    def gradients(self) -> Tensor:
        return self.deltas @ self._inputs

    def explicit(self, candidates: slice, target: Target) -> Sums:
        return sums_of(self.deltas[candidates] @ self._inputs[candidates], target)

    def inputs(self) -> Tensor:
        return self._inputs

    def by_inputs(self, target: Target) -> Target:
        return target

    def input_gram(self) -> Tensor:
        return (self._inputs @ self._inputs.mT)[:, None]

    def inner(self, values: Tensor) -> Tensor:
        return dot(self.deltas.mT, self._inputs @ values.T)


@rule_for(nn.Linear, NonDynamicallyQuantizableLinear)
class LinearRule(ProductRule):
    """Positions are all axes but the last, and a candidate's examples."""

    def factors(
        self, layer: nn.Module, inputs: Tensor, deltas: Tensor, candidates: int
    ) -> LinearFactors:
        del layer
        return LinearFactors(inputs, deltas, candidates)
