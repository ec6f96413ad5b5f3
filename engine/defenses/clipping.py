"""Norm clipping: scales an update down to a largest L2 norm."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from engine import validate
from engine.defenses.base import DEFENSES, ClientContext, Imitation, MaskedScaling
from engine.federation.target_models import Head
from engine.federation.update import Update

# Keeps the scale of an all-zero update finite; the value of GGL's published code.
EPSILON = 1e-6


@dataclass(frozen=True)
class ClippedTo:
    """Clips candidates' updates to one bound over all parameters together."""

    max_norm: float
    noise_std: ClassVar[float] = 0.0

    def __call__(self, update: Update) -> Update:
        scale = _scale(update.l2_norms(), self.max_norm)
        return update.map(lambda tensor: tensor * _column(scale, tensor))

    def masked_scaling(self) -> MaskedScaling:
        def scale(squared: Tensor) -> Tensor:
            factors = _scale(squared.sum(1, keepdim=True).clamp(min=0).sqrt(), self.max_norm)
            return factors.expand_as(squared)

        return MaskedScaling(scale=scale)

    def __str__(self) -> str:
        return f"clipped to a norm of {self.max_norm:.3g}"


@dataclass(frozen=True)
class ClippedPerLayerTo:
    """Clips every parameter tensor of candidates' updates to its own bound."""

    max_norms: tuple[float, ...]
    noise_std: ClassVar[float] = 0.0

    def __call__(self, update: Update) -> Update:
        norms = update.squared_norms().sqrt()
        scales = _scale(norms, norms.new_tensor(self.max_norms)).unbind(1)
        return Update(
            {
                name: tensor * _column(scale, tensor)
                for (name, tensor), scale in zip(update.tensors.items(), scales, strict=True)
            }
        )

    def masked_scaling(self) -> MaskedScaling:
        def scale(squared: Tensor) -> Tensor:
            return _scale(squared.clamp(min=0).sqrt(), squared.new_tensor(self.max_norms))

        return MaskedScaling(scale=scale)

    def __str__(self) -> str:
        low, high = min(self.max_norms), max(self.max_norms)
        return f"each tensor clipped to its own norm, {low:.3g} to {high:.3g}"


@DEFENSES.register("clipping")
@dataclass(frozen=True)
class Clipping:
    """Scales the whole update so that its L2 norm is at most ``max_norm``.

    One norm is taken over all parameters together, as GGL's published code and DP-SGD do
    (`Abadi et al. (2016) <https://arxiv.org/abs/1607.00133>`_). An update already inside the
    ball keeps its values.

    Attributes:
        max_norm: Largest L2 norm, in units of the update. The paper uses 4.
    """

    max_norm: float
    name: ClassVar[str] = "clipping"

    def __post_init__(self) -> None:
        validate.positive(max_norm=self.max_norm)

    def __call__(self, update: Update, *, client: ClientContext, rng: torch.Generator) -> Update:
        del client, rng
        return ClippedTo(self.max_norm)(update)

    @staticmethod
    def estimate(
        observed: Update, *, head: Head, noise_std: float = 0.0, published_code: bool = False
    ) -> Imitation:
        """Takes the observed norm, less the noise's, as the bound; exact where it did bind."""
        del head, published_code
        return ClippedTo(_without_noise(observed.squared_norms().sum(1), observed, noise_std)[0])


@DEFENSES.register("clipping_per_layer")
@dataclass(frozen=True)
class ClippingPerLayer:
    """Scales every parameter tensor so that its own L2 norm is at most ``max_norm``.

    The form the GGL paper describes; its published code has the global one
    (:class:`Clipping`).

    Attributes:
        max_norm: Largest L2 norm of one parameter tensor, in units of the update.
    """

    max_norm: float
    name: ClassVar[str] = "clipping_per_layer"

    def __post_init__(self) -> None:
        validate.positive(max_norm=self.max_norm)

    def __call__(self, update: Update, *, client: ClientContext, rng: torch.Generator) -> Update:
        del client, rng
        return ClippedPerLayerTo((self.max_norm,) * len(update.tensors))(update)

    @staticmethod
    def estimate(
        observed: Update, *, head: Head, noise_std: float = 0.0, published_code: bool = False
    ) -> Imitation:
        """Takes each tensor's observed norm, less the noise's, as its bound."""
        del head, published_code
        return ClippedPerLayerTo(
            tuple(_without_noise(observed.squared_norms()[0], observed, noise_std))
        )


def _scale(norms: Tensor, max_norms: Tensor | float) -> Tensor:
    return (max_norms / (norms + EPSILON)).clamp(max=1.0)


def _without_noise(squared: Tensor, observed: Update, noise_std: float) -> list[float]:
    """Returns norms behind squared ones that noise added its own to, of all or of each tensor."""
    entries = squared.new_tensor([tensor[0].numel() for tensor in observed.tensors.values()])
    if len(squared) == 1:
        entries = entries.sum()[None]
    # Never zero: a bound of zero would clip every candidate to nothing.
    return (squared - noise_std**2 * entries).clamp(min=1e-4 * squared).sqrt().tolist()


def _column(scale: Tensor, tensor: Tensor) -> Tensor:
    """Shapes ``(C,)`` so that it multiplies ``(C, ...)`` row by row."""
    return scale.view(-1, *[1] * (tensor.ndim - 1))
