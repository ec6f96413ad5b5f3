"""ImageNet at 224 x 224, in folders of classes."""

import functools
import re
from pathlib import Path

import torch

from engine.datasets.base import DATASETS, LabelledImages, Split
from engine.datasets.pictures import chosen_rows, read_pictures
from engine.errors import InputError

CLASSES = 1000
FOLDERS = {"train": "train", "test": "val"}
WORDNET_ID = re.compile(r"n\d{8}")
SUFFIXES = (".jpeg", ".jpg", ".png")


@DATASETS.register("imagenet-224")
class ImageNet224:
    """ImageNet (ILSVRC 2012) at 224 x 224: 1000 classes, clients' images of the validation set.

    A class's label is the place of its folder among all in alphabetical order of their WordNet
    ids. That is the order of torchvision's ``ImageFolder`` and of its trained weights, and that of
    BigGAN's classes.
    """

    image_shape = (3, 224, 224)
    source = "ImageNet, ILSVRC 2012 (Russakovsky et al. 2015, https://image-net.org)"
    licence = "for non-commercial research and education alone; https://image-net.org/download"
    guidance = (
        "Fetch ILSVRC2012_img_val.tar (6.3 GB; to train, ILSVRC2012_img_train.tar too) from "
        "https://image-net.org/download (for non-commercial research and education alone, after "
        "agreeing to the terms there), and unpack it there as val/<WordNet id>/*.JPEG, a folder "
        "for each of the 1000 classes: the tar of the validation set has none, and "
        "torchvision.datasets.ImageNet, or valprep.sh of soumith/imagenetloader.torch, makes them."
    )

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the 1000 classes, by torchvision, in the order of its weights."""
        from torchvision.models import ResNet18_Weights  # Deferred: slow to import.

        return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])

    def read(
        self,
        folder: Path,
        split: Split,
        *,
        classes: tuple[int, ...] | None = None,
        per_class: int | None = None,
    ) -> LabelledImages:
        folders = self._class_folders(folder / FOLDERS[split])
        wanted = range(CLASSES) if classes is None else sorted(set(classes))
        files = [(path, label) for label in wanted for path in self._pictures(folders[label])]
        rows = chosen_rows([label for _, label in files], None, per_class)
        return LabelledImages(
            read_pictures([files[row][0] for row in rows], shorter_side=256, side=224),
            torch.tensor([files[row][1] for row in rows], dtype=torch.int64),
        )

    def _class_folders(self, folder: Path) -> list[Path]:
        """Returns the folders of the classes in the order of their labels."""
        if not folder.is_dir():
            raise InputError(f"Expected the folder {folder}, found none. {self.guidance}")
        inside = sorted(folder.iterdir())
        found = [path for path in inside if path.is_dir() and WORDNET_ID.fullmatch(path.name)]
        if len(found) != CLASSES:
            alone = sum(path.suffix.lower() in SUFFIXES for path in inside)
            beside = f" and {alone} pictures outside of any" if alone else ""
            raise InputError(
                f"Expected {CLASSES} folders named by WordNet ids (n01440764, ...) in {folder}, "
                f"got {len(found)}{beside}: unpacked by half, or another layout. {self.guidance}"
            )
        return found

    def _pictures(self, folder: Path) -> list[Path]:
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        if not found:
            raise InputError(
                f"Expected pictures (*.JPEG) in {folder}, found none: unpacked by half, or another "
                f"layout. {self.guidance}"
            )
        return found
