"""Moments: all a distance needs to know of candidates' updates beside the observed one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from engine.federation.update import Update, entries

# What double precision leaves of a rounding error, with a margin.
DOUBLE = 1e-8
# Share of the numbers it is the difference of, down to which single precision leaves a sum 1e-5.
CANCELLATION = 0.02
# Entries of an intermediate result held at once: on a CPU few enough to stay in its cache.
CPU_ENTRIES, GPU_ENTRIES = 2**20, 2**28


@dataclass(frozen=True)
class Moments:
    """How candidates' updates ``g`` lie to the observed update ``t``, per parameter tensor.

    Attributes:
        squared: ``||g||²``, ``(C, tensors)`` float64.
        gap: ``||g - t||²``, ``(C, tensors)`` float64. Never a difference of far larger numbers,
            unless ``g`` is scaled.
        target: ``||t||²``, ``(tensors,)`` float64.
        subtracted: Size of the numbers whose difference ``gap`` is, ``(C, tensors)`` float64; 0
            where it is precise.
    """

    squared: Tensor
    gap: Tensor
    target: Tensor
    subtracted: Tensor

    def __len__(self) -> int:
        """Returns the number of candidates ``C``."""
        return len(self.squared)

    def scaled(self, scales: Tensor) -> Moments:
        """Returns the moments of ``scales * g`` for scales ``(C, tensors)``."""
        squared, rest = scales.square() * self.squared, 1 - scales
        # Of scales * (g - t) - rest * t.
        along = (self.squared - self.target - self.gap) / 2
        gap = scales.square() * self.gap + rest.square() * self.target - 2 * scales * rest * along
        return Moments(squared, gap, self.target, rest.abs() * (squared + self.target))


@dataclass(frozen=True)
class Target:
    """What one parameter tensor, or a run of its rows, is matched to.

    Attributes:
        values: The observed values, in the parameter's shape.
        mask: Factors of 0 and 1 that candidates' values are multiplied with before they are
            compared, in the same shape; None if they are not.
    """

    values: Tensor
    mask: Tensor | None = None
    _derived: dict[str, Target] = field(default_factory=dict, repr=False)

    def derived(self, name: str, view: Callable[[Tensor], Tensor]) -> Target:
        """Returns the target of some of the entries, or of all in another order; made once.

        Args:
            name: What ``view`` does, different for different views.
            view: A tensor of the parameter's shape to those entries.
        """
        if name not in self._derived:
            mask = None if self.mask is None else view(self.mask).contiguous()
            self._derived[name] = Target(view(self.values).contiguous(), mask)
        return self._derived[name]

    @cached_property
    def kept(self) -> Tensor:
        """Indices of the entries the mask keeps, in the flattened tensor."""
        assert self.mask is not None
        return self.mask.flatten().nonzero().flatten()

    @cached_property
    def kept_values(self) -> Tensor:
        """The observed values there."""
        return self.masked_values.flatten()[self.kept]

    @cached_property
    def squared(self) -> Tensor:
        """``||values||²``, float64, without axes."""
        return self.values.double().square().sum()

    @cached_property
    def lost(self) -> Tensor:
        """Of that what lies where the mask keeps nothing of candidates."""
        if self.mask is None:
            return torch.zeros_like(self.squared)
        return (self.values.double() * (1 - self.mask)).square().sum()

    @cached_property
    def masked_values(self) -> Tensor:
        """The observed values where the mask keeps candidates', else 0."""
        return self.values if self.mask is None else self.values * self.mask


@dataclass(frozen=True)
class Observation:
    """The observed update as candidates are compared with it; made once a search.

    Attributes:
        update: The observed update, ``C = 1``.
        masks: Factors of 0 and 1 for candidates' tensors, by name, broadcastable to them; those
            not named are whole.
    """

    update: Update
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    _targets: dict[tuple[str, int, int | None], Target] = field(default_factory=dict, repr=False)

    @property
    def device(self) -> torch.device:
        """Where the update is."""
        return next(iter(self.update.tensors.values())).device

    def target(self, name: str, start: int = 0, stop: int | None = None) -> Target:
        """Returns what rows ``start`` to ``stop`` of the tensor ``name`` are matched to."""
        key = name, start, stop
        if key not in self._targets:
            whole, rows = self.update.tensors[name][0], slice(start, stop)
            mask = self.masks.get(name)
            if mask is not None:
                mask = None if mask.all() else mask.expand_as(whole)
            if whole.ndim:
                whole, mask = whole[rows], None if mask is None else mask[rows]
            self._targets[key] = Target(whole, mask)
        return self._targets[key]

    @cached_property
    def squared(self) -> Tensor:
        """``||t||²`` per tensor, ``(tensors,)`` float64."""
        return self.update.map(torch.Tensor.double).squared_norms()[0]

    def collect(self, parts: Mapping[str, Contribution]) -> Moments:
        """Returns the moments whose tensors contribute ``parts``."""
        names = list(self.update.tensors)
        gap = torch.stack([parts[name].gap for name in names], dim=1)
        return Moments(
            squared=torch.stack([parts[name].squared for name in names], dim=1),
            gap=gap,
            target=self.squared,
            subtracted=torch.zeros_like(gap),
        )


