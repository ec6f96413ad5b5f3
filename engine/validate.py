"""Checks of arguments, named by keyword so that the message can name them too."""

import math

from torch import Tensor

from engine.errors import InputError, PlanError


def positive(**values: float) -> None:
    """Raises PlanError unless every value is a finite number above zero."""
    for name, value in values.items():
        if not _is_number(value) or not value > 0:
            raise PlanError(f"Expected {name} > 0, got {name}={value!r}.")


def in_range(low: float, high: float, **values: float) -> None:
    """Raises PlanError unless every value is a number in ``[low, high]``."""
    for name, value in values.items():
        if not _is_number(value) or not low <= value <= high:
            raise PlanError(f"Expected {name} between {low} and {high}, got {name}={value!r}.")


def count(**values: int) -> None:
    """Raises PlanError unless every value is an integer of at least 1."""
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise PlanError(f"Expected {name} to be a whole number >= 1, got {name}={value!r}.")


def choice(known: tuple[str, ...], **values: str) -> None:
    """Raises PlanError unless every value is one of ``known``."""
    for name, value in values.items():
        if value not in known:
            raise PlanError(f"Expected {name} to be one of: {', '.join(known)}; got {value!r}.")


def shape(symbols: tuple[str, ...], **tensors: Tensor) -> None:
    """Raises InputError unless every tensor has as many axes as ``symbols`` names."""
    for name, tensor in tensors.items():
        if tensor.ndim != len(symbols):
            wanted = f"({', '.join(symbols)})"
            raise InputError(f"Expected {name} of shape {wanted}, got {tuple(tensor.shape)}.")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
