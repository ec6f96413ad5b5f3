"""The attacker's public images: Fashion-MNIST from a folder of idx files, or by torchvision."""

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine.errors import InputError

CLASSES = 10
IMAGE_SHAPE = (1, 28, 28)
IMAGES_MAGIC, LABELS_MAGIC = 2051, 2049
PREFIXES = {"train": "train", "test": "t10k"}


def load_fashion_mnist(folder: Path, split: str, *, download: bool) -> tuple[Tensor, Tensor]:
    """Reads one split of Fashion-MNIST (Xiao et al. 2017, MIT licence).

    Args:
        folder: Holds the four idx files, gzipped or not, directly or where torchvision puts them.
        split: ``train`` (60,000 images) or ``test`` (10,000).
        download: Let torchvision fetch the files into ``folder`` if they are not there.

    Returns:
        Images ``(N, 1, 28, 28)`` as uint8 and labels ``(N,)`` as int64.

    Raises:
        InputError: If a file is missing or is not the idx file it should be.
    """
    if download:
        from torchvision.datasets import FashionMNIST  # Deferred: slow to import.

        FashionMNIST(str(folder), train=split == "train", download=True)
    images = _read_idx(_find(folder, f"{PREFIXES[split]}-images-idx3-ubyte"), IMAGES_MAGIC)
    labels = _read_idx(_find(folder, f"{PREFIXES[split]}-labels-idx1-ubyte"), LABELS_MAGIC)
    if images.shape[1:] != IMAGE_SHAPE[1:] or len(images) != len(labels):
        raise InputError(
            f"Expected as many 28 x 28 images as labels in {folder}, "
            f"got images {images.shape} and labels {labels.shape}."
        )
    if labels.max(initial=0) >= CLASSES:
        raise InputError(
            f"Expected labels of {CLASSES} classes in {folder}, got a label {labels.max()}."
        )
    return torch.from_numpy(images)[:, None], torch.from_numpy(labels).long()


def _find(folder: Path, name: str) -> Path:
    for parent in (folder, folder / "FashionMNIST" / "raw"):
        for path in (parent / name, parent / f"{name}.gz"):
            if path.is_file():
                return path
    raise InputError(
        f"Expected {name} or {name}.gz in {folder}, found neither. Add --download to fetch "
        "Fashion-MNIST with torchvision, or give the folder that holds its four idx files."
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
