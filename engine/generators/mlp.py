"""A class-conditional perceptron generator for small images."""

import math

from torch import nn

from engine.generators.base import GENERATORS
from engine.generators.layered import LayeredGenerator


@GENERATORS.register("mlp")
class MlpGenerator(LayeredGenerator):
    """Three linear layers on a latent and a one-hot class.

    Args:
        latent_dim: Number of latent coordinates ``d``.
        classes: Number of classes ``K``.
        image_shape: ``(ch, H, W)``.
        width: Units of the two hidden layers.
        conditional: Whether images depend on the class.
    """

    def __init__(
        self,
        *,
        latent_dim: int,
        classes: int,
        image_shape: tuple[int, int, int],
        width: int,
        conditional: bool = True,
    ) -> None:
        layers = nn.Sequential(
            nn.Linear(latent_dim + (classes if conditional else 0), width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Linear(width, math.prod(image_shape)),
            nn.Sigmoid(),
            nn.Unflatten(1, image_shape),
        )
        super().__init__(
            latent_dim=latent_dim,
            classes=classes,
            image_shape=image_shape,
            layers=layers,
            conditional=conditional,
        )
