"""The plan as a whole: its keys, how it is read, and what is checked before work is spent."""

import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

import search_spaces
from engine.attacks import PRESETS
from engine.defenses import label_defenses
from engine.errors import InputError, PlanError
from engine.federation.shifts import SHIFTS
from engine.plan.parts import (
    AttackPlan,
    Chain,
    ClientPlan,
    ComputePlan,
    DefensePlan,
    Folder,
    GeneratorPlan,
    ImagesPlan,
    PlannedAttack,
    Reference,
    Seed,
    Strict,
    TargetModelPlan,
    TrackingPlan,
    WeightsPlan,
    filled_in,
    listed,
    named,
)
from engine.plan.scales import SCALE, SCALES, scaled
from engine.registry import nearest, unknown_name
from engine.scoring.variants import CONTROLS
from engine.setups import SETUPS, default_data_folder

DEFAULT_PLAN = Path(search_spaces.__file__).parent / "embedded.yaml"
MAX_PLAN_BYTES = 1024**2


def _named_by(marks: str) -> AfterValidator:
    """Checks a name of letters, digits and some marks, which may be part of a file's name."""

    def check(name: str) -> str:
        if not re.fullmatch(f"[A-Za-z0-9][A-Za-z0-9{re.escape(marks)}]{{0,59}}", name):
            raise ValueError(
                f"Expected letters, digits and any of {' '.join(marks)} in a name, at most 60, the "
                "first a letter or a digit"
            )
        return name

    return AfterValidator(check)


AttackName = Annotated[str, _named_by("._")]  # Ids of trials are put together by "-".


