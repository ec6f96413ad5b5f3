"""The pixels themselves: the space of attacks that have no generator."""

from dataclasses import dataclass
from math import prod
from typing import ClassVar

from torch import Tensor

from search_spaces.latent import PerImageSpace, View, source_of


@dataclass(frozen=True)
class Pixels:
    """Images that are their own latents, in place of a generator's.

    A latent has a coordinate for every pixel and colour, in [-1, 1] from black to white. Beyond
    that an image is no image any more, but still something that a target model maps to logits.

    Attributes:
        image_shape: ``(ch, H, W)``.
    """

    image_shape: tuple[int, int, int]

    @property
    def latent_dim(self) -> int:
        """Number of coordinates of an image, ``ch * H * W``."""
        return prod(self.image_shape)

    def __call__(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Returns images ``(N, ch, H, W)`` of latents ``(N, ch * H * W)``, whatever the labels."""
        del labels
        return (latents / 2 + 0.5).unflatten(1, self.image_shape)


@dataclass(frozen=True)
class PixelLatentSpace(PerImageSpace):
    """The pixels themselves, unbounded, without a generator: DLG's and its followers' space."""

    views: ClassVar[tuple[View, ...]] = ("normal",)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(ch, H, W)`` of an image."""
        return _pixels(source_of(self).generate).image_shape

    def latents_of(self, points: Tensor, view: View) -> Tensor:
        del view  # There is but one.
        return points


def _pixels(generate: object) -> Pixels:
    if not isinstance(generate, Pixels):
        raise ValueError(
            f"Expected pixels for the space 'pixels', got a {type(generate).__name__}. "
            "Use another space."
        )
    return generate
