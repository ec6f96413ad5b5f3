"""The recipes a generator can be trained by, and what suits which images."""

import math
from typing import Any

from engine.generators.training import RECIPES, GeneratorTraining
from engine.generators.vae_gan import VaeGanTrainer
from engine.generators.wgan_gp import WganGpTrainer

__all__ = ["RECIPES", "VaeGanTrainer", "WganGpTrainer", "suited_training"]

SMALL = 32  # Below this height, or in grey, images are as plain as Fashion-MNIST's.


def suited_training(
    image_shape: tuple[int, int, int], *, recipe: str = "vae-gan", **chosen: Any
) -> GeneratorTraining:
    """Returns the settings that suit images of a shape.

    Args:
        image_shape: ``(ch, H, W)``.
        recipe: A name of ``RECIPES``.
        chosen: Settings to use in place of the suited ones; None leaves one as it suits.
    """
    suited: dict[str, Any] = {}
    if recipe == "wgan-gp":
        suited = _paper()
    elif image_shape[0] == 3 or min(image_shape[1:]) >= SMALL:
        suited = _detailed(image_shape)
    given = {name: value for name, value in chosen.items() if value is not None}
    return GeneratorTraining(**{"recipe": recipe, **suited, **given})


def _paper() -> dict[str, Any]:
    """Returns what Gulrajani et al. (2017) and the GGL paper set, with averaged weights."""
    return {
        "architecture": "deconvolutional",
        "latent_dim": 128,
        "width": 256,
        "epochs": 100,
        "partners": "convolutional",
        "batch_size": 64,
        "learning_rate": 1e-4,
        "ema": 0.999,
    }


def _detailed(image_shape: tuple[int, int, int]) -> dict[str, Any]:
    """Returns what was chosen on CIFAR-10; the critic's weight grows with the likelihood's."""
    return {
        "architecture": "upsampling",
        "latent_dim": 128,
        "width": 256,
        "epochs": 16,
        "partners": "convolutional",
        "adversarial_after": 4,
        "adversarial_weight": round(300 * math.prod(image_shape) / 3072, 1),
        "batch_size": 64,
        "ema": 0.999,
        "flips": True,
        "precision": "bfloat16",
    }
