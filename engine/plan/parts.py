"""The parts of a plan, each strict and frozen."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from engine.attacks import PRESETS, AttackSettings
from engine.defenses import DEFENSES, Defense
from engine.errors import PlanError
from engine.federation.client import LocalTraining
from engine.federation.target_models import TARGET_MODELS
from engine.generators.precision import Precision
from engine.registry import unknown_name
from engine.setups import DEFAULT, SETUPS, has_embedded_images, setup_of
from engine.tracking.connection import absolute_uri

# What the default attack is called, whichever searcher it has.
GGL: Final = "ggl"

Sha256 = Annotated[str, Field(pattern="^[0-9a-fA-F]{64}$")]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


def _absolute(reference: str) -> str:
    """Returns a path as workers and later commands find it; a setup's name as it is."""
    return reference if reference in SETUPS else os.path.abspath(reference)


def _tracking_uri() -> str:
    """Returns where MLflow's runs go if the plan does not say, by MLflow's own convention."""
    return os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"


Reference = Annotated[str, AfterValidator(_absolute)]
Folder = Annotated[str, AfterValidator(os.path.abspath)]


class Strict(BaseModel):
    """A part of the plan: frozen, with unknown keys refused and no silent conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TargetModelPlan(Strict):
    """The model the clients train.

    Attributes:
        name: A registered target model; that of the data if null.
        seed: Seeds its initial weights.
        weights: Trained weights (a safetensors file) in place of initial ones.
        sha256: Expected hash of ``weights``.
    """

    name: str
    seed: Seed = 0
    weights: Reference | None = None
    sha256: Sha256 | None = None

    def check(self) -> None:
        """Raises PlanError unless the name is registered."""
        TARGET_MODELS.get(self.name)


class ClientPlan(Strict):
    """What each client computes its update from, and how; the server prescribes the latter.

    Attributes:
        images: Private images of a client, ``B``: the first ``B`` of the data are those of
            target 0, the next ``B`` those of target 1.
        local_steps: Gradient steps on all of them together. 1 is FedSGD: the update is the
            gradient; more are FedAvg without momentum.
        learning_rate: Of the local steps; without effect for one.
    """

    images: int = Field(default=1, ge=1)
    local_steps: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=0.01, gt=0, allow_inf_nan=False)

    def training(self) -> LocalTraining:
        """Returns what the clients do with their images."""
        return LocalTraining(self.local_steps, self.learning_rate)


class WeightsPlan(Strict):
    """Weights with a card beside them.

    Attributes:
        weights: A data set's name, or the path of a safetensors file; those of the data if null.
        sha256: Expected hash of ``weights``.
    """

    weights: Reference
    sha256: Sha256 | None = None


class GeneratorPlan(WeightsPlan):
    """The attacker's generator, and how its images are made during a search.

    Attributes:
        precision: Of the factors of its products: ``float32``, ``tf32`` (GPUs that have it), or
            ``bfloat16``. Lower ones are sooner done and change images a little, and through them
            the path of a search. Matching losses stay in single precision, the oracle too.
        channels_last: Whether the weights of convolutions lie channels last in memory: faster on
            many devices, equal up to rounding.
    """

    precision: Precision = "float32"
    channels_last: bool = False


class Named(BaseModel):
    """A name, and settings beside it."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    name: str

    def settings(self) -> dict[str, Any]:
        """Returns everything but the name."""
        return dict(self.model_extra or {})


