"""In which precision a GPU multiplies numbers of single precision."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def tensor_float(allowed: bool) -> Iterator[None]:
    """Lets a GPU round the factors of products to TensorFloat-32, or keeps it from that.

    TensorFloat-32 keeps 10 of 23 bits of a factor. torch lets convolutions use it unless told
    otherwise, which would leave three digits of an update.

    Args:
        allowed: Whether it may. Other devices and other precisions are not affected.
    """
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = allowed
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before
