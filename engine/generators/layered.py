"""What generators of one stack of layers share: prior, class, and the places to split them."""

import torch
from torch import Tensor, nn

from engine.generators.class_gaussian import ClassGaussian


class LayeredGenerator(nn.Module):
    """Layers on the code of a latent beside its class as a one-hot vector.

    It can be split after each of its ReLUs: what comes out of one are the features of a stage.

    Args:
        latent_dim: Number of latent coordinates ``d``.
        classes: Number of classes ``K``.
        image_shape: ``(ch, H, W)``.
        layers: Codes and classes ``(C, d + K)`` to images ``(C, ch, H, W)``.
    """

    def __init__(
        self,
        *,
        latent_dim: int,
        classes: int,
        image_shape: tuple[int, int, int],
        layers: nn.Sequential,
    ) -> None:
        super().__init__()
        self.latent_dim, self.classes, self.image_shape = latent_dim, classes, image_shape
        self.prior = ClassGaussian(classes, latent_dim)
        self.layers = layers
        self._cuts = [
            place for place, layer in enumerate(layers, start=1) if isinstance(layer, nn.ReLU)
        ]

    @property
    def stages(self) -> int:
        """Number of places where it can be split."""
        return len(self._cuts)

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Returns images ``(C, ch, H, W)`` for latents ``(C, d)`` and labels ``(C,)``."""
        return self.decode(self.prior(latents, labels), labels)

    def decode(self, codes: Tensor, labels: Tensor) -> Tensor:
        """Returns images ``(C, ch, H, W)`` for codes ``(C, d)`` and labels ``(C,)``."""
        images: Tensor = self.layers(self._inputs(codes, labels))
        return images

    def to_features(self, latents: Tensor, labels: Tensor, stage: int) -> Tensor:
        """Returns the features of a stage, counted from 1, ``(C, ...)``, for latents ``(C, d)``."""
        codes = self.prior(latents, labels)
        features: Tensor = self.layers[: self._cuts[stage - 1]](self._inputs(codes, labels))
        return features

    def from_features(self, features: Tensor, labels: Tensor, stage: int) -> Tensor:
        """Returns images ``(C, ch, H, W)`` for features ``(C, ...)`` of a stage."""
        del labels  # The first layer has seen them.
        images: Tensor = self.layers[self._cuts[stage - 1] :](features)
        return images

    def _inputs(self, codes: Tensor, labels: Tensor) -> Tensor:
        classes = nn.functional.one_hot(labels, self.classes).to(codes)
        return torch.cat([codes, classes], dim=1)
