"""Picture files as tensors, cut to one square, and one message for each that cannot be read."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from engine.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image


def read_pictures(paths: Sequence[Path], *, shorter_side: int, side: int) -> Tensor:
    """Reads pictures as colour images ``(N, 3, side, side)`` of type uint8.

    Each is resized so that its shorter side has ``shorter_side`` pixels, bilinear and antialiased,
    and cut to its middle: what torchvision's ``Resize`` and ``CenterCrop`` do.

    Raises:
        InputError: For a file that is missing or is no picture.
    """
    images = torch.empty(len(paths), 3, side, side, dtype=torch.uint8)
    for row, path in enumerate(paths):
        images[row] = _read(path, shorter_side, side)
    return images


def chosen_rows(
    labels: Sequence[int], classes: tuple[int, ...] | None, per_class: int | None
) -> list[int]:
    """Returns the rows to read of a split: of each of ``classes`` the first ``per_class``."""
    wanted = set(labels if classes is None else classes)
    left = dict.fromkeys(wanted, len(labels) if per_class is None else per_class)
    rows = []
    for row, label in enumerate(labels):
        if left.get(label, 0) > 0:
            left[label] -= 1
            rows.append(row)
    return rows


def _read(path: Path, shorter_side: int, side: int) -> Tensor:
    from PIL import Image  # Deferred: audits of tensors need no pictures.

    try:
        with Image.open(path) as picture:
            pixels = np.array(_middle(picture.convert("RGB"), shorter_side, side))
    except FileNotFoundError as error:
        raise InputError(
            f"Expected a picture at {path}, found none. Unpack the data set whole."
        ) from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(
            f"Expected a picture in {path}, got a file that cannot be read as one: {error}. "
            "Unpack or fetch it again."
        ) from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _middle(picture: "Image", shorter_side: int, side: int) -> "Image":
    """Returns the middle ``side`` x ``side`` pixels of a picture, after resizing it."""
    from PIL.Image import Resampling

    shortest = min(picture.size)
    width, height = (int(shorter_side * length / shortest) for length in picture.size)
    resized = picture.resize((width, height), Resampling.BILINEAR)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return resized.crop((left, top, left + side, top + side))
