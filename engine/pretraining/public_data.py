"""Both splits of a data set, and what a card says of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.datasets import DATASETS, Folder, LabelledImages
from engine.errors import InputError


@dataclass(frozen=True, kw_only=True)
class PublicData:
    """Both splits of a public data set.

    Attributes:
        train: What is trained on.
        test: The same, disjoint from ``train``.
        classes: Names of the classes, in the order of their labels.
        source: Whose data set it is, and what was done to it.
        licence: Under what terms it may be used.
    """

    train: LabelledImages
    test: LabelledImages
    classes: tuple[str, ...]
    source: str
    licence: str

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(ch, H, W)`` of all its images."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width


def read_public_data(
    name: str,
    folder: Path,
    *,
    settings: Mapping[str, Any],
    download: bool = False,
    note: str | None = None,
) -> PublicData:
    """Reads both splits of a data set.

    Args:
        name: A name of ``DATASETS``.
        folder: Where the user keeps it.
        settings: The data set's own settings.
        download: Let it be fetched into ``folder`` first, where a data set can be.
        note: What its card says besides, such as what was done to the images.

    Raises:
        InputError: If it cannot be fetched or read, the splits differ, or a class is too small.
    """
    dataset: Any = DATASETS.make(name, **settings)
    if download:
        _download(dataset, name, folder)
    data = PublicData(
        train=dataset.read(folder, "train"),
        test=dataset.read(folder, "test"),
        classes=dataset.class_names(folder) if isinstance(dataset, Folder) else dataset.classes,
        source=f"{dataset.source}; {note}" if note else dataset.source,
        licence=dataset.licence,
    )
    _check(data, folder)
    return data


def _download(dataset: Any, name: str, folder: Path) -> None:
    if not hasattr(dataset, "download"):
        raise InputError(
            f"Expected --download for a data set that can be fetched (fashion-mnist), got {name}. "
            f"{dataset.guidance}"
        )
    dataset.download(folder)


def _check(data: PublicData, folder: Path) -> None:
    """Raises an InputError unless the splits fit one another and every class can be learned."""
    shapes = {tuple(split.images.shape[1:]) for split in (data.train, data.test)}
    if len(shapes) > 1:
        raise InputError(
            f"Expected images of one shape in both splits of {folder}, got "
            f"{' and '.join(map(str, sorted(shapes)))}. Give --size, or --colour."
        )
    for count, name in zip(
        data.train.labels.bincount(minlength=len(data.classes)).tolist(), data.classes, strict=True
    ):
        if count < 2:
            raise InputError(
                f"Expected at least 2 training images of every class in {folder}, got {count} of "
                f"{name!r}. Add some, or leave the class out."
            )
