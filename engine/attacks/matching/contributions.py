"""What parameter tensors contribute to candidates' moments, and how those become precise.

A contribution is explicit gradients, or sums over them. Sums found by subtracting far larger
numbers are computed again, from gradients, where a candidate is so near that digits are missing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.attacks.matching.moments import Target
from engine.federation.update import entries

# What double precision leaves of a rounding error, with a margin.
DOUBLE = 1e-8
# Share of the numbers it is the difference of, down to which single precision leaves a sum 1e-5.
CANCELLATION = 0.02
# Entries of a tensor up to which its gradients wait for those of other tensors.
SMALL = 2**13


@dataclass(frozen=True)
class Gradients:
    """Explicit gradients of a small tensor. They are summed with those of other tensors at once.

    Attributes:
        values: Those of their entries that are compared, ``(C, n)``.
        target: What they are matched to, ``(n,)``.
        lost: ``||t||²`` of the entries that are not compared, float64, without axes.
    """

    values: Tensor
    target: Tensor
    lost: Tensor


@dataclass(frozen=True)
class Sums:
    """Sums over a tensor's gradients, or over some of its entries.

    Attributes:
        squared: ``||g||²``, ``(C,)``.
        gap: ``||g - t||²``, ``(C,)``.
        doubt: How precise ``gap`` is; None where it was computed entry by entry.
    """

    squared: Tensor
    gap: Tensor
    doubt: Doubt | None = None


@dataclass(frozen=True)
class Doubt:
    """Why a gap may lack digits, and what to do about it.

    Attributes:
        subtracted: Size of the numbers whose difference it is, ``(C,)`` float64.
        explicit: Returns the sums of some candidates from their gradients.
        step: Candidates to call it with.
    """

    subtracted: Tensor
    explicit: Callable[[slice], Sums]
    step: int

    def removed(self, sums: Sums, near: Tensor) -> Sums:
        """Returns the sums with those of the candidates ``near``, ``(C,)`` bool, computed again.

        Always the same candidates together: how many there are has an influence on rounding.
        """
        squared, gap = sums.squared.to(torch.float64, copy=True), sums.gap.clone()
        for start in range(0, near.shape[0], self.step):
            rows = slice(start, start + self.step)
            if near[rows].any():
                again = self.explicit(rows)
                squared[rows] = torch.where(near[rows], again.squared.double(), squared[rows])
                gap[rows] = torch.where(near[rows], again.gap.double(), gap[rows])
        return Sums(squared, gap)


Contribution = Gradients | Sums


def of_gradients(gradients: Tensor, target: Target) -> Contribution:
    """Returns the contribution of explicit gradients ``(C, *parameter shape)``."""
    if target.values.numel() > SMALL:
        return sums_of(gradients, target)
    return Gradients(*_compared(gradients, target), target.lost)


def sums_of(gradients: Tensor, target: Target) -> Sums:
    """Returns the sums over explicit gradients ``(C, *parameter shape)``.

    They are overwritten where they are not to be differentiated.
    """
    flat, values = _compared(gradients, target)
    squared = squares(flat)
    gap = squares(flat - values if flat.requires_grad else flat.sub_(values))
    return Sums(squared, gap if target.mask is None else gap.double() + target.lost)


def of_products(
    squared: Tensor, inner: Tensor, target: Target, explicit: Callable[[slice], Sums], step: int
) -> Sums:
    """Returns the contribution of ``||g||²`` and ``<g, t>``, ``(C,)``.

    Their sum ``||g||² - 2 <g, t> + ||t||²`` loses its digits where ``g`` is near ``t``.

    Args:
        squared: ``||g||²``.
        inner: ``<g, t>``.
        target: What candidates are matched to.
        explicit: The sums of some candidates from their gradients, for where digits are missing.
        step: Candidates to call it with.
    """
    share = DOUBLE if inner.dtype == torch.float64 else 1.0
    size = squared.double() + target.squared
    return Sums(squared, size - 2 * inner.double(), Doubt(share * size, explicit, step))


def joined(parts: Sequence[Sums]) -> Sums:
    """Returns the sums of several sets of candidates, none in doubt, as one."""
    if len(parts) == 1:
        return parts[0]
    return Sums(torch.cat([one.squared for one in parts]), torch.cat([one.gap for one in parts]))


def collect(
    contributions: Sequence[tuple[int, Contribution]], tensors: int
) -> tuple[Tensor, Tensor]:
    """Returns ``||g||²`` and ``||g - t||²`` per tensor, ``(C, tensors)`` float64 each.

    Args:
        contributions: Each with the column of its tensor; those of one column add up.
        tensors: Number of columns.
    """
    small = [(column, one) for column, one in contributions if isinstance(one, Gradients)]
    large = [(column, one) for column, one in contributions if isinstance(one, Sums)]
    sums, columns = [one for _, one in large], tuple(column for column, _ in large)
    parts = [_together(small, tensors)] if small else []
    parts += [_spread(sums, columns, tensors)] if large else []
    doubts = [one.doubt for one in sums if one.doubt is not None]
    if doubts:
        # How much larger numbers might have been subtracted; negative where digits are missing.
        gap = torch.stack([part[1].sum(1) for part in parts]).sum(0)
        slack = gap / CANCELLATION - torch.stack([one.subtracted for one in doubts]).sum(0)
        if (slack < 0).any():
            parts[-1] = _spread(_mended(sums, slack), columns, tensors)
    squared, gaps = parts[0] if len(parts) == 1 else parts[0] + parts[1]
    return squared, gaps


def _spread(sums: Sequence[Sums], columns: tuple[int, ...], tensors: int) -> Tensor:
    """Returns ``||g||²`` and ``||g - t||²`` by column, ``(2, C, tensors)`` float64."""
    squared = torch.stack([one.squared.double() for one in sums], 1)
    both = torch.stack((squared, torch.stack([one.gap.double() for one in sums], 1)))
    return _by_column(both, columns, tensors)


def _by_column(values: Tensor, columns: tuple[int, ...], tensors: int) -> Tensor:
    """Returns ``(..., tensors)``, the sums of values ``(..., n)`` that have a column in common."""
    found = values.new_zeros(*values.shape[:-1], tensors)
    return found.index_add_(-1, _indices(columns, values.device), values)


@functools.lru_cache(maxsize=64)
def _indices(values: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device)


def _together(small: Sequence[tuple[int, Gradients]], tensors: int) -> Tensor:
    """Returns ``||g||²`` and ``||g - t||²`` of small tensors by column, ``(2, C, tensors)``."""
    values = torch.cat([one.values for _, one in small], 1)
    gaps = values - torch.cat([one.target for _, one in small])
    both = torch.stack((values, gaps))
    both = both.square() if both.requires_grad else both.square_()
    parts = both.split([one.values.shape[1] for _, one in small], 2)
    sums = torch.stack([part.sum(2) for part in parts], 2).double()
    sums[1] += torch.stack([one.lost for _, one in small])
    return _by_column(sums, tuple(column for column, _ in small), tensors)


def _mended(sums: Sequence[Sums], slack: Tensor) -> list[Sums]:
    """Returns the sums, computed again for candidates until they have no negative ``slack``."""
    found = []
    for one in sums:
        if one.doubt is None:
            found.append(one)
            continue
        near = slack < 0
        again = one.doubt.removed(one, near)
        slack = slack + (again.gap - one.gap) / CANCELLATION
        slack = slack + torch.where(near, one.doubt.subtracted, 0.0)
        found.append(again)
    return found


def _compared(gradients: Tensor, target: Target) -> tuple[Tensor, Tensor]:
    """Returns the entries of gradients and target that the mask keeps, ``(C, n)`` and ``(n,)``."""
    flat = entries(gradients)
    if target.mask is None:
        return flat, target.values.flatten()
    return flat.index_select(1, target.kept), target.kept_values


def dot(left: Tensor, right: Tensor) -> Tensor:
    """Returns the inner products ``(C,)`` of two tensors ``(C, ...)``."""
    return torch.linalg.vecdot(entries(left), entries(right))


def squares(tensor: Tensor) -> Tensor:
    """Returns the squared norms ``(C,)`` of a tensor ``(C, ...)``."""
    return dot(tensor, tensor)
