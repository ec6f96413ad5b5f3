"""Moments: all a distance needs to know of candidates' updates beside the observed one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from engine.federation.update import Update


@dataclass(frozen=True)
class Moments:
    """How candidates' updates ``g`` lie to the observed update ``t``, per parameter tensor.

    Attributes:
        squared: ``||g||²``, ``(C, tensors)`` float64.
        gap: ``||g - t||²``, ``(C, tensors)`` float64. Never a difference of far larger numbers,
            unless ``g`` is scaled.
        target: ``||t||²``, ``(tensors,)`` float64.
        subtracted: Size of the numbers whose difference ``gap`` is, ``(C, tensors)`` float64; None
            if it is precise everywhere.
        values: Those tensors of ``g`` that the observation asks for, by name, masked.
    """

    squared: Tensor
    gap: Tensor
    target: Tensor
    subtracted: Tensor | None = None
    values: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        """Returns the number of candidates ``C``."""
        return len(self.squared)

    def scaled(self, scales: Tensor) -> Moments:
        """Returns the moments, without values, of ``scales * g`` for scales ``(C, tensors)``."""
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
class Place:
    """Where a layer's parameter lies in an update.

    Attributes:
        name: The update's tensor.
        ranges: ``(start, stop)`` along its first axes; all of it where there are none.
    """

    name: str
    ranges: tuple[tuple[int, int], ...] = ()

    @property
    def index(self) -> tuple[slice, ...]:
        """The ranges as what a tensor is indexed by."""
        return tuple(slice(*ends) for ends in self.ranges)


@dataclass(frozen=True)
class Observation:
    """The observed update as candidates are compared with it; made once a search.

    Attributes:
        update: The observed update, ``C = 1``.
        masks: Factors of 0 and 1 for candidates' tensors, by name, broadcastable to them; those
            not named are whole.
        values: Names of tensors, of at most ``SMALL`` entries, whose candidates' values moments
            hold too.
    """

    update: Update
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    values: frozenset[str] = frozenset()
    _targets: dict[Place, Target] = field(default_factory=dict, repr=False)
    _outside: dict[tuple[Place, ...], Tensor] = field(default_factory=dict, repr=False)

    @property
    def device(self) -> torch.device:
        """Where the update is."""
        return next(iter(self.update.tensors.values())).device

    def target(self, place: Place) -> Target:
        """Returns what the parameter that lies at ``place`` is matched to."""
        if place not in self._targets:
            whole, mask = self.update.tensors[place.name][0], self.masks.get(place.name)
            if mask is not None:
                mask = None if mask.all() else mask.expand_as(whole)[place.index]
            self._targets[place] = Target(
                whole[place.index].contiguous(), None if mask is None else mask.contiguous()
            )
        return self._targets[place]

    def outside(self, places: tuple[Place, ...]) -> Tensor:
        """Returns ``||t||²`` of a tensor's entries in none of its ``places``, float64, no axes."""
        if places not in self._outside:
            rest = self.update.tensors[places[0].name][0].double().clone()
            for place in places:
                rest[place.index] = 0
            self._outside[places] = rest.square().sum()
        return self._outside[places]

    @cached_property
    def squared(self) -> Tensor:
        """``||t||²`` per tensor, ``(tensors,)`` float64."""
        return self.update.map(torch.Tensor.double).squared_norms()[0]
