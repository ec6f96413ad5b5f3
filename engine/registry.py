"""Name to class: how plans name defenses, models, generators and searchers."""

import difflib
import inspect
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from engine.errors import PlanError

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns `` Did you mean 'x'?`` for the known name closest to ``name``, or an empty text."""
    found = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f" Did you mean {found[0]!r}?" if found else ""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> PlanError:
    """Returns the error for a ``name`` that is none of the ``known`` ones of its ``kind``."""
    known = sorted(known)
    listed = ", ".join(known)
    return PlanError(f"Unknown {kind} {name!r}; expected one of: {listed}.{nearest(name, known)}")


class Registry(Generic[T]):
    """The registered factories of one kind of thing.

    Args:
        kind: The thing's name as a user reads it in an error, e.g. ``"defense"``.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._factories: dict[str, Callable[..., T]] = {}

    def register(self, name: str) -> Callable[[F], F]:
        """Registers the decorated class or function under ``name``."""

        def decorator(factory: F) -> F:
            if name in self._factories:
                raise PlanError(f"The {self._kind} {name!r} is already registered.")
            self._factories[name] = factory
            return factory

        return decorator

    def names(self) -> tuple[str, ...]:
        """Returns the registered names, sorted."""
        return tuple(sorted(self._factories))

    def get(self, name: str) -> Callable[..., T]:
        """Returns the factory registered as ``name``; raises PlanError if there is none."""
        if name not in self._factories:
            raise unknown_name(self._kind, name, self._factories)
        return self._factories[name]

    def make(self, name: str, **settings: object) -> T:
        """Builds ``name`` from its settings; raises PlanError for unknown or missing ones."""
        factory = self.get(name)
        parameters = inspect.signature(factory).parameters
        for key in settings:
            if key not in parameters:
                listed = ", ".join(parameters) or "none"
                raise PlanError(
                    f"Unknown setting {key!r} of the {self._kind} {name!r}; "
                    f"it takes: {listed}.{nearest(key, parameters)}"
                )
        missing = [
            key
            for key, parameter in parameters.items()
            if parameter.default is parameter.empty and key not in settings
        ]
        if missing:
            raise PlanError(f"The {self._kind} {name!r} needs a value for: {', '.join(missing)}.")
        return factory(**settings)

    def summaries(self) -> dict[str, str]:
        """Returns each name with the first line of its docstring."""
        return {
            name: (inspect.getdoc(self._factories[name]) or "").partition("\n")[0]
            for name in self.names()
        }
