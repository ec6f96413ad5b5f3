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

    def mask_by_inputs(self, target: Target) -> Tensor:
        """Returns the target's mask, ``(rows, columns)``, its columns in the inputs' order."""

    def input_gram(self) -> Tensor:
        """Returns all inner products of inputs, ``(C, groups, P, P)``."""

    def inner(self, values: Tensor) -> Tensor:
        """Returns ``<g, values>``, ``(C,)``, for values of the weight's shape."""


def contribution(factors: Factors, target: Target) -> Contribution:
    """Returns the weight's contribution in the way that costs least."""
    factors, target = factors.reduced(target)
    rows, positions = factors.deltas.shape[1:]
    entries = rows * factors.columns
    explicit = entries * (positions + 3 * MOVE)
    product = entries * positions
    if target.mask is None:
        gram = positions**2 * (rows + 2 * MOVE * factors.groups) + factors.input_gram_cost
        if explicit <= product + gram:
            return _explicit(factors, target)
        return Contribution(gram_norms(factors), factors.inner(target.values))
    pairs = positions * (positions + 1) // 2
    if factors.groups > 1 or explicit <= product + pairs * (entries + MOVE * factors.columns):
        return _explicit(factors, target)
    return Contribution(
        masked_norms(factors, factors.mask_by_inputs(target)), factors.inner(target.masked_values)
    )


def gram_norms(factors: Factors) -> Tensor:
    """Returns ``||g||²``, ``(C,)``: ``sum_pq <delta_p, delta_q> <a_p, a_q>``."""
    deltas = factors.deltas.unflatten(1, (factors.groups, -1))
    if deltas.shape[-1] == 1 and factors.groups == 1:
        return squares(deltas) * factors.input_gram().flatten()
    return dot(deltas.mT @ deltas, factors.input_gram())


def masked_norms(factors: Factors, mask: Tensor) -> Tensor:
    """Returns ``||mask * g||²``, ``(C,)``, for a mask ``(rows, columns)`` and a single group.

    The Gram matrices' sum with the columns weighted by the mask,
    ``sum_pq (delta_p * delta_q)ᵀ mask (a_p * a_q)``, every unordered pair taken once.
    """
    deltas, inputs = factors.deltas.mT, factors.inputs()
    p, q = torch.triu_indices(*(deltas.shape[1],) * 2, device=deltas.device)
    twice = torch.where(p == q, 1.0, 2.0).to(deltas.dtype)[:, None]
    rows, columns = deltas[:, p] * deltas[:, q] * twice, inputs[:, p] * inputs[:, q]
    return dot(rows, columns @ mask.T)


def _explicit(factors: Factors, target: Target) -> Contribution:
    candidates = len(factors.deltas)
    step = at_once(target.values.numel(), factors.deltas.device)
    return Contribution.cat(
        [
            factors.explicit(slice(start, start + step), target)
            for start in range(0, candidates, step)
        ]
    )
