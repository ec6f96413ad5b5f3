"""Settings of an attack as an outer space: those that may be chosen by the matching loss."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

# Keys of a plan that say how a loss is searched. The others say what the loss is, or what may be
# spent on it: by losses of different kinds, or of unequal budgets, no settings can be compared.
TUNABLE: Final = (
    "attack.searcher",
    "attack.searcher_settings",
    "attack.space",
    "attack.space_settings",
    "attack.label_hypotheses",
    "attack.restarts",
    "attack.scheduler",
)


def check_axes(axes: Mapping[str, Sequence[Any]]) -> None:
    """Raises ValueError unless every axis is a tunable setting with values of its own.

    Args:
        axes: Keys of a plan, those of settings within settings too
            (``attack.searcher_settings.population``), to the values to try.
    """
    if not axes:
        raise ValueError(f"Expected a setting to tune, got none. There are: {', '.join(TUNABLE)}.")
    for key, values in axes.items():
        if not any(key == known or key.startswith(f"{known}.") for known in TUNABLE):
            raise ValueError(
                f"Expected a setting that says how the loss is searched, one of: "
                f"{', '.join(TUNABLE)}; got {key!r}. The matching loss cannot choose others."
            )
        if not values or any(value in values[:place] for place, value in enumerate(values)):
            raise ValueError(f"Expected values of {key}, each once, got {list(values)}.")
