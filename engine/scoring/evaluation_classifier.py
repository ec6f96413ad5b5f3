"""The evaluation classifier: a judge that no attack ever uses."""

from pathlib import Path
from typing import Final

from torch import Tensor, nn

from engine import validate
from engine.checkpoints import check_sha256, load_weights, read_card, read_tensors
from engine.errors import InputError, PlanError

BODIES: Final = ("small", "deep")
FEATURES: Final = 64


class EvaluationClassifier(nn.Module):
    """Convolutions and two linear layers for small images.

    Its 64 penultimate activations are the features in which distances, identification and the
    Fréchet distance are measured.

    Args:
        image_shape: ``(ch, H, W)``, at least 4 places a side, 8 for the deep body.
        classes: Number of classes ``K``.
        body: ``small`` has two convolutions, enough for grey images of single objects; ``deep`` has
            six with batch normalisation.
    """

    def __init__(
        self, *, image_shape: tuple[int, int, int], classes: int, body: str = "small"
    ) -> None:
        super().__init__()
        validate.choice(BODIES, body=body)
        self.image_shape = image_shape
        self.layers = _small(image_shape) if body == "small" else _deep(image_shape)
        self.classifier = nn.Linear(FEATURES, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits ``(N, K)`` of images ``(N, ch, H, W)`` in [0, 1]."""
        logits: Tensor = self.classifier(self.layers(images))
        return logits

    def features(self, images: Tensor) -> Tensor:
        """Returns features ``(N, 64)`` of images ``(N, ch, H, W)`` in [0, 1]."""
        features: Tensor = self.layers(images)
        return features


def _small(image_shape: tuple[int, int, int]) -> nn.Sequential:
    channels, height, width = image_shape
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * (height // 4) * (width // 4), FEATURES),
        nn.ReLU(),
    )


def _deep(image_shape: tuple[int, int, int]) -> nn.Sequential:
    before, height, width = image_shape
    layers = nn.Sequential()
    for channels in (32, 64, 128):
        for inputs in (before, channels):
            layers.extend(
                [
                    nn.Conv2d(inputs, channels, 3, padding=1, bias=False),
                    nn.BatchNorm2d(channels),
                    nn.ReLU(),
                ]
            )
        layers.append(nn.MaxPool2d(2))
        before = channels
    places = (height // 8) * (width // 8)
    layers.extend([nn.Flatten(), nn.Linear(before * places, FEATURES), nn.ReLU()])
    return layers


def load_classifier(weights: Path, *, sha256: str | None = None) -> EvaluationClassifier:
    """Returns the evaluation classifier in ``weights``, in evaluation mode and frozen.

    The JSON card of the same name beside the weights gives the image shape and the classes.

    Raises:
        InputError: If a file is missing, unsafe, damaged or another one.
    """
    tensors = read_tensors(weights, sha256=sha256)
    card = read_card(weights.with_suffix(".json"))
    check_sha256(weights, card.get("sha256"))
    try:
        channels, height, width = card["settings"]["image_shape"]
        classes = card["settings"]["classes"]
        body = card["settings"].get("body", "small")
        classifier = EvaluationClassifier(
            image_shape=(channels, height, width), classes=classes, body=body
        )
    except (KeyError, TypeError, ValueError, PlanError) as error:
        raise InputError(
            f"Expected image_shape and classes in {weights.with_suffix('.json')}, "
            f"but they are incomplete: {error}."
        ) from error
    load_weights(classifier, tensors, source=str(weights))
    classifier.eval().requires_grad_(False)
    return classifier
