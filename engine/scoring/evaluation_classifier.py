"""The evaluation classifier: a judge that no attack ever uses."""

from pathlib import Path

from torch import Tensor, nn

from engine.checkpoints import check_sha256, load_weights, read_card, read_tensors
from engine.errors import InputError


class EvaluationClassifier(nn.Module):
    """Two convolutions and two linear layers for small images.

    Its 64 penultimate activations are the features in which distances, identification and the
    Fréchet distance are measured.

    Args:
        image_shape: ``(ch, H, W)``; ``H`` and ``W`` divisible by 4.
        classes: Number of classes ``K``.
    """

    def __init__(self, *, image_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.image_shape = image_shape
        channels, height, width = image_shape
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * (height // 4) * (width // 4), 64),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(64, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits ``(N, K)`` of images ``(N, ch, H, W)`` in [0, 1]."""
        logits: Tensor = self.classifier(self.layers(images))
        return logits

    def features(self, images: Tensor) -> Tensor:
        """Returns features ``(N, 64)`` of images ``(N, ch, H, W)`` in [0, 1]."""
        features: Tensor = self.layers(images)
        return features


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
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"Expected image_shape and classes in {weights.with_suffix('.json')}, "
            f"but they are incomplete: {error}."
        ) from error
    classifier = EvaluationClassifier(image_shape=(channels, height, width), classes=classes)
    load_weights(classifier, tensors, source=str(weights))
    classifier.eval().requires_grad_(False)
    return classifier
