"""Named random streams from one seed.

Adding a stream never shifts another one, because each is derived from its own name.
"""

import hashlib

import torch


def stream_seed(seed: int, *names: object) -> int:
    """Returns a 63-bit seed for the stream called ``names`` under the root ``seed``."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(seed: int, *names: object) -> torch.Generator:
    """Returns a CPU random generator for the stream called ``names`` under ``seed``."""
    return torch.Generator().manual_seed(stream_seed(seed, *names))
