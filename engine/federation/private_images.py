"""Private images: what the clients of a simulated federation hold. No attack may import this."""

from collections import Counter
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from engine.checkpoints import read_tensors
from engine.errors import InputError, PlanError

TENSORS = ("images", "labels", "distractor_images", "distractor_labels")


@dataclass(frozen=True)
class PrivateImages:
    """Images that clients train on, and others of the same classes to tell them from.

    Attributes:
        images: ``(N, ch, H, W)`` in [0, 1], every client's ``B`` next to each other.
        labels: Their classes, ``(N,)``.
        distractor_images: ``(M, ch, H, W)`` in [0, 1], never part of any client's data.
        distractor_labels: Their classes, ``(M,)``.
    """

    images: Tensor
    labels: Tensor
    distractor_images: Tensor
    distractor_labels: Tensor

    def to(self, device: torch.device) -> "PrivateImages":
        """Returns the same images on another device."""
        return PrivateImages(*(getattr(self, field.name).to(device) for field in fields(self)))

    def first(self, count: int) -> "PrivateImages":
        """Returns the first ``count`` private images, with all distractors."""
        return replace(self, images=self.images[:count], labels=self.labels[:count])

    def distractors_of(self, label: int) -> Tensor:
        """Returns the distractors of one class, ``(m, ch, H, W)``."""
        return self.distractor_images[self.distractor_labels == label]

    def of_client(self, client: int, images: int) -> "PrivateImages":
        """Returns what one client of ``B`` images holds, with all distractors."""
        own = slice(client * images, (client + 1) * images)
        return replace(self, images=self.images[own], labels=self.labels[own])

    def donor_of(self, client: int, images: int) -> int:
        """Returns another client of ``B`` images to attack in place of ``client``.

        The next one with the most classes in common, each counted as often as both hold it.
        """
        clients = len(self.images) // images
        order = [*range(client + 1, clients), *range(client)]
        if not order:
            raise PlanError("Expected at least 2 clients for the shuffled control, got 1.")
        mine, *theirs = (
            Counter(self.labels[i * images : (i + 1) * images].tolist()) for i in (client, *order)
        )
        shared = [(mine & other).total() for other in theirs]
        return order[shared.index(max(shared))]


def load_private_images(path: Path) -> PrivateImages:
    """Reads private images from a safetensors file.

    The file holds ``images`` and ``distractor_images`` as uint8 ``(N, ch, H, W)``, ``labels`` and
    ``distractor_labels`` as int64 ``(N,)``.

    Raises:
        InputError: If the file is missing, unsafe, damaged or holds anything else.
    """
    tensors = read_tensors(path)
    for name in TENSORS:
        if name not in tensors:
            raise InputError(f"Expected the tensors {', '.join(TENSORS)} in {path}, got no {name}.")
    _check_split(path, tensors, "")
    _check_split(path, tensors, "distractor_")
    shape, other = tensors["images"].shape[1:], tensors["distractor_images"].shape[1:]
    if shape != other:
        raise InputError(
            f"Expected distractors of the private images' shape {tuple(shape)} in {path}, "
            f"got {tuple(other)}."
        )
    return PrivateImages(
        images=tensors["images"] / 255,
        labels=tensors["labels"],
        distractor_images=tensors["distractor_images"] / 255,
        distractor_labels=tensors["distractor_labels"],
    )


def _check_split(path: Path, tensors: dict[str, Tensor], prefix: str) -> None:
    images, labels = tensors[f"{prefix}images"], tensors[f"{prefix}labels"]
    if str(images.dtype) != "torch.uint8" or images.ndim != 4:
        raise InputError(
            f"Expected {prefix}images in {path} as uint8 of shape (N, ch, H, W), "
            f"got {images.dtype} of shape {tuple(images.shape)}."
        )
    if str(labels.dtype) != "torch.int64" or labels.shape != images.shape[:1]:
        raise InputError(
            f"Expected {prefix}labels in {path} as int64 of shape ({len(images)},), "
            f"got {labels.dtype} of shape {tuple(labels.shape)}."
        )
