"""The embedded default: a small generator, a judge, private images, and a card for each."""

from pathlib import Path

FOLDER = Path(__file__).parent


def asset(dataset: str, name: str) -> Path:
    """Returns the path of an embedded file, e.g. ``asset("fashion-mnist", "generator")``."""
    return FOLDER / dataset / f"{name}.safetensors"


def datasets() -> tuple[str, ...]:
    """Returns the names of the embedded data sets."""
    return tuple(sorted(path.parent.name for path in FOLDER.glob("*/generator.safetensors")))
