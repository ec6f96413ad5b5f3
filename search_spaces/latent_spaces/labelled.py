"""Latent spaces with coordinates beside them that say which classes the images are of."""

from dataclasses import dataclass

import torch
from torch import Tensor

from search_spaces.latent import LatentSpace, View, standard_normal


@dataclass(frozen=True)
class LabelledSpace:
    """Points of another space, and last the coordinate that chooses among some hypotheses.

    The hypotheses have equal parts of the coordinate, of its probability in the normal view. In a
    latent its number is the place of the hypothesis, counted from 0.

    Attributes:
        latents: The space of the other coordinates.
        choices: Number of hypotheses.
    """

    latents: LatentSpace
    choices: int

    @property
    def views(self) -> tuple[View, ...]:
        """Those of the other space."""
        return self.latents.views

    @property
    def dim(self) -> int:
        """Number of coordinates, the discrete one included."""
        return self.latents.dim + 1

    def to_latents(self, points: Tensor, view: View) -> Tensor:
        """Maps points ``(C, dim)`` of ``view`` to latents ``(C, B * latent_dim + 1)``."""
        latents = self.latents.to_latents(points[:, :-1], view)
        last = points[:, -1:]
        share = torch.special.ndtr(last) if view == "normal" else last
        place = (share.detach() * self.choices).floor().clamp(0, self.choices - 1)
        return torch.cat([latents, place.to(latents)], 1)

    def coordinate(self, choice: int, view: View) -> float:
        """Returns the middle of a hypothesis' part of the coordinate."""
        middle = torch.tensor((choice + 0.5) / self.choices, dtype=torch.float64)
        return float(torch.special.ndtri(middle) if view == "normal" else middle)


@dataclass(frozen=True)
class JointLabelSpace:
    """Points of another space, and behind them a number for each class of each image.

    Their softmax is an image's label, as `DLG <https://arxiv.org/abs/1906.08935>`_ searches it.

    Attributes:
        latents: The space of the other coordinates.
        numbers: How many there are, ``B * K``.
    """

    latents: LatentSpace
    numbers: int

    @property
    def views(self) -> tuple[View, ...]:
        """Those of the other space."""
        return self.latents.views

    @property
    def dim(self) -> int:
        """Number of coordinates, those of the labels included."""
        return self.latents.dim + self.numbers

    def to_latents(self, points: Tensor, view: View) -> Tensor:
        """Maps points ``(C, dim)`` of ``view`` to latents ``(C, B * latent_dim + B * K)``."""
        own, logits = points.split([self.latents.dim, self.numbers], dim=1)
        if view == "unit":
            logits = standard_normal(logits, view)
        return torch.cat([self.latents.to_latents(own, view), logits], 1)
