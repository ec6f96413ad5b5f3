"""What an evaluation finds of candidates."""

from typing import NamedTuple

from torch import Tensor


class Scores(NamedTuple):
    """Losses, and what was wanted beside them.

    Attributes:
        losses: ``(C,)``; lower is better.
        details: Sketches ``(C, m)``, the squared distance of two of which is about by how much the
            losses would tell one candidate from the other, were it the observed one; or the
            gradients of the losses by the latents ``(C, d)``; None if nothing was wanted.
    """

    losses: Tensor
    details: Tensor | None = None
