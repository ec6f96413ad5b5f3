"""No defense: the baseline of every audit."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from engine.defenses.base import DEFENSES, ClientContext, Imitation, Unchanged
from engine.federation.target_models import Head
from engine.federation.update import Update


@DEFENSES.register("none")
@dataclass(frozen=True)
class NoDefense:
    """No defense: the client shares its update as it is."""

    name: ClassVar[str] = "none"

    def __call__(self, update: Update, *, client: ClientContext, rng: torch.Generator) -> Update:
        del client, rng
        return update

    @staticmethod
    def estimate(
        observed: Update, *, head: Head, noise_std: float = 0.0, published_code: bool = False
    ) -> Imitation:
        """Nothing to estimate."""
        del observed, head, noise_std, published_code
        return Unchanged()
