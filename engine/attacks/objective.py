"""The gradient-matching objective: how far candidates' updates are from the observed one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from engine import validate
from engine.attacks import regularisers
from engine.attacks.distances import Distance
from engine.attacks.knowledge import ThreatKnowledge
from engine.attacks.matching import (
    CANCELLATION,
    FEWEST,
    SMALL,
    Chunks,
    Matcher,
    Moments,
    Observation,
    filled_up,
    make_matcher,
)
from engine.attacks.scores import Scores
from engine.attacks.search import Evaluation
from engine.attacks.searchers.base import Detail
from engine.attacks.sketches import Sketch
from engine.defenses.base import Imitation
from engine.errors import InputError
from engine.federation.client import compute_update
from engine.federation.update import Update


@dataclass(frozen=True, kw_only=True)
class GradientMatchingObjective:
    """Scores latents by the update their images would have caused.

    For each latent: generate images of the attributed labels, simulate the client on them, imitate
    the estimated defense, and take the distance to the observed update plus the regulariser
    (`Li et al. (2022) <https://arxiv.org/abs/2203.15696>`_, equation 5). Calling it has no side
    effects: it neither counts evaluations nor logs.

    A candidate is as many images as ``labels`` has classes, ``B``; its latent is theirs, one after
    the other, ``d = B * knowledge.latent_dim``. Where the classes are not certain, the latent may
    have one number more, the place of its own among ``labels`` and ``other_labels``.

    Attributes:
        observed: The update the server received, ``C = 1``.
        labels: The classes attributed to its images, ``B`` of them.
        other_labels: Classes that might be theirs instead.
        knowledge: What the attacker may use.
        imitate: The estimated defense, applied to candidates' updates.
        distance: Candidates' updates and the observed one to distances ``(C,)``.
        regulariser: Latents ``(C, d)`` to penalties ``(C,)``.
        regulariser_weight: Factor of the penalty.
        chunk_size: Candidates computed at once; what memory has room for if None. Losses do not
            depend on it.

    Raises:
        InputError: If the generator does not make images in [0, 1].
        UnsupportedModelError: If no update of the target model can be computed on them.
    """

    observed: Update
    labels: tuple[int, ...]
    knowledge: ThreatKnowledge
    imitate: Imitation
    distance: Distance
    regulariser: Callable[[Tensor], Tensor] = regularisers.none
    regulariser_weight: float = 0.0
    chunk_size: int | None = None
    other_labels: tuple[tuple[int, ...], ...] = ()

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> Tensor:
        """Returns losses ``(C,)`` for latents ``(C, d)``; lower is better."""
        return self.scores(latents).losses

    @torch.no_grad()
    def scores(self, latents: Tensor, wanted: Detail | None = None) -> Scores:
        """Returns losses, and what is wanted beside them, of latents ``(C, d)``."""
        validate.shape(("C", "d"), latents=latents)
        return evaluate_together([Evaluation(self, latents, wanted)])[0]

    def _differentiated(self, latents: Tensor) -> Scores:
        """Returns losses ``(C,)`` of latents ``(C, d)``, and their gradients ``(C, d)``.

        White-box: differentiates generator, target model and imitated defense. Costs several
        evaluations, in time and in memory.
        """
        with torch.enable_grad():
            leaves = latents.detach().clone().requires_grad_()
            labels, knowledge = self._labels(leaves), self.knowledge
            updates = compute_update(
                knowledge.model,
                knowledge.generate(self._codes(leaves), labels),
                labels,
                images_per_client=len(self.labels),
                training=knowledge.training,
                differentiable=True,
            )
            distances = self.distance(self.imitate(updates), self.observed)
            losses = distances + self._penalties(leaves)
            [gradients] = torch.autograd.grad(losses.sum(), [leaves])
        return Scores(losses.detach(), gradients)

    @torch.no_grad()
    def loss_alone(self, latent: Tensor) -> Tensor:
        """Returns the loss ``(1,)`` of one latent ``(1, d)`` whose images alone are generated.

        That of calling it with this latent, up to the rounding of a generator to which a batch of
        one may be a matter of its own. Calling it generates as many candidates as a pass through
        the target model has at least, which a costly generator would feel.
        """
        images = self.generate(latent).unflatten(0, (1, len(self.labels)))
        alone = Evaluation(self, filled_up(latent))
        [scores] = _distances([alone], [filled_up(images).flatten(0, 1)])
        distance = scores.losses[:1].to(latent.dtype)
        return distance + self._penalties(latent)

    @torch.no_grad()
    def generate(self, latents: Tensor) -> Tensor:
        """Returns images ``(C * B, ch, H, W)`` of the attributed classes for latents ``(C, d)``."""
        return self.knowledge.generate(self._codes(latents), self._labels(latents))

    def labels_of(self, latent: Tensor) -> tuple[int, ...]:
        """Returns the classes attributed to the images of a latent ``(1, d)``, ascending."""
        return tuple(sorted(self._labels(latent).tolist()))

    @cached_property
    def matcher(self) -> Matcher:
        """How candidates' clients are simulated on the target model."""
        return make_matcher(
            self.knowledge.model,
            self._image_shape,
            images_per_candidate=len(self.labels),
            training=self.knowledge.training,
        )

    @cached_property
    def chunks(self) -> Chunks:
        """How many candidates are computed at once."""
        if self.chunk_size is None:
            return self.matcher.chunks(updates=self.why_updates != "")
        return Chunks(self.chunk_size)

    @cached_property
    def why_updates(self) -> str:
        """Why candidates' whole updates are computed; empty where their moments suffice."""
        if self.imitate.masked_scaling() is None:
            return f"the estimated defense needs them: {self.imitate}"
        return self.matcher.why_general

    @property
    def path(self) -> str:
        """How candidates are compared, in words."""
        if self.why_updates and self.matcher.has_kernels:
            return f"one update a candidate: {self.why_updates}"
        return str(self.matcher)

    @cached_property
    def _observation(self) -> Observation:
        form = self.imitate.masked_scaling()
        return Observation(self.observed, form.masks if form else {})

    @cached_property
    def _image_shape(self) -> tuple[int, int, int]:
        some = next(iter(self.observed.tensors.values()))
        images = self.generate(some.new_zeros(1, self._dim))
        low, high = float(images.min()), float(images.max())
        if images.ndim != 4 or not 0 <= low <= high <= 1:
            raise InputError(
                "Expected a generator of images (C, ch, H, W) in [0, 1], got shape "
                f"{tuple(images.shape)} from {low:.3g} to {high:.3g}. Rescale its output."
            )
        channels, height, width = images.shape[1:]
        return channels, height, width

    @property
    def _dim(self) -> int:
        return len(self.labels) * self.knowledge.latent_dim

    @cached_property
    def _label_sets(self) -> Tensor:
        return torch.tensor((self.labels, *self.other_labels), device=self._observation.device)

    def _labels(self, latents: Tensor) -> Tensor:
        """Returns the labels of all images of latents, ``(C * B,)``."""
        if latents.shape[1] == self._dim:
            return self._label_sets[0].expand(len(latents), -1).flatten()
        return self._label_sets[latents[:, self._dim].long()].flatten()

    def _codes(self, latents: Tensor) -> Tensor:
        """Returns the latents of all images, ``(C * B, latent_dim)``."""
        return latents[:, : self._dim].reshape(-1, self.knowledge.latent_dim)

    def _penalties(self, latents: Tensor) -> Tensor:
        return self.regulariser_weight * self.regulariser(latents[:, : self._dim])

    @cached_property
    def _sketched_observation(self) -> Observation:
        return replace(self._observation, values=frozenset(self._sketch.names))

    @cached_property
    def _sketch(self) -> Sketch:
        return Sketch.of(self.observed, largest=SMALL)

    @cached_property
    def _magnification(self) -> float:
        """By how much sketches are too short, where they do not see all tensors."""
        if len(self._sketch.names) == len(self.observed.tensors):
            return 1.0
        some = next(iter(self.observed.tensors.values()))
        squared = self._imitated_squares(self.generate(some.new_zeros(FEWEST, self._dim)))
        weighted = squared * self.distance.factors(squared).square()
        return float(self._sketch.seen(weighted)[0]) ** -0.5

    def _imitated_squares(self, images: Tensor) -> Tensor:
        """Returns squared norms of ``FEWEST`` candidates' imitated updates, ``(C, tensors)``."""
        labels = self._label_sets[0].expand(FEWEST, -1).flatten()
        form = self.imitate.masked_scaling()
        if self.why_updates or form is None:
            return self.imitate(self.matcher.updates(images, labels)).squared_norms()
        [moments] = self.matcher.moments(images, labels, [(self._observation, FEWEST)])
        squared = moments.squared
        return squared if form.scale is None else form.scale(squared).square() * squared

    def _of_moments(self, moments: Moments, images: Tensor, latents: Tensor) -> Scores:
        """Returns scores; between updates where moments leave too few digits of a loss."""
        form = self.imitate.masked_scaling()
        assert form is not None
        values, squared = moments.values, moments.squared
        scales = torch.ones_like(squared) if form.scale is None else form.scale(squared)
        sketches = self._sketches(values, squared, scales, latents) if values else None
        if form.scale is not None:
            moments = moments.scaled(scales)
        distances = self.distance.of_moments(moments)
        subtracted = self.distance.subtracted(moments)
        if subtracted is None:
            return Scores(distances, sketches)
        near = (distances < CANCELLATION * subtracted).nonzero().flatten()
        if not len(near):
            return Scores(distances, sketches)
        enough = filled_up(near)
        again = self._between_updates(
            images.unflatten(0, (len(latents), -1))[enough].flatten(0, 1), latents[enough]
        )
        whole = distances.index_copy(0, near, again.losses[: len(near)].double())
        return Scores(whole, sketches)

    def _between_updates(
        self, images: Tensor, latents: Tensor, *, sketched: bool = False
    ) -> Scores:
        candidates = self.imitate(self.matcher.updates(images, self._labels(latents)))
        distances = self.distance(candidates, self.observed)
        if not sketched:
            return Scores(distances)
        squared = candidates.squared_norms()
        ones = torch.ones_like(squared)
        return Scores(distances, self._sketches(candidates.tensors, squared, ones, latents))

    def _sketches(
        self, tensors: Mapping[str, Tensor], squared: Tensor, scales: Tensor, latents: Tensor
    ) -> Tensor:
        """Returns sketches of candidates whose ``tensors`` are still to be multiplied by scales."""
        factors = scales * self.distance.factors(scales.square() * squared)
        sketches = self._sketch(tensors, self._magnification * factors)
        if self.regulariser is not regularisers.prior:
            return sketches
        return torch.cat([sketches, self.regulariser_weight**0.5 * latents[:, : self._dim]], 1)


