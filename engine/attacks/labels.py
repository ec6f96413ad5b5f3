"""Label inference: which classes does an observed update betray, and how surely."""

import heapq
from collections.abc import Callable, Iterator
from functools import lru_cache
from math import log
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from engine.attacks.knowledge import ThreatKnowledge
from engine.defenses.base import SCALING
from engine.errors import UnsupportedModelError
from engine.federation.update import Update

# A hypothesis that is less plausible than the first by more than this factor is not searched.
IMPLAUSIBLE: Final = 100.0
# Images of the prior that say how far predictions differ from image to image.
SPREAD_DRAWS: Final = 64

# No rule: the labels are searched with the images, as DLG does.
JOINT: Final = "joint"

Labels = tuple[int, ...]


class Evidence(NamedTuple):
    """What the gradient of the target model's head says of the client's classes.

    Attributes:
        entries: One number a class ``(K,)``, which every image of the class lowers.
        impact: By how much one image lowers it.
        summed: Entries of the update that one of these numbers is the sum of.
    """

    entries: Tensor
    impact: float
    summed: int


def by_row_sum(observed: Update, knowledge: ThreatKnowledge) -> Evidence:
    """Returns the sums of the rows of the head's weight gradient.

    The gradient's row of class ``k`` is the mean over the ``B`` images of ``(p_k - y_k)`` times the
    representation, which behind a ReLU is not negative. The impact of one image is estimated as
    the negative sums over ``B``, times ``1 + 1/K``
    (`LLG <https://arxiv.org/abs/2105.09369>`_, Wainakh et al. 2021, without auxiliary data).
    """
    rows = observed.tensors[knowledge.head.weight][0]
    sums = rows.sum(1)
    impact = float(-sums.clamp(max=0).sum()) / knowledge.images_per_client * (1 + 1 / len(sums))
    return Evidence(sums, impact, rows.shape[1])


