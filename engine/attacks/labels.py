"""Label inference: which classes does an observed update betray."""

from collections.abc import Callable
from typing import Final

from torch import Tensor

from engine.attacks.knowledge import ThreatKnowledge
from engine.defenses.base import SCALING
from engine.errors import UnsupportedModelError
from engine.federation.update import Update


def infer_by_row_sum(observed: Update, knowledge: ThreatKnowledge) -> tuple[int, ...]:
    """Takes classes by the sums of their rows in the head's weight gradient, smallest first.

    The gradient's row of class ``k`` is the mean over the ``B`` images of ``(p_k - y_k)`` times the
    representation; behind a ReLU the representation is not negative, so that only classes among
    the true ones have a negative sum (`iDLG <https://arxiv.org/abs/2001.02610>`_; for ``B = 1`` the
    smallest sum is the rule of GGL). Every such class is taken once, then whichever sum is the
    smallest, each time with what one image adds to a sum taken away again. That impact is
    estimated as the negative sums over ``B``, times ``1 + 1/K``
    (`LLG <https://arxiv.org/abs/2105.09369>`_, Wainakh et al. 2021, without auxiliary data).

    Returns:
        The classes of the client's images, ``B`` of them in ascending order.
    """
    sums = observed.tensors[knowledge.head.weight][0].sum(1)
    images = knowledge.images_per_client
    impact = float(-sums.clamp(max=0).sum()) / images * (1 + 1 / len(sums))
    once = _take_smallest(sums, min(images, int((sums < 0).sum())), impact=float("inf"))
    left = sums.clone()
    left[once] += impact
    return tuple(sorted(once + _take_smallest(left, images - len(once), impact=impact)))


def infer_by_bias(observed: Update, knowledge: ThreatKnowledge) -> tuple[int, ...]:
    """Takes classes by their entries in the head's bias gradient, smallest first.

    The entry of class ``k`` is the mean over the ``B`` images of ``p_k - y_k``, summed over local
    steps: one image of the class moves it by ``-steps / B``. So that much is added to the smallest
    entry for each class taken, in the manner of LLG
    (`Wainakh et al. (2021) <https://arxiv.org/abs/2105.09369>`_), whose impact of one image has to
    be estimated where here it is known. A client that clips may have scaled the update, by how much
    the server cannot see: then the impact is estimated too, from the negative entries, whose sum is
    ``-steps (1 - m / K)`` times the scale if ``m`` of ``K`` classes occur, each in more than
    ``B / K`` images, and the model has no preference among them.

    Needs no assumption about the representation's sign, and under noise compares entries that
    differ by ``steps / B`` instead of sums over hundreds of noisy entries.

    Returns:
        The classes of the client's images, ``B`` of them in ascending order.
    """
    head, images = knowledge.head, knowledge.images_per_client
    if not head.has_bias:
        raise UnsupportedModelError(
            f"Label inference by bias needs a bias in the layer {head.name!r}, which has none. "
            "Use label_inference: row_sum."
        )
    entries, impact = observed.tensors[head.bias][0], knowledge.training.steps / images
    if SCALING.intersection(knowledge.defense_kinds):
        impact = min(impact, _scaled_impact(entries, images))
    return tuple(sorted(_take_smallest(entries, images, impact=impact)))


def _scaled_impact(entries: Tensor, images: int) -> float:
    """Returns what one image adds to an entry of a bias gradient scaled by an unknown factor."""
    classes, occurring = len(entries), int((entries < 0).sum())
    total = float(-entries.clamp(max=0).sum()) / images
    return total * classes / max(1, classes - occurring)


def _take_smallest(entries: Tensor, count: int, *, impact: float) -> list[int]:
    """Returns the class with the smallest entry ``count`` times, ``impact`` added to each taken."""
    left, taken = entries.clone(), []
    for _ in range(count):
        taken.append(int(left.argmin()))
        left[taken[-1]] += impact
    return taken


LABEL_INFERENCES: Final[dict[str, Callable[[Update, ThreatKnowledge], tuple[int, ...]]]] = {
    "bias": infer_by_bias,
    "row_sum": infer_by_row_sum,
}
