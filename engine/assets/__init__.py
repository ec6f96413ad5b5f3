"""What ships: small generators, their judges, private images of the default, a card for each."""

from pathlib import Path

FOLDER = Path(__file__).parent


def asset(dataset: str, name: str) -> Path:
    """Returns the path of an embedded file, e.g. ``asset("fashion-mnist", "generator")``."""
    return FOLDER / dataset / f"{name}.safetensors"


def datasets() -> tuple[str, ...]:
    """Returns the names of the data sets with an embedded generator and judge.

    Private images come with the default alone: those of others may not be passed on, and are read
    from the user's copy of the data set.
    """
    return tuple(sorted(path.parent.name for path in FOLDER.glob("*/generator.safetensors")))
