"""A class-conditional generator of transposed convolutions."""

from itertools import pairwise

from torch import nn

from engine.generators.base import GENERATORS
from engine.generators.grids import doublings, halved
from engine.generators.layered import LayeredGenerator


@GENERATORS.register("deconvolutional")
class DeconvolutionalGenerator(LayeredGenerator):
    """One linear layer and transposed convolutions that each double the resolution, as in DCGAN.

    After `Radford et al. (2016) <https://arxiv.org/abs/1511.06434>`_, with the class given as a
    one-hot vector beside the latent. There are two doublings, and more for larger images: three
    for 32 x 32, five for 128 x 128, so that the smallest grid has some 4 x 4 places.

    Args:
        latent_dim: Number of latent coordinates ``d``.
        classes: Number of classes ``K``.
        image_shape: ``(ch, H, W)``; ``H`` and ``W`` divisible by 4.
        width: Channels of the smallest grid; halved at each doubling.
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
        channels, height, image_width = image_shape
        times = doublings(image_shape, at_least=2)
        grid = (width, height // 2**times, image_width // 2**times)
        inputs = latent_dim + (classes if conditional else 0)
        widths = halved(width, times)
        layers = nn.Sequential(
            nn.Linear(inputs, grid[0] * grid[1] * grid[2]),
            nn.Unflatten(1, grid),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        for before, after in pairwise(widths):
            layers.extend(
                [
                    nn.ConvTranspose2d(before, after, 4, stride=2, padding=1),
                    nn.BatchNorm2d(after),
                    nn.ReLU(),
                ]
            )
        layers.extend([nn.Conv2d(widths[-1], channels, 3, padding=1), nn.Sigmoid()])
        super().__init__(
            latent_dim=latent_dim,
            classes=classes,
            image_shape=image_shape,
            layers=layers,
            conditional=conditional,
        )
