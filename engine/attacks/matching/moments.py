"""Moments: all a distance needs to know of candidates' updates beside the observed one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from engine.federation.update import Update, entries

# Entries of an intermediate result held at once: on a CPU few enough to stay in its cache.
CPU_ENTRIES, GPU_ENTRIES = 2**20, 2**28


@dataclass(frozen=True)
class Moments:
    """How candidates' updates ``g`` lie to the observed update ``t``, per parameter tensor.

    Attributes:
        squared: ``||g||²``, ``(C, tensors)`` float64.
        inner: ``<g, t>``, ``(C, tensors)`` float64.
        target: ``||t||²``, ``(tensors,)`` float64.
    """

    squared: Tensor
    inner: Tensor
    target: Tensor

    def __len__(self) -> int:
        """Returns the number of candidates ``C``."""
        return len(self.squared)

    def scaled(self, scales: Tensor) -> Moments:
        """Returns the moments of ``scales * g`` for scales ``(C, tensors)``."""
        return Moments(scales.square() * self.squared, scales * self.inner, self.target)


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
        return Moments(
            squared=torch.stack([parts[name].squared for name in names], dim=1).double(),
            inner=torch.stack([parts[name].inner for name in names], dim=1).double(),
            target=self.squared,
        )


@dataclass(frozen=True)
class Contribution:
    """The moments of one tensor, or of some of its rows; they add up over disjoint rows.

    Attributes:
        squared: ``||g||²``, ``(C,)``.
        inner: ``<g, t>``, ``(C,)``.
    """

    squared: Tensor
    inner: Tensor

    @staticmethod
    def cat(parts: Sequence[Contribution]) -> Contribution:
        """Returns the contributions of several sets of candidates as one."""
        if len(parts) == 1:
            return parts[0]
        return Contribution(
            torch.cat([part.squared for part in parts]), torch.cat([part.inner for part in parts])
        )

    def __add__(self, other: Contribution) -> Contribution:
        return Contribution(self.squared + other.squared, self.inner + other.inner)


def from_gradients(gradients: Tensor, target: Target) -> Contribution:
    """Returns the contribution of explicit gradients ``(C, *parameter shape)``."""
    flat, values = entries(gradients), target.values.flatten()
    if target.mask is not None:
        flat, values = flat[:, target.kept], target.kept_values
    return Contribution(squares(flat), flat @ values)


def at_once(entries: int, device: torch.device) -> int:
    """Returns how many candidates of so many entries each to work on at once, at least 1."""
    return max(1, (CPU_ENTRIES if device.type == "cpu" else GPU_ENTRIES) // max(1, entries))


def dot(left: Tensor, right: Tensor) -> Tensor:
    """Returns the inner products ``(C,)`` of two tensors ``(C, ...)``."""
    return torch.linalg.vecdot(entries(left), entries(right))


def squares(tensor: Tensor) -> Tensor:
    """Returns the squared norms ``(C,)`` of a tensor ``(C, ...)``."""
    return dot(tensor, tensor)
