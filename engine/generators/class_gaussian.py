"""The prior of a class's codes: a latent of N(0, I), moved into the Gaussian of its class."""

import torch
from torch import Tensor, nn


class ClassGaussian(nn.Module):
    """Maps latents ``z ~ N(0, I)`` of class ``k`` to codes ``mean[k] + scale[k] z``.

    ``mean`` and the lower-triangular ``scale`` are the moments of the class's codes in training. So
    the latents of every class follow one prior, and only what varies within the class is searched.

    Args:
        classes: Number of classes ``K``.
        latent_dim: Number of latent coordinates ``d``.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, classes: int, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(classes, latent_dim))
        self.register_buffer("scale", torch.eye(latent_dim).repeat(classes, 1, 1))

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Returns codes ``(C, d)`` for latents ``(C, d)`` and labels ``(C,)``."""
        return self.mean[labels] + (self.scale[labels] @ latents[:, :, None])[:, :, 0]

    def fit(self, means: Tensor, variances: Tensor, labels: Tensor) -> None:
        """Sets the moments of every class to those of its training codes.

        Args:
            means: Means of the codes' Gaussians, ``(N, d)``.
            variances: Their variances, ``(N, d)``.
            labels: Their classes, ``(N,)``; every class needs more than one.
        """
        for label in range(len(self.mean)):
            mine = labels == label
            spread = torch.cov(means[mine].T) + variances[mine].mean(0).diag()
            self.mean[label] = means[mine].mean(0)
            self.scale[label] = torch.linalg.cholesky(spread)
