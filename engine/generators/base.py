"""The generator protocol and the registry of architectures."""

from typing import Any, Protocol

from torch import Tensor

from engine.registry import Registry


class Generator(Protocol):
    """Maps latents drawn from N(0, I) to images of a class.

    Guarantees, checked for every architecture by ``tests/contracts/generator.py``:
        - pure: equal latents give equal images, alone or in a batch up to float rounding;
        - images lie in [0, 1].

    Attributes:
        latent_dim: Number of latent coordinates ``d``.
        classes: Number of classes ``K``.
        image_shape: ``(ch, H, W)``.
    """

    latent_dim: int
    classes: int
    image_shape: tuple[int, int, int]

    def __call__(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Returns images ``(C, ch, H, W)`` for latents ``(C, d)`` and labels ``(C,)``."""


GENERATORS: Registry[Any] = Registry("generator architecture")