@dataclass(frozen=True)
class Contribution:
    """The moments of one tensor, or of some of its rows; they add up over disjoint rows.

    Attributes:
        squared: ``||g||²``, ``(C,)`` float64.
        gap: ``||g - t||²``, ``(C,)`` float64.
        subtracted: Size of the numbers whose difference ``gap`` is, ``(C,)`` float64; 0 where it
            was computed entry by entry.
    """

    squared: Tensor
    gap: Tensor
    subtracted: Tensor

    @staticmethod
    def cat(parts: Sequence[Contribution]) -> Contribution:
        """Returns the contributions of several sets of candidates as one."""
        if len(parts) == 1:
            return parts[0]
        return Contribution(
            torch.cat([part.squared for part in parts]),
            torch.cat([part.gap for part in parts]),
            torch.cat([part.subtracted for part in parts]),
        )

    def __add__(self, other: Contribution) -> Contribution:
        return Contribution(
            self.squared + other.squared,
            self.gap + other.gap,
            self.subtracted + other.subtracted,
        )

    @property
    def slack(self) -> Tensor:
        """How much larger numbers might be subtracted beside these, ``(C,)``; negative: too large.

        Single precision leaves of a difference what is not below 1e-5 of it.
        """
        return self.gap / CANCELLATION - self.subtracted


def from_gradients(gradients: Tensor, target: Target) -> Contribution:
    """Returns the contribution of explicit gradients ``(C, *parameter shape)``."""
    flat, values = entries(gradients), target.values.flatten()
    if target.mask is not None:
        flat, values = flat[:, target.kept], target.kept_values
    gap = squares(flat - values).double()
    if target.mask is not None:
        gap = gap + target.lost
    return Contribution(squares(flat).double(), gap, torch.zeros_like(gap))


def from_products(
    squared: Tensor,
    inner: Tensor,
    target: Target,
    slack: Tensor,
    explicit: Callable[[slice], Contribution],
    step: int,
) -> Contribution:
    """Returns the contribution of ``||g||²`` and ``<g, t>``, ``(C,)``, as far as that is precise.

    Their sum ``||g||² - 2 <g, t> + ||t||²`` loses its digits where ``g`` is near ``t``; for those
    candidates gradients are computed after all.

    Args:
        squared: ``||g||²``.
        inner: ``<g, t>``.
        target: What candidates are matched to.
        slack: How large numbers other tensors allow to be subtracted, ``(C,)``; see
            :attr:`Contribution.slack`.
        explicit: Contribution of some candidates from their gradients.
        step: Candidates to call it with.
    """
    share = DOUBLE if inner.dtype == torch.float64 else 1.0
    squared = squared.double()
    size = squared + target.squared
    quick = Contribution(squared, size - 2 * inner.double(), share * size)
    near = quick.slack + slack < 0
    if not near.any():
        return quick
    parts = []
    # Always the same candidates together: how many there are has an influence on rounding.
    for start in range(0, len(near), step):
        rows = slice(start, start + step)
        part = Contribution(quick.squared[rows], quick.gap[rows], quick.subtracted[rows])
        parts.append(_where(near[rows], explicit(rows), part) if near[rows].any() else part)
    return Contribution.cat(parts)


def _where(chosen: Tensor, one: Contribution, other: Contribution) -> Contribution:
    return Contribution(
        torch.where(chosen, one.squared, other.squared),
        torch.where(chosen, one.gap, other.gap),
        torch.where(chosen, one.subtracted, other.subtracted),
    )


def at_once(entries: int, device: torch.device) -> int:
    """Returns how many candidates of so many entries each to work on at once, at least 1."""
    return max(1, (CPU_ENTRIES if device.type == "cpu" else GPU_ENTRIES) // max(1, entries))


def dot(left: Tensor, right: Tensor) -> Tensor:
    """Returns the inner products ``(C,)`` of two tensors ``(C, ...)``."""
    return torch.linalg.vecdot(entries(left), entries(right))


def squares(tensor: Tensor) -> Tensor:
    """Returns the squared norms ``(C,)`` of a tensor ``(C, ...)``."""
    return dot(tensor, tensor)
