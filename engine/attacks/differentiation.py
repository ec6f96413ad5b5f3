"""Losses with their gradients: generator, target model and imitated defense differentiated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from engine.attacks.scores import Scores
from engine.federation.client import compute_update
from engine.federation.update import Update

if TYPE_CHECKING:
    from engine.attacks.objective import GradientMatchingObjective


@torch.enable_grad()
def differentiate(
    objectives: Sequence[GradientMatchingObjective], latents: Sequence[Tensor]
) -> list[Scores]:
    """Returns the losses of each objective's latents, and their gradients, from one pass.

    White-box. Costs several evaluations, in time and in memory.

    Args:
        objectives: Of one target model, generator, training, number of images and kind of labels.
        latents: Those of each, ``(C, d)``.
    """
    first = objectives[0].knowledge
    leaves = [some.detach().clone().requires_grad_() for some in latents]
    pairs = list(zip(objectives, leaves, strict=True))
    images = first.generate(
        torch.cat([one.decoder.codes(some) for one, some in pairs]),
        torch.cat([one.decoder.classes(some) for one, some in pairs]),
    )
    updates = compute_update(
        first.model,
        images,
        torch.cat([one.decoder.labels(some) for one, some in pairs]),
        images_per_client=first.images_per_client,
        training=first.training,
        differentiable=True,
    )
    losses, start = [], 0
    for objective, some in pairs:
        rows = slice(start, start + len(some))
        own = Update({name: tensor[rows] for name, tensor in updates.tensors.items()})
        distances = objective.distance(objective.imitate(own), objective.observed)
        by_candidate = images.unflatten(0, (-1, first.images_per_client))[rows]
        losses.append(distances + objective.penalties(some, by_candidate))
        start = rows.stop
    gradients = torch.autograd.grad(torch.cat(losses).sum(), leaves)
    return [
        Scores(loss.detach(), gradient) for loss, gradient in zip(losses, gradients, strict=True)
    ]
