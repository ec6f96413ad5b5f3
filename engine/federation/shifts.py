"""Private images that attackers' generators were not made for."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor, nn

from engine.federation.private_images import PrivateImages

# Images (N, ch, H, W) to others of that shape.
Shift = Callable[[Tensor], Tensor]


def rotated(images: Tensor) -> Tensor:
    """Each image a quarter turn counterclockwise; of another height than width, half a turn."""
    square = images.shape[2] == images.shape[3]
    return images.rot90(1 if square else 2, dims=(2, 3))


def paired(images: Tensor) -> Tensor:
    """Two objects in each image: it and the next one side by side, each at half its width."""
    width = images.shape[3]
    left, right = (
        nn.functional.interpolate(
            some, size=(images.shape[2], part), mode="bilinear", antialias=True
        )
        for some, part in ((images, width // 2), (images.roll(-1, 0), width - width // 2))
    )
    return torch.cat([left, right], 3).clamp(0, 1)


SHIFTS: Final[dict[str, Shift]] = {"paired": paired, "rotated": rotated}


def shifted(private: PrivateImages, shift: str | None) -> PrivateImages:
    """Returns the same images, private ones and distractors alike, shifted; as they are if None.

    Labels are kept: an image's is that of what it was made from, the left one of two.
    """
    if shift is None:
        return private
    change = SHIFTS[shift]
    return replace(
        private,
        images=change(private.images),
        distractor_images=change(private.distractor_images),
    )
