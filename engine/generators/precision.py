"""Generators in less than single precision: images a little off, sooner."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from engine.generators.base import Generator
from engine.precision import tensor_float
from search_spaces.latent_spaces.mapped import MappedGenerator

Precision: TypeAlias = Literal["float32", "tf32", "bfloat16"]
PRECISIONS: Final[tuple[Precision, ...]] = ("float32", "tf32", "bfloat16")


@runtime_checkable
class MappedImageGenerator(Generator, MappedGenerator, Protocol):
    """A generator in two parts: a mapping network, and the synthesis of images."""


@dataclass(frozen=True)
class InPrecision:
    """A generator whose products are done in a precision; equal where both are."""

    generator: Generator
    precision: Precision

    def __call__(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Returns images ``(C, ch, H, W)`` for latents ``(C, d)`` and labels ``(C,)``."""
        return self._run(self.generator, latents, labels)

    def _run(
        self, function: Callable[[Tensor, Tensor], Tensor], latents: Tensor, labels: Tensor
    ) -> Tensor:
        lowered = torch.autocast(
            latents.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"
        )
        with tensor_float(self.precision == "tf32"), lowered:
            # Whatever layout the generator works in, target models get the common one.
            return function(latents, labels).float().contiguous()


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


def in_precision(generator: Generator, precision: Precision) -> InPrecision:
    """Returns what makes a generator's images, in single precision, by products in another.

    Args:
        generator: The generator, with weights in single precision.
        precision: Of the factors of its products: ``float32``, 24 bits; ``tf32``, 11 bits, on GPUs
            that have it; ``bfloat16``, 8 bits, where an operation has it.
    """
    if isinstance(generator, MappedImageGenerator):
        return MappedInPrecision(generator, precision)
    return InPrecision(generator, precision)