class Plan(Strict):
    """An audit: whom to attack, behind which defenses, how, with which controls, and where.

    Attributes:
        version: Of the plan's format.
        scale: Which of the file's ``scales`` this is, see :mod:`engine.plan.scales`.
        name: Of the audit, in the run folder's name and in MLflow; that of the data, unless given.
        seed: Root of every random stream.
        seeds: Several of them in place of ``seed``; the audit is repeated with each.
        data: A data set by name, which brings generator, classifier and target model along, or
            the path of a safetensors file of private images.
        data_folder: Where the user keeps data sets, each in a folder of its name.
        shift: Makes the clients' images others than the generator was made for: ``rotated`` by a
            quarter, ``paired``, two objects in each, or those of another data set by name, as large
            and as grey as the generator's. None for images as they are.
        captures: Updates a server received, one safetensors file for each of the first clients,
            in place of simulated ones. ``defenses`` then lists the one chain of defenses
            they went through, and beside it ``none``, which is simulated: without it there is
            nothing to see the attack working on, and the verdict is inconclusive.
        targets: Clients to attack, those with the first private images of the data.
        client: What each of them computes its update from.
        defenses: Each a name, a mapping of name and settings, or a list of those in the order
            the client applies them.
        attacks: Several attacks to compare in place of ``attack``, by their names; those named as
            a preset are it.
        controls: Which controls run beside the attacks.
        verdict: Whether defenses are judged. Without a verdict an audit is its figures.
        paper_table: Whether the report has the paper's metrics in the paper's convention too.
    """

    version: Literal[1] = 1
    scale: str | None = None
    name: Annotated[str, _named_by("._-")] = "audit"
    seed: Seed = 0
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] | None = None
    data: Reference = "fashion-mnist"
    data_folder: Folder = Field(default_factory=default_data_folder, validate_default=True)
    shift: str | None = None
    captures: tuple[Reference, ...] = ()
    targets: int = Field(default=8, ge=1)
    client: ClientPlan = ClientPlan()
    target_model: TargetModelPlan
    generator: GeneratorPlan
    classifier: WeightsPlan
    defenses: Annotated[tuple[Chain, ...], Field(min_length=1)] = ((DefensePlan(name="none"),),)
    attack: AttackPlan = AttackPlan()
    attacks: Annotated[dict[AttackName, AttackPlan], Field(min_length=1)] | None = None
    controls: tuple[Literal["prior_only", "shuffled", "random_best", "oracle"], ...] = CONTROLS
    compute: ComputePlan = ComputePlan()
    tracking: TrackingPlan = Field(default_factory=TrackingPlan)
    images: ImagesPlan = ImagesPlan()
    verdict: bool = True
    paper_table: bool = False

    @model_validator(mode="before")
    @classmethod
    def _of_the_data(cls, values: object) -> object:
        return filled_in(values) if isinstance(values, Mapping) else values

    @field_validator("defenses", mode="before")
    @classmethod
    def _chains(cls, value: object) -> object:
        """Reads names, mappings and lists as chains of defenses."""
        entries = listed(value, "defenses")
        return tuple(tuple(named(part) for part in _chain(entry)) for entry in entries)

    @field_validator("attacks", mode="before")
    @classmethod
    def _presets(cls, value: object) -> object:
        """Takes an attack's preset to be what it is called, if there is such a preset."""
        if not isinstance(value, dict):
            return value
        return {name: _with_preset(name, {} if own is None else own) for name, own in value.items()}

    @field_validator("controls", "captures", "seeds", mode="before")
    @classmethod
    def _tuple(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    def all_seeds(self) -> tuple[int, ...]:
        """Returns the seeds of the audit, one or several."""
        return self.seeds or (self.seed,)

    def lineup(self) -> tuple[PlannedAttack, ...]:
        """Returns the attacks of the audit, each once for each of its searchers."""
        if self.attacks is None:
            return self.attack.lineup()
        return tuple(
            planned
            for name, attack in self.attacks.items()
            for planned in attack.lineup(name, f"attacks.{name}")
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the plan as plain values, every default filled in that counts."""
        replaced = {"seed": self.seeds, "attack": self.attacks}
        unused = {name for name, by in replaced.items() if by is not None}
        return self.model_dump(mode="json", exclude=unused or None)


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
    written = values.get(SCALE)
    _override_all(values, overrides)
    if values.get(SCALE) != written and SCALES not in values:
        raise PlanError(
            f"Expected --set {SCALE} with a plan that has {SCALES}, got {path}, which has none. "
            "Leave it out, or give the plan scales."
        )
    values = scaled(values, source=str(path))
    # Also of what the scale has set.
    _override_all(values, [one for one in overrides if not one.startswith(f"{SCALES}.")])
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
    problems += [
        f"{key}.label_hypotheses: expected 1 with compute.fan_out: candidates, got "
        f"{attack.label_hypotheses}. Leave it out, or use fan_out: searches."
        for key, attack in _attack_plans(plan).items()
        if plan.compute.fan_out == "candidates" and (attack.label_hypotheses or 1) > 1
    ]
    repeated = {label for label in labels if labels.count(label) > 1}
    others = [chain for chain in plan.defenses if chain[0].name != "none"]
    problems += _check_shift(plan)
    if plan.captures and (len(others) > 1 or len(plan.defenses) > 2):
        problems.append(
            "defenses: expected, with captures, the one chain they went through and none beside "
            f"it, got {len(plan.defenses)} chains."
        )
    problems += [f"defenses: {label} is listed twice; list it once." for label in sorted(repeated)]
    problems += _check_axes(plan)
    if re.search("^https?://[^/]*@|//[^/@]*:[^/]+@|[?&]password=", plan.tracking.uri):
        problems.append(
            "tracking.uri: expected no login in it, since plan and summary of a run are kept as "
            "they are. Give it by MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, a "
            "password of PostgreSQL by PGPASSWORD or ~/.pgpass."
        )
    checks: tuple[tuple[str, Callable[[], object]], ...] = (
        *((key, attack.lineup) for key, attack in _attack_plans(plan).items()),
        ("target_model", plan.target_model.check),
    )
    for part, check in checks:
        try:
            check()
        except PlanError as error:
            problems.append(f"{part}: {error}")
    return problems


def _check_shift(plan: Plan) -> list[str]:
    """Returns what is wrong with the shift of the clients' images, in words."""
    shifts = (*SHIFTS, *SETUPS)
    if plan.shift is None:
        return []
    if plan.shift not in shifts:
        return [f"shift: {unknown_name('shift', plan.shift, shifts)}"]
    if plan.captures:
        return ["shift: expected none with captures, whose images are as they are."]
    if plan.shift in SETUPS and (plan.data == plan.shift or plan.data not in SETUPS):
        return [
            f"shift: expected another data set than that of data, by name, got {plan.shift} with "
            f"data: {plan.data}. Name in data what the generator was made for."
        ]
    return []


def _attack_plans(plan: Plan) -> dict[str, AttackPlan]:
    """Returns the attacks by where the plan has them."""
    if plan.attacks is None:
        return {"attack": plan.attack}
    return {f"attacks.{name}": attack for name, attack in plan.attacks.items()}


def _check_axes(plan: Plan) -> list[str]:
    """Returns what is wrong with the lists of which each entry has trials of its own, in words."""
    attacks = _attack_plans(plan)
    axes: dict[str, Sequence[object]] = {
        "controls": plan.controls,
        "seeds": plan.seeds or (),
        **{
            f"{key}.searchers": [searcher.name for searcher in attack.searchers or ()]
            for key, attack in attacks.items()
        },
    }
    problems = [
        f"{key}: expected each once, got {', '.join(map(str, values))}."
        for key, values in axes.items()
        if len(set(values)) < len(values)
    ]
    for several, one in (("seeds", "seed"), ("attacks", "attack")):
        if getattr(plan, several) is not None and one in plan.model_fields_set:
            problems.append(f"{several}: expected in place of {one}, got both. Leave one out.")
    problems += [
        f"attacks: expected other names than those of controls, got {name!r}."
        for name in CONTROLS
        if name in (plan.attacks or ())
    ]
    for key, attack in attacks.items():
        alone = [
            name for name in ("searcher", "searcher_settings") if getattr(attack, name) is not None
        ]
        if attack.searchers is not None and alone:
            problems.append(
                f"{key}.searchers: expected in place of {' and '.join(alone)}, got both. Leave one "
                "out; settings of a searcher in the list stand beside its name."
            )
    return problems


def _with_preset(name: object, attack: object) -> object:
    if not isinstance(attack, dict) or "preset" in attack or name not in PRESETS:
        return attack
    return {"preset": name, **attack}


def _chain(entry: object) -> Sequence[object]:
    return entry if isinstance(entry, list | tuple) else [entry]


def _override_all(values: dict[str, Any], overrides: Sequence[str]) -> None:
    for override in overrides:
        _override(values, override)


def _override(values: dict[str, Any], override: str) -> None:
    """Sets one ``dotted.key=value`` in place; the value is YAML."""
    key, equals, text = override.partition("=")
    if not equals:
        raise PlanError(f"Expected --set key=value, got {override!r}.")
    *parents, last = key.strip().split(".")
    for parent in parents:
        if values.get(parent) is None:
            values[parent] = {}
        values = values[parent]
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
        if model is Plan and part == "attacks":
            return sorted(AttackPlan.model_fields)
        annotation = model.model_fields[part].annotation
        assert isinstance(annotation, type)
        model = annotation
    return sorted(model.model_fields)
