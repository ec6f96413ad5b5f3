"""Everything that determines an attack besides its knowledge, budget and seed."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from engine import validate
from engine.attacks.distances import DISTANCES
from engine.attacks.image_priors import IMAGE_PRIORS
from engine.attacks.labels import JOINT, LABEL_INFERENCES
from engine.attacks.regularisers import REGULARISERS
from engine.attacks.restarts import SCHEDULERS
from engine.attacks.spaces import MAPPED, PIXELS, check_space_settings
from engine.defenses.base import Imitation
from engine.errors import PlanError

# Arguments of searchers that come from the search, not from a plan.
RESERVED: Final = frozenset({"dim", "budget", "seed", "image_shape"})


@dataclass(frozen=True, kw_only=True)
class AttackSettings:
    """Everything that determines an attack besides its knowledge, budget and seed.

    Attributes:
        searcher: ``family`` or ``family:optimizer``, e.g. ``gauss_newton``.
        searcher_settings: Further arguments of the searcher.
        space: Name of the latent space, e.g. ``gaussian``; ``leaktune list spaces`` has all.
        space_settings: Its settings.
        label_inference: How the classes are inferred from the update: ``bias`` or ``row_sum``; or
            ``joint``, where they are not, but searched with the images.
        label_hypotheses: Classes of the client's images that are searched at most, where the update
            speaks for several about as well: a discrete coordinate beside those of the space. Fewer
            where the budget has no room for a generation of each.
        distance: ``squared_l2`` (the paper's D1) or ``cosine`` (D2).
        regulariser: ``none``, ``kl`` (the paper's R1), ``norm`` (R2) or ``prior``.
        image_priors: Penalties on candidates' images, each with its factor: ``total_variation``,
            ``image_norm``, ``batch_norm``, see :mod:`engine.attacks.image_priors`.
        adaptive: Whether candidates' updates imitate the defense that is estimated from the
            observed one.
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
    image_priors: Mapping[str, float] = field(default_factory=dict)
    adaptive: bool = True

    def __post_init__(self) -> None:
        check_space_settings(self.space, self.space_settings)
        reserved = RESERVED & set(self.searcher_settings)
        if reserved:
            raise PlanError(
                f"Expected searcher_settings without {', '.join(sorted(reserved))}, which the "
                "search sets itself."
            )
        validate.choice((*LABEL_INFERENCES, JOINT), label_inference=self.label_inference)
        validate.choice(tuple(DISTANCES), distance=self.distance)
        validate.choice(tuple(REGULARISERS), regulariser=self.regulariser)
        self._check_restarts()
        if self.max_seconds is not None:
            validate.positive(max_seconds=self.max_seconds)
        for name, weight in self.image_priors.items():
            validate.choice(tuple(IMAGE_PRIORS), image_priors=name)
            validate.in_range(0, 1e9, **{f"image_priors.{name}": weight})
        if self.space in (MAPPED, PIXELS) and self.regulariser != "none":
            raise PlanError(
                f"Expected regulariser: none with space: {self.space}, whose latents are not of "
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
