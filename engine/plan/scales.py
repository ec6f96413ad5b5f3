"""Scales of a plan: one file for a full audit and for a small one of the same shape."""

from collections.abc import Mapping
from typing import Any, Final

from engine.errors import PlanError
from engine.registry import unknown_name

SCALES: Final = "scales"
SCALE: Final = "scale"


def scaled(values: Mapping[str, Any], *, source: str) -> dict[str, Any]:
    """Returns a plan's values with those of the scale it names in place.

    Args:
        values: As read, with ``scales``, from names to the values that differ, and ``scale``, one
            of these names; the first is meant if there is none.
        source: Where they were read, for errors.

    Raises:
        PlanError: For a scale that there is not, or scales that are no mappings.
    """
    if SCALES not in values:
        return dict(values)
    name = values.get(SCALE)
    if not isinstance(name, str | None):
        raise PlanError(f"{source}:\n  scale: expected a name, got {name!r}.")
    scales = values[SCALES]
    if not isinstance(scales, Mapping) or not scales:
        raise PlanError(f"{source}:\n  scales: expected names with what differs, got {scales!r}.")
    name = name or next(iter(scales))
    if name not in scales:
        raise PlanError(f"{source}:\n  {unknown_name('scale', str(name), scales)}")
    changes = scales[name] or {}
    if not isinstance(changes, Mapping):
        raise PlanError(f"{source}:\n  scales.{name}: expected keys and values, got {changes!r}.")
    kept = {key: value for key, value in values.items() if key != SCALES}
    return merged({**kept, SCALE: name}, changes)


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns values with others in place, mappings within mappings key by key."""
    result = dict(values)
    for key, change in changes.items():
        before = result.get(key)
        if isinstance(before, Mapping) and isinstance(change, Mapping):
            result[key] = merged(before, change)
        else:
            result[key] = change
    return result
