"""An attack: how a latent search against an observed update is set up."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from engine.attacks.choices import AtChoice
from engine.attacks.distances import DISTANCES
from engine.attacks.image_priors import IMAGE_PRIORS
from engine.attacks.knowledge import ThreatKnowledge
from engine.attacks.labels import JOINT, plausible_labels
from engine.attacks.objective import GradientMatchingObjective
from engine.attacks.regularisers import REGULARISERS
from engine.attacks.restarts import Restarts
from engine.attacks.search import History, Progress, Steps, run_steps, search_steps
from engine.attacks.searchers import Searcher, make_searcher, takes_images
from engine.attacks.searchers.base import DetailSearcher
from engine.attacks.settings import AttackSettings
from engine.attacks.spaces import entered, space_of
from engine.defenses.base import estimate_imitations
from engine.errors import InputError, PlanError
from engine.federation.update import Update
from engine.seeding import stream_seed
from search_spaces.latent import LatentSpace
from search_spaces.latent_spaces import JointLabelSpace, LabelledSpace, PixelLatentSpace


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """What an attack rebuilt.

    Attributes:
        images: Images of the best latent, ``(B, ch, H, W)`` in [0, 1].
        labels: The classes it attributes to them.
        latent: The best latent, ``(1, d)``.
        loss: Matching loss of the best latent.
        losses: Loss of every candidate in the order evaluated, ``(evaluations,)``.
        nonfinite: Candidates whose loss was not finite.
        population: Candidates per generation.
        chunk_size: Those evaluated at once: all, or fewer where memory had no room for them.
    """

    images: Tensor
    labels: tuple[int, ...]
    latent: Tensor
    loss: float
    losses: np.ndarray
    nonfinite: int
    population: int
    chunk_size: int


def prepare_objective(
    observed: Update, knowledge: ThreatKnowledge, settings: AttackSettings
) -> GradientMatchingObjective:
    """Infers the labels, estimates the defense, and returns the loss to be searched."""
    if not settings.adaptive:
        knowledge = replace(knowledge, defense_kinds=())
    imitation = estimate_imitations(
        knowledge.defense_kinds,
        observed,
        head=knowledge.head,
        published_code=settings.published_code,
    )
    joint = settings.label_inference == JOINT
    labels, *others = (
        [(0,) * knowledge.images_per_client]  # Of no consequence: latents have them.
        if joint
        else plausible_labels(
            settings.label_inference,
            observed,
            knowledge,
            noise_std=imitation.noise_std,
            most=settings.label_hypotheses,
        )
    )
    return GradientMatchingObjective(
        observed=observed,
        labels=labels,
        other_labels=tuple(others),
        knowledge=entered(settings.space, settings.space_settings, knowledge),
        imitate=imitation,
        distance=DISTANCES[settings.distance],
        regulariser=REGULARISERS[settings.regulariser],
        regulariser_weight=settings.weight_of(imitation, len(observed.tensors)),
        joint_labels=joint,
        image_priors=tuple(
            (IMAGE_PRIORS[name], weight) for name, weight in settings.image_priors.items()
        ),
    )


def attack_steps(
    objective: GradientMatchingObjective,
    settings: AttackSettings,
    *,
    budget: int,
    seed: int,
    known: History | None = None,
    searcher: Searcher | None = None,
    on_batch: Callable[[Progress], None] = lambda _: None,
) -> Steps[GradientMatchingObjective, Reconstruction]:
    """Rebuilds the private images behind one observed update.

    Args:
        objective: The loss to be searched, from :func:`prepare_objective`.
        settings: How to search it.
        budget: Candidate evaluations to spend.
        seed: Root of the searcher's randomness.
        known: History of the same attack interrupted, see :func:`search_steps`.
        searcher: Proposes points in place of the one that ``settings`` name.
        on_batch: Called after every population.

    Raises:
        InputError: If no candidate had a finite loss.
    """
    space = searched_space(objective, settings, seed=seed)
    if searcher is None:
        searcher = searcher_of(settings, space, budget=budget, seed=seed)
    population = min(searcher.preferred_population, budget)
    wanted = searcher.wants if isinstance(searcher, DetailSearcher) else None
    result = yield from search_steps(
        objective,
        searcher,
        space,
        budget=budget,
        population=population,
        known=known,
        max_seconds=settings.max_seconds,
        device=next(iter(objective.observed.tensors.values())).device,
        on_batch=on_batch,
    )
    if result.latent is None:
        raise InputError(
            f"Expected at least one finite loss among {budget} candidates, got none. "
            "Check the observed update and the target model for overflowing values."
        )
    return Reconstruction(
        images=objective.generate(result.latent).clamp(0, 1),
        labels=objective.labels_of(result.latent),
        latent=result.latent,
        loss=result.loss,
        losses=result.losses,
        nonfinite=result.nonfinite,
        population=population,
        chunk_size=min(population, objective.chunks_for(wanted).size),
    )


def searched_space(
    objective: GradientMatchingObjective, settings: AttackSettings, *, seed: int
) -> LatentSpace:
    """Returns the space of an attack whose root of randomness is ``seed``."""
    latents = space_of(
        settings.space,
        settings.space_settings,
        objective.knowledge,
        labels=objective.labels,
        seed=stream_seed(seed, "space"),
    )
    if objective.joint_labels:
        return _with_joint_labels(latents, objective.knowledge)
    others = len(objective.other_labels)
    return LabelledSpace(latents, 1 + others) if others else latents


def _with_joint_labels(latents: LatentSpace, knowledge: ThreatKnowledge) -> LatentSpace:
    return JointLabelSpace(latents, knowledge.images_per_client * knowledge.classes)


def searcher_of(
    settings: AttackSettings, space: LatentSpace, *, budget: int, seed: int
) -> Searcher:
    """Returns the searcher of an attack whose root of randomness is ``seed``.

    Each hypothesis of the classes is searched by itself, as often as ``restarts`` say. All share
    the budget; each search plans for what a plan without other hypotheses would give it.

    Raises:
        PlanError: If it cannot be built of these settings, or not for so small a budget.
    """
    each = max(1, budget // settings.restarts)
    make_lone = partial(lone_searcher, settings, budget=each, seed=seed, images=_images(space))
    if not isinstance(space, LabelledSpace):
        return _restarted(partial(make_lone, space.dim), settings, settings.restarts, budget)
    lone = make_lone(space.dim - 1)
    generations = each // min(lone.preferred_population, each)
    hypotheses = min(space.choices, generations)

    def make(place: int) -> Searcher:
        searcher = make_lone(space.dim - 1, place)
        return AtChoice(searcher, space.coordinate(place % hypotheses, searcher.view))

    return _restarted(make, settings, hypotheses * settings.restarts, budget)


def _restarted(
    make: Callable[[int], Searcher], settings: AttackSettings, searches: int, budget: int
) -> Searcher:
    """Returns the only search, or several that share the budget; hypotheses are stopped early."""
    if searches == 1:
        return make(0)
    compete = searches > settings.restarts and settings.scheduler == "none"
    scheduler = "halving" if compete else settings.scheduler
    return Restarts(make, restarts=searches, budget=budget, scheduler=scheduler)


def lone_searcher(
    settings: AttackSettings,
    dim: int,
    place: int = 0,
    *,
    budget: int,
    seed: int,
    images: tuple[int, int, int, int] | None = None,
) -> Searcher:
    """Returns one searcher of an attack whose root of randomness is ``seed``.

    Args:
        settings: The attack's.
        dim: Number of coordinates.
        place: Which of several searchers it is, counted from 0.
        budget: Candidate evaluations it will spend.
        seed: The root.
        images: ``(B, ch, H, W)`` of the images whose pixels the first coordinates are, if any are.

    Raises:
        PlanError: If it cannot be built of these settings.
    """
    own = ("searcher", place) if place else ("searcher",)
    shape = {"images": images} if takes_images(settings.searcher) else {}
    return make_searcher(
        settings.searcher,
        dim=dim,
        budget=budget,
        seed=stream_seed(seed, *own),
        **shape,
        **settings.searcher_settings,
    )


def _images(space: LatentSpace) -> tuple[int, int, int, int] | None:
    """Returns the shape of the images whose pixels a space searches; None if it searches none."""
    if isinstance(space, LabelledSpace | JointLabelSpace):
        return _images(space.latents)
    return (space.images, *space.image_shape) if isinstance(space, PixelLatentSpace) else None


def run_attack(
    objective: GradientMatchingObjective, settings: AttackSettings, **arguments: Any
) -> Reconstruction:
    """Takes all steps of one attack; arguments are those of :func:`attack_steps`."""
    return run_steps(attack_steps(objective, settings, **arguments))


def check_settings(settings: AttackSettings, knowledge: ThreatKnowledge, *, budget: int) -> None:
    """Builds space and searcher once, so that a plan that names impossible ones fails early.

    Raises:
        PlanError: For an unknown searcher or optimizer, wrong settings of searcher or space, a
            generator the space is not for, or a missing package.
    """
    space = space_to_check(settings, knowledge)
    searcher = searcher_of(settings, space, budget=budget, seed=0)
    if searcher.view not in space.views:
        raise PlanError(
            f"Expected a bounded space for the searcher {settings.searcher!r}, got "
            f"space={settings.space!r}. Use space: gaussian."
        )


def space_to_check(settings: AttackSettings, knowledge: ThreatKnowledge) -> LatentSpace:
    """Returns a space of the dimension and the views that an attack will search."""
    labels = (0,) * knowledge.images_per_client  # Of no consequence: no direction is sought yet.
    entry = entered(settings.space, settings.space_settings, knowledge)
    space: LatentSpace = space_of(
        settings.space, settings.space_settings, entry, labels=labels, seed=0
    )
    return _with_joint_labels(space, entry) if settings.label_inference == JOINT else space
