"""Candidates of several objectives evaluated together: as one population, in as few passes."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from engine.attacks.matching import Observation, filled_up
from engine.attacks.objective import GradientMatchingObjective
from engine.attacks.scores import Scores
from engine.attacks.search import Evaluation
from engine.precision import tensor_float

MatchingEvaluation = Evaluation[GradientMatchingObjective]
Part = TypeVar("Part")


@torch.no_grad()
def evaluate_together(evaluations: Sequence[MatchingEvaluation]) -> list[Scores]:
    """Returns the scores of each evaluation.

    Candidates of one generator and one kind of client are one population: generated in one batch
    and compared in one pass through the target model, as far as memory allows. On processors,
    losses are those of each objective called alone.
    """
    alike: dict[object, list[int]] = {}
    for place, one in enumerate(evaluations):
        alike.setdefault(one.objective.kind, []).append(place)
    found = {
        place: scores
        for places in alike.values()
        for place, scores in zip(
            places, _evaluate_alike([evaluations[place] for place in places]), strict=True
        )
    }
    return [found[place] for place in range(len(evaluations))]


def _evaluate_alike(evaluations: Sequence[MatchingEvaluation]) -> list[Scores]:
    sizes = [len(one.latents) for one in evaluations]
    starts = [sum(sizes[:place]) for place in range(len(sizes))]

    def score(start: int, stop: int) -> dict[int, Scores]:
        rows = [slice(max(0, start - first), max(0, stop - first)) for first in starts]
        parts = {
            place: one._replace(latents=one.latents[some])
            for place, (one, some) in enumerate(zip(evaluations, rows, strict=True))
            if len(one.latents[some])
        }
        return dict(zip(parts, _score(list(parts.values())), strict=True))

    every = [one.objective.chunks_for(one.wanted) for one in evaluations]
    chunks = min(every, key=lambda chunks: chunks.size)
    found = chunks.map(score, sum(sizes))
    return [
        _joined_scores([some[place] for some in found if place in some])
        for place in range(len(evaluations))
    ]


def _joined_scores(parts: Sequence[Scores]) -> Scores:
    losses = _joined([part.losses for part in parts])
    details = [part.details for part in parts if part.details is not None]
    return Scores(losses, _joined(details) if details else None)


def _score(parts: Sequence[MatchingEvaluation]) -> list[Scores]:
    """Returns the scores of each objective's latents; none of them is empty."""
    steep = [one.wanted == "gradients" for one in parts]
    return _dealt(parts, steep, _differentiated, _compared)


def _dealt(
    parts: Sequence[Part],
    chosen: Sequence[bool],
    score_chosen: Callable[[Sequence[Part]], list[Scores]],
    score_others: Callable[[Sequence[Part]], list[Scores]],
) -> list[Scores]:
    """Returns the scores of each, those chosen computed in one way and the rest in the other."""
    pairs = list(zip(parts, chosen, strict=True))
    found = {
        True: iter(score_chosen([part for part, is_chosen in pairs if is_chosen])),
        False: iter(score_others([part for part, is_chosen in pairs if not is_chosen])),
    }
    return [next(found[is_chosen]) for is_chosen in chosen]


@tensor_float(False)
@torch.enable_grad()
def _differentiated(parts: Sequence[MatchingEvaluation]) -> list[Scores]:
    """Returns the scores of each with the gradients of its losses.

    White-box: generator, target model and imitated defense are differentiated, which costs several
    evaluations, in time and in memory. Candidates are together as many as a chunk may have; those
    of a search are always the same, so that each is compared, on processors, as by itself.
    """
    if not parts:
        return []
    leaves = [one.latents.detach().clone().requires_grad_() for one in parts]
    candidates = sum(map(len, leaves))
    missing = len(filled_up(torch.empty(candidates))) - candidates
    more = parts[-1].latents[-1:].expand(missing, -1)
    filled = [one._replace(latents=leaf) for one, leaf in zip(parts, leaves, strict=True)]
    if missing:
        filled.append(parts[-1]._replace(latents=more))
    losses = [scores.losses for scores in _compared_in_one_pass(filled)][: len(parts)]
    gradients = torch.autograd.grad(torch.cat(losses).sum(), leaves)
    return [
        Scores(loss.detach(), gradient) for loss, gradient in zip(losses, gradients, strict=True)
    ]


