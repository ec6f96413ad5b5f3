"""Candidates in as large chunks as memory allows, on processors with the same numbers for all."""

import os
from collections.abc import Callable
from typing import Final, TypeVar

import torch
from torch import Tensor

from engine.errors import InfrastructureError

Result = TypeVar("Result")

# Candidates a chunk has at least, and what their number is a multiple of. Of fewer rows, and of the
# rows left over, libraries multiply in another order on some processors (those with AVX-512), and a
# candidate's loss would depend on its company.
FEWEST: Final = 16
MULTIPLE: Final = 4
# What errors say, other than torch's own of GPUs: torch on CPUs, oneDNN, CUDA without torch's
# allocator, and its libraries, as cuBLAS (CUBLAS_STATUS_ALLOC_FAILED).
FULL: Final = (
    "can't allocate memory",
    "could not create a primitive",
    "CUDA error: out of memory",
    "STATUS_ALLOC_FAILED",
)
# Share of the free memory that a chunk may plan for.
SHARE = 0.5


class Chunks:
    """Splits candidates into chunks; halves them for good when memory does not suffice.

    Attributes:
        size: Candidates at once, at least ``FEWEST`` and a multiple of ``MULTIPLE``.

    Args:
        size: Candidates at once to begin with.
    """

    def __init__(self, size: int) -> None:
        self.size = max(FEWEST, size - size % MULTIPLE)

    def map(self, score: Callable[[int, int], Result], candidates: int) -> list[Result]:
        """Returns ``score(start, stop)`` of each chunk of the candidates 0 to ``candidates``.

        Raises:
            InfrastructureError: If even the smallest chunk does not fit.
        """
        results: list[Result] = []
        start = 0
        while start < candidates:
            stop = min(start + self.size, candidates)
            try:
                results.append(score(start, stop))
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self._halve(error)
                continue
            start = stop
        return results

    def _halve(self, error: RuntimeError) -> None:
        if self.size == FEWEST:
            raise InfrastructureError(
                f"Expected memory for {FEWEST} candidates at once, the device has none left: "
                f"{error}. Use a device with more memory, a smaller target model or generator, or "
                "fewer trials on one device (compute.gpus_per_trial)."
            ) from error
        self.size = Chunks(self.size // 2).size
        torch.cuda.empty_cache()


def affordable(bytes_each: int, device: torch.device) -> int:
    """Returns how many candidates of so many bytes each a device's free memory has room for."""
    return max(FEWEST, int(SHARE * _free_bytes(device)) // max(1, bytes_each))


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What torch holds in reserve is free too.
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + reserved)
    if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 2**31


def is_out_of_memory(error: Exception) -> bool:
    """Tells whether an error says that memory was missing."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in FULL)


def filled_up(rows: Tensor) -> Tensor:
    """Returns rows ``(n, ...)``, the last repeated until they are as many as a chunk may have."""
    enough = max(FEWEST, -(-len(rows) // MULTIPLE) * MULTIPLE)
    if enough == len(rows):
        return rows
    return torch.cat([rows, rows[-1:].expand(enough - len(rows), *rows.shape[1:])])
