"""Setups: what the name of a data set stands for in a plan, all parts of an audit together.

A plan that names a data set gets its private images, generator, evaluation classifier and target
model. Each part is embedded, or is a file the user keeps below ``<data_folder>/<name>/``; without
it, one message says what to fetch or to make, and where it goes.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from engine import assets
from engine.datasets import DATASETS
from engine.errors import InputError
from engine.federation.private_images import (
    PrivateImages,
    load_private_images,
    read_private_images,
)
from engine.generators.biggan import GUIDANCE as BIGGAN_GUIDANCE
from engine.scoring.evaluation_classifier import RESNET50_GUIDANCE

# What a plan gets whose data are no data set by name, but a file.
DEFAULT: Final = "fashion-mnist"
PRETRAIN: Final = (
    "Make it, and its card, with: leaktune pretrain {part} --dataset {name} --data {folder} "
    "--output {folder}"
)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The parts of an audit on one data set.

    Attributes:
        target_model: Name of the model that clients train.
        files: Where a part's weights lie in the data set's folder, by part, and what else must
            be there; ``<part>.safetensors`` where none is said.
        guidance: How to come by them, by part; by ``leaktune pretrain`` where none is said.
        classifier_card: What the classifier's weights are, where no card of ours lies beside them.
    """

    target_model: str
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    guidance: Mapping[str, str] = field(default_factory=dict)
    classifier_card: Mapping[str, Any] | None = None


SETUPS: Final[Mapping[str, Setup]] = MappingProxyType(
    {
        "fashion-mnist": Setup(target_model="lenet"),
        "cifar10": Setup(target_model="lenet"),
        "celeba-32": Setup(target_model="resnet18"),
        "imagenet-224": Setup(
            target_model="resnet18",
            files={
                "generator": (
                    "biggan-deep-256/model.safetensors",
                    "biggan-deep-256/config.json",
                ),
                "classifier": ("resnet50.safetensors",),
            },
            guidance={"generator": BIGGAN_GUIDANCE, "classifier": RESNET50_GUIDANCE},
            classifier_card={
                "architecture": "resnet50",
                "settings": {"image_shape": [3, 224, 224], "classes": 1000},
            },
        ),
    }
)


def setup_of(data: object) -> tuple[str, Setup]:
    """Returns the name and the setup of a plan's data; those of the default for a path."""
    name = data if isinstance(data, str) and data in SETUPS else DEFAULT
    return name, SETUPS[name]


def default_data_folder() -> str:
    """Returns where data sets are kept unless a plan says otherwise."""
    return os.environ.get("LEAKTUNE_DATA") or "data"


def part_path(reference: str, part: str, data_folder: str | None = None) -> Path:
    """Returns the path of weights given by the name of a setup or by a path.

    Args:
        reference: The name, or the path.
        part: Of the setup: ``generator``, ``classifier``, or the name of a target model.
        data_folder: Where the user keeps data sets; the default if None.

    Raises:
        InputError: If a part of a setup is neither embedded nor where it belongs.
    """
    if reference not in SETUPS:
        return Path(reference)
    embedded = assets.asset(reference, part)
    if embedded.is_file():
        return embedded
    setup = SETUPS[reference]
    folder = Path(data_folder or default_data_folder()).absolute() / reference
    path, *others = (folder / name for name in setup.files.get(part, (f"{part}.safetensors",)))
    for needed in (path, *others):
        if not needed.is_file():
            how = setup.guidance.get(part) or PRETRAIN.format(
                part=_command(part), name=reference, folder=folder
            )
            raise InputError(f"Expected the {part} of {reference} at {needed}, found none. {how}")
    return path


def classifier_card(reference: str) -> Mapping[str, Any] | None:
    """Returns what the classifier of a setup is, if no card beside it has to say so."""
    return SETUPS[reference].classifier_card if reference in SETUPS else None


def private_images_of(data: str, data_folder: str, *, needed: int) -> PrivateImages:
    """Returns the images of clients: embedded ones, those of a file, or of a user's data set.

    Args:
        data: Name of a setup, or the path of a safetensors file.
        data_folder: Where the user keeps data sets.
        needed: Private images that the audit attacks.

    Raises:
        InputError: If files are missing, damaged or laid out otherwise, or too few.
    """
    path = private_file(data)
    if path is not None:
        return load_private_images(path)
    return read_private_images(DATASETS.make(data), Path(data_folder) / data, needed=needed)


def private_file(data: str) -> Path | None:
    """Returns the file of a plan's private images; None if they are read from a data set."""
    if data not in SETUPS:
        return Path(data)
    return assets.asset(data, "private_images") if has_embedded_images(data) else None


def has_embedded_images(data: object) -> bool:
    """Whether a plan's data bring their private images along, which are public ones."""
    return (
        isinstance(data, str) and data in SETUPS and assets.asset(data, "private_images").is_file()
    )


def _command(part: str) -> str:
    """Returns the words of ``leaktune pretrain`` that make a part."""
    return part if part in ("generator", "classifier") else f"target-model --name {part}"
