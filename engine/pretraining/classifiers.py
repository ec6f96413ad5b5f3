"""Trains classifiers on public images: the evaluation classifier, and target models."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from engine import validate
from engine.errors import InputError
from engine.federation.target_models import make_target_model
from engine.federation.training import accuracy, train_classifier
from engine.generators.training import PRECISIONS
from engine.pretraining.cards import Made, write_weights
from engine.pretraining.public_data import PublicData
from engine.scoring.evaluation_classifier import CLASSIFIERS
from engine.seeding import stream_seed

# Those of ``CLASSIFIERS`` that are made here; the others come with weights of their own.
TRAINED: Final = ("convolutional", "deep")


@dataclass(frozen=True, kw_only=True)
class ClassifierTraining:
    """How a classifier is trained, besides its images and its seed.

    Attributes:
        epochs: Passes over the training images.
        augmented: Whether images are mirrored and shifted at random.
        mixed_precision: Whether products are done in bfloat16.
    """

    epochs: int
    augmented: bool = False
    mixed_precision: bool = False

    def __post_init__(self) -> None:
        validate.count(epochs=self.epochs)


def suited_classifier(
    image_shape: tuple[int, int, int],
    *,
    epochs: int,
    architecture: str | None = None,
    precision: str | None = None,
) -> tuple[str, ClassifierTraining]:
    """Returns the architecture and the training of an evaluation classifier for images of a shape.

    Args:
        image_shape: ``(ch, H, W)``.
        epochs: Passes over the training images.
        architecture: One of ``TRAINED``; as suits the shape if None.
        precision: One of ``PRECISIONS``; as suits the architecture if None.
    """
    chosen = architecture or ("deep" if image_shape[0] == 3 else "convolutional")
    validate.choice(TRAINED, architecture=chosen)
    deep = chosen == "deep"
    chosen_precision = precision or ("bfloat16" if deep else "float32")
    validate.choice(PRECISIONS, precision=chosen_precision)
    mixed = chosen_precision == "bfloat16"
    return chosen, ClassifierTraining(epochs=epochs, augmented=deep, mixed_precision=mixed)


def pretrain_classifier(
    data: PublicData,
    output: Path,
    training: ClassifierTraining,
    *,
    architecture: str = "convolutional",
    made: Made,
    on_batch: Callable[[], None],
) -> dict[str, float]:
    """Trains the evaluation classifier and writes it with its cards; returns its accuracy."""
    _check_classes(data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(made.seed, "classifier"))
        classifier = CLASSIFIERS.make(
            architecture, image_shape=data.image_shape, classes=len(data.classes)
        )
    card = {"kind": "evaluation classifier", "architecture": architecture}
    path = output / "classifier.safetensors"
    return _pretrain(classifier, data, path, card, training, made, on_batch)


def pretrain_target_model(
    data: PublicData,
    output: Path,
    training: ClassifierTraining,
    *,
    name: str,
    made: Made,
    on_batch: Callable[[], None],
) -> dict[str, float]:
    """Trains a target model and writes its weights with their cards; returns its accuracy."""
    _check_classes(data)
    model = make_target_model(
        name, image_shape=data.image_shape, classes=len(data.classes), seed=made.seed
    )
    card = {"kind": "target model", "architecture": name}
    path = output / f"{name}.safetensors"
    return _pretrain(model, data, path, card, training, made, on_batch)


def _check_classes(data: PublicData) -> None:
    if len(data.classes) < 2:
        raise InputError(
            "Expected images of at least 2 classes to tell apart, got one class. "
            "Put the pictures of each class into a folder of its own."
        )


def _pretrain(
    model: nn.Module,
    data: PublicData,
    path: Path,
    card: dict[str, Any],
    training: ClassifierTraining,
    made: Made,
    on_batch: Callable[[], None],
) -> dict[str, float]:
    started = time.monotonic()
    device = torch.device(made.device)
    train, test = data.train, data.test
    if training.mixed_precision:
        model.to(memory_format=torch.channels_last)
    train_classifier(
        model,
        train.images,
        train.labels,
        seed=made.seed,
        device=device,
        on_batch=on_batch,
        **asdict(training),
    )
    figures = {
        "test_accuracy": round(accuracy(model, test.images, test.labels), 4),
        "training_accuracy": round(accuracy(model, train.images, train.labels), 4),
    }
    model.cpu()
    card["settings"] = {"classes": len(data.classes), "image_shape": list(data.image_shape)}
    card |= {"training": asdict(training), "training_images": len(train.images)}
    card |= {"seconds": round(time.monotonic() - started), "figures": figures}
    write_weights(path, model, card, data, made)
    return figures
