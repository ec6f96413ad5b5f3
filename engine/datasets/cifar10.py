"""CIFAR-10 from its authors' binary files, or from folders of classes."""

from pathlib import Path
from typing import ClassVar, Final

import numpy as np
import torch

from engine.datasets.base import DATASETS, LabelledImages, Split
from engine.datasets.image_files import (
    Decoding,
    ImageFile,
    decode,
    image_files,
)
from engine.datasets.pictures import chosen_rows
from engine.errors import InputError

FILES: Final = {
    "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    "test": ("test_batch.bin",),
}
UNPACKED: Final = "cifar-10-batches-bin"
RECORD: Final = 1 + 3 * 32 * 32


@DATASETS.register("cifar10")
class Cifar10:
    """CIFAR-10, 32 x 32 in colour: 10 kinds of things, 50,000 training and 10,000 test images."""

    image_shape: ClassVar = (3, 32, 32)
    classes: ClassVar = (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    )
    source: ClassVar = "CIFAR-10 (Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html)"
    licence: ClassVar = "none stated by its authors, who ask to be cited"
    guidance: ClassVar = (
        "Fetch cifar-10-binary.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html (162 MB, "
        "md5 c32a1d4ab5d03f1284b67883e8d87530; no licence is stated, its author asks to be cited) "
        f"and unpack it there as {UNPACKED}; or give a folder of pictures as "
        "train/<class>/*.png and test/<class>/*.png (or jpg). The python version holds pickles, "
        "which are never opened."
    )

    def read(
        self,
        folder: Path,
        split: Split,
        *,
        classes: tuple[int, ...] | None = None,
        per_class: int | None = None,
    ) -> LabelledImages:
        if (folder / split).is_dir():
            return self._read_pictures(folder / split, classes, per_class)
        parts = [self._read_records(self._find(folder, name)) for name in FILES[split]]
        records = np.concatenate(parts)
        rows = chosen_rows(records[:, 0].tolist(), classes, per_class)
        chosen = torch.from_numpy(records[rows])
        images = chosen[:, 1:].reshape(-1, *self.image_shape).contiguous()
        return LabelledImages(images, chosen[:, 0].long())

    def _find(self, folder: Path, name: str) -> Path:
        for parent in (folder, folder / UNPACKED):
            if (parent / name).is_file():
                return parent / name
        raise InputError(f"Expected {name} in {folder}, found none. {self.guidance}")

    def _read_records(self, path: Path) -> np.ndarray:
        """Returns the records of a file, ``(N, 3073)``: a label, then the image by channels."""
        values = np.fromfile(path, dtype=np.uint8)
        if not len(values) or len(values) % RECORD:
            raise InputError(
                f"Expected records of {RECORD} bytes in {path}, got {len(values)} bytes: damaged, "
                f"or another file. {self.guidance}"
            )
        records = values.reshape(-1, RECORD)
        if (highest := int(records[:, 0].max())) >= len(self.classes):
            raise InputError(
                f"Expected labels of {len(self.classes)} classes in {path}, got a label {highest}: "
                f"damaged, or another file. {self.guidance}"
            )
        return records

    def _read_pictures(
        self, folder: Path, classes: tuple[int, ...] | None, per_class: int | None
    ) -> LabelledImages:
        missing = [name for name in self.classes if not (folder / name).is_dir()]
        if missing:
            raise InputError(
                f"Expected a folder for each of the {len(self.classes)} classes in {folder}, "
                f"found none for: {', '.join(missing)}. {self.guidance}"
            )
        files = [
            ImageFile(path, label)
            for label, name in enumerate(self.classes)
            for path in image_files(folder / name)
        ]
        rows = chosen_rows([file.label for file in files], classes, per_class)
        if not rows:
            raise InputError(f"Expected pictures in {folder}, found none. {self.guidance}")
        images, labels = decode([files[row] for row in rows], Decoding(colour=True))
        if images.shape[1:] != self.image_shape:
            raise InputError(
                f"Expected pictures of 32 x 32 in {folder}, got {images.shape[2]} x "
                f"{images.shape[3]}. {self.guidance}"
            )
        return LabelledImages(images, labels)
