"""The latent space of an attack: named by its settings, made for what the attacker knows."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from engine.attacks.knowledge import ThreatKnowledge
from engine.errors import PlanError
from search_spaces.latent import LatentSpace, Source
from search_spaces.latent_spaces import check_space, make_space
from search_spaces.latent_spaces.features import FeatureSynthesis, feature_synthesis
from search_spaces.latent_spaces.mapped import Synthesis, mapped_dim
from search_spaces.latent_spaces.pixels import Pixels

# The spaces beyond a generator's mapping network, of its features beside its latents, and of images
# without it: their latents are another generator's, so to speak.
MAPPED = "w"
FEATURES = "features"
PIXELS = "pixels"


def check_space_settings(name: str, settings: Mapping[str, object]) -> None:
    """Raises a PlanError unless there is a space ``name`` that takes settings of these names."""
    try:
        check_space(name, settings)
    except ValueError as error:
        raise PlanError(str(error)) from error


def label_space(name: str, settings: Mapping[str, object]) -> str:
    """Returns a space as a reader sees it, e.g. ``principal(directions=16)``."""
    given = ", ".join(f"{key}={value}" for key, value in settings.items())
    return f"{name}({given})" if given else name


def entered(name: str, settings: Mapping[str, Any], knowledge: ThreatKnowledge) -> ThreatKnowledge:
    """Returns the knowledge whose generator takes the latents of the space ``name``.

    Raises:
        PlanError: If the generator has no such latents, or not with these settings of the space.
    """
    generate, device = knowledge.generate, _device_of(knowledge)
    try:
        if name == MAPPED:
            dim = mapped_dim(generate, device)
            return replace(knowledge, generate=Synthesis(generate), latent_dim=dim)  # type: ignore[arg-type]
        if name == FEATURES:
            synthesis = feature_synthesis(generate, device, **settings)
            return replace(knowledge, generate=synthesis, latent_dim=synthesis.latent_dim)
        if name == PIXELS:
            pixels = Pixels(_image_shape(knowledge, device))
            return replace(knowledge, generate=pixels, latent_dim=pixels.latent_dim)
    except ValueError as error:
        raise PlanError(str(error)) from error
    return knowledge


def space_of(
    name: str,
    settings: Mapping[str, object],
    knowledge: ThreatKnowledge,
    *,
    labels: tuple[int, ...],
    seed: int,
) -> LatentSpace:
    """Returns the space an attack searches.

    Args:
        name: Name of the space.
        settings: Its settings.
        knowledge: What the attacker knows, :func:`entered`.
        labels: The classes attributed to the client's images.
        seed: Seeds what the space draws.

    Raises:
        PlanError: If the space cannot be made of these settings or for this generator.
    """
    generate = knowledge.generate
    if isinstance(generate, Synthesis | FeatureSynthesis):
        generate = generate.generator
    source = Source(generate, labels, _device_of(knowledge))
    try:
        return make_space(
            name,
            latent_dim=knowledge.latent_dim,
            images=len(labels),
            source=source,
            seed=seed,
            **settings,
        )
    except ValueError as error:
        raise PlanError(str(error)) from error


@torch.no_grad()
def _image_shape(knowledge: ThreatKnowledge, device: torch.device) -> tuple[int, int, int]:
    latents = torch.zeros(1, knowledge.latent_dim, device=device)
    labels = torch.zeros(1, dtype=torch.long, device=device)
    channels, height, width = knowledge.generate(latents, labels).shape[1:]
    return channels, height, width


def _device_of(knowledge: ThreatKnowledge) -> torch.device:
    return next(knowledge.model.parameters()).device
