"""Loads a trained generator from its weights and the card beside them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.checkpoints import check_sha256, load_weights, read_card, read_tensors
from engine.errors import InputError, PlanError
from engine.generators.base import GENERATORS
from engine.generators.biggan import fold_spectral_norms, published_card

PUBLISHED_CONFIG = "config.json"


def load_generator(weights: Path, *, sha256: str | None = None) -> Any:
    """Returns the generator in ``weights``, in evaluation mode and frozen.

    Args:
        weights: A safetensors file; the JSON card of the same name beside it gives the
            architecture, its settings and the file's hash. Without one, ``config.json`` beside it,
            as published with BigGAN, does.
        sha256: Expected hash; the card's if None.

    Raises:
        InputError: If a file is missing, unsafe or damaged, the hash differs, or the images do not
            have the shape and range the card promises.
        InfrastructureError: If the architecture needs a package that is not installed.
    """
    tensors = read_tensors(weights, sha256=sha256)
    generator = _make(weights, tensors)
    generator.eval()
    fold_spectral_norms(generator)
    generator.requires_grad_(False)
    _check_images(generator, weights)
    return generator


def _make(weights: Path, tensors: Mapping[str, Tensor]) -> Any:
    """Returns the generator that the card beside the weights describes, with the weights in it."""
    beside, published = weights.with_suffix(".json"), weights.with_name(PUBLISHED_CONFIG)
    if published.is_file() and not beside.is_file():
        beside, card = published, published_card(published)
        tensors = {f"network.{name}": tensor for name, tensor in tensors.items()}
    else:
        card = read_card(beside)
    check_sha256(weights, card.get("sha256"))
    try:
        settings = dict(card["settings"])
        settings["image_shape"] = tuple(settings["image_shape"])
        generator = GENERATORS.make(card["architecture"], **settings)
    except (KeyError, TypeError, PlanError) as error:
        raise InputError(
            f"Expected a known architecture and its settings in {beside}, "
            f"got something else: {error}"
        ) from error
    load_weights(generator, tensors, source=str(weights))
    return generator


def _check_images(generator: Any, weights: Path) -> None:
    latents = torch.zeros(2, generator.latent_dim)
    images = generator(latents, torch.zeros(2, dtype=torch.long))
    if images.shape[1:] != generator.image_shape:
        raise InputError(
            f"Expected images of shape {generator.image_shape} from {weights}, "
            f"got {tuple(images.shape[1:])}."
        )
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 1):
        raise InputError(f"Expected images in [0, 1] from {weights}, got [{low:.3g}, {high:.3g}].")
