"""A class-conditional generator of convolutions on enlarged grids."""

from torch import nn

from engine.generators.base import GENERATORS
from engine.generators.grids import growing_layers
from engine.generators.layered import LayeredGenerator


@GENERATORS.register("upsampling")
class UpsamplingGenerator(LayeredGenerator):
    """One linear layer, then convolutions that each see the grid doubled by repetition.

    Enlarging before a convolution leaves no checkerboard, as transposed ones do (`Odena et al. 2016
    <https://doi.org/10.23915/distill.00003>`_). Serves images up to 128 x 128 and larger: the grid
    is doubled as often as it takes from some 4 x 4.

    Args:
        latent_dim: Number of latent coordinates ``d``.
        classes: Number of classes ``K``.
        image_shape: ``(ch, H, W)``; ``H`` and ``W`` divisible by 2.
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
            at_least=1,
            double=lambda before, after: [
                nn.Upsample(scale_factor=2),
                nn.Conv2d(before, after, 3, padding=1),
            ],
        )
        super().__init__(
            latent_dim=latent_dim,
            classes=classes,
            image_shape=image_shape,
            layers=layers,
            conditional=conditional,
        )
