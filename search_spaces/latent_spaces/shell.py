"""The shell in which nearly all of the prior lies."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from search_spaces.latent import PerImageSpace, View, standard_normal

TINY = 1e-12


@dataclass(frozen=True)
class ShellLatentSpace(PerImageSpace):
    """The sphere of radius sqrt(d), near which draws of the prior lie in many dimensions.

    Points are scaled to it, in the unit view after the inverse normal distribution function: draws
    of either view are uniform on the sphere. A point at the origin, which has no direction, goes to
    the diagonal, since searchers like to start there.
    """

    def latents_of(self, points: Tensor, view: View) -> Tensor:
        normal = points if view == "normal" else standard_normal(points, view)
        largest = normal.abs().amax(dim=-1, keepdim=True)
        # By its largest coordinate first: squares of far points overflow.
        direction = torch.where(largest > TINY, normal / largest.clamp(min=TINY), 1.0)
        length = torch.linalg.vector_norm(direction, dim=-1, keepdim=True)
        return direction * (math.sqrt(self.latent_dim) / length)
