"""Distances between candidates' updates and the observed one; lower is closer."""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from engine.federation.update import Update

# Keeps the direction of an all-zero update at zero instead of undefined.
EPSILON = 1e-30


def squared_l2(candidates: Update, observed: Update) -> Tensor:
    """Squared L2 distance per parameter tensor, averaged over the tensors, ``(C,)``.

    ``D1`` of `Li et al. (2022) <https://arxiv.org/abs/2203.15696>`_ divided by the number of
    tensors, as their published code does; the paper's formula has no such divisor.
    """
    parts = [
        (tensor - observed.tensors[name]).flatten(1).square().sum(1)
        for name, tensor in candidates.tensors.items()
    ]
    return torch.stack(parts).mean(0)


def cosine(candidates: Update, observed: Update) -> Tensor:
    """One minus the cosine between whole updates, in [0, 2], ``(C,)``.

    ``D2`` of `Li et al. (2022) <https://arxiv.org/abs/2203.15696>`_, over all entries at once as
    `Geiping et al. (2020) <https://arxiv.org/abs/2003.14053>`_ do. An all-zero update has
    distance 1 to everything.
    """
    # Each side by its own norm: their product would underflow for the small updates of a
    # well-trained model.
    own, other = candidates.l2_norms().clamp(min=EPSILON), observed.l2_norms().clamp(min=EPSILON)
    products = torch.stack(
        [
            (tensor.flatten(1) / own[:, None] * (observed.tensors[name].flatten(1) / other)).sum(1)
            for name, tensor in candidates.tensors.items()
        ]
    )
    return 1 - products.sum(0)


DISTANCES: Final[dict[str, Callable[[Update, Update], Tensor]]] = {
    "cosine": cosine,
    "squared_l2": squared_l2,
}
