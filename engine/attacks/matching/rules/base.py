"""What a rule promises, and the registry of rules by layer type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from torch import Tensor, nn

from engine.attacks.matching.contributions import Contribution, of_gradients
from engine.attacks.matching.moments import Target
from engine.attacks.matching.products import Factors, contribution


class Rule:
    """How the gradients of one kind of layer follow from its inputs and output gradients.

    ``inputs`` and ``deltas`` lead with ``C * B`` examples, each candidate's ``B`` next to each
    other; a candidate's gradient is the sum over its examples. Guarantees, checked for every
    rule by ``tests/contracts/rule.py`` against one backward pass a candidate:
        - ``gradients`` are autograd's;
        - ``contributions`` are those of ``gradients``, and change no argument.
    """

    def gradients(
        self, layer: nn.Module, inputs: Tensor, deltas: Tensor, candidates: int
    ) -> dict[str, Tensor]:
        """Returns each of the layer's own parameters' gradients, ``(C, *parameter shape)``."""
        raise NotImplementedError

    def contributions(
        self,
        layer: nn.Module,
        inputs: Tensor,
        deltas: Tensor,
        candidates: int,
        targets: Mapping[str, Target],
    ) -> dict[str, Contribution]:
        """Returns the contributions of the parameters that ``targets`` names.

        Args:
            layer: The layer.
            inputs: Its inputs.
            deltas: The gradients of its outputs.
            candidates: ``C``.
            targets: What parameters are matched to, by name.
        """
        explicit = self.gradients(layer, inputs, deltas, candidates)
        return {name: of_gradients(explicit[name], target) for name, target in targets.items()}


RULES: Final[dict[type[nn.Module], Rule]] = {}


class ProductRule(Rule):
    """``weight``: a sum of outer products; ``bias``: the sum of the deltas."""

    def factors(self, layer: nn.Module, inputs: Tensor, deltas: Tensor, candidates: int) -> Factors:
        """Returns the factors of the weight's gradients."""
        raise NotImplementedError

    def gradients(
        self, layer: nn.Module, inputs: Tensor, deltas: Tensor, candidates: int
    ) -> dict[str, Tensor]:
        factors = self.factors(layer, inputs, deltas, candidates)
        return {"weight": factors.gradients(), "bias": factors.deltas.sum(2)}

    def contributions(
        self,
        layer: nn.Module,
        inputs: Tensor,
        deltas: Tensor,
        candidates: int,
        targets: Mapping[str, Target],
    ) -> dict[str, Contribution]:
        factors = self.factors(layer, inputs, deltas, candidates)
        found: dict[str, Contribution] = {}
        if "weight" in targets:
            found["weight"] = contribution(factors, targets["weight"])
        if "bias" in targets:
            found["bias"] = of_gradients(factors.deltas.sum(2), targets["bias"])
        return found


def rule_for(*layers: type[nn.Module]) -> Callable[[type[Rule]], type[Rule]]:
    """Registers a rule for exactly these layer types; a subclass may compute something else."""

    def decorator(rule: type[Rule]) -> type[Rule]:
        for layer in layers:
            assert layer not in RULES, f"{layer.__name__} has a rule already"
            RULES[layer] = rule()
        return rule

    return decorator


def over_examples(tensor: Tensor, candidates: int) -> Tensor:
    """Returns the sums ``(C, ...)`` over each candidate's examples, of ``C * B`` rows."""
    if tensor.shape[0] == candidates:
        return tensor
    return by_candidate(tensor, candidates).sum(1)


def by_candidate(tensor: Tensor, candidates: int) -> Tensor:
    """Returns ``(C, B, ...)`` of a tensor that leads with ``C * B`` examples."""
    return tensor.unflatten(0, (candidates, -1))
