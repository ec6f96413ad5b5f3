"""Private images that attackers' generators were not made for."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

import torch
from torch import Tensor, nn

from engine.federation.private_images import PrivateImages

# What red, green and blue are worth in grey (ITU-R BT.601).
LUMA: Final = (0.299, 0.587, 0.114)
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


def fitted(images: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
    """Images of another data set, in grey or colour and as large as ``image_shape`` has it."""
    channels, *size = image_shape
    if images.shape[1] > channels:
        images = (images * images.new_tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True)
    resized = nn.functional.interpolate(images, size=size, mode="bilinear", antialias=True)
    return resized.clamp(0, 1).expand(-1, channels, -1, -1)


SHIFTS: Final[dict[str, Shift]] = {"paired": paired, "rotated": rotated}


def shifted(
    private: PrivateImages, shift: str | None, image_shape: tuple[int, int, int]
) -> PrivateImages:
    """Returns the same images, private ones and distractors alike, shifted.

    Labels are kept: an image's is that of what it was made from, the left one of two.

    Args:
        private: The images.
        shift: One of :data:`SHIFTS`; None leaves images as they are. Any other is the name of the
            data set they are of.
        image_shape: ``(ch, H, W)`` of the generator's images, which those of another data set get.
    """
    if shift is None:
        return private
    change = SHIFTS.get(shift, partial(fitted, image_shape=image_shape))
    return replace(
        private,
        images=change(private.images),
        distractor_images=change(private.distractor_images),
    )
