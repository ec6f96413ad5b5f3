"""The gradient-matching objective: how far candidates' updates are from the observed one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from engine import validate
from engine.attacks import regularisers
from engine.attacks.decoding import Decoder
from engine.attacks.distances import Distance
from engine.attacks.image_priors import ImagePrior
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
from engine.federation.update import Update


@dataclass(frozen=True, kw_only=True)
class GradientMatchingObjective:
    """Scores latents by the update their images would have caused.

    For each latent: generate images of the attributed labels, simulate the client on them, imitate
    the estimated defense, and take the distance to the observed update plus the regulariser
    (`Li et al. (2022) <https://arxiv.org/abs/2203.15696>`_, equation 5). Calling it has no side
    effects: it neither counts evaluations nor logs.

    A candidate is as many images as ``labels`` has classes, ``B``; what its latent is made of says
    :class:`~engine.attacks.decoding.Decoder`.

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
            depend on it, on processors.
        joint_labels: Whether latents have the labels of their images, in place of ``labels``.
        image_priors: Penalties on candidates' images, each with its factor.

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
    joint_labels: bool = False
    image_priors: tuple[tuple[ImagePrior, float], ...] = ()

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> Tensor:
        """Returns losses ``(C,)`` for latents ``(C, d)``; lower is better."""
        return self.scores(latents).losses

    @torch.no_grad()
    def scores(self, latents: Tensor, wanted: Detail | None = None) -> Scores:
        """Returns losses, and what is wanted beside them, of latents ``(C, d)``."""
        validate.shape(("C", "d"), latents=latents)
        from engine.attacks.together import evaluate_together  # Deferred: it needs this class.

        return evaluate_together([Evaluation(self, latents, wanted)])[0]

    @torch.no_grad()
    def loss_alone(self, latent: Tensor) -> Tensor:
        """Returns the loss ``(1,)`` of one latent ``(1, d)`` whose images alone are generated.

        That of calling it with this latent, up to the rounding of a generator to which a batch of
        one may be a matter of its own. Calling it generates as many candidates as a pass through
        the target model has at least, which a costly generator would feel.
        """
        from engine.attacks.together import distances_of  # Deferred: it needs this class.

        images = self.generate(latent).unflatten(0, (1, len(self.labels)))
        alone = Evaluation(self, filled_up(latent))
        [scores] = distances_of([alone], [filled_up(images).flatten(0, 1)])
        distance = scores.losses[:1].to(latent.dtype)
        return distance + self.penalties(latent, images)

    @torch.no_grad()
    def generate(self, latents: Tensor) -> Tensor:
        """Returns images ``(C * B, ch, H, W)`` of the attributed classes for latents ``(C, d)``."""
        return self.decoder.generate(latents)

    def labels_of(self, latent: Tensor) -> tuple[int, ...]:
        """Returns the classes attributed to the images of a latent ``(1, d)``, ascending."""
        return tuple(sorted(self.decoder.classes(latent).tolist()))

    def penalties(self, latents: Tensor, images: Tensor) -> Tensor:
        """Returns what is added to the distances ``(C,)`` of latents ``(C, d)``.

        Args:
            latents: The latents.
            images: Their images, ``(C, B, ch, H, W)``.
        """
        total = self.regulariser_weight * self.regulariser(self.decoder.own(latents))
        for prior, weight in self.image_priors:
            total = total + weight * prior(images, self.knowledge.model)
        return total

    @cached_property
    def decoder(self) -> Decoder:
        """Takes latents apart, and makes their images."""
        device = next(iter(self.observed.tensors.values())).device
        hypotheses = torch.tensor((self.labels, *self.other_labels), device=device)
        return Decoder(self.knowledge, hypotheses, self.joint_labels)

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

    def chunks_for(self, wanted: Detail | None) -> Chunks:
        """Returns how many candidates are computed at once where ``wanted`` is wanted of them."""
        if wanted == "gradients" and self.chunk_size is None:
            return self.matcher.chunks(updates=True)
        return self.chunks

    @property
    def kind(self) -> object:
        """What objectives have in common whose candidates can be evaluated in one pass."""
        known = self.knowledge
        clients = (known.images_per_client, known.training, self.joint_labels)
        return id(known.model), known.generate, known.latent_dim, clients

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
    def observation(self) -> Observation:
        form = self.imitate.masked_scaling()
        return Observation(self.observed, form.masks if form else {})

    @cached_property
    def _image_shape(self) -> tuple[int, int, int]:
        images = self.generate(self._zeros(1))
        low, high = float(images.min()), float(images.max())
        if images.ndim != 4 or not 0 <= low <= high <= 1:
            raise InputError(
                "Expected a generator of images (C, ch, H, W) in [0, 1], got shape "
                f"{tuple(images.shape)} from {low:.3g} to {high:.3g}. Rescale its output."
            )
        channels, height, width = images.shape[1:]
        return channels, height, width

    def _zeros(self, candidates: int) -> Tensor:
        some = next(iter(self.observed.tensors.values()))
        return some.new_zeros(candidates, self.decoder.dim)

    @cached_property
    def sketched_observation(self) -> Observation:
        return replace(self.observation, values=frozenset(self._sketch.names))

    @cached_property
    def _sketch(self) -> Sketch:
        return Sketch.of(self.observed, largest=SMALL)

    @cached_property
    def _magnification(self) -> float:
        """By how much sketches are too short, where they do not see all tensors."""
        if len(self._sketch.names) == len(self.observed.tensors):
            return 1.0
        squared = self._imitated_squares(self.generate(self._zeros(FEWEST)))
        weighted = squared * self.distance.factors(squared).square()
        return float(self._sketch.seen(weighted)[0]) ** -0.5

    def _imitated_squares(self, images: Tensor) -> Tensor:
        """Returns squared norms of ``FEWEST`` candidates' imitated updates, ``(C, tensors)``."""
        labels = self.decoder.labels(self._zeros(FEWEST))
        form = self.imitate.masked_scaling()
        if self.why_updates or form is None:
            return self.imitate(self.matcher.updates(images, labels)).squared_norms()
        [moments] = self.matcher.moments(images, labels, [(self.observation, FEWEST)])
        squared = moments.squared
        return squared if form.scale is None else form.scale(squared).square() * squared

    def of_moments(self, moments: Moments, images: Tensor, latents: Tensor) -> Scores:
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
        some, codes = images.unflatten(0, (len(latents), -1))[enough].flatten(0, 1), latents[enough]
        again = self.of_updates(self.matcher.updates(some, self.decoder.labels(codes)), codes)
        whole = distances.index_copy(0, near, again.losses[: len(near)].double())
        return Scores(whole, sketches)

    def of_updates(self, updates: Update, latents: Tensor, *, sketched: bool = False) -> Scores:
        """Returns scores of candidates by their whole updates, as no defense left them."""
        candidates = self.imitate(updates)
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
        return torch.cat([sketches, self.regulariser_weight**0.5 * self.decoder.own(latents)], 1)
