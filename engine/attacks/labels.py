"""Label inference: which class does an observed update of batch 1 betray."""

from collections.abc import Callable
from typing import Final

from engine.errors import UnsupportedModelError
from engine.federation.target_models import Head
from engine.federation.update import Update


def infer_by_row_sum(observed: Update, head: Head) -> int:
    """Takes the class whose row of the head's weight gradient has the smallest sum.

    The gradient's row of class ``k`` is ``(p_k - y_k)`` times the representation; behind a ReLU
    the representation is not negative, so the true class alone has a negative sum
    (`iDLG <https://arxiv.org/abs/2001.02610>`_; the rule of GGL).
    """
    return int(observed.tensors[head.weight][0].sum(1).argmin())


def infer_by_bias(observed: Update, head: Head) -> int:
    """Takes the class with the smallest entry of the head's bias gradient, ``p_k - y_k``.

    Needs no assumption about the representation's sign, and under noise compares entries that
    differ by 1 instead of sums over hundreds of noisy entries.
    """
    if not head.has_bias:
        raise UnsupportedModelError(
            f"Label inference by bias needs a bias in the layer {head.name!r}, which has none. "
            "Use label_inference: row_sum."
        )
    return int(observed.tensors[head.bias][0].argmin())


LABEL_INFERENCES: Final[dict[str, Callable[[Update, Head], int]]] = {
    "bias": infer_by_bias,
    "row_sum": infer_by_row_sum,
}