MatchingEvaluation = Evaluation[GradientMatchingObjective]


@torch.no_grad()
def evaluate_together(evaluations: Sequence[MatchingEvaluation]) -> list[Scores]:
    """Returns the scores of each evaluation.

    All candidates are one population: generated in one batch and compared in one pass through the
    target model, as far as memory allows. Losses are those of each objective called alone.

    Args:
        evaluations: Of objectives of one target model, generator, training and number of images.
    """
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

    chunks = min((one.objective.chunks for one in evaluations), key=lambda chunks: chunks.size)
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
    padded = [one._replace(latents=filled_up(one.latents)) for one in parts]
    compared = [one for one in padded if one.wanted != "gradients"]
    found = iter(_compared(compared) if compared else ())
    scores = [
        one.objective._differentiated(one.latents) if one.wanted == "gradients" else next(found)
        for one in padded
    ]
    return [
        Scores(
            each.losses[: len(one.latents)],
            None if each.details is None else each.details[: len(one.latents)],
        )
        for one, each in zip(parts, scores, strict=True)
    ]


def _compared(evaluations: Sequence[MatchingEvaluation]) -> list[Scores]:
    """Returns the scores of each, from one pass through generator and target model."""
    images = _generate([one.objective for one in evaluations], [one.latents for one in evaluations])
    return [
        scores._replace(
            losses=scores.losses.to(one.latents.dtype) + one.objective._penalties(one.latents)
        )
        for one, scores in zip(evaluations, _distances(evaluations, images), strict=True)
    ]


