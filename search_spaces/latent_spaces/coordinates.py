"""Spaces that take every coordinate by itself: the prior, a box, GGL's."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from search_spaces.latent import BOUND, PerImageSpace, View, check_positive, standard_normal


@dataclass(frozen=True)
class GaussianLatentSpace(PerImageSpace):
    """The prior N(0, I) itself, of a generator trained on it.

    Attributes:
        bound: Largest absolute value of a coordinate, in prior standard deviations.
    """

    bound: float = BOUND

    def __post_init__(self) -> None:
        check_positive(bound=self.bound)

    def latents_of(self, points: Tensor, view: View) -> Tensor:
        return standard_normal(points, view, self.bound)


@dataclass(frozen=True)
class BoxLatentSpace(PerImageSpace):
    """A box with every latent in it equally likely, as GGL's Bayesian optimisation searches it.

    The unit view is the box itself, stretched. The normal view goes through the normal distribution
    function, so that standard normal points are uniform in the box too, and no region of points is
    flat, as it is where points are clamped to a box.

    Attributes:
        half_width: Largest absolute value of a coordinate; GGL's is 2.
    """

    half_width: float = 2.0

    def __post_init__(self) -> None:
        check_positive(half_width=self.half_width)

    def latents_of(self, points: Tensor, view: View) -> Tensor:
        uniform = torch.special.ndtr(points) if view == "normal" else points
        return self.half_width * (2 * uniform - 1)


@dataclass(frozen=True)
class TanhLatentSpace(PerImageSpace):
    """Latents squashed into (-1, 1) by tanh, as GGL searches BigGAN's latents."""

    def latents_of(self, points: Tensor, view: View) -> Tensor:
        return points.tanh() if view == "normal" else 2 * points - 1


@dataclass(frozen=True)
class RawLatentSpace(PerImageSpace):
    """Latents taken as they are asked, unbounded, as GGL searches its CelebA generator."""

    views: ClassVar[tuple[View, ...]] = ("normal",)

    def latents_of(self, points: Tensor, view: View) -> Tensor:
        del view  # There is but one.
        return points
