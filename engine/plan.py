"""The plan of an audit: strict, printable, and checked as a whole before any work is spent."""

import os
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
)

import search_spaces
from engine import assets
from engine.attacks import PRESETS, AttackSettings
from engine.defenses import DEFENSES, Defense, label_defenses
from engine.errors import InputError, PlanError
from engine.federation.client import LocalTraining
from engine.federation.target_models import TARGET_MODELS
from engine.generators.precision import Precision
from engine.registry import nearest, unknown_name
from engine.trial import CONTROLS

DEFAULT_PLAN = Path(search_spaces.__file__).parent / "embedded.yaml"
MAX_PLAN_BYTES = 1024**2
Sha256 = Annotated[str, Field(pattern="^[0-9a-fA-F]{64}$")]


def _absolute(reference: str) -> str:
    """Returns a path as workers and later commands find it; an embedded name as it is."""
    return reference if reference in assets.datasets() else os.path.abspath(reference)


Reference = Annotated[str, AfterValidator(_absolute)]


class Strict(BaseModel):
    """A part of the plan: frozen, with unknown keys refused and no silent conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TargetModelPlan(Strict):
    """The model the clients train.

    Attributes:
        name: A registered target model.
        seed: Seeds its initial weights.
        weights: Trained weights (a safetensors file) in place of initial ones.
        sha256: Expected hash of ``weights``.
    """

    name: str = "lenet"
    seed: int = Field(default=0, ge=0, lt=2**31)
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
    """Weights with a card beside them: an embedded name or the path of a safetensors file."""

    weights: Reference = "fashion-mnist"
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


class AttackPlan(Strict):
    """How the attack searches.

    Attributes:
        preset: A name of ``engine.attacks.PRESETS``; the other keys override its settings.
        budget: Candidate evaluations a search, all its restarts together.
    """

    preset: str = "default"
    budget: int = Field(default=1000, ge=1)
    searcher: str | None = None
    searcher_settings: dict[str, Any] | None = None
    space: str | None = None
    space_settings: dict[str, Any] | None = None
    label_inference: str | None = None
    label_hypotheses: int = Field(default=1, ge=1)
    distance: str | None = None
    regulariser: str | None = None
    regulariser_weight: float | Literal["posterior"] | None = None
    restarts: int = Field(default=1, ge=1)
    scheduler: Literal["none", "halving", "median"] = "none"
    max_seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    published_code: bool | None = None

    def settings(self) -> AttackSettings:
        """Returns the preset with the plan's overrides."""
        if self.preset not in PRESETS:
            raise unknown_name("attack preset", self.preset, PRESETS)
        names = {field.name for field in fields(AttackSettings)}
        given = {name: value for name, value in self if name in names and value is not None}
        if "searcher" in given:
            given.setdefault("searcher_settings", {})  # The preset's are for its own searcher.
        if "space" in given:
            given.setdefault("space_settings", {})
        return replace(PRESETS[self.preset], **given)


class ComputePlan(Strict):
    """What the trials may use.

    ``workers`` and ``searches_per_trial`` change speed alone. Threads and devices also change the
    rounding of float sums, and through it, after many generations, the path of a search.

    Attributes:
        fan_out: What a Ray Tune trial is: ``searches``, one or several of them whole, or
            ``candidates``, one candidate that Tune's own search algorithm proposes.
        workers: Trials at once; as many as the cluster has room for if null.
        cpus_per_trial: Processors, and threads, of one trial.
        gpus_per_trial: GPUs of one trial; 0.25 lets four trials share one. 0 computes on the CPU.
        searches_per_trial: Searches that one Ray Tune trial carries, generation by generation
            evaluated together: more where one population does not fill a GPU, or where searches
            are so short that starting trials shows.
    """

    fan_out: Literal["searches", "candidates"] = "searches"
    workers: int | None = Field(default=None, ge=1)
    cpus_per_trial: int = Field(default=1, ge=1)
    gpus_per_trial: float = Field(default=0.0, ge=0)
    searches_per_trial: int = Field(default=4, ge=1)


class TrackingPlan(Strict):
    """Where MLflow keeps the audit's runs.

    Attributes:
        mlflow: Whether to record in MLflow at all.
        uri: MLflow's tracking URI.
        experiment: Name of the MLflow experiment.
    """

    mlflow: bool = True
    uri: str = "sqlite:///mlflow.db"
    experiment: str = "leaktune"


class ImagesPlan(Strict):
    """Which places besides ``private/`` may show private images and reconstructions.

    Attributes:
        report: Whether the report page shows them.
        tracking: Whether a montage and the report are sent to MLflow.
    """

    report: bool = False
    tracking: bool = False


