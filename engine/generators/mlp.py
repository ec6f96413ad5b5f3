"""A class-conditional perceptron generator for small images."""

import torch
from torch import Tensor, nn

from engine.generators.base import GENERATORS
from engine.generators.class_gaussian import ClassGaussian


@GENERATORS.register("mlp")
class MlpGenerator(nn.Module):
    """Three linear layers on a latent and a one-hot class.

    Args:
        latent_dim: Number of latent coordinates ``d``.
        classes: Number of classes ``K``.
        image_shape: ``(ch, H, W)``.
        width: Units of the two hidden layers.
    """

    def __init__(
        self, *, latent_dim: int, classes: int, image_shape: tuple[int, int, int], width: int
    ) -> None:
        super().__init__()
        self.latent_dim, self.classes = latent_dim, classes
        self.image_shape = (image_shape[0], image_shape[1], image_shape[2])
        pixels = image_shape[0] * image_shape[1] * image_shape[2]
        self.prior = ClassGaussian(classes, latent_dim)
        self.layers = nn.Sequential(
            nn.Linear(latent_dim + classes, width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Linear(width, pixels),
            nn.Sigmoid(),
            nn.Unflatten(1, self.image_shape),
        )

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Returns images ``(C, ch, H, W)`` for latents ``(C, d)`` and labels ``(C,)``."""
        return self.decode(self.prior(latents, labels), labels)

    def decode(self, codes: Tensor, labels: Tensor) -> Tensor:
        """Returns images ``(C, ch, H, W)`` for codes ``(C, d)`` and labels ``(C,)``."""
        classes = nn.functional.one_hot(labels, self.classes).to(codes)
        images: Tensor = self.layers(torch.cat([codes, classes], dim=1))
        return images