def filled_in(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a plan's values with what it leaves to its data.

    That is its name, where they have one, weights, the target model, and whether pictures are
    shown: those of embedded images, which are public, are.
    """
    name, setup = setup_of(values.get("data"))
    filled = {"name": name, **values} if name == values.get("data", DEFAULT) else dict(values)
    for part, key, default in (
        ("generator", "weights", name),
        ("classifier", "weights", name),
        ("target_model", "name", setup.target_model),
    ):
        own = filled.get(part, {})
        if isinstance(own, Mapping) and own.get(key) is None:
            filled[part] = {**own, key: default}
    own = filled.get("images", {})
    if isinstance(own, Mapping) and _attacks_embedded_images(values):
        filled["images"] = {"report": True, "tracking": True, **own}
    return filled


def _attacks_embedded_images(values: Mapping[str, Any]) -> bool:
    """Whether all private images of a plan come with leaktune, which are public ones."""
    others = values.get("captures") or values.get("shift")
    return has_embedded_images(values.get("data", DEFAULT)) and not others


def named(part: object) -> object:
    """Returns a name by itself as a mapping of the name and no settings."""
    return {"name": part} if isinstance(part, str) else part


def listed(value: object, what: str) -> Sequence[object]:
    """Returns a list as it is; raises ValueError for anything else, a text too."""
    if not isinstance(value, list | tuple):
        raise ValueError(f"expected a list of {what}")
    return value


class AttackPlan(Strict):
    """How the attack searches.

    Attributes:
        preset: A name of ``engine.attacks.PRESETS``; the other keys override its settings.
        budget: Candidate evaluations a search, all its restarts together.
        searchers: Several searchers to compare in place of ``searcher``, each a name or a mapping
            of name and settings; all attack the same updates with the same budget.
    """

    preset: str = "default"
    budget: int = Field(default=1000, ge=1)
    searcher: str | None = None
    searcher_settings: dict[str, Any] | None = None
    searchers: Annotated[tuple[Named, ...], Field(min_length=1)] | None = None
    space: str | None = None
    space_settings: dict[str, Any] | None = None
    label_inference: str | None = None
    label_hypotheses: int | None = Field(default=None, ge=1)
    distance: str | None = None
    regulariser: str | None = None
    regulariser_weight: float | Literal["posterior"] | None = None
    restarts: int = Field(default=1, ge=1)
    scheduler: Literal["none", "halving", "median"] = "none"
    max_seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    published_code: bool | None = None
    image_priors: dict[str, float] | None = None
    adaptive: bool | None = None

    @field_validator("searchers", mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        return None if value is None else tuple(map(named, listed(value, "searchers")))

    def lineup(self, name: str = "", key: str = "") -> "tuple[PlannedAttack, ...]":
        """Returns the preset with the plan's overrides, once for each searcher.

        Args:
            name: What the attack is called in the audit; as its preset, if empty.
            key: Where the plan has it; empty where there is no other.
        """
        settings = self._settings()
        name = name or (GGL if self.preset == "default" else self.preset)
        if self.searchers is None:
            return (PlannedAttack(name, settings, self.budget, key),)
        listed = f"{key or 'attack'}.searchers"
        return tuple(
            PlannedAttack(
                name, _searching(settings, index, searcher), self.budget, f"{listed}.{index}"
            )
            for index, searcher in enumerate(self.searchers)
        )

    def _settings(self) -> AttackSettings:
        if self.preset not in PRESETS:
            raise unknown_name("attack preset", self.preset, PRESETS)
        names = {field.name for field in fields(AttackSettings)}
        given = {name: value for name, value in self if name in names and value is not None}
        if "searcher" in given:
            given.setdefault("searcher_settings", {})  # The preset's are for its own searcher.
        if "space" in given:
            given.setdefault("space_settings", {})
        return replace(PRESETS[self.preset], **given)


@dataclass(frozen=True)
class PlannedAttack:
    """One attack of an audit, with one searcher.

    Attributes:
        name: What it is called.
        settings: How it attacks.
        budget: Candidate evaluations of each search.
        key: Where the plan has it; empty where there is no other.
    """

    name: str
    settings: AttackSettings
    budget: int
    key: str

    def with_settings(self, **changes: Any) -> "PlannedAttack":
        """Returns the same attack with other settings."""
        return replace(self, settings=replace(self.settings, **changes))


def _searching(settings: AttackSettings, index: int, searcher: Named) -> AttackSettings:
    try:
        return replace(settings, searcher=searcher.name, searcher_settings=searcher.settings())
    except PlanError as error:
        raise PlanError(f"searchers.{index}: {error}") from error


class ComputePlan(Strict):
    """What the trials may use.

    ``workers`` changes speed alone, and so does ``searches_per_trial`` on processors. Threads and
    devices, and on GPUs the searches of a trial, also change the rounding of float sums, and
    through it, after many generations, the path of a search.

    Attributes:
        fan_out: What a Ray Tune trial is: ``searches``, one or several of them whole, or
            ``candidates``, one candidate that Tune's own search algorithm proposes.
        workers: Trials at once; as many as the cluster has room for if null.
        cpus_per_trial: Processors, and threads, of one trial.
        gpus_per_trial: GPUs of one trial; 0.25 lets four trials share one. 0 computes on the CPU.
        searches_per_trial: Searches that one Ray Tune trial carries, generation by generation
            evaluated together: more where one population does not fill a GPU, or where searches
            are so short that starting trials shows.
        hang_seconds: A worker that completes no generation for so long is killed, and its trials go
            on from their last one with another; null waits for ever. Each time, a trial is given
            as many seconds more, so that one which is only slow comes to its end.
    """

    fan_out: Literal["searches", "candidates"] = "searches"
    workers: int | None = Field(default=None, ge=1)
    cpus_per_trial: int = Field(default=1, ge=1)
    gpus_per_trial: float = Field(default=0.0, ge=0)
    searches_per_trial: int = Field(default=4, ge=1)
    hang_seconds: float | None = Field(default=1800.0, gt=0)


class TrackingPlan(Strict):
    """Where MLflow keeps the audit's runs.

    Attributes:
        mlflow: Whether to record in MLflow at all.
        uri: MLflow's tracking URI; that of the environment (``MLFLOW_TRACKING_URI``), else a
            file, if the plan names none.
        experiment: Name of the MLflow experiment.
    """

    mlflow: bool = True
    uri: Annotated[str, AfterValidator(absolute_uri)] = Field(
        default_factory=_tracking_uri, validate_default=True
    )
    experiment: str = "leaktune"


class ImagesPlan(Strict):
    """Which places besides ``private/`` may show private images and reconstructions.

    Attributes:
        report: Whether the report page shows them. Unless a plan says so, it shows embedded images,
            which are public, and no others.
        tracking: Whether a montage and the report are sent to MLflow; likewise.
    """

    report: bool = False
    tracking: bool = False


class DefensePlan(Named):
    """One defense: its name, and its settings beside it."""

    def make(self) -> Defense:
        """Builds the defense."""
        return DEFENSES.make(self.name, **self.settings())


Chain = Annotated[tuple[DefensePlan, ...], Field(min_length=1)]
