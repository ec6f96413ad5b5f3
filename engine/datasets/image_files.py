"""Folders of image files: which there are, what is in them, and one message for all that fail."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor

from engine import validate
from engine.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES: Final = (".png", ".jpg", ".jpeg")
LARGEST: Final = 128
SHOWN: Final = 5  # Files that a message names; of the others it says how many they are.


@dataclass(frozen=True)
class ImageFile:
    """A file and the class it is of.

    Attributes:
        path: Where it is.
        label: Its class, counted from 0.
    """

    path: Path
    label: int


@dataclass(frozen=True)
class Decoding:
    """What is done with each picture.

    Attributes:
        size: Side in pixels to which pictures are resized by their shorter side and cut to the
            middle; None takes them as they are.
        colour: Whether grey pictures are taken as colour ones. Without it, all are of one kind.
        skip_unreadable: Whether files that are no pictures are left out.
    """

    size: int | None = None
    colour: bool = False
    skip_unreadable: bool = False

    def __post_init__(self) -> None:
        if self.size is not None:
            validate.count(size=self.size)
            validate.in_range(1, LARGEST, size=self.size)


def image_files(folder: Path) -> list[Path]:
    """Returns the image files in ``folder`` itself, by name."""
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file()
    )


def class_folders(folder: Path) -> list[Path]:
    """Returns the folders in ``folder``, by name; those of hidden names and links are left out."""
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )


def decode(files: Sequence[ImageFile], decoding: Decoding) -> tuple[Tensor, Tensor]:
    """Reads files of one size and kind.

    Returns:
        Images ``(N, ch, H, W)`` as uint8, ``ch`` 1 or 3, and labels ``(N,)`` as int64.

    Raises:
        InputError: If files are no pictures, or pictures are of several sizes or kinds, or larger
            than ``LARGEST``: one message for all of them.
    """
    pictures: list[np.ndarray] = []
    labels: list[int] = []
    unreadable: list[str] = []
    for file in files:
        try:
            pictures.append(_pixels(file.path, decoding))
            labels.append(file.label)
        except InputError as error:
            unreadable.append(f"{file.path} ({error})")
    if unreadable and not (decoding.skip_unreadable and pictures):
        remedy = "" if decoding.skip_unreadable else ", or leave them out with --skip-unreadable"
        raise InputError(
            f"Expected {len(files)} pictures, got {len(unreadable)} files that are none: "
            f"{_listed(unreadable)}. Replace them{remedy}."
        )
    _check_alike([picture.shape for picture in pictures], [file.path for file in files])
    return torch.from_numpy(np.stack(pictures)), torch.tensor(labels, dtype=torch.int64)


def _pixels(path: Path, decoding: Decoding) -> np.ndarray:
    """Returns a picture's values ``(ch, H, W)`` as uint8."""
    from PIL import Image  # Deferred: data sets of arrays need no pictures.

    try:
        with Image.open(path) as picture:
            picture.load()
            mode = picture.mode
            grey = mode in ("1", "L", "LA")
            converted = picture.convert("L" if grey and not decoding.colour else "RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(type(error).__name__) from error
    if mode.startswith(("I", "F")):
        raise InputError(f"its mode is {mode}, not 8 bits a value")
    if decoding.size is not None:
        converted = _middle(converted, decoding.size)
    values = np.asarray(converted)
    return values[None] if values.ndim == 2 else values.transpose(2, 0, 1)


def _middle(picture: "Image", side: int) -> "Image":
    """Returns the middle of a picture whose shorter side is made ``side`` pixels."""
    from PIL.Image import Resampling

    shorter = min(picture.size)
    width, height = (max(side, round(length * side / shorter)) for length in picture.size)
    resized = picture.resize((width, height), Resampling.BICUBIC)
    left, top = (width - side) // 2, (height - side) // 2
    return resized.crop((left, top, left + side, top + side))


def _check_alike(shapes: Sequence[tuple[int, ...]], paths: Sequence[Path]) -> None:
    """Raises an InputError unless all pictures are of one size and kind."""
    where = paths[0].parent
    sizes = Counter(shape[1:] for shape in shapes)
    if len(sizes) > 1:
        found = [f"{h} x {w} ({count})" for (h, w), count in sizes.most_common()]
        raise InputError(
            f"Expected pictures of one size in {where} and beside it, got {len(sizes)} sizes "
            f"(height x width): {_listed(found)}. Give --size to resize and cut them to squares."
        )
    height, width = next(iter(sizes))
    if max(height, width) > LARGEST:
        raise InputError(
            f"Expected pictures of at most {LARGEST} x {LARGEST}, got {height} x {width} in "
            f"{where}. Give --size to resize and cut them to squares."
        )
    kinds = Counter(shape[0] for shape in shapes)
    if len(kinds) > 1:
        raise InputError(
            f"Expected pictures all grey or all in colour in {where} and beside it, got "
            f"{kinds[1]} grey and {kinds[3]} in colour. Give --colour to take all as colour ones."
        )


def _listed(words: Sequence[str]) -> str:
    more = len(words) - SHOWN
    return ", ".join(words[:SHOWN]) + (f" and {more} more" if more > 0 else "")
