"""Where a generator's images change most, found without its gradients."""

from collections.abc import Callable
from functools import lru_cache
from typing import Final, NamedTuple

import torch
from torch import Tensor

# Images made to find the directions of one class; more where one place alone takes more.
PROBES: Final = 2048
# Half the distance of a difference, in prior standard deviations: what a search moves by, and far
# above the rounding of images made in bfloat16.
STEP: Final = 0.5
CHUNK: Final = 256
SEED: Final = 0


class Sensitivity(NamedTuple):
    """How much images change with the latent.

    Attributes:
        directions: Orthonormal, in columns, the most sensitive first, ``(d, d)`` float64.
        squared: Mean squared change of an image along each, a unit of the latent, ``(d,)``,
            descending.
    """

    directions: Tensor
    squared: Tensor


@lru_cache(maxsize=128)
@torch.no_grad()
def sensitive_directions(
    generate: Callable[[Tensor, Tensor], Tensor],
    label: int,
    latent_dim: int,
    device: torch.device,
) -> Sensitivity:
    """Returns the eigenvectors of ``E[JᵀJ]``, ``J`` the generator's Jacobian at a prior draw.

    They are the principal directions of an image's first-order change: along the first ``k`` of
    them, moving the latent changes the images more than along any other ``k``. ``J`` is taken by
    central differences along every coordinate, at as many seeded draws as :data:`PROBES` images
    allow. Kept in the process by generator and class: the same for every search.

    Args:
        generate: Latents ``(N, d)`` and labels ``(N,)`` to images ``(N, ch, H, W)``.
        label: The class whose images are made.
        latent_dim: Number of latent coordinates ``d``.
        device: Where ``generate`` works.
    """
    rng = torch.Generator().manual_seed(SEED)
    places = max(1, PROBES // (2 * latent_dim))
    gram = torch.zeros(latent_dim, latent_dim, dtype=torch.float64)
    for place in torch.randn(places, 1, latent_dim, generator=rng):
        rows = [
            _differences(generate, label, place + steps, place - steps, device)
            for steps in (STEP * torch.eye(latent_dim)).split(CHUNK // 2)
        ]
        jacobian = torch.cat(rows)
        gram += (jacobian @ jacobian.T).cpu() / places
    squared, directions = torch.linalg.eigh(gram)
    squared, directions = squared.flip(0).clamp(min=0), directions.flip(1)
    # An eigenvector's sign is arbitrary; its largest entry is made positive.
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    return Sensitivity(directions * largest.sign(), squared)


def _differences(
    generate: Callable[[Tensor, Tensor], Tensor],
    label: int,
    ahead: Tensor,
    behind: Tensor,
    device: torch.device,
) -> Tensor:
    """Returns how images change from ``behind`` to ``ahead``, a unit of the latent, ``(n, P)``."""
    latents = torch.cat([ahead, behind]).to(device)
    labels = torch.full((len(latents),), label, device=device)
    after, before = generate(latents, labels).flatten(1).double().chunk(2)
    return (after - before) / (2 * STEP)