def _compared(parts: Sequence[MatchingEvaluation]) -> list[Scores]:
    """Returns the scores of each, computed on at least as many candidates as a chunk may have."""
    if not parts:
        return []
    padded = [one._replace(latents=filled_up(one.latents)) for one in parts]
    return [
        _first(scores, len(one.latents))
        for one, scores in zip(parts, _compared_in_one_pass(padded), strict=True)
    ]


def _first(scores: Scores, candidates: int) -> Scores:
    details = scores.details
    return Scores(scores.losses[:candidates], None if details is None else details[:candidates])


def _compared_in_one_pass(evaluations: Sequence[MatchingEvaluation]) -> list[Scores]:
    """Returns the scores of each, from one pass through generator and target model."""
    images = _generate([one.objective for one in evaluations], [one.latents for one in evaluations])
    return [
        scores._replace(
            losses=scores.losses.to(one.latents.dtype)
            + one.objective.penalties(one.latents, some.unflatten(0, (len(one.latents), -1)))
        )
        for one, some, scores in zip(
            evaluations, images, distances_of(evaluations, images), strict=True
        )
    ]


def _generate(
    objectives: Sequence[GradientMatchingObjective], latents: Sequence[Tensor]
) -> list[Tensor]:
    """Returns the images of each objective's latents, made in one batch."""
    first = objectives[0]
    pairs = list(zip(objectives, latents, strict=True))
    images = first.knowledge.generate(
        _joined([one.decoder.codes(some) for one, some in pairs]),
        _joined([one.decoder.classes(some) for one, some in pairs]),
    )
    return list(images.split([len(some) * len(first.labels) for some in latents]))


def distances_of(
    evaluations: Sequence[MatchingEvaluation], images: Sequence[Tensor]
) -> list[Scores]:
    """Returns each one's distances: in one pass those that moments suffice, in one more the rest.

    Evaluations are of one kind.
    """
    pairs = list(zip(evaluations, images, strict=True))
    quick = [
        not one.objective.why_updates and not one.objective.matcher.prefers_updates(some)
        for one, some in pairs
    ]
    return _dealt(pairs, quick, _by_moments, _by_updates)


def _by_moments(pairs: Sequence[tuple[MatchingEvaluation, Tensor]]) -> list[Scores]:
    if not pairs:
        return []
    found = pairs[0][0].objective.matcher.moments(
        _joined([images for _, images in pairs]),
        _joined([_labels_of(one) for one, _ in pairs]),
        [(_observation_of(one), len(one.latents)) for one, _ in pairs],
    )
    return [
        one.objective.of_moments(moments, images, one.latents)
        for (one, images), moments in zip(pairs, found, strict=True)
    ]


def _by_updates(pairs: Sequence[tuple[MatchingEvaluation, Tensor]]) -> list[Scores]:
    if not pairs:
        return []
    updates = pairs[0][0].objective.matcher.updates(
        _joined([images for _, images in pairs]), _joined([_labels_of(one) for one, _ in pairs])
    )
    return [
        one.objective.of_updates(own, one.latents, sketched=one.wanted == "sketches")
        for (one, _), own in zip(
            pairs, updates.split([len(one.latents) for one, _ in pairs]), strict=True
        )
    ]


def _labels_of(evaluation: MatchingEvaluation) -> Tensor:
    return evaluation.objective.decoder.labels(evaluation.latents)


def _observation_of(evaluation: MatchingEvaluation) -> Observation:
    objective = evaluation.objective
    return (
        objective.sketched_observation if evaluation.wanted == "sketches" else objective.observation
    )


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Returns tensors one below the other; a single one as it is."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
