"""Generators in less than single precision: images a little off, sooner."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from engine.generators.base import Generator
from engine.precision import tensor_float
from search_spaces.latent_spaces.features import SplitGenerator
from search_spaces.latent_spaces.mapped import MappedGenerator

Precision: TypeAlias = Literal["float32", "tf32", "bfloat16"]
PRECISIONS: Final[tuple[Precision, ...]] = ("float32", "tf32", "bfloat16")


@runtime_checkable
class MappedImageGenerator(Generator, MappedGenerator, Protocol):
    """A generator in two parts: a mapping network, and the synthesis of images."""


@runtime_checkable
class SplitImageGenerator(Generator, SplitGenerator, Protocol):
    """A generator that can be split into features, and images of features."""


@dataclass(frozen=True)
class InPrecision:
    """A generator whose products are done in a precision; equal where both are."""

    generator: Generator
    precision: Precision

    def __call__(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Returns images ``(C, ch, H, W)`` for latents ``(C, d)`` and labels ``(C,)``."""
        return self._run(self.generator, latents, labels)

    def _run(self, function: Callable[..., Tensor], *inputs: Any) -> Tensor:
        lowered = torch.autocast(
            inputs[0].device.type, torch.bfloat16, enabled=self.precision == "bfloat16"
        )
        with tensor_float(self.precision == "tf32"), lowered:
            # Whatever layout the generator works in, target models get the common one.
            return function(*inputs).float().contiguous()


@dataclass(frozen=True)
class MappedInPrecision(InPrecision):
    """A generator in two parts whose products are done in a precision."""

    generator: MappedImageGenerator

    @property
    def latent_dim(self) -> int:
        """Number of latent coordinates ``d``."""
        return self.generator.latent_dim

    def mapping(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Maps latents ``(N, d)`` and labels ``(N,)`` to mapped ones ``(N, w)``."""
        return self._run(self.generator.mapping, latents, labels)

    def synthesise(self, mapped: Tensor, labels: Tensor) -> Tensor:
        """Maps mapped latents ``(N, w)`` and labels ``(N,)`` to images ``(N, ch, H, W)``."""
        return self._run(self.generator.synthesise, mapped, labels)


@dataclass(frozen=True)
class SplitInPrecision(InPrecision):
    """A generator that can be split, whose products are done in a precision."""

    generator: SplitImageGenerator

    @property
    def latent_dim(self) -> int:
        """Number of latent coordinates ``d``."""
        return self.generator.latent_dim

    @property
    def stages(self) -> int:
        """Number of stages at which it can be split."""
        return self.generator.stages

    def to_features(self, latents: Tensor, labels: Tensor, stage: int) -> Tensor:
        """Maps latents ``(N, d)`` and labels ``(N,)`` to features ``(N, ...)`` of a stage."""
        return self._run(self.generator.to_features, latents, labels, stage)

    def from_features(self, features: Tensor, labels: Tensor, stage: int) -> Tensor:
        """Maps features ``(N, ...)`` of a stage to images ``(N, ch, H, W)``."""
        return self._run(self.generator.from_features, features, labels, stage)


def in_precision(generator: Generator, precision: Precision) -> InPrecision:
    """Returns what makes a generator's images, in single precision, by products in another.

    Args:
        generator: The generator, with weights in single precision.
        precision: Of the factors of its products: ``float32``, 24 bits; ``tf32``, 11 bits, on GPUs
            that have it; ``bfloat16``, 8 bits, where an operation has it.
    """
    if isinstance(generator, MappedImageGenerator):
        return MappedInPrecision(generator, precision)
    if isinstance(generator, SplitImageGenerator):
        return SplitInPrecision(generator, precision)
    return InPrecision(generator, precision)
