"""Has GPUs do the same sums in the same order every time."""

import os
from typing import Final

import torch

# Eight of 4 MiB: one of the two settings with which cuBLAS repeats its sums.
CUBLAS_WORKSPACES: Final = ":4096:8"


def repeat_sums() -> None:
    """Has this process take the ways of summing on GPUs that come to the same to the last bit.

    Otherwise threads add in the order in which they come, and a search, which follows every bit,
    ends elsewhere each time. Call it before the process first uses a GPU. Where torch knows no such
    way it takes the usual one, and warns in the log of Ray's worker: for the gradients of some
    layers, which torch lists, BigGAN's resizing of images among them.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACES)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Memory that nobody has written to yet is not read either.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
