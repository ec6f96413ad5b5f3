"""Gradients that are sums of outer products: ``g = sum over positions of delta ⊗ input``.

All layers that multiply their input by a weight have them. Their moments follow from the factors;
which way is the cheapest depends on the numbers of rows, columns and positions.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from engine.attacks.matching.moments import (
    Contribution,
    Target,
    at_once,
    dot,
    from_products,
    squares,
)

# Cost of moving one number through memory, in multiply-adds.
MOVE = 24


class Factors(Protocol):
    """The factors of ``C`` candidates' gradients of one weight ``(rows, columns)``.

    Attributes:
        deltas: Output gradients, ``(C, rows, P)`` for ``P`` positions.
        columns: Length of an input.
        groups: Into how many blocks of rows the weight falls, each with inputs of its own;
            ``columns`` counts one block's.
        input_gram_cost: Multiply-adds of :meth:`input_gram` for one candidate.
    """

    deltas: Tensor
    columns: int
    groups: int
    input_gram_cost: int

    def reduced(self, target: Target) -> tuple[Factors, Target]:
        """Returns factors and target without entries whose gradients are always zero."""

    def gradients(self) -> Tensor:
        """Returns all candidates' gradients, ``(C, *shape of the weight)``."""

    def explicit(self, candidates: slice, target: Target) -> Contribution:
        """Returns some candidates' contribution, from their gradients."""

    def inputs(self) -> Tensor:
        """Returns the inputs, ``(C, P, columns)``, where there is one group."""

    def by_inputs(self, target: Target) -> Target:
        """Returns the target with the weight's columns in the inputs' order."""

    def input_gram(self) -> Tensor:
        """Returns all inner products of inputs, ``(C, groups, P, P)``."""

    def inner(self, values: Tensor) -> Tensor:
        """Returns ``<g, values>``, ``(C,)``, for values of the weight's shape."""


def contribution(factors: Factors, target: Target, slack: Tensor) -> Contribution:
    """Returns the weight's contribution in the way that costs least.

    Args:
        factors: The factors of the candidates' gradients.
        target: What they are matched to.
        slack: How large numbers other tensors allow to be subtracted, ``(C,)``.
    """
    reduced, met = factors.reduced(target)
    found = _cheapest(reduced, met, slack)
    if met is target:
        return found
    outside = target.squared - met.squared
    return Contribution(found.squared, found.gap + outside, found.subtracted)


def _cheapest(factors: Factors, target: Target, slack: Tensor) -> Contribution:
    rows, positions = factors.deltas.shape[1:]
    entries = rows * factors.columns
    explicit, product = entries * (positions + MOVE), entries * positions
    if positions == 1 and factors.groups == 1:
        return _from_sums(*_outer(factors, factors.by_inputs(target)), factors, target, slack)
    if target.mask is None:
        gram = positions**2 * (rows + 2 * MOVE * factors.groups) + factors.input_gram_cost
        if explicit <= product + gram:
            return _explicit(factors, target)
        squared, inner = gram_norms(factors), factors.inner(target.values)
    else:
        pairs = positions * (positions + 1) // 2
        if factors.groups > 1 or explicit <= product + pairs * (entries + MOVE * factors.columns):
            return _explicit(factors, target)
        mask = factors.by_inputs(target).mask
        assert mask is not None
        squared = masked_norms(factors, mask)
        inner = factors.inner(target.masked_values)
    return _from_sums(squared, inner, factors, target, slack)


def gram_norms(factors: Factors) -> Tensor:
    """Returns ``||g||²``, ``(C,)``: ``sum_pq <delta_p, delta_q> <a_p, a_q>``."""
    deltas = factors.deltas.unflatten(1, (factors.groups, -1))
    return dot(deltas.mT @ deltas, factors.input_gram())


def masked_norms(factors: Factors, mask: Tensor) -> Tensor:
    """Returns ``||mask * g||²``, ``(C,)``, for a mask with the columns in the inputs' order.

    The Gram matrices' sum with the columns weighted by the mask,
    ``sum_pq (delta_p * delta_q)ᵀ mask (a_p * a_q)``, every unordered pair taken once.
    """
    deltas, inputs = factors.deltas.mT, factors.inputs()
    p, q = torch.triu_indices(*(deltas.shape[1],) * 2, device=deltas.device)
    twice = torch.where(p == q, 1.0, 2.0).to(deltas.dtype)[:, None]
    rows, columns = deltas[:, p] * deltas[:, q] * twice, inputs[:, p] * inputs[:, q]
    return dot(rows, columns @ mask.flatten(1).T)


def _outer(factors: Factors, target: Target) -> tuple[Tensor, Tensor]:
    """Returns ``||g||²`` and ``<g, t>`` of single outer products, in double precision: cheap."""
    deltas, inputs = factors.deltas[:, :, 0].double(), factors.inputs()[:, 0].double()
    target = target.derived("double", torch.Tensor.double)
    if target.mask is None:
        squared = squares(deltas) * squares(inputs)
    else:
        squared = dot(deltas.square(), inputs.square() @ target.mask.flatten(1).T)
    return squared, dot(deltas, inputs @ target.masked_values.flatten(1).T)


def _from_sums(
    squared: Tensor, inner: Tensor, factors: Factors, target: Target, slack: Tensor
) -> Contribution:
    return from_products(
        squared,
        inner,
        target,
        slack,
        lambda some: factors.explicit(some, target),
        _step(factors, target),
    )


def _explicit(factors: Factors, target: Target) -> Contribution:
    step = _step(factors, target)
    starts = range(0, len(factors.deltas), step)
    return Contribution.cat(
        [factors.explicit(slice(start, start + step), target) for start in starts]
    )


def _step(factors: Factors, target: Target) -> int:
    return at_once(target.values.numel(), factors.deltas.device)
