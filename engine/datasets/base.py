"""What a data set is, and the registry of those that plans and commands know by name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from torch import Tensor

from engine.registry import Registry

# Attackers' public images, and those of clients: the two share no image.
Split = Literal["train", "test"]


@dataclass(frozen=True)
class LabelledImages:
    """Images and their classes.

    Attributes:
        images: ``(N, ch, H, W)`` as uint8.
        labels: ``(N,)`` as int64.
    """

    images: Tensor
    labels: Tensor


class Dataset(Protocol):
    """A data set of which a user has the files.

    Attributes:
        image_shape: ``(ch, H, W)`` of its images as audits use them.
        classes: Names of its classes, in the order of their labels.
        source: Who made it, and where it is to be had.
        licence: Under what terms.
        guidance: What to fetch, from whom, and where it goes; shown when a file is missing.
    """

    image_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    source: str
    licence: str
    guidance: str

    def read(
        self,
        folder: Path,
        split: Split,
        *,
        classes: tuple[int, ...] | None = None,
        per_class: int | None = None,
    ) -> LabelledImages:
        """Reads one split, in the order of its files.

        Args:
            folder: Where the user keeps the data set.
            split: ``train``, the public images, or ``test``, those of clients.
            classes: Labels to read alone; all if None.
            per_class: Images of each class at most, the first; all if None.

        Raises:
            InputError: If files are missing (with ``guidance``), damaged, or laid out otherwise.
        """


DATASETS: Registry[Dataset] = Registry("data set")
