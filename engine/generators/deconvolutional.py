"""A class-conditional generator of transposed convolutions."""

from torch import nn

from engine.errors import PlanError
from engine.generators.base import GENERATORS
from engine.generators.layered import LayeredGenerator


@GENERATORS.register("deconvolutional")
class DeconvolutionalGenerator(LayeredGenerator):
    """One linear layer and two transposed convolutions that double the resolution, as in DCGAN.

    After `Radford et al. (2016) <https://arxiv.org/abs/1511.06434>`_, with the class given as a
    one-hot vector beside the latent.

    Args:
        latent_dim: Number of latent coordinates ``d``.
        classes: Number of classes ``K``.
        image_shape: ``(ch, H, W)``; ``H`` and ``W`` divisible by 4.
        width: Channels at a quarter of the resolution; halved at each doubling.
    """

    def __init__(
        self, *, latent_dim: int, classes: int, image_shape: tuple[int, int, int], width: int
    ) -> None:
        channels, height, image_width = image_shape
        if height % 4 or image_width % 4:
            raise PlanError(
                f"Expected an image height and width divisible by 4, got {height} x {image_width}. "
                "Use the architecture mlp."
            )
        grid = (width, height // 4, image_width // 4)
        layers = nn.Sequential(
            nn.Linear(latent_dim + classes, grid[0] * grid[1] * grid[2]),
            nn.Unflatten(1, grid),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.ConvTranspose2d(width, width // 2, 4, stride=2, padding=1),
            nn.BatchNorm2d(width // 2),
            nn.ReLU(),
            nn.ConvTranspose2d(width // 2, width // 4, 4, stride=2, padding=1),
            nn.BatchNorm2d(width // 4),
            nn.ReLU(),
            nn.Conv2d(width // 4, channels, 3, padding=1),
            nn.Sigmoid(),
        )
        super().__init__(
            latent_dim=latent_dim, classes=classes, image_shape=image_shape, layers=layers
        )
