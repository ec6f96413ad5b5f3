"""Distances between candidates' updates and the observed one; lower is closer.

Each has two forms: between updates, and from moments, for which no update of a candidate is needed.
Where the latter subtracts numbers far larger than itself it keeps too few digits, and says so.
"""

from typing import Final, Protocol

import torch
from torch import Tensor

from engine.attacks.matching.moments import Moments
from engine.federation.update import Update, entries

# Keeps the direction of an all-zero update at zero instead of undefined.
EPSILON = 1e-30


class Distance(Protocol):
    """Guarantees, checked for every distance: both forms agree; zero if and only if they match."""

    def __call__(self, candidates: Update, observed: Update) -> Tensor:
        """Returns the distances ``(C,)`` of ``C`` updates to one, in their precision."""

    def of_moments(self, moments: Moments) -> Tensor:
        """Returns the same, ``(C,)`` float64."""

    def subtracted(self, moments: Moments) -> Tensor | None:
        """Returns the size of the numbers whose difference :meth:`of_moments` is, ``(C,)``.

        None if it is precise.
        """

    def factors(self, squared: Tensor) -> Tensor:
        """Returns what to multiply updates with, to have squared Euclidean distances between them.

        Args:
            squared: The updates' squared norms, ``(C, tensors)``.

        Returns:
            Factors of their tensors, ``(C, tensors)``.
        """


class SquaredL2:
    """Squared L2 distance per parameter tensor, averaged over the tensors.

    ``D1`` of `Li et al. (2022) <https://arxiv.org/abs/2203.15696>`_ divided by the number of
    tensors, as their published code does; the paper's formula has no such divisor.
    """

    def __call__(self, candidates: Update, observed: Update) -> Tensor:
        parts = [
            entries(tensor - observed.tensors[name]).square().sum(1)
            for name, tensor in candidates.tensors.items()
        ]
        # Side by side: sums down a column depend on how many columns there are.
        return torch.stack(parts, 1).mean(1)

    def of_moments(self, moments: Moments) -> Tensor:
        return moments.gap.mean(1)

    def subtracted(self, moments: Moments) -> Tensor | None:
        return None if moments.subtracted is None else moments.subtracted.mean(1)

    def factors(self, squared: Tensor) -> Tensor:
        return torch.full_like(squared, squared.shape[1] ** -0.5)


class Cosine:
    """One minus the cosine between whole updates, in [0, 2].

    ``D2`` of `Li et al. (2022) <https://arxiv.org/abs/2203.15696>`_, over all entries at once as
    `Geiping et al. (2020) <https://arxiv.org/abs/2003.14053>`_ do. An all-zero update has
    distance 1 to everything.
    """

    def __call__(self, candidates: Update, observed: Update) -> Tensor:
        own, other = candidates.l2_norms(), observed.l2_norms()
        # Half the squared difference of directions, each by its own norm: a product of the norms
        # would underflow for the small updates of a well-trained model.
        parts = [
            (
                entries(tensor) / own.clamp(min=EPSILON)[:, None]
                - entries(observed.tensors[name]) / other.clamp(min=EPSILON)
            )
            .square()
            .sum(1)
            for name, tensor in candidates.tensors.items()
        ]
        nothing = (own <= EPSILON) | (other <= EPSILON)
        return torch.where(nothing, 1.0, torch.stack(parts, 1).sum(1) / 2)

    def of_moments(self, moments: Moments) -> Tensor:
        own, other, gap = self._parts(moments)
        nothing = (own <= EPSILON) | (other <= EPSILON)
        apart = gap - (own - other).square()
        return torch.where(nothing, 1.0, apart / (2 * own * other).clamp(min=EPSILON**2))

    def subtracted(self, moments: Moments) -> Tensor:
        own, other, gap = self._parts(moments)
        before = torch.zeros_like(gap) if moments.subtracted is None else moments.subtracted.sum(1)
        # Where lengths differ more than directions: their difference is the rest of the gap.
        sizes = torch.where((own - other).square() > gap / 2, gap, before)
        return sizes / (2 * own * other).clamp(min=EPSILON**2)

    def factors(self, squared: Tensor) -> Tensor:
        own = squared.sum(1, keepdim=True).clamp(min=EPSILON**2).sqrt()
        return (2**-0.5 / own).expand_as(squared)

    def _parts(self, moments: Moments) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the norms of candidates and of the observed update, and their squared gap."""
        own = moments.squared.sum(1).clamp(min=0).sqrt()
        return own, moments.target.sum().sqrt(), moments.gap.sum(1)


squared_l2, cosine = SquaredL2(), Cosine()

DISTANCES: Final[dict[str, Distance]] = {"cosine": cosine, "squared_l2": squared_l2}
