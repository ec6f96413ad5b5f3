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
from engine.attacks.matching import Chunks, Matcher, Moments, Observation, affordable, make_matcher
from engine.defenses.base import Imitation
from engine.errors import InputError
from engine.federation.update import Update

# Below this share of the numbers it is the difference of, a loss from moments keeps too little of
# their single precision (1e-5 of itself) and is computed again between updates.
CANCELLATION = 0.03


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
        return self.chunks.map(lambda some: evaluate_together([self], [some])[0], latents)

    @torch.no_grad()
    def generate(self, latents: Tensor) -> Tensor:
        """Returns images ``(C * B, ch, H, W)`` of the attributed classes for latents ``(C, d)``."""
        return self.knowledge.generate(
            latents.reshape(-1, self.knowledge.latent_dim), self._labels(latents)
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
        size = self.chunk_size
        if size is None:
            each = self.matcher.bytes_per_candidate(updates=self.why_updates != "")
            size = affordable(each, self._device)
        return Chunks(size)

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
        latents = torch.zeros(len(self.labels), latent_dim, device=self._device)
        images = self.generate(latents.flatten()[None])
        low, high = float(images.min()), float(images.max())
        if images.ndim != 4 or not 0 <= low <= high <= 1:
            raise InputError(
                "Expected a generator of images (C, ch, H, W) in [0, 1], got shape "
                f"{tuple(images.shape)} from {low:.3g} to {high:.3g}. Rescale its output."
            )
        channels, height, width = images.shape[1:]
        return channels, height, width

    @property
    def _device(self) -> torch.device:
        return next(iter(self.observed.tensors.values())).device

    def _labels(self, latents: Tensor) -> Tensor:
        return torch.tensor(self.labels, device=latents.device).repeat(len(latents))

    def _of_moments(self, moments: Moments, images: Tensor, latents: Tensor) -> Tensor:
        """Returns distances, those too near zero for moments computed between updates."""
        form = self.imitate.masked_scaling()
        assert form is not None
        if form.scale is not None:
            moments = moments.scaled(form.scale(moments.squared))
        distances = self.distance.of_moments(moments)
        near = (distances < CANCELLATION * self.distance.magnitude(moments)).nonzero().flatten()
        if not len(near):
            return distances
        by_candidate = images.unflatten(0, (len(latents), -1))
        return distances.index_copy(
            0, near, self._between_updates(by_candidate[near].flatten(0, 1), latents[near]).double()
        )

    def _between_updates(self, images: Tensor, latents: Tensor) -> Tensor:
        candidates = self.matcher.updates(images, self._labels(latents))
        return self.distance(self.imitate(candidates), self.observed)


@torch.no_grad()
def evaluate_together(
    objectives: Sequence[GradientMatchingObjective], latents: Sequence[Tensor]
) -> list[Tensor]:
    """Returns each objective's losses of its own latents, all candidates in one pass.

    Args:
        objectives: Objectives of one target model, generator and number of images.
        latents: For each, latents ``(C, d)``, fewer than fit in memory together.
    """
    first = objectives[0]
    images = torch.cat([one.generate(some) for one, some in zip(objectives, latents, strict=True)])
    counts = [len(some) for some in latents]
    apart = images.split([count * len(first.labels) for count in counts])
    if all(not one.why_updates for one in objectives):
        moments = first.matcher.moments(
            images,
            torch.cat([one._labels(some) for one, some in zip(objectives, latents, strict=True)]),
            [(one._observation, count) for one, count in zip(objectives, counts, strict=True)],
        )
        distances = [
            one._of_moments(*parts)
            for one, *parts in zip(objectives, moments, apart, latents, strict=True)
        ]
    else:
        distances = [
            one._between_updates(*parts)
            for one, *parts in zip(objectives, apart, latents, strict=True)
        ]
    return [
        distance.to(some.dtype) + one.regulariser_weight * one.regulariser(some)
        for one, distance, some in zip(objectives, distances, latents, strict=True)
    ]
