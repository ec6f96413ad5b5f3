"""How much of a private image a reconstruction shows.

All of them are batched over ``N`` pairs of images in [0, 1] with a peak of 1. The GGL paper
measures on [-1, 1] with a peak of 1: four times the MSE, and 6.02 dB less PSNR.
"""

import math
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn

from engine.federation.target_models import Head

# A perfect reconstruction has a PSNR of 100 dB instead of an infinite one, which no mean survives.
SMALLEST_MSE = 1e-10
SSIM_WINDOW, SSIM_STD = 11, 1.5
# What the paper's convention, images in [-1, 1] with a peak of 1, adds to a PSNR in dB.
PAPER_PSNR: Final = -20 * math.log10(2)

# Metric name to True where a higher value means more leakage.
HIGHER_LEAKS: Final[dict[str, bool]] = {
    "psnr": True,
    "ssim": True,
    "mse": False,
    "mse_r": False,
    "feature_distance": False,
    "lpips": False,
    "lpips_vgg": False,
    "label_accuracy": True,
}


def mse(images: Tensor, truths: Tensor) -> Tensor:
    """Mean squared error per image, ``(N,)``; lower leaks more."""
    return (images - truths).square().flatten(1).mean(1)


def psnr(images: Tensor, truths: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, peak 1, ``(N,)``; higher leaks more."""
    return -10 * mse(images, truths).clamp(min=SMALLEST_MSE).log10()


def paper_mse(value: float) -> float:
    """Returns a mean squared error as the paper has it, of images in [-1, 1]."""
    return 4 * value


def ssim(images: Tensor, truths: Tensor) -> Tensor:
    """Structural similarity, Gaussian window of 11 pixels and deviation 1.5, ``(N,)``.

    `Wang et al. (2004) <https://doi.org/10.1109/TIP.2003.819861>`_ with K1 = 0.01, K2 = 0.03 and a
    data range of 1, averaged over the windows inside the image; higher leaks more.
    """
    channels = images.shape[1]
    offsets = torch.arange(SSIM_WINDOW, dtype=images.dtype, device=images.device)
    weights = torch.exp(-((offsets - SSIM_WINDOW // 2) ** 2) / (2 * SSIM_STD**2))
    weights = weights / weights.sum()
    kernel = (weights[:, None] * weights[None, :]).expand(channels, 1, -1, -1)

    def blur(values: Tensor) -> Tensor:
        return nn.functional.conv2d(values, kernel, groups=channels)

    c1, c2 = 0.01**2, 0.03**2
    mean_x, mean_y = blur(images), blur(truths)
    var_x = blur(images.square()) - mean_x.square()
    var_y = blur(truths.square()) - mean_y.square()
    covariance = blur(images * truths) - mean_x * mean_y
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x.square() + mean_y.square() + c1) * (var_x + var_y + c2)
    )
    return similarity.flatten(1).mean(1)


def mse_r(images: Tensor, truths: Tensor, *, model: nn.Module, head: Head) -> Tensor:
    """The paper's MSE-R: mean squared error of the target model's representations, ``(N,)``.

    The representation is the input of the model's last linear layer; lower leaks more.
    """
    difference = head.represent(model, images) - head.represent(model, truths)
    return difference.square().mean(1)


def feature_distance(
    images: Tensor, truths: Tensor, *, extract: Callable[[Tensor], Tensor]
) -> Tensor:
    """Euclidean distance in the features of a classifier no attack uses, ``(N,)``; lower leaks."""
    return (extract(images) - extract(truths)).norm(dim=1)
