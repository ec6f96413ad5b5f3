"""LPIPS, where a user keeps the weights of its networks: nothing is ever downloaded for it."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from engine.checkpoints import load_weights, read_tensors
from engine.errors import InfrastructureError, InputError

FOLDER: Final = "lpips"
# Images smaller than the networks can see are enlarged to what they see well.
SMALLEST_SIDE, ENLARGED_SIDE = 32, 64
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
TINY = 1e-10
# Pairs of images whose features are held together.
AT_ONCE = 8


@dataclass(frozen=True)
class Backbone:
    """A network whose features LPIPS compares.

    Attributes:
        name: As torchvision's models call it.
        metric: Name of its metric.
        stages: Which of its layers' outputs are compared, the first layer being 0.
    """

    name: str
    metric: str
    stages: tuple[int, ...]


# By the file of its weights.
BACKBONES: Final[Mapping[str, Backbone]] = {
    "alex": Backbone("alexnet", "lpips", (1, 4, 7, 9, 11)),
    "vgg": Backbone("vgg16", "lpips_vgg", (3, 8, 15, 22, 29)),
}


class Lpips(nn.Module):
    """LPIPS distance of images in the features of one network; lower leaks more.

    `Zhang et al. (2018) <https://arxiv.org/abs/1801.03924>`_, version 0.1: the features of each
    stage, scaled to length 1 at each place, differ by a weighted sum of squares over channels,
    which is averaged over places and summed over stages.

    Args:
        backbone: The network, without weights.
        weights: Of the channels of each stage, ``(1, channels, 1, 1)``.
    """

    def __init__(self, backbone: Backbone, weights: Sequence[Tensor]) -> None:
        from torchvision import models  # Deferred: slow to import.

        super().__init__()
        self.stages = backbone.stages
        self.layers = getattr(models, backbone.name)(weights=None).features[: self.stages[-1] + 1]
        for stage, weight in zip(self.stages, weights, strict=True):
            self.register_buffer(f"weight_{stage}", weight)

    def forward(self, images: Tensor, truths: Tensor) -> Tensor:
        """Returns distances ``(N,)`` of images ``(N, ch, H, W)`` in [0, 1] and as many truths.

        Grey images are repeated to three channels, and images below 32 pixels enlarged to 64.
        """
        some = zip(images.split(AT_ONCE), truths.split(AT_ONCE), strict=True)
        return torch.cat([self._distances(*pair) for pair in some])

    def _distances(self, images: Tensor, truths: Tensor) -> Tensor:
        pairs = zip(self._features(images), self._features(truths), strict=True)
        distances = [
            ((ours - theirs).square() * self.get_buffer(f"weight_{stage}")).sum(1).mean((1, 2))
            for stage, (ours, theirs) in zip(self.stages, pairs, strict=True)
        ]
        return torch.stack(distances).sum(0)

    def _features(self, images: Tensor) -> list[Tensor]:
        shift, scale = (images.new_tensor(values).view(3, 1, 1) for values in (SHIFT, SCALE))
        values = (2 * _prepare(images) - 1 - shift) / scale
        found = []
        for place, layer in enumerate(self.layers):
            values = layer(values)
            if place in self.stages:
                found.append(values / (values.square().sum(1, keepdim=True).sqrt() + TINY))
        return found


Perceptual = Mapping[str, Callable[[Tensor, Tensor], Tensor]]


def lpips_weights(data_folder: Path) -> dict[str, Path]:
    """Returns where the weights of LPIPS's networks are, by network, if they are there."""
    paths = {name: data_folder / FOLDER / f"{name}.safetensors" for name in BACKBONES}
    return {name: path for name, path in paths.items() if path.is_file()}


def load_lpips(data_folder: Path) -> dict[str, Lpips]:
    """Returns LPIPS by metric name, for each network whose weights are in ``<data_folder>/lpips``.

    Raises:
        InputError: If a file is unsafe, damaged, or holds the weights of another network.
        InfrastructureError: If torchmetrics lacks the weights of the channels.
    """
    return {
        BACKBONES[name].metric: _load(name, path)
        for name, path in lpips_weights(data_folder).items()
    }


def command(name: str) -> str:
    """Returns the command that writes the weights of a network where the internet is at hand."""
    network = BACKBONES[name].name
    return (
        f'python -c "from torchvision.models import {network}; '
        "from safetensors.torch import save_file; "
        f"save_file({network}(weights='IMAGENET1K_V1').features.state_dict(), "
        f"'{name}.safetensors')\""
    )


def _load(name: str, path: Path) -> Lpips:
    tensors = read_tensors(path)
    network = Lpips(BACKBONES[name], _channel_weights(name))
    try:
        load_weights(network.layers, tensors, source=str(path))
    except InputError as error:
        raise InputError(f"{error} Write those of LPIPS with: {command(name)}.") from error
    return network.eval().requires_grad_(False)


def _channel_weights(name: str) -> list[Tensor]:
    """Returns the learned weights of each stage's channels, which come with torchmetrics."""
    found = importlib.util.find_spec("torchmetrics")
    roots = [] if found is None else list(found.submodule_search_locations or ())
    paths = [Path(root) / "functional" / "image" / "lpips_models" / f"{name}.pth" for root in roots]
    for path in paths:
        if path.is_file():
            # A part of an installed package, read without running anything of it.
            tensors = torch.load(path, map_location="cpu", weights_only=True)
            return [tensors[f"lin{stage}.model.1.weight"] for stage in range(5)]
    raise InfrastructureError(
        f"Expected the channel weights of LPIPS ({name}.pth) in the package torchmetrics, found "
        "none. Install leaktune again."
    )


def _prepare(images: Tensor) -> Tensor:
    """Returns the images in three channels and large enough for the networks."""
    colour = images.expand(-1, 3, -1, -1)
    side = min(images.shape[2:])
    if side >= SMALLEST_SIDE:
        return colour
    return nn.functional.interpolate(
        colour, scale_factor=ENLARGED_SIDE / side, mode="bilinear", align_corners=False
    )
