"""Chooses private images and distractors from images that nothing was trained on."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from engine.errors import InputError
from engine.federation.private_images import DISTRACTORS_PER_CLASS, TARGETS_PER_CLASS
from engine.pretraining.cards import Made, write_cards
from engine.pretraining.pictures import save_grid
from engine.pretraining.public_data import PublicData


def choose_private_images(data: PublicData, output: Path, *, made: Made) -> None:
    """Writes the first test images of every class as private images and distractors.

    Of a class with fewer of them, there are as many fewer distractors.
    """
    images, labels = data.test.images, data.test.labels
    classes = len(data.classes)
    rows = [(labels == label).nonzero()[:, 0] for label in range(classes)]
    for row, name in zip(rows, data.classes, strict=True):
        if len(row) <= TARGETS_PER_CLASS:
            raise InputError(
                f"Expected more than {TARGETS_PER_CLASS} test images of every class, got "
                f"{len(row)} of {name!r}. Add images of it, or leave the class out."
            )
    # One of each class after the other, so that any number of targets is spread over the classes.
    targets = torch.stack([row[:TARGETS_PER_CLASS] for row in rows], dim=1).flatten()
    last = TARGETS_PER_CLASS + DISTRACTORS_PER_CLASS
    distractors = torch.cat([row[TARGETS_PER_CLASS:last] for row in rows])
    output.mkdir(parents=True, exist_ok=True)
    path = output / "private_images.safetensors"
    save_file(
        {
            "images": images[targets].contiguous(),
            "labels": labels[targets].contiguous(),
            "distractor_images": images[distractors].contiguous(),
            "distractor_labels": labels[distractors].contiguous(),
            "test_rows": targets.contiguous(),
            "distractor_test_rows": distractors.contiguous(),
        },
        path,
    )
    card = {
        "kind": "private images",
        "figures": {"targets": len(targets), "distractors": len(distractors)},
    }
    write_cards(path, card, data, made)
    shown = images[targets[: 2 * classes]] / 255
    save_grid(shown, path.with_suffix(".png"), columns=min(classes, 10))
