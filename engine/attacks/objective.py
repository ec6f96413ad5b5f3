"""The gradient-matching objective: how far candidates' updates are from the observed one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from engine import validate
from engine.attacks import regularisers
from engine.attacks.distances import Distance
from engine.attacks.knowledge import ThreatKnowledge
from engine.attacks.matching import (
    CANCELLATION,
    Chunks,
    Matcher,
    Moments,
    Observation,
    at_least_fewest,
    make_matcher,
)
from engine.defenses.base import Imitation
from engine.errors import InputError
from engine.federation.update import Update


@dataclass(frozen=True, kw_only=True)
class GradientMatchingObjective:
    """Scores latents by the update their images would have caused.

    For each latent: generate images of the attributed labels, simulate the client on them, imitate
    the estimated defense, and take the distance to the observed update plus the regulariser
    (`Li et al. (2022) <https://arxiv.org/abs/2203.15696>`_, equation 5). Calling it has no side
    effects: it neither counts evaluations nor logs.

    A candidate is as many images as ``labels`` has classes, ``B``; its latent is theirs, one after
    the other, ``d = B * knowledge.latent_dim``.

    Attributes:
        observed: The update the server received, ``C = 1``.
        labels: The classes attributed to its images, ``B`` of them.
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

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> Tensor:
        """Returns losses ``(C,)`` for latents ``(C, d)``; lower is better."""
        validate.shape(("C", "d"), latents=latents)
        return evaluate_together([self], [latents])[0]

    @torch.no_grad()
    def generate(self, latents: Tensor) -> Tensor:
        """Returns images ``(C * B, ch, H, W)`` of the attributed classes for latents ``(C, d)``."""
        return self.knowledge.generate(
            latents.reshape(-1, self.knowledge.latent_dim), self._labels(len(latents))
        )

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
        latent_dim = self.knowledge.latent_dim
        some = next(iter(self.observed.tensors.values()))
        images = self.generate(some.new_zeros(1, len(self.labels) * latent_dim))
        low, high = float(images.min()), float(images.max())
        if images.ndim != 4 or not 0 <= low <= high <= 1:
            raise InputError(
                "Expected a generator of images (C, ch, H, W) in [0, 1], got shape "
                f"{tuple(images.shape)} from {low:.3g} to {high:.3g}. Rescale its output."
            )
        channels, height, width = images.shape[1:]
        return channels, height, width

    @cached_property
    def _classes(self) -> Tensor:
        return torch.tensor(self.labels, device=self._observation.device)

    def _labels(self, candidates: int) -> Tensor:
        return self._classes.expand(candidates, -1).flatten()

    def _of_moments(self, moments: Moments, images: Tensor, latents: Tensor) -> Tensor:
        """Returns distances; between updates where moments leave too few digits of them."""
        form = self.imitate.masked_scaling()
        assert form is not None
        if form.scale is not None:
            moments = moments.scaled(form.scale(moments.squared))
        distances = self.distance.of_moments(moments)
        subtracted = self.distance.subtracted(moments)
        if subtracted is None:
            return distances
        near = (distances < CANCELLATION * subtracted).nonzero().flatten()
        if not len(near):
            return distances
        enough = at_least_fewest(near)
        again = self._between_updates(
            images.unflatten(0, (len(latents), -1))[enough].flatten(0, 1), latents[enough]
        )
        return distances.index_copy(0, near, again[: len(near)].double())

    def _between_updates(self, images: Tensor, latents: Tensor) -> Tensor:
        candidates = self.matcher.updates(images, self._labels(len(latents)))
        return self.distance(self.imitate(candidates), self.observed)


@torch.no_grad()
def evaluate_together(
    objectives: Sequence[GradientMatchingObjective], latents: Sequence[Tensor]
) -> list[Tensor]:
    """Returns each objective's losses ``(C,)`` of its own latents ``(C, d)``.

    All candidates are one population: generated in one batch and compared in one pass through the
    target model, as far as memory allows. Losses are those of each objective called alone.

    Args:
        objectives: Objectives of one target model, generator, training and number of images.
        latents: The latents of each.
    """
    sizes = [len(some) for some in latents]
    starts = [sum(sizes[:place]) for place in range(len(sizes))]

    def score(start: int, stop: int) -> Tensor:
        parts = [
            (one, some[max(0, start - first) : max(0, stop - first)])
            for one, some, first in zip(objectives, latents, starts, strict=True)
        ]
        return _score([(one, some) for one, some in parts if len(some)])

    chunks = min((one.chunks for one in objectives), key=lambda chunks: chunks.size)
    return list(chunks.map(score, sum(sizes)).split(sizes))


def _score(parts: Sequence[tuple[GradientMatchingObjective, Tensor]]) -> Tensor:
    """Returns the losses of each objective's latents, joined; none of them is empty."""
    objectives = [one for one, _ in parts]
    latents = [at_least_fewest(some) for _, some in parts]
    distances = _distances(objectives, _generate(objectives, latents), latents)
    return _joined(
        [
            distance[: len(some)].to(some.dtype) + one.regulariser_weight * one.regulariser(some)
            for (one, some), distance in zip(parts, distances, strict=True)
        ]
    )


def _generate(
    objectives: Sequence[GradientMatchingObjective], latents: Sequence[Tensor]
) -> list[Tensor]:
    """Returns the images of each objective's latents, made in one batch."""
    first = objectives[0]
    images = first.knowledge.generate(
        _joined(latents).reshape(-1, first.knowledge.latent_dim),
        _joined([one._labels(len(some)) for one, some in zip(objectives, latents, strict=True)]),
    )
    return list(images.split([len(some) * len(first.labels) for some in latents]))


def _distances(
    objectives: Sequence[GradientMatchingObjective],
    images: Sequence[Tensor],
    latents: Sequence[Tensor],
) -> list[Tensor]:
    """Returns each objective's distances: in one pass for all those that moments suffice."""
    quick = [place for place, one in enumerate(objectives) if not one.why_updates]
    moments: dict[int, Moments] = {}
    if quick:
        found = objectives[0].matcher.moments(
            _joined([images[place] for place in quick]),
            _joined([objectives[place]._labels(len(latents[place])) for place in quick]),
            [(objectives[place]._observation, len(latents[place])) for place in quick],
        )
        moments = dict(zip(quick, found, strict=True))
    return [
        one._of_moments(moments[place], images[place], latents[place])
        if place in moments
        else one._between_updates(images[place], latents[place])
        for place, one in enumerate(objectives)
    ]


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Returns tensors one below the other; a single one as it is."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
