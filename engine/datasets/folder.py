"""Any folder of pictures: folders of classes, or pictures alone."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from engine.datasets.base import DATASETS, LabelledImages, Split
from engine.datasets.image_files import (
    Decoding,
    ImageFile,
    class_folders,
    decode,
    image_files,
)
from engine.datasets.pictures import chosen_rows
from engine.errors import InputError

HELD_OUT = 10  # One picture in as many of each class is of the split test.


@DATASETS.register("folder")
@dataclass(frozen=True)
class Folder(Decoding):
    """Pictures (png, jpg) of a folder of yours, in folders of classes or alone.

    Folders in it are classes, by name; pictures alone are of one class. A tenth of each class is
    held out as the split ``test``, chosen by the hashes of the files' names: the same in every run
    and on every machine. If it holds the folders ``train`` and ``test``, these are the splits.

    What it holds is not known before it is read: any image shape and any classes will do, so these
    attributes say nothing.
    """

    image_shape: ClassVar = (0, 0, 0)
    classes: ClassVar[tuple[str, ...]] = ()
    source: ClassVar = "a folder of pictures"
    licence: ClassVar = "that of the pictures"
    guidance: ClassVar = (
        "Give a folder of pictures (png, jpg), or of a folder for each class that holds its "
        "pictures."
    )

    def read(
        self,
        folder: Path,
        split: Split,
        *,
        classes: tuple[int, ...] | None = None,
        per_class: int | None = None,
    ) -> LabelledImages:
        files = self._split(folder, split)
        rows = chosen_rows([file.label for file in files], classes, per_class)
        if not rows:
            raise InputError(f"Expected pictures of the classes asked for in {folder}, found none.")
        return LabelledImages(*decode([files[row] for row in rows], self))

    def class_names(self, folder: Path) -> tuple[str, ...]:
        """Returns the names of the classes in ``folder``, in the order of their labels."""
        root = folder / "train" if _has_splits(folder) else folder
        return tuple(path.name for path in self._class_folders(root)) or ("all",)

    def _split(self, folder: Path, split: Split) -> list[ImageFile]:
        if not folder.is_dir():
            raise InputError(f"Expected a folder at {folder}, found none. {self.guidance}")
        if _has_splits(folder):
            names = self.class_names(folder)
            return self._files(folder / split, names)
        files = self._files(folder, self.class_names(folder))
        held_out = _held_out(files, folder)
        return [file for file in files if (file.path in held_out) == (split == "test")]

    def _files(self, root: Path, names: Sequence[str]) -> list[ImageFile]:
        """Returns the pictures in ``root``, class by class."""
        folders = [root] if names == ("all",) else [root / name for name in names]
        missing = [folder.name for folder in folders if not folder.is_dir()]
        if missing:
            raise InputError(
                f"Expected the same classes in the folders train and test, found no {missing[0]} "
                f"in {root}. {self.guidance}"
            )
        found = [
            ImageFile(path, label)
            for label, folder in enumerate(folders)
            for path in image_files(folder)
        ]
        _check_classes(found, folders, self.guidance)
        return found

    def _class_folders(self, root: Path) -> list[Path]:
        folders = class_folders(root)
        beside = image_files(root)
        if folders and beside:
            raise InputError(
                f"Expected either folders of classes or pictures in {root}, got {len(folders)} "
                f"folders and {len(beside)} pictures beside them. Move the ones away."
            )
        return folders


def _has_splits(folder: Path) -> bool:
    return {"train", "test"} == {path.name for path in class_folders(folder)}


def _check_classes(files: Sequence[ImageFile], folders: Sequence[Path], guidance: str) -> None:
    """Raises an InputError unless there are pictures, and some of every class."""
    if not files:
        where = folders[0] if len(folders) == 1 else folders[0].parent
        raise InputError(f"Expected pictures (png, jpg) in {where}, found none. {guidance}")
    full = {file.label for file in files}
    empty = [folder.name for label, folder in enumerate(folders) if label not in full]
    if empty:
        raise InputError(
            f"Expected pictures in every class of {folders[0].parent}, found none in: "
            f"{', '.join(empty)}. Remove the empty folders, or fill them."
        )


def _held_out(files: Sequence[ImageFile], folder: Path) -> set[Path]:
    """Returns the pictures that are not trained on: of each class a tenth, and at least one."""
    chosen: set[Path] = set()
    for label in {file.label for file in files}:
        mine = [file.path for file in files if file.label == label]
        mine.sort(key=lambda path: _hash(path.relative_to(folder)))
        chosen |= set(mine[: max(1, len(mine) // HELD_OUT)])
    return chosen


def _hash(path: Path) -> str:
    return hashlib.sha256(path.as_posix().encode()).hexdigest()
