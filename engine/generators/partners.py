"""What a generator is trained with and leaves behind: encoders of images, and critics."""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from engine.generators.grids import SMALLEST_GRID

FINEST_CHANNELS, MOST_CHANNELS = 64, 256


class Encoder(nn.Module):
    """Images and labels to the mean and log-variance of their codes, by linear layers."""

    def __init__(self, image_shape: tuple[int, int, int], classes: int, latent_dim: int) -> None:
        super().__init__()
        self.classes = classes
        self.layers = nn.Sequential(
            nn.Linear(math.prod(image_shape) + classes, 512),
            nn.BatchNorm1d(512),
            nn.ReLU(),
            nn.Linear(512, 512),
            nn.BatchNorm1d(512),
            nn.ReLU(),
            nn.Linear(512, 2 * latent_dim),
        )

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns means and log-variances ``(N, d)`` of images ``(N, ch, H, W)``."""
        classes = nn.functional.one_hot(labels, self.classes).to(images)
        mean, log_variance = self.layers(torch.cat([images.flatten(1), classes], 1)).chunk(2, 1)
        return mean, log_variance


class ConvolutionalEncoder(nn.Module):
    """The same by convolutions that halve the resolution down to some 4 x 4 places."""

    def __init__(self, image_shape: tuple[int, int, int], classes: int, latent_dim: int) -> None:
        super().__init__()
        self.classes = classes
        widths = [image_shape[0], *_widths(image_shape)]
        self.layers = nn.Sequential()
        for before, after in pairwise(widths):
            self.layers.extend(
                [
                    nn.Conv2d(before, after, 4, stride=2, padding=1),
                    nn.BatchNorm2d(after),
                    nn.ReLU(),
                ]
            )
        self.moments = nn.Linear(_places(image_shape) * widths[-1] + classes, 2 * latent_dim)

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns means and log-variances ``(N, d)`` of images ``(N, ch, H, W)``."""
        classes = nn.functional.one_hot(labels, self.classes).to(images)
        features = torch.cat([self.layers(images).flatten(1), classes], 1)
        mean, log_variance = self.moments(features).chunk(2, 1)
        return mean, log_variance


class Critic(nn.Module):
    """Images and labels to a score, higher for real: a projection discriminator.

    After `Miyato and Koyama (2018) <https://arxiv.org/abs/1802.05637>`_.
    """

    def __init__(self, image_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        grid = 32 * math.ceil(height / 4) * math.ceil(width / 4)
        self.layers = nn.Sequential(
            spectral_norm(nn.Conv2d(channels, 16, 5, stride=2, padding=2)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(16, 32, 5, stride=2, padding=2)),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            spectral_norm(nn.Linear(grid, 128)),
            nn.LeakyReLU(0.2),
        )
        self.score = spectral_norm(nn.Linear(128, 1))
        self.classes = spectral_norm(nn.Embedding(classes, 128))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Returns scores ``(N,)`` of images ``(N, ch, H, W)``."""
        features = self.layers(images)
        return self.score(features)[:, 0] + (features * self.classes(labels)).sum(1)


class ConvolutionalCritic(nn.Module):
    """A projection discriminator of as many halvings as the image's size takes.

    Args:
        image_shape: ``(ch, H, W)``.
        classes: Number of classes ``K``; 1 scores images without regard to their class.
        norm: Put around every layer: spectral normalisation, or nothing where the gradient is
            penalised instead.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        classes: int,
        norm: Callable[[nn.Module], nn.Module] = spectral_norm,
    ) -> None:
        super().__init__()
        widths = [image_shape[0], *_widths(image_shape)]
        self.layers = nn.Sequential()
        for before, after in pairwise(widths):
            layer = nn.Conv2d(before, after, 4, stride=2, padding=1)
            self.layers.extend([norm(layer), nn.LeakyReLU(0.2)])
        features = _places(image_shape) * widths[-1]
        self.score = norm(nn.Linear(features, 1))
        self.classes = norm(nn.Embedding(classes, features)) if classes > 1 else None

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Returns scores ``(N,)`` of images ``(N, ch, H, W)``."""
        features = self.layers(images).flatten(1)
        scores: Tensor = self.score(features)[:, 0]
        if self.classes is not None:
            scores = scores + (features * self.classes(labels)).sum(1)
        return scores


def _halvings(image_shape: tuple[int, int, int]) -> int:
    side, count = min(image_shape[1:]), 0
    while side // 2 >= SMALLEST_GRID:
        side, count = side // 2, count + 1
    return max(1, count)


def _widths(image_shape: tuple[int, int, int]) -> list[int]:
    """Returns the channels after each halving."""
    return [min(MOST_CHANNELS, FINEST_CHANNELS * 2**time) for time in range(_halvings(image_shape))]


def _places(image_shape: tuple[int, int, int]) -> int:
    """Returns the places of the smallest grid."""
    _, height, width = image_shape
    for _ in range(_halvings(image_shape)):
        height, width = height // 2, width // 2
    return height * width
