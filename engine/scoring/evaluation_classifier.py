"""The evaluation classifier: a judge that no attack ever uses."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn

from engine.checkpoints import check_sha256, load_weights, read_card, read_tensors
from engine.errors import InputError, PlanError
from engine.federation.target_models import normalise_as_imagenet
from engine.registry import Registry

# By the architecture that a card names; `convolutional` where it names none.
CLASSIFIERS: Final[Registry["EvaluationClassifier"]] = Registry("evaluation classifier")
RESNET50_GUIDANCE: Final = (
    "Write torchvision's ResNet-50 there (98 MB, trained on ImageNet; BSD 3-Clause, for the terms "
    'of the weights see torchvision) where you have a network: python -c "from torchvision.models '
    "import resnet50; from safetensors.torch import save_file; "
    "save_file(resnet50(weights='IMAGENET1K_V1').state_dict(), 'resnet50.safetensors')\". "
    "Note its hash; classifier.sha256 pins it."
)


@CLASSIFIERS.register("convolutional")
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
        self.image_shape, self.classes = image_shape, classes
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
        logits: Tensor = self.classifier(self.features(images))
        return logits

    def features(self, images: Tensor) -> Tensor:
        """Returns features ``(N, 64)`` of images ``(N, ch, H, W)`` in [0, 1]."""
        features: Tensor = self.layers(images)
        return features

    def load(self, tensors: Mapping[str, Tensor], *, source: str) -> None:
        """Copies weights in; raises InputError unless names and shapes all agree."""
        load_weights(self, tensors, source=source)


@CLASSIFIERS.register("deep")
class DeepClassifier(EvaluationClassifier):
    """Six convolutions with batch normalisation and two linear layers, for small colour images.

    Its features are as many as those of the one of two convolutions, and are what its last layer
    sees.

    Args:
        image_shape: ``(ch, H, W)``, at least 8 pixels high and wide.
        classes: Number of classes ``K``.
    """

    def __init__(self, *, image_shape: tuple[int, int, int], classes: int) -> None:
        nn.Module.__init__(self)
        self.image_shape, self.classes = image_shape, classes
        before, height, width = image_shape
        self.layers = nn.Sequential()
        for channels in (32, 64, 128):
            for inputs in (before, channels):
                self.layers.extend(_normalised_convolution(inputs, channels))
            self.layers.append(nn.MaxPool2d(2))
            before = channels
        places = (height // 8) * (width // 8)
        self.layers.extend([nn.Flatten(), nn.Linear(before * places, 64), nn.ReLU()])
        self.classifier = nn.Linear(64, classes)


def _normalised_convolution(inputs: int, channels: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, channels, 3, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(channels), nn.ReLU()]


@CLASSIFIERS.register("resnet50")
class ResNet50Classifier(EvaluationClassifier):
    """Torchvision's ResNet-50 on colour images, normalised as its published weights expect.

    Its features are the 2048 averages that its last layer sees.

    Args:
        image_shape: ``(3, H, W)``.
        classes: Number of classes ``K``.
    """

    def __init__(self, *, image_shape: tuple[int, int, int], classes: int) -> None:
        from torchvision.models import resnet50  # Deferred: slow to import.

        nn.Module.__init__(self)
        if image_shape[0] != 3:
            raise PlanError(f"Expected image_shape (3, H, W) for resnet50, got {image_shape}.")
        self.image_shape, self.classes = image_shape, classes
        self.network = resnet50(num_classes=classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network.fc(self.features(images))
        return logits

    def features(self, images: Tensor) -> Tensor:
        """Returns features ``(N, 2048)`` of images ``(N, 3, H, W)`` in [0, 1]."""
        *before, _ = self.network.children()  # In the order they run, but for a flatten.
        features: Tensor = nn.Sequential(*before)(normalise_as_imagenet(images))
        return features.flatten(1)

    def load(self, tensors: Mapping[str, Tensor], *, source: str) -> None:
        load_weights(self.network, tensors, source=source)


def load_classifier(
    weights: Path, *, sha256: str | None = None, card: Mapping[str, Any] | None = None
) -> EvaluationClassifier:
    """Returns the evaluation classifier in ``weights``, in evaluation mode and frozen.

    Args:
        weights: A safetensors file. The JSON card of the same name beside it gives the architecture
            (``convolutional`` if none), the image shape and the classes.
        sha256: Expected hash; the card's if None.
        card: What the weights are, if no card lies beside them.

    Raises:
        InputError: If a file is missing, unsafe, damaged or another one.
    """
    tensors = read_tensors(weights, sha256=sha256)
    beside = weights.with_suffix(".json")
    if card is None or beside.is_file():
        card = read_card(beside)
    check_sha256(weights, card.get("sha256"))
    try:
        channels, height, width = card["settings"]["image_shape"]
        classifier = CLASSIFIERS.make(
            card.get("architecture", "convolutional"),
            image_shape=(channels, height, width),
            classes=card["settings"]["classes"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"Expected an architecture of {', '.join(CLASSIFIERS.names())}, image_shape and "
            f"classes in {beside}, but they are incomplete: {error}."
        ) from error
    classifier.load(tensors, source=str(weights))
    classifier.eval().requires_grad_(False)
    return classifier
