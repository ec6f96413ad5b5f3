"""Gradients that are sums of outer products: ``g = sum over positions of delta ⊗ input``.

All layers that multiply their input by a weight have them. Their moments follow from the factors;
which way is the cheapest depends on the numbers of rows, columns and positions.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from engine.attacks.matching.contributions import Sums, dot, joined, of_products, squares
from engine.attacks.matching.moments import Target

# Costs in multiply-adds of one large product: of moving one number through memory, and of a
# multiply-add in a batch of small products.
MOVE, SMALL_PRODUCT = 24, 1.5
# Entries of explicit gradients, or of the inputs they come from, held at once: on a CPU few enough
# to stay in its cache.
CPU_ENTRIES, GPU_ENTRIES = 2**20, 2**28


class Factors(Protocol):
    """The factors of ``C`` candidates' gradients of one weight ``(rows, columns)``.

    Attributes:
        deltas: Output gradients, ``(C, rows, P)`` for ``P`` positions.
        columns: Length of an input.
        groups: Into how many blocks of rows the weight falls, each with inputs of its own;
            ``columns`` counts one block's.
        input_gram_cost: Multiply-adds of :meth:`input_gram` for one candidate.
        patch_entries: Entries that :meth:`explicit` makes of one candidate's inputs, besides its
            gradient.
    """

    deltas: Tensor
    columns: int
    groups: int
    input_gram_cost: float
    patch_entries: int

    def gradients(self) -> Tensor:
        """Returns all candidates' gradients, ``(C, *shape of the weight)``."""

    def explicit(self, candidates: slice, target: Target) -> Sums:
        """Returns some candidates' sums, from their gradients."""

    def inputs(self) -> Tensor:
        """Returns the inputs, ``(C, P, columns)``, where there is one group."""

    def by_inputs(self, target: Target) -> Target:
        """Returns the target with the weight's columns in the inputs' order."""

    def input_gram(self) -> Tensor:
        """Returns all inner products of inputs, ``(C, groups, P, P)``."""

    def inner(self, values: Tensor) -> Tensor:
        """Returns ``<g, values>``, ``(C,)``, for values of the weight's shape."""


def contribution(factors: Factors, target: Target) -> Sums:
    """Returns the weight's contribution in the way that costs least.

    Args:
        factors: The factors of the candidates' gradients.
        target: What they are matched to.
    """
    rows, positions = factors.deltas.shape[1:]
    entries = rows * factors.columns
    explicit, product = entries * (positions * SMALL_PRODUCT + MOVE), entries * positions
    if positions == 1 and factors.groups == 1:
        return _of_products(*_outer(factors, factors.by_inputs(target)), factors, target)
    if target.mask is None:
        gram = positions**2 * (rows + 2 * MOVE * factors.groups) + factors.input_gram_cost
        if explicit <= product + gram:
            return _explicit(factors, target)
        return _of_products(gram_norms(factors), factors.inner(target.values), factors, target)
    pairs = positions * (positions + 1) // 2
    if factors.groups > 1 or explicit <= product + pairs * (entries + MOVE * factors.columns):
        return _explicit(factors, target)
    mask = factors.by_inputs(target).mask
    assert mask is not None
    return _of_products(
        masked_norms(factors, mask), factors.inner(target.masked_values), factors, target
    )


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


def _of_products(squared: Tensor, inner: Tensor, factors: Factors, target: Target) -> Sums:
    return of_products(
        squared,
        inner,
        target,
        lambda some: factors.explicit(some, target),
        _step(factors, target),
    )


def _explicit(factors: Factors, target: Target) -> Sums:
    step = _step(factors, target)
    starts = range(0, len(factors.deltas), step)
    return joined([factors.explicit(slice(start, start + step), target) for start in starts])


def _step(factors: Factors, target: Target) -> int:
    """Returns how many candidates' gradients to hold at once, at least 1."""
    on_cpu = factors.deltas.device.type == "cpu"
    most = CPU_ENTRIES if on_cpu else GPU_ENTRIES
    step = max(1, most // max(1, target.values.numel(), factors.patch_entries))
    threads = torch.get_num_threads() if on_cpu else 1
    return step if step < threads else step - step % threads  # As many to each thread.
