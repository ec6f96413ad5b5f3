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
        layers: Codes and classes ``(C, d + K)`` to images ``(C, ch, H, W)``; codes alone, ``(C,
            d)``, of a generator that is not conditional.
        conditional: Whether images depend on the class. If not, labels are taken and ignored.
    """

    def __init__(
        self,
        *,
        latent_dim: int,
        classes: int,
        image_shape: tuple[int, int, int],
        layers: nn.Sequential,
        conditional: bool = True,
    ) -> None:
        super().__init__()
        self.latent_dim, self.classes, self.image_shape = latent_dim, classes, image_shape
        self.conditional = conditional
        self.prior = ClassGaussian(classes if conditional else 1, latent_dim)
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
        return self.decode(self.draw(latents, labels), labels)

    def draw(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Returns codes ``(C, d)`` of the prior for latents ``(C, d)`` and labels ``(C,)``."""
        codes: Tensor = self.prior(latents, self.groups(labels))
        return codes

    def groups(self, labels: Tensor) -> Tensor:
        """Returns which Gaussian of the prior is each label's, ``(C,)``."""
        return labels if self.conditional else torch.zeros_like(labels)

    def decode(self, codes: Tensor, labels: Tensor) -> Tensor:
        """Returns images ``(C, ch, H, W)`` for codes ``(C, d)`` and labels ``(C,)``."""
        images: Tensor = self.layers(self._inputs(codes, labels))
        return images

    def to_features(self, latents: Tensor, labels: Tensor, stage: int) -> Tensor:
        """Returns the features of a stage, counted from 1, ``(C, ...)``, for latents ``(C, d)``."""
        codes = self.draw(latents, labels)
        features: Tensor = self.layers[: self._cuts[stage - 1]](self._inputs(codes, labels))
        return features

    def from_features(self, features: Tensor, labels: Tensor, stage: int) -> Tensor:
        """Returns images ``(C, ch, H, W)`` for features ``(C, ...)`` of a stage."""
        del labels  # The first layer has seen them.
        images: Tensor = self.layers[self._cuts[stage - 1] :](features)
        return images

    def _inputs(self, codes: Tensor, labels: Tensor) -> Tensor:
        if not self.conditional:
            return codes
        classes = nn.functional.one_hot(labels, self.classes).to(codes)
        return torch.cat([codes, classes], dim=1)
