"""Penalties on latents that leave the generator's prior; lower is more plausible."""

from collections.abc import Callable
from typing import Final

from torch import Tensor

# Keeps the logarithm of a constant latent finite; the value of GGL's published code.
EPSILON = 1e-10


def none(latents: Tensor) -> Tensor:
    """No penalty, ``(C,)``."""
    return latents.new_zeros(len(latents))


def kl(latents: Tensor) -> Tensor:
    """KL divergence of N(m, s^2) from N(0, 1), with m, s over a latent's own entries, ``(C,)``.

    ``R1`` of `Li et al. (2022) <https://arxiv.org/abs/2203.15696>`_. *Code and paper differ*: the
    paper writes a sum over the entries with an element-wise mean and deviation, which a single
    latent does not have; the published code, followed here, takes one scalar mean and one biased
    deviation per latent, so that the penalty is one number and not a sum over ``d``.
    """
    mean, variance = latents.mean(1), latents.var(1, correction=0)
    return -0.5 * (1 + (variance + EPSILON).log() - mean.square() - variance)


def norm(latents: Tensor) -> Tensor:
    """Squared distance of ``||z||^2`` from its expectation ``d``, ``(C,)``.

    ``R2`` of `Li et al. (2022) <https://arxiv.org/abs/2203.15696>`_. *Code and paper differ*: the
    published code subtracts the number of axes (1) in place of ``d``; this is the paper's form.
    """
    return (latents.square().sum(1) - latents.shape[1]).square()


def prior(latents: Tensor) -> Tensor:
    """Squared length of the latent, ``(C,)``: twice its negative log density under N(0, I).

    Weighted by the variance of the noise in the observed update, it makes the loss a posterior.
    """
    return latents.square().sum(1)


REGULARISERS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "kl": kl,
    "none": none,
    "norm": norm,
    "prior": prior,
}
