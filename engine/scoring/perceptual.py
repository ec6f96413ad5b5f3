"""LPIPS, where its weights are present: nothing is ever downloaded for it."""

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.checkpoints import file_sha256
from engine.errors import InputError

# AlexNet as torchvision names and hashes it; the linear layers on top come with torchmetrics.
WEIGHTS = "alexnet-owt-7be5be79.pth"
SHA256_START = "7be5be79"
SMALLEST_SIDE = 64


def lpips_weights() -> Path:
    """Returns where torchvision keeps AlexNet's weights, whether they are there or not."""
    return Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS


def lpips(images: Tensor, truths: Tensor) -> Tensor:
    """LPIPS distance (AlexNet) per image, ``(N,)``; lower leaks more.

    `Zhang et al. (2018) <https://arxiv.org/abs/1801.03924>`_, by torchmetrics. Grey images are
    repeated to three channels, and images below 64 pixels enlarged to 64, which the network needs.

    Args:
        images: ``(N, ch, H, W)`` in [0, 1], ``ch`` 1 or 3.
        truths: The same shape.

    Raises:
        InputError: If the weights are missing, or are not those torchvision published.
    """
    network = _network(str(lpips_weights())).to(images.device)
    pairs = zip(_prepare(images), _prepare(truths), strict=True)
    with torch.no_grad():
        return torch.stack([network(image[None], truth[None]) for image, truth in pairs])


@functools.lru_cache(maxsize=1)
def _network(weights: str) -> Any:
    path = Path(weights)
    if not path.is_file():
        raise InputError(
            f"Expected AlexNet's weights at {path} for LPIPS, found none. Fetch them there with "
            "torchvision.models.alexnet(weights='DEFAULT') where you have a network."
        )
    # Checked before torchvision opens it: the file is a pickle, if one of known content.
    if not file_sha256(path).startswith(SHA256_START):
        raise InputError(f"Expected {path} as torchvision published it, got another file.")
    # Deferred: takes ten seconds to import.
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    return LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True).eval()


def _prepare(images: Tensor) -> Tensor:
    """Returns the images in three channels and large enough for the network."""
    colour = images.expand(-1, 3, -1, -1)
    side = min(images.shape[2:])
    if side >= SMALLEST_SIDE:
        return colour
    return nn.functional.interpolate(
        colour, scale_factor=SMALLEST_SIDE / side, mode="bilinear", align_corners=False
    )
