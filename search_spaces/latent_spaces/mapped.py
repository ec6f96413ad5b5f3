"""The W space of generators that map their latents before they make images of them."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from search_spaces.latent import PerImageSpace, View, source_of, standard_normal

# Prior draws the moments are estimated from: through the mapping network alone, no image is made.
DRAWS: Final = 10_000
CHUNK: Final = 1000
SEED: Final = 0


@runtime_checkable
class MappedGenerator(Protocol):
    """A generator in two parts, as StyleGAN is: a mapping network, and the synthesis of images.

    What was found about one is kept in the process under it, so it is hashable.

    Attributes:
        latent_dim: Number of latent coordinates ``d`` the mapping network takes.
    """

    latent_dim: int

    def mapping(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Maps latents ``(N, d)`` of N(0, I) and labels ``(N,)`` to mapped ones ``(N, w)``."""

    def synthesise(self, mapped: Tensor, labels: Tensor) -> Tensor:
        """Maps mapped latents ``(N, w)`` and labels ``(N,)`` to images ``(N, ch, H, W)``."""

    def __call__(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Returns the synthesis of the mapped latents."""

    def __hash__(self) -> int:
        """Returns a hash of what it is, not of its weights."""


@dataclass(frozen=True)
class Synthesis:
    """The second part of a generator: images of mapped latents."""

    generator: MappedGenerator

    def __call__(self, mapped: Tensor, labels: Tensor) -> Tensor:
        return self.generator.synthesise(mapped, labels)


class Moments(NamedTuple):
    """Mean ``(w,)`` of mapped latents and the symmetric root of their covariance ``(w, w)``."""

    mean: Tensor
    root: Tensor


@dataclass(frozen=True)
class MappedLatentSpace(PerImageSpace):
    """StyleGAN's W: points are standard normal where mapped latents of the prior are whitened.

    A point ``x`` becomes ``mean + root x`` with the mean and the covariance's symmetric root of the
    mapped latents of the image's class. ``latent_dim`` counts the coordinates of a mapped latent.
    """

    def __post_init__(self) -> None:
        _mapped(source_of(self).generate)

    @cached_property
    def moments(self) -> Moments:
        """The moments of each image's class, ``(B, w)`` and ``(B, w, w)``."""
        source = source_of(self)
        generator, device = _mapped(source.generate), torch.device(source.device)
        found = [mapped_moments(generator, label, device) for label in source.labels]
        return Moments(*(torch.stack(parts) for parts in zip(*found, strict=True)))

    def latents_of(self, points: Tensor, view: View) -> Tensor:
        mean, root = (moment.to(points) for moment in self.moments)
        return mean + torch.einsum("cbk,bdk->cbd", standard_normal(points, view), root)


def mapped_dim(generate: object, device: torch.device) -> int:
    """Returns how many coordinates mapped latents have; ValueError for another generator."""
    generator = _mapped(generate)
    latents = torch.zeros(1, generator.latent_dim, device=device)
    with torch.no_grad():
        mapped = generator.mapping(latents, torch.zeros(1, dtype=torch.long, device=device))
    if mapped.ndim != 2:
        raise ValueError(
            f"Expected a mapping network to (N, w), got (N, {', '.join(map(str, mapped.shape[1:]))}"
            "). Give one latent for all layers."
        )
    return mapped.shape[1]


@lru_cache(maxsize=128)
@torch.no_grad()
def mapped_moments(generator: MappedGenerator, label: int, device: torch.device) -> Moments:
    """Returns the moments of the mapped latents of a class, from seeded prior draws, float64."""
    rng = torch.Generator().manual_seed(SEED)
    parts = []
    for draws in torch.randn(DRAWS, generator.latent_dim, generator=rng).split(CHUNK):
        labels = torch.full((len(draws),), label, device=device)
        parts.append(generator.mapping(draws.to(device), labels).double().cpu())
    mapped = torch.cat(parts)
    values, vectors = torch.linalg.eigh(torch.cov(mapped.T).reshape(2 * mapped.shape[1:]))
    return Moments(mapped.mean(0), (vectors * values.clamp(min=0).sqrt()) @ vectors.T)


def _mapped(generate: object) -> MappedGenerator:
    if not isinstance(generate, MappedGenerator):
        raise ValueError(
            "Expected a generator with mapping and synthesise for the space 'w', got a "
            f"{type(generate).__name__}. Use another space."
        )
    return generate
