"""The models clients train, by name; always in evaluation mode."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engine.errors import UnsupportedModelError
from engine.registry import Registry
from engine.seeding import stream_seed

TARGET_MODELS: Registry[nn.Module] = Registry("target model")
# Of ImageNet's images, as torchvision's trained weights expect them to be taken off and divided by.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def make_target_model(
    name: str, *, image_shape: tuple[int, int, int], classes: int, seed: int
) -> nn.Module:
    """Builds an untrained target model in evaluation mode.

    Args:
        name: A name of ``TARGET_MODELS``.
        image_shape: ``(ch, H, W)`` of the images it classifies.
        classes: Number of classes ``K``.
        seed: Seeds the initial weights; the global random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "target-model"))
        model = TARGET_MODELS.make(name, image_shape=image_shape, classes=classes)
    return model.eval()


@TARGET_MODELS.register("lenet")
class LeNet(nn.Module):
    """Three 5x5 convolutions and one linear layer, after the LeNet of Zhu et al. (2019).

    *Differences from* `DLG <https://arxiv.org/abs/1906.08935>`_: ReLU for sigmoid, and torch's
    default initialisation for uniform weights in [-0.5, 0.5].
    """

    def __init__(self, *, image_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.features = nn.Sequential(
            nn.Conv2d(channels, 12, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(12, 12, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(12, 12, 5, stride=1, padding=2),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.classifier = nn.Linear(12 * -(-height // 4) * -(-width // 4), classes)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits ``(C, K)`` of images ``(C, ch, H, W)``."""
        return self.classifier(self.features(images))


@TARGET_MODELS.register("resnet18")
def resnet18(*, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Torchvision's ResNet-18; below 64 pixels with a 3x3 stem, stride 1 and no max-pooling."""
    from torchvision.models import resnet18 as torchvision_resnet18  # Deferred: slow to import.

    channels, height, width = image_shape
    model = torchvision_resnet18(num_classes=classes)
    if min(height, width) < 64:
        model.conv1 = nn.Conv2d(channels, 64, 3, stride=1, padding=1, bias=False)
        model.maxpool = nn.Identity()
    elif channels != 3:
        model.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    return model


@TARGET_MODELS.register("resnet18_imagenet")
def resnet18_imagenet(*, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The same ResNet-18 behind ImageNet's normalisation, as torchvision's trained weights expect.

    Its parameters have the names and shapes of ``resnet18``: only what it does to images differs.
    """
    if image_shape[0] != 3:
        raise UnsupportedModelError(
            f"Expected colour images (3, H, W) for resnet18_imagenet, got {image_shape}. "
            "Use resnet18."
        )
    model = resnet18(image_shape=image_shape, classes=classes)
    model.register_forward_pre_hook(_normalise_input)
    return model


def normalise_as_imagenet(images: Tensor) -> Tensor:
    """Returns images ``(N, 3, H, W)`` in [0, 1] as networks trained on ImageNet expect them."""
    mean, std = (
        images.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return (images - mean) / std


def _normalise_input(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    del model
    return (normalise_as_imagenet(inputs[0]), *inputs[1:])


@dataclass(frozen=True)
class Head:
    """The target model's last linear layer, found by running the model.

    Attributes:
        name: Its module path, e.g. ``fc``.
        features: Size of its input, the representation.
        has_bias: Whether it adds a bias.
    """

    name: str
    features: int
    has_bias: bool

    @property
    def weight(self) -> str:
        """Name of its weight among the model's parameters."""
        return f"{self.name}.weight"

    @property
    def bias(self) -> str:
        """Name of its bias among the model's parameters."""
        return f"{self.name}.bias"

    def represent(self, model: nn.Module, images: Tensor) -> Tensor:
        """Returns the layer's input ``(C, features)`` for images ``(C, ch, H, W)``."""
        with _recorded_linears(model) as calls:
            model(images)
        return next(inputs for name, inputs in reversed(calls) if name == self.name)


def find_head(model: nn.Module, image_shape: tuple[int, int, int]) -> Head:
    """Finds the last linear layer the model runs, whatever it is called.

    Raises:
        UnsupportedModelError: If the model runs no linear layer.
    """
    with torch.no_grad(), _recorded_linears(model) as calls:
        model(next(model.parameters()).new_zeros(1, *image_shape))
    if not calls:
        modules = ", ".join(name for name, _ in model.named_children())
        raise UnsupportedModelError(
            "Expected a target model that ends in a linear layer, but it runs none; "
            f"it consists of: {modules}."
        )
    name = calls[-1][0]
    layer = model.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    return Head(name, layer.in_features, layer.bias is not None)


@contextmanager
def _recorded_linears(model: nn.Module) -> Iterator[list[tuple[str, Tensor]]]:
    """Yields a list that fills with (name, input) of every linear layer the model runs."""
    calls: list[tuple[str, Tensor]] = []

    def recorder(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: calls.append((name, inputs[0]))

    handles = [
        module.register_forward_pre_hook(recorder(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
