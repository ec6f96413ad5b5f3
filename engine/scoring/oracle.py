"""Oracle projection: the best this generator could ever do, knowing the private image.

It is the ceiling of an audit, computed on the scoring side alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.precision import tensor_float
from engine.scoring.metrics import mse


@dataclass(frozen=True, kw_only=True)
class Projection:
    """The generator's closest images.

    Attributes:
        images: ``(N, ch, H, W)`` in [0, 1].
        latents: ``(N, d)``.
        mse: Mean squared error to the private images, ``(N,)``.
    """

    images: Tensor
    latents: Tensor
    mse: Tensor


@tensor_float(False)
def project(
    generate: Callable[[Tensor, Tensor], Tensor],
    truths: Tensor,
    labels: Tensor,
    *,
    latent_dim: int,
    rng: torch.Generator,
    steps: int = 400,
    restarts: int = 3,
) -> Projection:
    """Finds the latents whose images are closest to ``truths`` in squared error.

    Adam through the generator, from the prior's mean and from random latents, the best restart of
    each image kept.

    Args:
        generate: Differentiable generator: latents ``(C, d)`` and labels ``(C,)`` to images.
        truths: Private images, ``(N, ch, H, W)`` in [0, 1].
        labels: Their true classes, ``(N,)``.
        latent_dim: Number of latent coordinates ``d``.
        rng: Draws the random starts, on the CPU.
        steps: Steps of Adam; the last quarter with a tenth of the step size.
        restarts: Starts per image, the first at zero.
    """
    images = truths.repeat(restarts, 1, 1, 1)
    repeated = labels.repeat(restarts)
    starts = torch.randn(len(images), latent_dim, generator=rng)
    starts[: len(truths)] = 0
    latents = starts.to(truths).requires_grad_(True)
    optimizer = torch.optim.Adam([latents], lr=0.1)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3 * steps // 4], gamma=0.1)
    with torch.enable_grad():
        for _ in range(steps):
            optimizer.zero_grad()
            mse(generate(latents, repeated), images).sum().backward()
            optimizer.step()
            scheduler.step()

    with torch.no_grad():
        projected = generate(latents, repeated)
        errors = mse(projected, images).view(restarts, -1)
    columns = torch.arange(len(truths), device=errors.device)
    best, rows = errors.min(0).values, errors.argmin(0) * len(truths) + columns
    return Projection(images=projected[rows], latents=latents.detach()[rows], mse=best)
