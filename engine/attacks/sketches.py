"""Sketches: candidates' updates in few numbers that keep how far they are from one another."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import torch
from torch import Tensor

from engine.federation.update import Update, entries

# Numbers of a sketch. It errs by about sqrt(2 / SIZE) of a squared distance.
SIZE: Final = 1024


@dataclass(frozen=True)
class Sketch:
    """Maps updates to ``SIZE`` numbers, linearly, so that squared distances stay about the same.

    Every entry is added, with a random sign, to one of the numbers (feature hashing, Weinberger et
    al., arXiv 0902.2206). Fewer entries than ``SIZE`` are kept as they are.

    Attributes:
        names: Tensors it sees, in the order of their entries.
        columns: Their places among all tensors of the update.
        size: How many entries they have together.
        device: Where updates are.
    """

    names: tuple[str, ...]
    columns: tuple[int, ...]
    size: int
    device: torch.device

    @classmethod
    def of(cls, update: Update, *, largest: int) -> "Sketch":
        """Returns the sketch of updates like ``update``: of its tensors of ``largest`` entries.

        Of the smallest tensor, if all have more.
        """
        sizes = {name: tensor[0].numel() for name, tensor in update.tensors.items()}
        most = max(largest, min(sizes.values()))
        names = tuple(name for name, size in sizes.items() if size <= most)
        columns = tuple(column for column, name in enumerate(sizes) if name in names)
        device = next(iter(update.tensors.values())).device
        return cls(names, columns, sum(sizes[name] for name in names), device)

    def __call__(self, tensors: Mapping[str, Tensor], factors: Tensor) -> Tensor:
        """Returns sketches ``(C, SIZE)``, narrower where there are fewer entries.

        Args:
            tensors: The updates' tensors by name, ``(C, *shape)`` each.
            factors: What the seen tensors are multiplied with, ``(C, tensors)`` of the update.
        """
        seen = [
            entries(tensors[name]) * factors[:, column, None].to(tensors[name].dtype)
            for name, column in zip(self.names, self.columns, strict=True)
        ]
        whole = torch.cat(seen, 1)
        if self.size <= SIZE:
            return whole
        folds = -(-self.size // SIZE)
        padded = torch.nn.functional.pad(whole * self._signs, (0, folds * SIZE - self.size))
        return padded.unflatten(1, (folds, SIZE)).sum(1)

    def seen(self, squared: Tensor) -> Tensor:
        """Returns what share of squared norms ``(C, tensors)`` is in seen tensors, ``(C,)``."""
        return squared[:, list(self.columns)].sum(1) / squared.sum(1)

    @cached_property
    def _signs(self) -> Tensor:
        rng = torch.Generator().manual_seed(0)
        signs = torch.randint(0, 2, (self.size,), generator=rng) * 2 - 1
        return signs.to(self.device, torch.float32)
