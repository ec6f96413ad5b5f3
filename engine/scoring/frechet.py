"""Fréchet distance between two sets of features: how real drawn images look."""

import torch
from torch import Tensor


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Returns the squared Fréchet distance between Gaussians fitted to two sets of features.

    ``||m1 - m2||^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))``
    (`Heusel et al. (2017) <https://arxiv.org/abs/1706.08500>`_); lower is more alike. Comparable
    only between figures in the features of the same classifier, here the evaluation classifier's.

    Args:
        first: Features ``(N, f)``.
        second: Features ``(M, f)``.
    """
    first, second = first.double(), second.double()
    gap = (first.mean(0) - second.mean(0)).square().sum()
    cov1, cov2 = torch.cov(first.T), torch.cov(second.T)
    # The trace of the root is the sum of the roots of the (real, non-negative) eigenvalues.
    roots = torch.linalg.eigvals(cov1 @ cov2).real.clamp(min=0).sqrt().sum()
    return float(gap + cov1.trace() + cov2.trace() - 2 * roots)
