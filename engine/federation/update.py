"""Model updates: the tensors clients share, keyed by parameter name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Update:
    """The updates of ``C`` clients (or of ``C`` simulated candidates).

    There is no unbatched form: a single client's update has ``C = 1``.

    Attributes:
        tensors: Parameter name to tensor ``(C, *parameter shape)``, in model order.
            On one device and never modified in place; detached, but for white-box attacks.
    """

    tensors: Mapping[str, Tensor]

    def __len__(self) -> int:
        """Returns the number of clients ``C``."""
        return len(next(iter(self.tensors.values())))

    def map(self, fn: Callable[[Tensor], Tensor]) -> Update:
        """Returns a new update with ``fn`` applied to every tensor."""
        return Update({name: fn(tensor) for name, tensor in self.tensors.items()})

    def split(self, clients: Sequence[int]) -> list[Update]:
        """Returns the updates of so many clients each, ``sum(clients) = C``."""
        parts = {name: tensor.split(list(clients)) for name, tensor in self.tensors.items()}
        return [
            Update({name: each[place] for name, each in parts.items()})
            for place in range(len(clients))
        ]

    def to(self, device: torch.device) -> Update:
        """Returns the same update on another device."""
        return self.map(lambda tensor: tensor.to(device))

    def replace(self, **tensors: Tensor) -> Update:
        """Returns a new update in which the named tensors stand for the old ones."""
        return Update({**self.tensors, **tensors})

    def squared_norms(self) -> Tensor:
        """Returns squared L2 norms ``(C, tensors)``, one column a parameter tensor."""
        columns = [entries(tensor).square().sum(1) for tensor in self.tensors.values()]
        return torch.stack(columns, dim=1)

    def l2_norms(self) -> Tensor:
        """Returns each client's L2 norm over all parameters together, ``(C,)``."""
        return self.squared_norms().sum(1).sqrt()

    def parameters(self) -> int:
        """Returns the number of entries of one client's update."""
        return sum(tensor[0].numel() for tensor in self.tensors.values())


def entries(tensor: Tensor) -> Tensor:
    """Returns a tensor ``(C, *parameter shape)`` as ``(C, n)``; numbers too have ``n = 1``."""
    return tensor.reshape(tensor.shape[0], -1)
