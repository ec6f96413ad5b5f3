"""Soteria: hides the features of the representation that reveal most about the input."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from engine import validate
from engine.defenses.base import DEFENSES, ClientContext, Imitation, MaskedScaling
from engine.defenses.sparsification import percentile
from engine.federation.target_models import Head
from engine.federation.update import Update
from engine.precision import tensor_float

VERSIONS = ("ggl",)
# Features differentiated at once; changes memory alone.
FEATURES_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class KnownColumns:
    """Keeps the columns of the head's weight that were not zero in the observed update."""

    weight: str
    keep: Tensor
    noise_std: ClassVar[float] = 0.0

    def __call__(self, update: Update) -> Update:
        return update.replace(**{self.weight: update.tensors[self.weight] * self.keep})

    def masked_scaling(self) -> MaskedScaling:
        return MaskedScaling({self.weight: self.keep})

    def __str__(self) -> str:
        share = float(self.keep.mean())
        return f"known zero columns of {self.weight}, {share:.1%} of the features kept"


@DEFENSES.register("soteria")
@dataclass(frozen=True)
class Soteria:
    """Zeroes the columns of the last linear layer's gradient for the most revealing features.

    For each feature ``r_f`` of the representation (the input of the last linear layer, found from
    the model) the ratio ``||d r_f / d x|| / (r_f + 1e-10)`` is taken, and the columns whose ratio
    is below the ``percent``-th percentile are zeroed. The bias is not touched. A client with
    several images has one mask, from the sum of their ratios, as in the published code.

    *Every code base has its own Soteria*; ``version`` names ours: ``ggl`` is the form in GGL's
    published code. `Sun et al. (2021) <https://arxiv.org/abs/2012.06043>`_ add 0.1 to the
    denominator and act on a layer of a fixed index; other libraries mask rows, or the largest
    ratios.

    Attributes:
        percent: Share of the features that is pruned, in [0, 100). The paper uses 80.
        version: One of ``VERSIONS``.
    """

    percent: float
    version: str = "ggl"
    name: ClassVar[str] = "soteria"

    def __post_init__(self) -> None:
        validate.in_range(0, 99.999, percent=self.percent)
        validate.choice(VERSIONS, version=self.version)

    def __call__(self, update: Update, *, client: ClientContext, rng: torch.Generator) -> Update:
        del rng
        ratios = sensitivity_ratios(client).unflatten(0, (len(update), -1)).sum(1)
        # Absolute ratios against a percentile of the signed ones: so the published code.
        keep = (ratios.abs() >= percentile(ratios, self.percent)).to(ratios.dtype)
        name = client.head.weight
        return update.replace(**{name: update.tensors[name] * keep[:, None, :]})

    @staticmethod
    def estimate(
        observed: Update, *, head: Head, noise_std: float = 0.0, published_code: bool = False
    ) -> Imitation:
        """Takes the all-zero columns of the head's observed gradient as the mask.

        The published code looks at the first row alone.
        """
        del noise_std
        weight = observed.tensors[head.weight][0]
        rows = weight[:1] if published_code else weight
        return KnownColumns(head.weight, (rows != 0).any(0).to(weight.dtype))


@tensor_float(False)
def sensitivity_ratios(client: ClientContext) -> Tensor:
    """Returns ``||d r_f / d x|| / (r_f + 1e-10)`` per image and feature, ``(C * B, features)``."""
    ratios = []
    for image in client.images:
        leaf = image[None].detach().requires_grad_()
        with torch.enable_grad():
            features = client.head.represent(client.model, leaf)[0]
        # By autograd: torch.func.jacrev takes a process a second of imports.
        rows = torch.eye(len(features)).to(features).split(FEATURES_AT_ONCE)
        jacobian = torch.cat(
            [
                torch.autograd.grad(features, leaf, some, is_grads_batched=True, retain_graph=True)[
                    0
                ]
                for some in rows
            ]
        )
        ratios.append(jacobian.flatten(1).norm(dim=1) / (features.detach() + 1e-10))
    return torch.stack(ratios)
