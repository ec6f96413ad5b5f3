"""Generators in less than single precision: images a little off, sooner."""

from collections.abc import Callable
from typing import Final, Literal, TypeAlias

import torch
from torch import Tensor

from engine.generators.base import Generator
from engine.precision import tensor_float

Precision: TypeAlias = Literal["float32", "tf32", "bfloat16"]
PRECISIONS: Final[tuple[Precision, ...]] = ("float32", "tf32", "bfloat16")


def in_precision(generator: Generator, precision: Precision) -> Callable[[Tensor, Tensor], Tensor]:
    """Returns what makes a generator's images, in single precision, by products in another.

    Args:
        generator: The generator, with weights in single precision.
        precision: Of the factors of its products: ``float32``, 24 bits; ``tf32``, 11 bits, on GPUs
            that have it; ``bfloat16``, 8 bits, where an operation has it.
    """

    def generate(latents: Tensor, labels: Tensor) -> Tensor:
        lowered = torch.autocast(
            latents.device.type, torch.bfloat16, enabled=precision == "bfloat16"
        )
        with tensor_float(precision == "tf32"), lowered:
            # Whatever layout the generator works in, target models get the common one.
            return generator(latents, labels).float().contiguous()

    return generate
