"""Private images: what the clients of a simulated federation hold. No attack may import this."""

import hashlib
import math
from collections import Counter
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from engine.checkpoints import read_tensors
from engine.datasets import Dataset, LabelledImages
from engine.errors import InputError, PlanError

TENSORS = ("images", "labels", "distractor_images", "distractor_labels")
TARGETS_PER_CLASS, DISTRACTORS_PER_CLASS = 4, 99
# Of data sets with more classes, clients hold images of as many as the audit attacks.
MANY_CLASSES = 100
GOLDEN_RATIO = 0.618


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

    def sha256(self) -> str:
        """Returns a hash of all images and labels, in hexadecimal."""
        digest = hashlib.sha256()
        for field in fields(self):
            tensor = getattr(self, field.name)
            digest.update(f"{field.name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

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


def read_private_images(dataset: Dataset, folder: Path, *, needed: int) -> PrivateImages:
    """Chooses clients' images of a data set's test split, the same ones every time.

    One of each class after the other, the first of its files, so that any number of targets is
    spread over the classes; the next files of the classes that are attacked are distractors. Of a
    data set of many classes, only as many are read as images are attacked, spread over all.

    Args:
        dataset: The data set.
        folder: Where the user keeps it.
        needed: Private images that the audit attacks; there are more, if the data set has them.

    Raises:
        InputError: If files are missing, damaged or laid out otherwise, or too few of a class.
    """
    labels = _spread(len(dataset.classes), needed)
    rows = max(TARGETS_PER_CLASS, -(-needed // len(labels)))
    pictures = dataset.read(folder, "test", classes=labels, per_class=rows + DISTRACTORS_PER_CLASS)
    return _choose(pictures, labels, needed=needed, rows=rows)


def _spread(classes: int, needed: int) -> tuple[int, ...]:
    """Returns the labels clients hold, in their order: all, or of many classes ``needed``.

    Those are multiples of about the golden ratio of their number, round and round, which leaves no
    large gap however many there are.
    """
    if classes <= MANY_CLASSES:
        return tuple(range(classes))
    step = next(
        step
        for step in range(round(GOLDEN_RATIO * classes), classes)
        if math.gcd(step, classes) == 1
    )
    return tuple(place * step % classes for place in range(min(needed, classes)))


def _choose(
    pictures: LabelledImages, labels: tuple[int, ...], *, needed: int, rows: int
) -> PrivateImages:
    """Returns ``rows`` private images of each class, and distractors of those attacked."""
    own = {label: (pictures.labels == label).nonzero()[:, 0] for label in labels}
    label, fewest = min(((label, len(found)) for label, found in own.items()), key=lambda x: x[1])
    if fewest <= rows:
        raise InputError(
            f"Expected at least {rows + 1} test images of each class for {needed} private images "
            f"and others to tell them from, got {fewest} of class {label}. Lower targets, or "
            "unpack the data set whole."
        )
    targets = torch.stack([found[:rows] for found in own.values()], dim=1).flatten()
    attacked = set(pictures.labels[targets[:needed]].tolist())
    distractors = torch.cat([own[label][rows:] for label in labels if label in attacked])
    return PrivateImages(
        images=pictures.images[targets] / 255,
        labels=pictures.labels[targets],
        distractor_images=pictures.images[distractors] / 255,
        distractor_labels=pictures.labels[distractors],
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
    if not prefix and not len(images):
        raise InputError(f"Expected at least one private image in {path}, got none.")
    if len(labels) and int(labels.min()) < 0:
        raise InputError(
            f"Expected {prefix}labels in {path} of 0 and more, got {int(labels.min())}."
        )
