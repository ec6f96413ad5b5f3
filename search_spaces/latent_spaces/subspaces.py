"""Spaces of fewer coordinates than the latent has: directions searched, the rest left at zero."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from search_spaces.latent import PerImageSpace, View, source_of, standard_normal
from search_spaces.latent_spaces.sensitivity import sensitive_directions


@dataclass(frozen=True, kw_only=True)
class Subspace(PerImageSpace):
    """Latents in the span of some orthonormal directions, through the prior's mean.

    The coordinates along them are standard normal, as the latent's own are under the prior.

    Attributes:
        directions: Number of directions ``k`` for an image, at most ``latent_dim``.
    """

    directions: int

    def __post_init__(self) -> None:
        whole = isinstance(self.directions, int) and not isinstance(self.directions, bool)
        if not whole or not 1 <= self.directions <= self.latent_dim:
            raise ValueError(
                f"Expected directions between 1 and {self.latent_dim}, the latent coordinates of "
                f"an image, got directions={self.directions!r}."
            )

    @property
    def searched(self) -> int:
        """Number of coordinates searched for an image."""
        return self.directions

    @cached_property
    def basis(self) -> Tensor:
        """The directions of each image in columns, ``(B, latent_dim, k)`` float64, orthonormal."""
        raise NotImplementedError

    def latents_of(self, points: Tensor, view: View) -> Tensor:
        normal = standard_normal(points, view)
        return torch.einsum("cbk,bdk->cbd", normal, self.basis.to(points))


@dataclass(frozen=True, kw_only=True)
class PrincipalLatentSpace(Subspace):
    """The directions in which the generator's images of a class change most.

    Each image has those of its class, see :func:`sensitive_directions`. They depend on the
    generator alone, not on the seed, and are found when first used.

    Attributes:
        directions: Number of directions ``k`` for an image, at most ``latent_dim``.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        source_of(self)

    @cached_property
    def basis(self) -> Tensor:
        """The directions of each image in columns, most sensitive first, ``(B, latent_dim, k)``."""
        source = source_of(self)
        found = [
            sensitive_directions(
                source.generate, label, self.latent_dim, torch.device(source.device)
            )
            for label in source.labels
        ]
        return torch.stack([one.directions[:, : self.directions] for one in found])


@dataclass(frozen=True, kw_only=True)
class RandomEmbeddingLatentSpace(Subspace):
    """Random directions, others for each image and seed.

    A random embedding after `Wang et al. (2016) <https://arxiv.org/abs/1301.1942>`_ (REMBO), with
    orthonormal directions, so that coordinates are neither squeezed nor stretched.

    Attributes:
        directions: Number of directions ``k`` for an image, at most ``latent_dim``.
    """

    @cached_property
    def basis(self) -> Tensor:
        """The directions of each image in columns, ``(B, latent_dim, k)``, uniformly drawn."""
        rng = torch.Generator().manual_seed(self.seed)
        shape = (self.images, self.latent_dim, self.directions)
        drawn = torch.randn(shape, generator=rng, dtype=torch.float64)
        orthonormal, triangle = torch.linalg.qr(drawn)
        # Only with positive diagonals are the directions uniform, and the same everywhere.
        return orthonormal * triangle.diagonal(dim1=1, dim2=2).sign()[:, None]
