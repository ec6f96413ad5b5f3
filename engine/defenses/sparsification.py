"""Gradient sparsification: only the largest entries of each tensor are shared."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from engine import validate
from engine.defenses.base import DEFENSES, ClientContext, Imitation, MaskedScaling
from engine.federation.target_models import Head
from engine.federation.update import Update, entries


@dataclass(frozen=True, eq=False)
class KnownMask:
    """Keeps the entries that were not zero in the observed update; the paper's imitation."""

    keep: Update
    noise_std: ClassVar[float] = 0.0

    def __call__(self, update: Update) -> Update:
        kept = self.keep.tensors
        return Update({name: tensor * kept[name] for name, tensor in update.tensors.items()})

    def masked_scaling(self) -> MaskedScaling:
        return MaskedScaling({name: kept[0] for name, kept in self.keep.tensors.items()})

    def __str__(self) -> str:
        kept = sum(float(tensor.sum()) for tensor in self.keep.tensors.values())
        return f"known zero mask, {kept / self.keep.parameters():.1%} of the entries kept"


@dataclass(frozen=True)
class Pruned:
    """Zeroes the smallest ``percent`` of each tensor's entries by magnitude."""

    percent: float
    noise_std: ClassVar[float] = 0.0

    def __call__(self, update: Update) -> Update:
        return update.map(self._prune)

    def masked_scaling(self) -> None:
        return None

    def _prune(self, tensor: Tensor) -> Tensor:
        magnitudes = entries(tensor).abs()
        thresholds = percentile(magnitudes, self.percent)
        return torch.where(magnitudes < thresholds, 0.0, entries(tensor)).view_as(tensor)

    def __str__(self) -> str:
        return f"the smallest {self.percent:.1f}% of each tensor pruned again"


@DEFENSES.register("sparsification")
@dataclass(frozen=True)
class Sparsification:
    """Zeroes, in each parameter tensor, the entries below a percentile of its magnitudes.

    Attributes:
        percent: Share of each tensor that is pruned, in [0, 100). The paper uses 90.
    """

    percent: float
    name: ClassVar[str] = "sparsification"

    def __post_init__(self) -> None:
        validate.in_range(0, 99.999, percent=self.percent)

    def __call__(self, update: Update, *, client: ClientContext, rng: torch.Generator) -> Update:
        del client, rng
        return Pruned(self.percent)(update)

    @staticmethod
    def estimate(
        observed: Update, *, head: Head, noise_std: float = 0.0, published_code: bool = False
    ) -> Imitation:
        """Takes the zeros of the observed update as the mask (paper).

        The published code counts the zeros instead and prunes every candidate again by that
        percentage, natural zeros included.
        """
        del head, noise_std
        if published_code:
            zeros = sum(int((tensor == 0).sum()) for tensor in observed.tensors.values())
            return Pruned(100.0 * zeros / observed.parameters())
        return KnownMask(observed.map(lambda tensor: (tensor != 0).to(tensor.dtype)))


def percentile(values: Tensor, percent: float) -> Tensor:
    """Returns each row's percentile ``(C, 1)`` of values ``(C, n)``, linearly interpolated.

    Equals ``numpy.percentile``; ``torch.quantile`` refuses tensors of more than 16 M entries.
    """
    ordered = values.sort(dim=1).values
    position = percent / 100 * (values.shape[1] - 1)
    low = int(position)
    high = min(low + 1, values.shape[1] - 1)
    return torch.lerp(ordered[:, low], ordered[:, high], position - low)[:, None]
