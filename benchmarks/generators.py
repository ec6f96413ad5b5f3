"""Generators of published sizes with random weights: their cost is real, their images are not.

Still their images vary as a trained generator's do, which the cost of comparing them depends on.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

# Latents that normalisations and contrast are settled on.
SAMPLES = 64


class DcganSized(nn.Module):
    """Images up to 32 x 32 through three transposed convolutions; latent 128, no class.

    The size of the generator that GGL trains by WGAN-GP for CelebA
    (`Li et al. (2022) <https://arxiv.org/abs/2203.15696>`_).

    Args:
        image_shape: ``(ch, H, W)``, at most 32 high and wide.
    """

    latent_dim, classes = 128, 0

    def __init__(self, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.project = nn.Linear(self.latent_dim, 512 * 4 * 4)
        blocks: list[nn.Module] = []
        for channels in (512, 256):
            blocks += [
                nn.ConvTranspose2d(channels, channels // 2, 4, stride=2, padding=1),
                nn.BatchNorm2d(channels // 2),
                nn.ReLU(),
            ]
        self.blocks = nn.Sequential(*blocks)
        self.image = nn.ConvTranspose2d(128, image_shape[0], 4, stride=2, padding=1)

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Returns images ``(C, ch, H, W)`` in [0, 1] for latents ``(C, d)``."""
        del labels
        maps = functional.relu(self.project(latents)).unflatten(1, (512, 4, 4))
        images: Tensor = self.image(self.blocks(maps)).sigmoid()
        return images[..., : self.image_shape[1], : self.image_shape[2]]


class BigganSized(nn.Module):
    """Images of 256 x 256 for 1000 classes, shrunk by area; up to 2048 channels.

    The size of the class-conditional BigGAN for 256 x 256 images
    (`Brock et al. (2019) <https://arxiv.org/abs/1809.11096>`_), with which GGL attacks ImageNet.

    Args:
        image_shape: ``(3, H, W)``, what the images are shrunk to.
    """

    latent_dim, classes = 128, 1000
    widths = (16, 16, 8, 8, 4, 2, 1)

    def __init__(self, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.embed = nn.Embedding(self.classes, 128)
        self.project = nn.Linear(self.latent_dim + 128, 128 * self.widths[0] * 16)
        channels = [128 * width for width in self.widths]
        self.blocks = nn.ModuleList(
            _UpBlock(before, after, 256) for before, after in pairwise(channels)
        )
        self.attention = _SelfAttention(channels[4])
        self.norm = nn.BatchNorm2d(channels[-1])
        self.image = nn.Conv2d(channels[-1], 3, 3, padding=1)

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Returns images ``(C, 3, H, W)`` in [0, 1] for latents ``(C, d)`` and labels ``(C,)``."""
        condition = torch.cat([latents, self.embed(labels)], 1)
        maps = self.project(condition).unflatten(1, (-1, 4, 4))
        for place, block in enumerate(self.blocks):
            maps = block(maps, condition)
            if place == 3:  # At 64 x 64.
                maps = self.attention(maps)
        images = self.image(functional.relu(self.norm(maps))).tanh() / 2 + 0.5
        return functional.interpolate(images, size=self.image_shape[1:], mode="area")


class _UpBlock(nn.Module):
    """Doubles the resolution; its normalisations are scaled and shifted by the condition."""

    def __init__(self, before: int, after: int, condition: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm2d(n, affine=False) for n in (before, after)])
        self.scales = nn.ModuleList([nn.Linear(condition, 2 * n) for n in (before, after)])
        self.convolutions = nn.ModuleList(
            [nn.Conv2d(before, after, 3, padding=1), nn.Conv2d(after, after, 3, padding=1)]
        )
        self.shortcut = nn.Conv2d(before, after, 1)

    def forward(self, maps: Tensor, condition: Tensor) -> Tensor:
        residual = functional.interpolate(self._normalise(0, maps, condition), scale_factor=2)
        residual = self.convolutions[0](residual)
        residual = self.convolutions[1](self._normalise(1, residual, condition))
        return residual + self.shortcut(functional.interpolate(maps, scale_factor=2))

    def _normalise(self, place: int, maps: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.scales[place](condition)[:, :, None, None].chunk(2, 1)
        return functional.relu(self.norms[place](maps) * (1 + scale) + shift)


class _SelfAttention(nn.Module):
    """Attention of every place to all places of a map half as high and wide."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query, self.key = (nn.Conv2d(channels, channels // 8, 1, bias=False) for _ in "qk")
        self.value = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.out = nn.Conv2d(channels // 2, channels, 1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        query = self.query(maps).flatten(2).mT
        key, value = (
            functional.max_pool2d(part(maps), 2).flatten(2).mT for part in (self.key, self.value)
        )
        seen = functional.scaled_dot_product_attention(query, key, value)
        return maps + self.out(seen.mT.unflatten(2, maps.shape[2:]))


def settled(
    make: Callable[[tuple[int, int, int]], nn.Module], image_shape: tuple[int, int, int]
) -> nn.Module:
    """Returns a generator whose normalisations know their inputs and whose images have contrast."""
    generator = make(image_shape)
    for layer in generator.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # The plain average.
    last = generator.image
    assert isinstance(last, nn.Conv2d | nn.ConvTranspose2d)
    spread: list[Tensor] = []
    handle = last.register_forward_hook(lambda _, __, out: spread.append(out.std(0).mean()))
    with torch.no_grad():
        generator.train()(torch.randn(SAMPLES, 128), torch.zeros(SAMPLES, dtype=torch.long))
        last.weight.mul_(1.5 / spread[0])
    handle.remove()
    return generator.eval()