class DefensePlan(BaseModel):
    """One defense: its name, and its settings beside it."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    name: str

    def settings(self) -> dict[str, Any]:
        """Returns everything but the name."""
        return dict(self.model_extra or {})

    def make(self) -> Defense:
        """Builds the defense."""
        return DEFENSES.make(self.name, **self.settings())


Chain = Annotated[tuple[DefensePlan, ...], Field(min_length=1)]


class Plan(Strict):
    """An audit: whom to attack, behind which defenses, how, with which controls, and where.

    Attributes:
        version: Of the plan's format.
        name: Of the audit, in the run folder's name and in MLflow.
        seed: Root of every random stream.
        data: An embedded data set, or the path of a safetensors file of private images.
        captures: Updates a server received, one safetensors file for each of the first clients,
            in place of simulated ones. ``defenses`` then lists the one chain of defenses
            they went through, and beside it ``none``, which is simulated: without it there is
            nothing to see the attack working on, and the verdict is inconclusive.
        targets: Clients to attack, those with the first private images of the data.
        client: What each of them computes its update from.
        defenses: Each a name, a mapping of name and settings, or a list of those in the order
            the client applies them.
        controls: Which controls run beside the attack.
    """

    version: Literal[1] = 1
    name: str = Field(default="audit", pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,59}$")
    seed: int = Field(default=0, ge=0, lt=2**31)
    data: Reference = "fashion-mnist"
    captures: tuple[Reference, ...] = ()
    targets: int = Field(default=8, ge=1)
    client: ClientPlan = ClientPlan()
    target_model: TargetModelPlan = TargetModelPlan()
    generator: GeneratorPlan = GeneratorPlan()
    classifier: WeightsPlan = WeightsPlan()
    defenses: Annotated[tuple[Chain, ...], Field(min_length=1)] = ((DefensePlan(name="none"),),)
    attack: AttackPlan = AttackPlan()
    controls: tuple[Literal["prior_only", "shuffled", "random_best", "oracle"], ...] = CONTROLS
    compute: ComputePlan = ComputePlan()
    tracking: TrackingPlan = TrackingPlan()
    images: ImagesPlan = ImagesPlan()

    @field_validator("defenses", mode="before")
    @classmethod
    def _chains(cls, value: object) -> object:
        """Reads names, mappings and lists as chains of defenses."""
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise ValueError("expected a list of defenses")
        return tuple(tuple(_defense(part) for part in _chain(entry)) for entry in value)

    @field_validator("controls", "captures", mode="before")
    @classmethod
    def _tuple(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    def to_dict(self) -> dict[str, Any]:
        """Returns the plan as plain values, every default filled in."""
        return self.model_dump(mode="json")


def read_plan(path: Path, overrides: Sequence[str] = ()) -> tuple[Plan, str]:
    """Reads a plan from YAML, with ``key=value`` overrides applied.

    Returns:
        The plan, and the text it was read from.

    Raises:
        InputError: If the file is missing or is not YAML.
        PlanError: Naming every unknown key and wrong value at once.
    """
    if not path.is_file():
        raise InputError(f"Expected a plan at {path}, found no file. Check the path.")
    if path.stat().st_size > MAX_PLAN_BYTES:
        raise InputError(
            f"Expected a plan of at most 1 MiB, got {path.stat().st_size} bytes: {path}."
        )
    try:
        text = path.read_text(encoding="utf-8")
        values = yaml.safe_load(text) or {}
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"Expected YAML in {path}, got something else: {error}") from error
    if not isinstance(values, dict):
        raise PlanError(f"Expected keys and values in {path}, got a {type(values).__name__}.")
    for override in overrides:
        _override(values, override)
    return make_plan(values, source=str(path)), text


def make_plan(values: Mapping[str, Any], *, source: str) -> Plan:
    """Returns the plan of plain values; raises PlanError naming every problem at once."""
    try:
        plan = Plan.model_validate(dict(values))
    except ValidationError as error:
        problems = [_explain(dict(problem)) for problem in error.errors()]
        raise PlanError(f"{source}:\n" + "\n".join(f"  {line}" for line in problems)) from error
    named = _check_names(plan)
    if named:
        raise PlanError(f"{source}:\n" + "\n".join(f"  {line}" for line in named))
    return plan


def _check_names(plan: Plan) -> list[str]:
    """Builds what the plan names and returns what cannot be built, in words."""
    problems: list[str] = []
    labels: list[str] = []
    for index, chain in enumerate(plan.defenses):
        try:
            labels.append(label_defenses([part.make() for part in chain]))
        except PlanError as error:
            problems.append(f"defenses.{index}: {error}")
    repeated = {label for label in labels if labels.count(label) > 1}
    others = [chain for chain in plan.defenses if chain[0].name != "none"]
    if plan.captures and (len(others) > 1 or len(plan.defenses) > 2):
        problems.append(
            "defenses: expected, with captures, the one chain they went through and none beside "
            f"it, got {len(plan.defenses)} chains."
        )
    if len(set(plan.controls)) < len(plan.controls):
        problems.append(f"controls: expected each once, got {', '.join(plan.controls)}.")
    problems += [f"defenses: {label} is listed twice; list it once." for label in sorted(repeated)]
    for part, check in (
        ("attack", plan.attack.settings),
        ("target_model", plan.target_model.check),
    ):
        try:
            check()
        except PlanError as error:
            problems.append(f"{part}: {error}")
    return problems


def _chain(entry: object) -> Sequence[object]:
    return entry if isinstance(entry, list | tuple) else [entry]


def _defense(part: object) -> object:
    return {"name": part} if isinstance(part, str) else part


def _override(values: dict[str, Any], override: str) -> None:
    """Sets one ``dotted.key=value`` in place; the value is YAML."""
    key, equals, text = override.partition("=")
    if not equals:
        raise PlanError(f"Expected --set key=value, got {override!r}.")
    *parents, last = key.strip().split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise PlanError(f"Expected {parent!r} of --set {override!r} to hold keys.")
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise PlanError(f"Expected a YAML value in --set {override!r}: {error}") from error


def _explain(problem: Mapping[str, Any]) -> str:
    """Returns one of pydantic's problems in the house's words."""
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _keys_at(problem["loc"][:-1])
        hint = nearest(str(problem["loc"][-1]), known)
        return f"Unknown key {where!r}; expected one of: {', '.join(known)}.{hint}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{where}: {message}; got {reprlib.repr(problem['input'])}."


def _keys_at(location: Sequence[Any]) -> list[str]:
    model: type[BaseModel] = Plan
    for part in location:
        annotation = model.model_fields[part].annotation
        assert isinstance(annotation, type)
        model = annotation
    return sorted(model.model_fields)
