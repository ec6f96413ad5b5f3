"""Which packages searchers need, in which versions, and one error where they are not there.

Nothing here imports any of them: versions come from what is installed, not from what it says.
"""

import importlib.metadata
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Final

from engine.errors import PlanError

# Package: lowest version that works, and the first that is not known to. As in pyproject.toml.
SUPPORTED: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "ax-platform": ("1.3", "2"),
        "botorch": ("0.18", "1"),
        "cma": ("4.0", "5"),
        "cmaes": ("0.12", "1"),
        "nevergrad": ("1.0.12", "2"),
        "optuna": ("5.0", "6"),
    }
)


def version(package: str) -> str | None:
    """Returns the installed version of ``package``, or None if there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def problem(package: str) -> str | None:
    """Returns what keeps ``package`` from being used, or None."""
    found = version(package)
    if found is None:
        return "it is not installed"
    low, high = SUPPORTED[package]
    return None if _release(low) <= _release(found) < _release(high) else f"{found} is installed"


@contextmanager
def needed(*packages: str, searcher: str) -> Iterator[None]:
    """Guards the import of ``packages`` by ``searcher``, written inside the ``with``.

    Raises:
        PlanError: For a package that is missing, of another version, or fails to import.
    """
    for package in packages:
        if (reason := problem(package)) is not None:
            raise _unusable(package, searcher, reason)
    try:
        yield
    except ImportError as error:
        raise _unusable(packages[0], searcher, str(error)) from error


def _unusable(package: str, searcher: str, reason: str) -> PlanError:
    low, high = SUPPORTED[package]
    return PlanError(
        f"The searcher {searcher!r} needs the package {package} >= {low}, < {high}: {reason}. "
        f"Install it with: pip install '{package}>={low},<{high}'."
    )


def _release(text: str) -> tuple[int, ...]:
    """Returns a version's numbers, e.g. (5, 0) for 5.0.0rc1: zeros and suffixes do not count."""
    release = re.split(r"[^\d.]", text)[0].strip(".")
    return tuple(int(part) for part in re.sub(r"(\.0)+$", "", release).split("."))