def by_bias(observed: Update, knowledge: ThreatKnowledge) -> Evidence:
    """Returns the head's bias gradient.

    The entry of class ``k`` is the mean over the ``B`` images of ``p_k - y_k``, summed over local
    steps: one image of the class moves it by ``-steps / B``, where LLG
    (`Wainakh et al. (2021) <https://arxiv.org/abs/2105.09369>`_) has to estimate that impact. A
    client that clips may have scaled the update, by how much the server cannot see: then the
    impact is estimated too, from the negative entries, whose sum is ``-steps (1 - m / K)`` times
    the scale if ``m`` of ``K`` classes occur, each in more than ``B / K`` images, and the model
    has no preference among them.

    Needs no assumption about the representation's sign, and under noise compares entries that
    differ by ``steps / B`` instead of sums over hundreds of noisy entries.

    Raises:
        UnsupportedModelError: If the head has no bias.
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
    return Evidence(entries, impact, 1)


def infer_by_row_sum(observed: Update, knowledge: ThreatKnowledge) -> Labels:
    """Takes classes by :func:`by_row_sum`, smallest first.

    Only classes among the true ones have a negative sum
    (`iDLG <https://arxiv.org/abs/2001.02610>`_; for ``B = 1`` the smallest sum is the rule of GGL).
    Every such class is taken once, then whichever sum is the smallest, each time with the impact of
    one image taken away again.

    Returns:
        The classes of the client's images, ``B`` of them in ascending order.
    """
    sums, impact, _ = by_row_sum(observed, knowledge)
    images = knowledge.images_per_client
    once = _take_smallest(sums, min(images, int((sums < 0).sum())), impact=float("inf"))
    left = sums.clone()
    left[once] += impact
    return tuple(sorted(once + _take_smallest(left, images - len(once), impact=impact)))


def infer_by_bias(observed: Update, knowledge: ThreatKnowledge) -> Labels:
    """Takes classes by :func:`by_bias`, smallest entry first, each with its impact taken away.

    Returns:
        The classes of the client's images, ``B`` of them in ascending order.
    """
    entries, impact, _ = by_bias(observed, knowledge)
    return tuple(sorted(_take_smallest(entries, knowledge.images_per_client, impact=impact)))


def plausible_labels(
    rule: str, observed: Update, knowledge: ThreatKnowledge, *, noise_std: float, most: int
) -> tuple[Labels, ...]:
    """Returns the classes that a rule infers, then others that the update speaks for about as well.

    With the classes' entries ``e``, the impact ``s`` of an image and ``n`` images a class, the
    plausibility is ``exp(-sum_k (e_k + s n_k)^2 / 2v)``: what is left of the entries without the
    images' impact is noise, and predictions, both with a variance in ``v`` that does not depend on
    the class. How far predictions differ is seen on images of the generator.

    Args:
        rule: A name of :data:`LABEL_INFERENCES`.
        observed: The update the server received.
        knowledge: What the attacker may use.
        noise_std: Estimated deviation of the noise in each entry of the update.
        most: Hypotheses to return at most.

    Returns:
        Hypotheses, each ``B`` classes: the inferred one in ascending order, then others by falling
        plausibility, each class that stays in its place; those less plausible than a hundredth of
        the first left out.
    """
    infer, gather = LABEL_INFERENCES[rule]
    first = infer(observed, knowledge)
    if most == 1:
        return (first,)
    evidence = gather(observed, knowledge)
    spread = _prediction_spread(
        knowledge.generate, knowledge.latent_dim, knowledge.model, knowledge.classes
    )
    predicted = evidence.impact * knowledge.images_per_client**0.5 * spread
    variance = noise_std**2 * evidence.summed + predicted**2
    return tuple(_by_plausibility(first, evidence, max(variance, 1e-30), most))


def _by_plausibility(
    first: Labels, evidence: Evidence, variance: float, most: int
) -> Iterator[Labels]:
    """Yields hypotheses, best first, each from one before by exchanging one class in its place.

    So images whose class is the same in two hypotheses keep their places.
    """
    waiting, seen, yielded = [(0.0, first)], {first}, 0
    while waiting and yielded < most:
        doubt, labels = heapq.heappop(waiting)
        if doubt > log(IMPLAUSIBLE):
            return
        yield labels
        yielded += 1
        for change, other in _exchanges(labels, evidence, variance, most):
            if tuple(sorted(other)) not in seen:
                seen.add(tuple(sorted(other)))
                heapq.heappush(waiting, (doubt + change, other))


def _exchanges(
    labels: Labels, evidence: Evidence, variance: float, most: int
) -> Iterator[tuple[float, Labels]]:
    """Yields the best exchanges of one class for another, and what each adds to the doubt."""
    left = evidence.entries.double().cpu().clone()
    for label in labels:
        left[label] += evidence.impact
    for taken in sorted(set(labels)):
        changes = evidence.impact * (left - left[taken] + evidence.impact) / variance
        changes[taken] = float("inf")
        for other in changes.argsort()[: min(most, len(changes) - 1)].tolist():
            kept = list(labels)
            kept[kept.index(taken)] = other
            yield float(changes[other]), tuple(kept)


@lru_cache(maxsize=8)
@torch.no_grad()
def _prediction_spread(
    generate: Callable[[Tensor, Tensor], Tensor], latent_dim: int, model: nn.Module, classes: int
) -> float:
    """Returns by how much the probability of a class differs among images of the prior.

    Kept in the process by generator and model: the same for every search.
    """
    rng = torch.Generator().manual_seed(0)
    latents = torch.randn(SPREAD_DRAWS, latent_dim, generator=rng)
    labels = torch.arange(SPREAD_DRAWS) % classes
    device = next(model.parameters()).device
    images = generate(latents.to(device), labels.to(device))
    return float(model(images).softmax(1).var(0).mean().sqrt())


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


class LabelInference(NamedTuple):
    """A rule of label inference: what it infers, and from which evidence."""

    infer: Callable[[Update, ThreatKnowledge], Labels]
    gather: Callable[[Update, ThreatKnowledge], Evidence]


LABEL_INFERENCES: Final[dict[str, LabelInference]] = {
    "bias": LabelInference(infer_by_bias, by_bias),
    "row_sum": LabelInference(infer_by_row_sum, by_row_sum),
}
