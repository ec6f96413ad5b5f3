"""In which precision a device multiplies numbers of single precision."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from engine.errors import InfrastructureError


@contextmanager
def tensor_float(allowed: bool) -> Iterator[None]:
    """Lets a device round the factors of products to TensorFloat-32, or keeps it from that.

    TensorFloat-32 keeps 10 of 23 bits of a factor. torch lets convolutions on GPUs use it unless
    told otherwise, which would leave three digits of an update.

    Args:
        allowed: Whether it may. Devices without it, and other precisions, are not affected.

    Raises:
        InfrastructureError: If the process has set torch's precision by the interface with which
            this one cannot be mixed.
    """
    before = _state()
    _set("high" if allowed else "highest", allowed)
    try:
        yield
    finally:
        _set(*before)


def _state() -> tuple[str, bool]:
    """Returns the precision of matrix products, and whether convolutions may be rounded."""
    try:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    except RuntimeError as error:
        raise InfrastructureError(
            "Expected torch's precision to be as torch sets it, or set by "
            "torch.set_float32_matmul_precision and torch.backends.cudnn.allow_tf32, got it set by "
            "fp32_precision, which torch does not let one mix with them. Set it by the former."
        ) from error


def _set(products: str, convolutions: bool) -> None:
    torch.set_float32_matmul_precision(products)
    torch.backends.cudnn.allow_tf32 = convolutions
