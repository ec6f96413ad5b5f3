"""Fashion-MNIST from a folder of idx files, or by torchvision."""

import gzip
import zlib
from pathlib import Path
from typing import ClassVar, Final

import numpy as np
import torch

from engine.datasets.base import DATASETS, LabelledImages, Split
from engine.datasets.pictures import chosen_rows
from engine.errors import InputError

IMAGES_MAGIC, LABELS_MAGIC = 2051, 2049
PREFIXES: Final = {"train": "train", "test": "t10k"}


@DATASETS.register("fashion-mnist")
class FashionMnist:
    """Fashion-MNIST, 28 x 28 grey: 10 kinds of clothing, 60,000 training and 10,000 test images."""

    image_shape: ClassVar = (1, 28, 28)
    classes: ClassVar = (
        *("T-shirt", "trouser", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
    )
    source: ClassVar = (
        "Fashion-MNIST (Xiao, Rasul and Vollgraf 2017, "
        "https://github.com/zalandoresearch/fashion-mnist)"
    )
    licence: ClassVar = "MIT"
    guidance: ClassVar = (
        "Add --download to fetch Fashion-MNIST with torchvision, or give the folder that holds its "
        "four idx files."
    )

    def download(self, folder: Path) -> None:
        """Lets torchvision fetch the files into ``folder`` if they are not there."""
        from torchvision.datasets import FashionMNIST  # Deferred: slow to import.

        FashionMNIST(str(folder), download=True)

    def read(
        self,
        folder: Path,
        split: Split,
        *,
        classes: tuple[int, ...] | None = None,
        per_class: int | None = None,
    ) -> LabelledImages:
        """Reads one split from idx files, gzipped or not, there or where torchvision puts them."""
        prefix = PREFIXES[split]
        images = _read_idx(self._find(folder, f"{prefix}-images-idx3-ubyte"), IMAGES_MAGIC)
        labels = _read_idx(self._find(folder, f"{prefix}-labels-idx1-ubyte"), LABELS_MAGIC)
        if images.shape[1:] != self.image_shape[1:] or len(images) != len(labels):
            raise InputError(
                f"Expected as many 28 x 28 images as labels in {folder}, "
                f"got images {images.shape} and labels {labels.shape}."
            )
        if labels.max(initial=0) >= len(self.classes):
            raise InputError(
                f"Expected labels of {len(self.classes)} classes in {folder}, "
                f"got a label {labels.max()}."
            )
        rows = chosen_rows(labels.tolist(), classes, per_class)
        return LabelledImages(
            torch.from_numpy(images)[rows, None], torch.from_numpy(labels).long()[rows]
        )

    def _find(self, folder: Path, name: str) -> Path:
        for parent in (folder, folder / "FashionMNIST" / "raw"):
            for path in (parent / name, parent / f"{name}.gz"):
                if path.is_file():
                    return path
        raise InputError(
            f"Expected {name} or {name}.gz in {folder}, found neither. {self.guidance}"
        )


def _read_idx(path: Path, magic: int) -> np.ndarray:
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"Expected a whole gzip file, got a damaged one: {path}.") from error
    axes = magic % 256
    start = 4 + 4 * axes
    header = np.frombuffer(content[:start], dtype=">u4") if len(content) >= start else [0]
    if header[0] != magic:
        raise InputError(f"Expected an idx file of type {magic}, got another format: {path}.")
    shape = tuple(int(size) for size in header[1:])
    values = np.frombuffer(content, dtype=np.uint8, offset=start)
    if len(values) != np.prod(shape):
        raise InputError(f"Expected {np.prod(shape)} values in {path}, got {len(values)}.")
    return values.reshape(shape).copy()
