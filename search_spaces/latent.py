"""The latent space a searcher explores.

Searchers work in one of two *views*: ``normal``, the generator's prior as N(0, I), which suits
evolution strategies, or ``unit``, the unit cube through the inverse normal distribution function,
which suits samplers of bounded parameters. This module is the only place that knows how a point of
either view becomes a latent.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

View = Literal["normal", "unit"]


class LatentSpace(Protocol):
    """Maps points of a view to the latents a generator takes."""

    @property
    def dim(self) -> int:
        """Number of latent coordinates."""

    def to_latents(self, points: Tensor, view: View) -> Tensor:
        """Maps points ``(C, dim)`` of ``view`` to latents ``(C, dim)``."""


@dataclass(frozen=True)
class GaussianLatentSpace:
    """Latents of a generator trained on ``z ~ N(0, I)``.

    In the unit view a uniform draw is a draw from the prior truncated at ``bound``: equal volumes
    of the cube are equally plausible images.

    Attributes:
        dim: Number of latent coordinates.
        bound: Largest absolute value of a coordinate, in prior standard deviations.
    """

    dim: int
    bound: float = 5.0

    def to_latents(self, points: Tensor, view: View) -> Tensor:
        """Maps points ``(C, dim)`` of ``view`` to latents ``(C, dim)``."""
        if view == "normal":
            return points.clamp(-self.bound, self.bound)
        low = torch.special.ndtr(torch.tensor(-self.bound, dtype=torch.float64)).item()
        return torch.special.ndtri(low + (1 - 2 * low) * points)


@dataclass(frozen=True)
class TanhLatentSpace:
    """Latents squashed into (-1, 1) by tanh, as GGL searches BigGAN's latents.

    Attributes:
        dim: Number of latent coordinates.
    """

    dim: int

    def to_latents(self, points: Tensor, view: View) -> Tensor:
        """Maps points ``(C, dim)`` of ``view`` to latents ``(C, dim)``."""
        if view == "normal":
            return points.tanh()
        return 2 * points - 1


@dataclass(frozen=True)
class RawLatentSpace:
    """Latents taken as they are asked, unbounded, as GGL searches its CelebA generator.

    Attributes:
        dim: Number of latent coordinates.
    """

    dim: int

    def to_latents(self, points: Tensor, view: View) -> Tensor:
        """Maps points ``(C, dim)`` of the normal view to latents ``(C, dim)``."""
        if view == "normal":
            return points
        raise ValueError("Expected a searcher of the normal view: a raw space has no bounds.")


SPACES: dict[str, type[GaussianLatentSpace] | type[TanhLatentSpace] | type[RawLatentSpace]] = {
    "gaussian": GaussianLatentSpace,
    "raw": RawLatentSpace,
    "tanh": TanhLatentSpace,
}


def make_space(name: str, dim: int) -> LatentSpace:
    """Returns the latent space called ``name`` with ``dim`` coordinates."""
    return SPACES[name](dim)
