"""BigGAN-deep, DeepMind's in the form of Hugging Face: the paper's generator for ImageNet."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from engine.checkpoints import read_card
from engine.errors import InfrastructureError, InputError, PlanError
from engine.generators.base import GENERATORS

PACKAGE: Final = "pytorch-pretrained-biggan"
# Of the published models, the one of the paper; its images are made as small as ImageNet's crops.
OUTPUT_DIM, SIDE = 256, 224
# Of the channels that the first block gets.
FIRST_SIDE: Final = 4
COUNTS: Final = (
    "output_dim",
    "z_dim",
    "class_embed_dim",
    "channel_width",
    "num_classes",
    "n_stats",
)
KEYS: Final = (*COUNTS, "layers", "attention_layer_position", "eps")
GUIDANCE: Final = (
    "Fetch biggan-deep-256-config.json and biggan-deep-256-pytorch_model.bin (224 MB) from "
    "https://s3.amazonaws.com/models.huggingface.co/biggan/ (DeepMind's BigGAN-deep, converted by "
    "Hugging Face; their code is under the MIT licence, the weights under the terms of DeepMind's "
    "module on TensorFlow Hub). Put the first beside it as config.json. The second is a pickle, "
    "which leaktune never opens; where you trust it, write it there as safetensors: python -c "
    '"import torch; from safetensors.torch import save_file; save_file({name: tensor.contiguous() '
    "for name, tensor in torch.load('biggan-deep-256-pytorch_model.bin', weights_only=True).items()"
    "}, 'model.safetensors')\". No hash is published: note yours, generator.sha256 pins it."
)


@GENERATORS.register("biggan")
class BigGanGenerator(nn.Module):
    """BigGAN-deep by the package pytorch-pretrained-biggan; not trained here.

    `Brock et al. (2019) <https://arxiv.org/abs/1809.11096>`_. Its images are resized by area, and
    moved from [-1, 1] into [0, 1]. It can be split after each of its blocks; as later ones look at
    the latent too, features of a stage are a block's channels with the latent behind them.

    *Differences from the code of the GGL paper*: in evaluation mode, as everything in an audit.
    There it is left in training mode, where each call changes its spectral norms, so that equal
    latents give unequal images.

    Args:
        latent_dim: Number of latent coordinates ``d``.
        classes: Number of classes ``K``.
        image_shape: ``(3, H, W)``.
        config: What the published ``config.json`` holds.
        truncation: In (0, 1]; of its batch normalisations, which are by how far latents are from 0.
    """

    def __init__(
        self,
        *,
        latent_dim: int,
        classes: int,
        image_shape: tuple[int, int, int],
        config: Mapping[str, Any],
        truncation: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 < truncation <= 1:
            raise PlanError(f"Expected truncation in (0, 1], got truncation={truncation}.")
        self.latent_dim, self.classes, self.image_shape = latent_dim, classes, image_shape
        self.truncation = truncation
        # Of a package without types.
        self.network: Any = _build({**config, "z_dim": latent_dim, "num_classes": classes})

    @property
    def stages(self) -> int:
        """Number of places where it can be split."""
        return len(self._blocks())

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Returns images ``(C, 3, H, W)`` for latents ``(C, d)`` and labels ``(C,)``."""
        return self._resized(self.network(latents, self._one_hot(labels, latents), self.truncation))

    def to_features(self, latents: Tensor, labels: Tensor, stage: int) -> Tensor:
        """Returns features of a stage, counted from 1, ``(C, F + d)``, for latents ``(C, d)``."""
        network, conditions = self.network.generator, self._conditions(latents, labels)
        start = network.gen_z(conditions).unflatten(1, (FIRST_SIDE, FIRST_SIDE, -1))
        layers = network.layers[: self._blocks()[stage - 1] + 1]
        channels = self._through(layers, start.permute(0, 3, 1, 2).contiguous(), conditions)
        return torch.cat([channels.flatten(1), latents.to(channels)], dim=1)

    def from_features(self, features: Tensor, labels: Tensor, stage: int) -> Tensor:
        """Returns images ``(C, 3, H, W)`` for features ``(C, F + d)`` of a stage."""
        network, place = self.network.generator, self._blocks()[stage - 1]
        flat, latents = features.tensor_split([-self.latent_dim], dim=1)
        width = network.layers[place].conv_3.out_channels
        side = math.isqrt(flat.shape[1] // width)
        conditions = self._conditions(latents, labels)
        rest = network.layers[place + 1 :]
        channels = self._through(rest, flat.unflatten(1, (width, side, side)), conditions)
        coloured = network.conv_to_rgb(network.relu(network.bn(channels, self.truncation)))
        return self._resized(coloured[:, : self.image_shape[0]].tanh())

    def _blocks(self) -> list[int]:
        """Returns the places of blocks among the layers; the others are attention."""
        layers = self.network.generator.layers
        return [place for place, layer in enumerate(layers) if _is_block(layer)]

    def _through(self, layers: nn.ModuleList, channels: Tensor, conditions: Tensor) -> Tensor:
        for layer in layers:
            extra = (conditions, self.truncation) if _is_block(layer) else ()
            channels = layer(channels, *extra)
        return channels

    def _conditions(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Returns what blocks look at: latents, and embeddings of their classes, ``(C, 2 d)``."""
        embedded = self.network.embeddings(self._one_hot(labels, latents))
        return torch.cat([latents.to(embedded), embedded], dim=1)

    def _one_hot(self, labels: Tensor, like: Tensor) -> Tensor:
        return nn.functional.one_hot(labels, self.classes).to(like)

    def _resized(self, images: Tensor) -> Tensor:
        resized = nn.functional.interpolate(images, size=self.image_shape[1:], mode="area")
        return (resized + 1) / 2


def published_card(config: Path) -> dict[str, Any]:
    """Returns the card that the published ``config.json`` of BigGAN-deep-256 amounts to.

    Raises:
        InputError: If it is malformed, or of another size.
    """
    values = read_card(config)
    problem = _problem(values)
    if problem:
        raise InputError(
            f"Expected the configuration of BigGAN-deep in {config}, got {problem}. Use the "
            "config.json published with the weights."
        )
    if values["output_dim"] != OUTPUT_DIM:
        raise InputError(
            f"Expected BigGAN-deep of {OUTPUT_DIM} pixels, got one of {values['output_dim']} in "
            f"{config}. Use biggan-deep-{OUTPUT_DIM}."
        )
    return {
        "architecture": "biggan",
        "settings": {
            "latent_dim": values["z_dim"],
            "classes": values["num_classes"],
            "image_shape": [3, SIDE, SIDE],
            "config": {key: values[key] for key in KEYS},
        },
    }


def fold_spectral_norms(module: nn.Module) -> None:
    """Divides weights by their spectral norms for good, which is what evaluation mode does anew.

    So no product of it is repeated with every call, or done in less than single precision.
    """
    from torch.nn.utils.spectral_norm import SpectralNorm

    for layer in module.modules():
        for hook in [*layer._forward_pre_hooks.values()]:
            if isinstance(hook, SpectralNorm):
                nn.utils.remove_spectral_norm(layer, hook.name)


def _is_block(layer: nn.Module) -> bool:
    return hasattr(layer, "conv_3")


def _problem(config: Mapping[str, Any]) -> str:
    """Returns why this is no configuration of BigGAN-deep, or an empty text."""
    missing = [key for key in KEYS if key not in config]
    if missing:
        return f"no {', '.join(missing)}"
    wrong = [key for key in COUNTS if not isinstance(config[key], int) or config[key] < 1]
    if wrong:
        return ", ".join(f"{key}: {config[key]!r}" for key in wrong)
    layers = config["layers"]
    if not isinstance(layers, list) or not all(map(_is_layer, layers)):
        return "layers that are not of three values, whether they enlarge, and two widths"
    side = FIRST_SIDE * 2 ** sum(layer[0] for layer in layers)
    if side != config["output_dim"]:
        return f"layers for {side} pixels and output_dim: {config['output_dim']}"
    return ""


def _is_layer(layer: object) -> bool:
    if not isinstance(layer, list) or len(layer) != 3 or not isinstance(layer[0], bool):
        return False
    return all(isinstance(width, int) and width > 0 for width in layer[1:])


def _build(config: Mapping[str, Any]) -> nn.Module:
    """Returns the package's network with initial weights, which others replace."""
    problem = _problem(config)
    if problem:
        raise PlanError(f"Expected a configuration of BigGAN-deep, got {problem}.")
    try:
        from pytorch_pretrained_biggan import BigGAN, BigGANConfig
    except ImportError as error:
        raise InfrastructureError(
            f"Expected the package {PACKAGE} for the generator architecture biggan, got: {error}. "
            f"Install it with: pip install '{PACKAGE}'."
        ) from error
    network: nn.Module = BigGAN(BigGANConfig.from_dict(dict(config)))
    return network
