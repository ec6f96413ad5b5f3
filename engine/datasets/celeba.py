"""CelebA at 32 x 32, as the paper attacks it: is a face a man's?"""

from collections.abc import Iterator
from pathlib import Path

import torch

from engine.datasets.base import DATASETS, LabelledImages, Split
from engine.datasets.pictures import chosen_rows, read_pictures
from engine.errors import InputError

ATTRIBUTE = "Male"
PICTURES, ATTRIBUTES, PARTITIONS = (
    "img_align_celeba",
    "list_attr_celeba.txt",
    "list_eval_partition.txt",
)
# The paper's victims are of the validation split, and CelebA's own test split is left alone.
PARTITION = {"train": "0", "test": "1"}


@DATASETS.register("celeba-32")
class CelebA32:
    """CelebA, aligned and cropped, at 32 x 32: 2 classes by the attribute Male."""

    image_shape = (3, 32, 32)
    classes = ("not male", "male")
    source = (
        "CelebA (Liu, Luo, Wang and Tang 2015, https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html)"
    )
    licence = "for non-commercial research alone; the authors' agreement is on that page"
    guidance = (
        f"Fetch {PICTURES}.zip, {ATTRIBUTES} and {PARTITIONS} of CelebA from its authors "
        "(https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html; for non-commercial research alone, "
        "see the agreement there) or by torchvision.datasets.CelebA, unpack the zip, and put the "
        f"folder {PICTURES} and the two lists there."
    )

    def read(
        self,
        folder: Path,
        split: Split,
        *,
        classes: tuple[int, ...] | None = None,
        per_class: int | None = None,
    ) -> LabelledImages:
        for name, exists in (
            (PICTURES, Path.is_dir),
            (ATTRIBUTES, Path.is_file),
            (PARTITIONS, Path.is_file),
        ):
            if not exists(folder / name):
                raise InputError(f"Expected {name} in {folder}, found none. {self.guidance}")
        male = _attribute(folder / ATTRIBUTES)
        names = [
            name for name, part in _partitions(folder / PARTITIONS) if part == PARTITION[split]
        ]
        _check_names(names, male, folder)
        labels = [male[name] for name in names]
        rows = chosen_rows(labels, classes, per_class)
        paths = [folder / PICTURES / names[row] for row in rows]
        _check_pictures(paths, self.guidance)
        return LabelledImages(
            read_pictures(paths, shorter_side=32, side=32),
            torch.tensor([labels[row] for row in rows], dtype=torch.int64),
        )


def _attribute(path: Path) -> dict[str, int]:
    """Returns 1 for each picture that has the attribute, 0 for one that has not, by its name."""
    lines = _words(path)
    count, header = next(lines, []), next(lines, [])
    if len(count) != 1 or not count[0].isdigit() or ATTRIBUTE not in header:
        raise InputError(
            f"Expected {path} to begin with a number of pictures and a line of attributes, "
            f"{ATTRIBUTE} among them, got {_shown(count)} and {_shown(header)}. "
            "Use the list of CelebA's authors."
        )
    column, found = header.index(ATTRIBUTE) + 1, {}
    for number, words in enumerate(lines, start=3):
        if len(words) != len(header) + 1 or words[column] not in ("1", "-1"):
            raise InputError(
                f"Expected a picture's name and {len(header)} attributes of 1 or -1 in line "
                f"{number} of {path}, got {_shown(words)}. Fetch the list again."
            )
        found[words[0]] = int(words[column] == "1")
    if len(found) != int(count[0]):
        raise InputError(
            f"Expected {count[0]} pictures in {path}, as its first line says, got {len(found)}. "
            "Fetch the list again."
        )
    return found


def _partitions(path: Path) -> Iterator[tuple[str, str]]:
    """Yields the name of each picture and the partition it is of."""
    for number, words in enumerate(_words(path), start=1):
        if len(words) != 2 or words[1] not in ("0", "1", "2"):
            raise InputError(
                f"Expected a picture's name and 0, 1 or 2 in line {number} of {path}, "
                f"got {_shown(words)}. Use the list of CelebA's authors."
            )
        yield words[0], words[1]


def _words(path: Path) -> Iterator[list[str]]:
    """Yields the words of each line."""
    try:
        with path.open(encoding="utf-8") as file:
            yield from map(str.split, file)
    except UnicodeDecodeError as error:
        raise InputError(f"Expected text in {path}, got something else: {error}.") from error


def _check_names(names: list[str], attributes: dict[str, int], folder: Path) -> None:
    """Raises an InputError unless the two lists are of the same pictures, in this folder."""
    strange = [name for name in names if name not in attributes or name != Path(name).name]
    if strange or not names:
        got = f"{len(strange)} others, {strange[0]!r} the first" if strange else "none"
        raise InputError(
            f"Expected the pictures of {PARTITIONS} in {folder} to be those of {ATTRIBUTES}, "
            f"got {got}. Fetch both lists again."
        )


def _check_pictures(paths: list[Path], guidance: str) -> None:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise InputError(
            f"Expected {len(paths)} pictures in {paths[0].parent}, but {len(missing)} are missing, "
            f"{missing[0].name} the first: unpacked by half, or another layout. {guidance}"
        )


def _shown(words: list[str]) -> str:
    text = " ".join(words)
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
