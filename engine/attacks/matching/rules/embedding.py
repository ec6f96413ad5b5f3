"""Embeddings: every occurrence of an index adds its output gradient to one row."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from engine.attacks.matching.contributions import Contribution, Sums, dot, of_products, sums_of
from engine.attacks.matching.moments import Target
from engine.attacks.matching.rules.base import Rule, by_candidate, rule_for


@rule_for(nn.Embedding)
class EmbeddingRule(Rule):
    """``weight``: row ``r`` is the sum of the deltas at occurrences of ``r``.

    ``||g||² = sum_pq [index_p = index_q] <delta_p, delta_q>`` needs no table; a mask needs one.
    """

    def gradients(
        self, layer: nn.Module, inputs: Tensor, deltas: Tensor, candidates: int
    ) -> dict[str, Tensor]:
        assert isinstance(layer, nn.Embedding)
        indices, slopes = _occurrences(layer, inputs, deltas, candidates)
        weight = slopes.new_zeros(candidates, *layer.weight.shape)
        weight.scatter_add_(1, indices[:, :, None].expand_as(slopes), slopes)
        return {"weight": weight}

    def contributions(
        self,
        layer: nn.Module,
        inputs: Tensor,
        deltas: Tensor,
        candidates: int,
        targets: Mapping[str, Target],
    ) -> dict[str, Contribution]:
        assert isinstance(layer, nn.Embedding)
        target = targets["weight"]
        indices, slopes = _occurrences(layer, inputs, deltas, candidates)
        if target.mask is not None or indices.shape[1] ** 2 >= layer.weight.numel():
            return {"weight": self._explicit(layer, inputs, deltas, target, candidates)}
        same = (indices[:, :, None] == indices[:, None]).to(slopes.dtype)
        found = of_products(
            dot(slopes @ slopes.mT, same),
            dot(slopes, target.values[indices]),
            target,
            lambda _: self._explicit(layer, inputs, deltas, target, candidates),
            candidates,
        )
        return {"weight": found}

    def _explicit(
        self, layer: nn.Module, inputs: Tensor, deltas: Tensor, target: Target, candidates: int
    ) -> Sums:
        return sums_of(self.gradients(layer, inputs, deltas, candidates)["weight"], target)


def _occurrences(
    layer: nn.Embedding, inputs: Tensor, deltas: Tensor, candidates: int
) -> tuple[Tensor, Tensor]:
    """Returns indices ``(C, P)`` and their output gradients ``(C, P, width)``."""
    if layer.max_norm is not None or layer.scale_grad_by_freq:
        raise RuntimeError("embeddings with max_norm or scale_grad_by_freq have no rule")
    indices = by_candidate(inputs, candidates).flatten(1)
    slopes = by_candidate(deltas, candidates).flatten(1, -2)
    if layer.padding_idx is not None:
        slopes = torch.where((indices == layer.padding_idx)[:, :, None], 0.0, slopes)
    return indices, slopes
