"""What a latent space is: how the points a searcher proposes become the latents a generator takes.

Searchers work in one of two *views*: ``normal``, the generator's prior as N(0, I), which suits
evolution strategies, or ``unit``, the unit cube, which suits samplers of bounded parameters. The
spaces, in :mod:`search_spaces.latent_spaces`, are the only places that know how a point of either
view becomes a latent.
"""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Final, Literal, Protocol

import torch
from torch import Tensor

View = Literal["normal", "unit"]

# Largest absolute value of a coordinate, in prior standard deviations, where no setting says so.
BOUND: Final = 5.0


class LatentSpace(Protocol):
    """Maps points of a view to latents.

    Guarantees, checked for every space by ``tests/search_spaces/test_contract.py``:
        - pure: equal points give equal latents, alone or among others up to float rounding;
        - points of the unit cube, its faces and corners included, give finite latents;
        - the images of a client keep to themselves: the coordinates of one do not move another's.

    Attributes:
        views: The views it has.
    """

    @property
    def views(self) -> tuple[View, ...]: ...

    @property
    def dim(self) -> int:
        """Number of coordinates searched, those of all images of a client together."""

    def to_latents(self, points: Tensor, view: View) -> Tensor:
        """Maps points ``(C, dim)`` of ``view`` to latents ``(C, B * latent_dim)``."""


@dataclass(frozen=True)
class Source:
    """The generator, as far as a space may ask it: images of its prior, nothing private.

    What is asked to find directions is no candidate evaluation: no client is simulated on it.

    Attributes:
        generate: Latents ``(N, d)`` and labels ``(N,)`` to images ``(N, ch, H, W)``. Hashable: what
            was found about it is kept in the process under it.
        labels: The class of each image of a client, ``B`` of them.
        device: Where ``generate`` works.
    """

    generate: Callable[[Tensor, Tensor], Tensor]
    labels: tuple[int, ...] = (0,)
    device: torch.device | str = "cpu"


@dataclass(frozen=True)
class PerImageSpace:
    """A latent space that treats the latent of each image of a client by itself.

    Attributes:
        latent_dim: Number of latent coordinates ``d`` of an image.
        images: Images ``B`` of a client.
        source: The generator, for spaces that ask it.
        seed: Seeds what a space draws.
    """

    views: ClassVar[tuple[View, ...]] = ("normal", "unit")

    latent_dim: int
    _: KW_ONLY
    images: int = 1
    source: Source | None = None
    seed: int = 0

    @property
    def searched(self) -> int:
        """Number of coordinates searched for an image."""
        return self.latent_dim

    @property
    def dim(self) -> int:
        """Number of coordinates searched, those of all images together."""
        return self.images * self.searched

    def to_latents(self, points: Tensor, view: View) -> Tensor:
        """Maps points ``(C, dim)`` of ``view`` to latents ``(C, B * latent_dim)``."""
        if view not in self.views:
            raise ValueError(f"Expected the view {' or '.join(self.views)}, got {view!r}.")
        if points.ndim != 2 or points.shape[1] != self.dim:
            raise ValueError(f"Expected points (C, {self.dim}), got {tuple(points.shape)}.")
        by_image = points.unflatten(1, (self.images, self.searched))
        return self.latents_of(by_image, view).flatten(1)

    def latents_of(self, points: Tensor, view: View) -> Tensor:
        """Maps points ``(C, B, searched)`` of ``view`` to latents ``(C, B, latent_dim)``."""
        raise NotImplementedError


def standard_normal(points: Tensor, view: View, bound: float = BOUND) -> Tensor:
    """Returns points of either view as coordinates of N(0, 1), none beyond ``bound``.

    In the unit view a uniform draw is a draw from the prior truncated at ``bound``: equal volumes
    of the cube are equally plausible images.
    """
    if view == "normal":
        return points.clamp(-bound, bound)
    low = torch.special.ndtr(torch.tensor(-bound, dtype=torch.float64)).item()
    return torch.special.ndtri(low + (1 - 2 * low) * points).clamp(-bound, bound)


def source_of(space: PerImageSpace) -> Source:
    """Returns the generator of a space that cannot do without; raises ValueError if it has none."""
    if space.source is None:
        raise ValueError(
            f"Expected the generator for a {type(space).__name__}, got none. Give its source."
        )
    if len(space.source.labels) != space.images:
        raise ValueError(
            f"Expected a label for each of {space.images} images, got {space.source.labels}."
        )
    return space.source


def check_positive(**settings: object) -> None:
    """Raises ValueError unless every setting is a finite number above zero."""
    for name, value in settings.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 < float(value) < float("inf"):  # type: ignore[arg-type]
            raise ValueError(f"Expected {name} > 0, got {name}={value!r}.")
