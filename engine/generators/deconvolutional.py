"""A class-conditional generator of transposed convolutions."""

from torch import nn

from engine.generators.base import GENERATORS
from engine.generators.grids import growing_layers
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
        layers = growing_layers(
            image_shape,
            inputs=latent_dim + (classes if conditional else 0),
            width=width,
            at_least=2,
            double=lambda before, after: [
                nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)
            ],
        )
        super().__init__(
            latent_dim=latent_dim,
            classes=classes,
            image_shape=image_shape,
            layers=layers,
            conditional=conditional,
        )
