"""Search spaces in the forms of Optuna, Nevergrad, Ax and Ray Tune, and their answers back.

Every library sees the unit view of a latent space as parameters in [0, 1], one a coordinate, and
the choice among hypotheses of the classes, where a space has one, as a categorical parameter. Names
are the same everywhere; what a library suggests comes back as a mapping of those names.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from search_spaces.latent import LatentSpace
from search_spaces.latent_spaces import LabelledSpace

if TYPE_CHECKING:
    from ax import ChoiceParameterConfig, RangeParameterConfig
    from optuna.distributions import BaseDistribution

# The coordinate that chooses among hypotheses of the classes.
LABELS: Final = "labels"


def coordinate_names(space: LatentSpace) -> list[str]:
    """Returns a name for each coordinate, padded so that they sort in order: ``z00``, ``z01``.

    The last one of a labelled space is ``labels``.

    Raises:
        ValueError: If the space has no unit view.
    """
    if "unit" not in space.views:
        raise ValueError(
            f"Expected a bounded space, got a {type(space).__name__}, which has no unit view. "
            "Use another."
        )
    choices = _choices(space)
    continuous = space.dim - bool(choices)
    width = len(str(continuous - 1))
    return [f"z{place:0{width}}" for place in range(continuous)] + [LABELS] * bool(choices)


def to_optuna(space: LatentSpace) -> "dict[str, BaseDistribution]":
    """Returns the distributions of Optuna's ``study.ask``."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    def distribution(name: str) -> "BaseDistribution":
        if name == LABELS:
            return CategoricalDistribution(range(_choices(space)))
        return FloatDistribution(0.0, 1.0)

    return {name: distribution(name) for name in coordinate_names(space)}


def to_nevergrad(space: LatentSpace) -> Any:
    """Returns Nevergrad's parametrization; the ``value`` of what it asks is the suggestion."""
    import nevergrad

    def parameter(name: str) -> Any:
        if name == LABELS:
            return nevergrad.p.Choice(range(_choices(space)))
        return nevergrad.p.Scalar(lower=0.0, upper=1.0)

    return nevergrad.p.Dict(**{name: parameter(name) for name in coordinate_names(space)})


def to_ax(space: LatentSpace) -> "list[RangeParameterConfig | ChoiceParameterConfig]":
    """Returns the parameters of Ax's ``client.configure_experiment``."""
    from ax import ChoiceParameterConfig, RangeParameterConfig

    def parameter(name: str) -> "RangeParameterConfig | ChoiceParameterConfig":
        if name == LABELS:
            return ChoiceParameterConfig(
                name=name,
                values=list(range(_choices(space))),
                parameter_type="int",
                is_ordered=False,
            )
        return RangeParameterConfig(name=name, parameter_type="float", bounds=(0.0, 1.0))

    return [parameter(name) for name in coordinate_names(space)]


def to_tune(space: LatentSpace) -> dict[str, Any]:
    """Returns the ``param_space`` of a Ray Tune ``Tuner``."""
    from ray import tune

    return {
        name: tune.choice(list(range(_choices(space))))
        if name == LABELS
        else tune.uniform(0.0, 1.0)
        for name in coordinate_names(space)
    }


def grid_to_tune(axes: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Returns axes with their values as the ``param_space`` of a Ray Tune ``Tuner``.

    Tune runs the points of :func:`search_spaces.audit_grid.grid_points`.
    """
    from ray import tune

    return {name: tune.grid_search(list(values)) for name, values in axes.items()}


def to_point(space: LatentSpace, suggestion: Mapping[str, float]) -> np.ndarray:
    """Returns a suggestion as a point ``(dim,)`` of the unit view, float64.

    Raises:
        ValueError: For missing or unknown names, or values outside [0, 1] or of no hypothesis.
    """
    names, choices = coordinate_names(space), _choices(space)
    wrong = sorted(set(names) ^ set(suggestion))
    if wrong:
        raise ValueError(
            f"Expected the {space.dim} coordinates {names[0]} to {names[-1]}, got a suggestion "
            f"that differs in {', '.join(wrong[:5])}{' and others' if len(wrong) > 5 else ''}."
        )
    point = np.array([suggestion[name] for name in names], dtype=np.float64)
    if choices:
        if point[-1] not in range(choices):
            raise ValueError(
                f"Expected {LABELS} to be a whole number below {choices}, got {point[-1]:g}."
            )
        point[-1] = (point[-1] + 0.5) / choices
    outside = ~((point >= 0) & (point <= 1))
    if outside.any():
        first = int(outside.argmax())
        raise ValueError(f"Expected {names[first]} between 0 and 1, got {point[first]}.")
    return point


def to_points(space: LatentSpace, suggestions: Sequence[Mapping[str, float]]) -> np.ndarray:
    """Returns suggestions as points ``(C, dim)`` of the unit view, see :func:`to_point`."""
    points = [to_point(space, suggestion) for suggestion in suggestions]
    return np.stack(points) if points else np.empty((0, space.dim))


def to_suggestion(space: LatentSpace, point: np.ndarray) -> dict[str, float]:
    """Returns a point ``(dim,)`` of the unit view by the names of its coordinates."""
    found = dict(zip(coordinate_names(space), point.tolist(), strict=True))
    choices = _choices(space)
    if choices:
        found[LABELS] = min(int(found[LABELS] * choices), choices - 1)
    return found


def _choices(space: LatentSpace) -> int:
    """Returns among how many hypotheses a space chooses; 0 where it does not."""
    return space.choices if isinstance(space, LabelledSpace) else 0
