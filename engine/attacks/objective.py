"""The gradient-matching objective: how far candidates' updates are from the observed one."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from engine import validate
from engine.attacks import regularisers
from engine.attacks.knowledge import ThreatKnowledge
from engine.federation.client import compute_update
from engine.federation.update import Update


@dataclass(frozen=True, kw_only=True)
class GradientMatchingObjective:
    """Scores latents by the update their images would have caused.

    For each latent: generate an image of the attributed label, simulate the client on it, imitate
    the estimated defense, and take the distance to the observed update plus the regulariser
    (`Li et al. (2022) <https://arxiv.org/abs/2203.15696>`_, equation 5). Calling it has no side
    effects: it neither counts evaluations nor logs.

    Attributes:
        observed: The update the server received, ``C = 1``.
        label: The class attributed to it.
        knowledge: What the attacker may use.
        imitate: The estimated defense, applied to candidates' updates.
        distance: Candidates' updates and the observed one to distances ``(C,)``.
        regulariser: Latents ``(C, d)`` to penalties ``(C,)``.
        regulariser_weight: Factor of the penalty.
        chunk_size: Candidates whose updates are held in memory at once.
    """

    observed: Update
    label: int
    knowledge: ThreatKnowledge
    imitate: Callable[[Update], Update]
    distance: Callable[[Update, Update], Tensor]
    regulariser: Callable[[Tensor], Tensor] = regularisers.none
    regulariser_weight: float = 0.0
    chunk_size: int = 64

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> Tensor:
        """Returns losses ``(C,)`` for latents ``(C, d)``; lower is better."""
        validate.shape(("C", "d"), latents=latents)
        distances = torch.cat([self._distances(chunk) for chunk in latents.split(self.chunk_size)])
        return distances + self.regulariser_weight * self.regulariser(latents)

    @torch.no_grad()
    def generate(self, latents: Tensor) -> Tensor:
        """Returns the images ``(C, ch, H, W)`` of latents ``(C, d)`` in the attributed class."""
        return self.knowledge.generate(latents, self._labels(latents))

    def _labels(self, latents: Tensor) -> Tensor:
        return torch.full((len(latents),), self.label, device=latents.device)

    def _distances(self, latents: Tensor) -> Tensor:
        images = self.generate(latents)
        candidates = compute_update(self.knowledge.model, images, self._labels(latents))
        return self.distance(self.imitate(candidates), self.observed)
