"""The latent spaces a plan may name, one kind a file."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from types import MappingProxyType
from typing import Any, Final

from search_spaces.latent import PerImageSpace, Source
from search_spaces.latent_spaces.coordinates import (
    BoxLatentSpace,
    GaussianLatentSpace,
    RawLatentSpace,
    TanhLatentSpace,
)
from search_spaces.latent_spaces.features import FeatureLatentSpace
from search_spaces.latent_spaces.labelled import JointLabelSpace, LabelledSpace
from search_spaces.latent_spaces.mapped import MappedLatentSpace
from search_spaces.latent_spaces.pixels import PixelLatentSpace, Pixels
from search_spaces.latent_spaces.shell import ShellLatentSpace
from search_spaces.latent_spaces.subspaces import PrincipalLatentSpace, RandomEmbeddingLatentSpace

__all__ = [
    "SPACES",
    "BoxLatentSpace",
    "FeatureLatentSpace",
    "GaussianLatentSpace",
    "JointLabelSpace",
    "LabelledSpace",
    "MappedLatentSpace",
    "PixelLatentSpace",
    "Pixels",
    "PrincipalLatentSpace",
    "RandomEmbeddingLatentSpace",
    "RawLatentSpace",
    "ShellLatentSpace",
    "TanhLatentSpace",
    "check_space",
    "make_space",
    "settings_of",
    "summaries",
]

SPACES: Final[Mapping[str, type[PerImageSpace]]] = MappingProxyType(
    {
        "box": BoxLatentSpace,
        "features": FeatureLatentSpace,
        "gaussian": GaussianLatentSpace,
        "pixels": PixelLatentSpace,
        "principal": PrincipalLatentSpace,
        "random_embedding": RandomEmbeddingLatentSpace,
        "raw": RawLatentSpace,
        "shell": ShellLatentSpace,
        "tanh": TanhLatentSpace,
        "w": MappedLatentSpace,
    }
)


def make_space(
    name: str,
    *,
    latent_dim: int,
    images: int = 1,
    source: Source | None = None,
    seed: int = 0,
    **settings: Any,
) -> PerImageSpace:
    """Returns the latent space called ``name``.

    Args:
        name: A name of :data:`SPACES`.
        latent_dim: Number of latent coordinates ``d`` of an image.
        images: Images ``B`` of a client.
        source: The generator, for spaces that ask it.
        seed: Seeds what the space draws.
        settings: The space's own.

    Raises:
        ValueError: For an unknown name, unknown, missing or impossible settings, or where the space
            needs another generator.
    """
    check_space(name, settings)
    return SPACES[name](latent_dim, images=images, source=source, seed=seed, **settings)


def check_space(name: str, settings: Mapping[str, object]) -> None:
    """Raises ValueError unless there is a space ``name`` that takes settings of these names."""
    if name not in SPACES:
        listed = ", ".join(SPACES)
        raise ValueError(
            f"Expected space to be one of: {listed}; got {name!r}.{_near(name, SPACES)}"
        )
    known = settings_of(name)
    for key in settings:
        if key not in known:
            listed = ", ".join(known) or "none"
            raise ValueError(
                f"Unknown setting {key!r} of the space {name!r}; it takes: {listed}."
                f"{_near(key, known)}"
            )
    missing = [key for key, default in known.items() if default is MISSING and key not in settings]
    if missing:
        raise ValueError(f"The space {name!r} needs a value for: {', '.join(missing)}.")


def settings_of(name: str) -> dict[str, object]:
    """Returns the names of a space's settings with their defaults, ``MISSING`` where none."""
    common = {field.name for field in fields(PerImageSpace)}
    return {field.name: field.default for field in fields(SPACES[name]) if field.name not in common}


def summaries() -> dict[str, str]:
    """Returns each name with the first line of its docstring and the settings it takes."""
    return {name: _summary(name) for name in SPACES}


def _summary(name: str) -> str:
    line = (SPACES[name].__doc__ or "").partition("\n")[0]
    taken = [
        key if default is MISSING else f"{key}={default:g}"
        for key, default in settings_of(name).items()
    ]
    return f"{line} Settings: {', '.join(taken) or 'none'}."


def _near(name: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f" Did you mean {found[0]!r}?" if found else ""