def _generate(
    objectives: Sequence[GradientMatchingObjective], latents: Sequence[Tensor]
) -> list[Tensor]:
    """Returns the images of each objective's latents, made in one batch."""
    first = objectives[0]
    pairs = list(zip(objectives, latents, strict=True))
    images = first.knowledge.generate(
        _joined([one._codes(some) for one, some in pairs]),
        _joined([one._labels(some) for one, some in pairs]),
    )
    return list(images.split([len(some) * len(first.labels) for some in latents]))


def _distances(evaluations: Sequence[MatchingEvaluation], images: Sequence[Tensor]) -> list[Scores]:
    """Returns each one's distances: in one pass for all those that moments suffice."""
    quick = [place for place, one in enumerate(evaluations) if not one.objective.why_updates]
    moments: dict[int, Moments] = {}
    if quick:
        found = evaluations[0].objective.matcher.moments(
            _joined([images[place] for place in quick]),
            _joined([_labels_of(evaluations[place]) for place in quick]),
            [
                (_observation_of(evaluations[place]), len(evaluations[place].latents))
                for place in quick
            ],
        )
        moments = dict(zip(quick, found, strict=True))
    return [
        one.objective._of_moments(moments[place], images[place], one.latents)
        if place in moments
        else one.objective._between_updates(
            images[place], one.latents, sketched=one.wanted == "sketches"
        )
        for place, one in enumerate(evaluations)
    ]


def _labels_of(evaluation: MatchingEvaluation) -> Tensor:
    return evaluation.objective._labels(evaluation.latents)


def _observation_of(evaluation: MatchingEvaluation) -> Observation:
    objective = evaluation.objective
    return (
        objective._sketched_observation
        if evaluation.wanted == "sketches"
        else objective._observation
    )


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Returns tensors one below the other; a single one as it is."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
