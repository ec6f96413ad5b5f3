"""An attack: how a latent search against an observed update is set up, and its presets."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any, Final, Literal

import numpy as np
from torch import Tensor

from engine import validate
from engine.attacks.choices import AtChoice
from engine.attacks.distances import DISTANCES
from engine.attacks.knowledge import ThreatKnowledge
from engine.attacks.labels import LABEL_INFERENCES, plausible_labels
from engine.attacks.objective import GradientMatchingObjective
from engine.attacks.regularisers import REGULARISERS
from engine.attacks.restarts import SCHEDULERS, Restarts
from engine.attacks.search import History, Progress, Steps, run_steps, search_steps
from engine.attacks.searchers import Searcher, make_searcher
from engine.attacks.spaces import MAPPED, check_space_settings, entered, space_of
from engine.defenses.base import Imitation, estimate_imitations
from engine.errors import InputError, PlanError
from engine.federation.update import Update
from engine.seeding import stream_seed
from search_spaces.latent import LatentSpace
from search_spaces.latent_spaces import LabelledSpace

# Arguments of searchers that come from the search, not from a plan.
RESERVED: Final = frozenset({"dim", "budget", "seed"})


@dataclass(frozen=True, kw_only=True)
class AttackSettings:
    """Everything that determines an attack besides its knowledge, budget and seed.

    Attributes:
        searcher: ``family`` or ``family:optimizer``, e.g. ``gauss_newton``.
        searcher_settings: Further arguments of the searcher.
        space: Name of the latent space, e.g. ``gaussian``; ``leaktune list spaces`` has all.
        space_settings: Its settings.
        label_inference: How the classes are inferred from the update: ``bias`` or ``row_sum``.
        label_hypotheses: Classes of the client's images that are searched at most, where the update
            speaks for several about as well: a discrete coordinate beside those of the space. Fewer
            where the budget has no room for a generation of each.
        distance: ``squared_l2`` (the paper's D1) or ``cosine`` (D2).
        regulariser: ``none``, ``kl`` (the paper's R1), ``norm`` (R2) or ``prior``.
        regulariser_weight: Factor of the regulariser; ``posterior`` for the one that makes squared
            L2 and ``prior`` a posterior: the estimated variance of the noise, divided by the
            number of parameter tensors as the distance is.
        restarts: Searches from different seeds that share the budget; the reconstruction is that of
            the lowest loss among all of them.
        scheduler: Which restarts are stopped early: ``none``, ``halving`` or ``median``, see
            :class:`engine.attacks.restarts.Restarts`; hypotheses of the classes stop one another
            by ``halving`` if not by ``median``.
        max_seconds: Time after which a search begins no further generation; None for no limit.
        published_code: Imitate defenses as GGL's published code does where it departs from the
            paper.
    """

    searcher: str = "gauss_newton"
    searcher_settings: Mapping[str, object] = field(default_factory=dict)
    space: str = "gaussian"
    space_settings: Mapping[str, object] = field(default_factory=dict)
    label_inference: str = "bias"
    label_hypotheses: int = 4
    distance: str = "squared_l2"
    regulariser: str = "prior"
    regulariser_weight: float | Literal["posterior"] = "posterior"
    restarts: int = 1
    scheduler: str = "none"
    max_seconds: float | None = None
    published_code: bool = False

    def __post_init__(self) -> None:
        check_space_settings(self.space, self.space_settings)
        reserved = RESERVED & set(self.searcher_settings)
        if reserved:
            raise PlanError(
                f"Expected searcher_settings without {', '.join(sorted(reserved))}, which the "
                "search sets itself."
            )
        validate.choice(tuple(LABEL_INFERENCES), label_inference=self.label_inference)
        validate.choice(tuple(DISTANCES), distance=self.distance)
        validate.choice(tuple(REGULARISERS), regulariser=self.regulariser)
        self._check_restarts()
        if self.max_seconds is not None:
            validate.positive(max_seconds=self.max_seconds)
        if self.space == MAPPED and self.regulariser != "none":
            raise PlanError(
                f"Expected regulariser: none with space: {MAPPED}, whose latents are not those of "
                f"N(0, I), got {self.regulariser!r}. Set it, and regulariser_weight: 0."
            )
        if self.regulariser_weight == "posterior":
            self._check_posterior()
        else:
            validate.in_range(0, 1e9, regulariser_weight=self.regulariser_weight)

    def _check_restarts(self) -> None:
        validate.count(restarts=self.restarts, label_hypotheses=self.label_hypotheses)
        validate.choice(tuple(SCHEDULERS), scheduler=self.scheduler)
        _, fewest = SCHEDULERS[self.scheduler]
        if self.restarts < fewest:
            raise PlanError(
                f"Expected at least {fewest} restarts with scheduler: {self.scheduler}, got "
                f"restarts: {self.restarts}. Raise them, or use scheduler: none."
            )

    def _check_posterior(self) -> None:
        if (self.distance, self.regulariser) != ("squared_l2", "prior"):
            raise PlanError(
                "Expected distance: squared_l2 and regulariser: prior with regulariser_weight: "
                f"posterior, got {self.distance!r} and {self.regulariser!r}. Give a number."
            )

    def with_searcher(self, searcher: str) -> "AttackSettings":
        """Returns the same attack searched once by another searcher with its own defaults."""
        return replace(self, searcher=searcher, searcher_settings={}, restarts=1, scheduler="none")

    def weight_of(self, imitation: Imitation, tensors: int) -> float:
        """Returns the regulariser's factor, given the estimated defense."""
        if self.regulariser_weight == "posterior":
            return imitation.noise_std**2 / tensors
        return self.regulariser_weight


# GGL's published code for its small generator (CelebA), its search to the letter (what differs
# around it: docs/decisions/0007): the optimizer called "CMA"
# when it was written (today's OldCMA), told of 500 rounds and one worker but asked 50 times before
# it is told, starting from zeros on unsquashed latents, with the scalar KL penalty.
PUBLISHED_GGL: Final = AttackSettings(
    searcher="nevergrad:OldCMA",
    searcher_settings={"population": 50, "workers": 1, "planned_budget": 500, "init": "zeros"},
    space="raw",
    label_inference="row_sum",
    label_hypotheses=1,
    distance="squared_l2",
    regulariser="kl",
    regulariser_weight=0.1,
    published_code=True,
)

PRESETS: Final[Mapping[str, AttackSettings]] = MappingProxyType(
    {"default": AttackSettings(), "ggl": PUBLISHED_GGL}
)


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
    imitation = estimate_imitations(
        knowledge.defense_kinds,
        observed,
        head=knowledge.head,
        published_code=settings.published_code,
    )
    labels, *others = plausible_labels(
        settings.label_inference,
        observed,
        knowledge,
        noise_std=imitation.noise_std,
        most=settings.label_hypotheses,
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
        images=objective.generate(result.latent),
        labels=objective.labels_of(result.latent),
        latent=result.latent,
        loss=result.loss,
        losses=result.losses,
        nonfinite=result.nonfinite,
        population=population,
        chunk_size=min(population, objective.chunks.size),
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
    others = len(objective.other_labels)
    return LabelledSpace(latents, 1 + others) if others else latents


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
    make_lone = partial(lone_searcher, settings, budget=each, seed=seed)
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
    settings: AttackSettings, dim: int, place: int = 0, *, budget: int, seed: int
) -> Searcher:
    """Returns one searcher of an attack whose root of randomness is ``seed``.

    Raises:
        PlanError: If it cannot be built of these settings.
    """
    own = ("searcher", place) if place else ("searcher",)
    return make_searcher(
        settings.searcher,
        dim=dim,
        budget=budget,
        seed=stream_seed(seed, *own),
        **settings.searcher_settings,
    )


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
    return space_of(settings.space, settings.space_settings, entry, labels=labels, seed=0)
