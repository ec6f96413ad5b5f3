"""Additive Gaussian noise."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from engine import validate
from engine.defenses.base import DEFENSES, ClientContext, Imitation, Unchanged
from engine.federation.target_models import Head
from engine.federation.update import Update


@DEFENSES.register("gaussian_noise")
@dataclass(frozen=True)
class GaussianNoise:
    """Adds independent N(0, std^2) noise to every entry of the update.

    Attributes:
        std: Standard deviation in units of the update; the noise itself, not a multiplier of a
            clipping norm. The paper uses 0.1.
    """

    std: float
    name: ClassVar[str] = "gaussian_noise"

    def __post_init__(self) -> None:
        validate.positive(std=self.std)

    def __call__(self, update: Update, *, client: ClientContext, rng: torch.Generator) -> Update:
        del client

        def add_noise(tensor: Tensor) -> Tensor:
            # Drawn on the CPU, so that a seed means the same noise on every device.
            noise = torch.randn(tensor.shape, generator=rng, dtype=tensor.dtype)
            return tensor + self.std * noise.to(tensor.device)

        return update.map(add_noise)

    @staticmethod
    def estimate(
        observed: Update, *, head: Head, noise_std: float = 0.0, published_code: bool = False
    ) -> Imitation:
        """Leaves candidates alone, and estimates the noise's standard deviation.

        Squared L2 to a noisy update *is* the Gaussian log-likelihood, so there is nothing to
        imitate; the deviation says how far that likelihood is to be trusted against the prior. It
        is estimated by the median absolute entry, since most entries of an update are far below
        the noise; where they are not, the estimate is too high by the update's own spread. Where
        a later defense zeroed the smallest entries, the median of the others is taken, as the
        quantile that it is of all of them.

        *Differences from the published code*: its CelebA script adds fresh noise of the true
        standard deviation to every candidate, which no attacker knows and which only blurs the
        loss; its ImageNet script does nothing.
        """
        del head, noise_std
        if published_code:
            return Unchanged()
        entries = torch.cat([tensor.flatten().abs() for tensor in observed.tensors.values()])
        kept = entries[entries > 0]
        if not len(kept):
            return Unchanged()
        share = 1 - 0.5 * len(kept) / len(entries)
        quantile = torch.special.ndtri(torch.tensor((1 + share) / 2, dtype=torch.float64))
        return Unchanged(noise_std=float(kept.median()) / float(quantile))
