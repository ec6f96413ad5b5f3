"""Threat knowledge: everything an attack may use besides the observed update."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from engine.federation.client import FEDSGD, LocalTraining
from engine.federation.target_models import Head


@dataclass(frozen=True, kw_only=True)
class ThreatKnowledge:
    """What the attacker knows. Private images are not in here, and must never be.

    Attributes:
        model: The target model with the weights the client received, in evaluation mode.
        head: Its last linear layer.
        classes: Number of classes ``K``.
        generate: The generator, trained on public images: latents ``(C, d)`` and labels ``(C,)``
            to images ``(C, ch, H, W)`` in [0, 1].
        latent_dim: Number of latent coordinates ``d``.
        defense_kinds: Registered names of the defenses the client applies, in order; never
            their parameters, which an adaptive attacker estimates. Empty: not adaptive.
        training: What clients do with their images, which the server prescribes.
        images_per_client: Number of images ``B`` the client computed its update from. Clients
            report it: federated averaging weighs their updates by it.
    """

    model: nn.Module
    head: Head
    classes: int
    generate: Callable[[Tensor, Tensor], Tensor]
    latent_dim: int
    defense_kinds: tuple[str, ...]
    training: LocalTraining = FEDSGD
    images_per_client: int = 1
