"""What the commands of `leaktune pretrain` have in common: their data, and how it is read."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from engine.pretraining import PublicData

DEFAULT_DATASET = "fashion-mnist"

Data = Annotated[Path, typer.Option(help="Folder that holds the data set's files.")]
Name = Annotated[
    str, typer.Option("--dataset", help="fashion-mnist, cifar10, folder, or another by name.")
]
Download = Annotated[
    bool, typer.Option("--download", help="Let torchvision fetch Fashion-MNIST into --data.")
]
Size = Annotated[
    int | None,
    typer.Option(help="folder: resize pictures by their shorter side and cut them to squares."),
]
Colour = Annotated[
    bool, typer.Option("--colour", help="folder: take grey pictures as colour ones.")
]
SkipUnreadable = Annotated[
    bool, typer.Option("--skip-unreadable", help="folder: leave out files that are no pictures.")
]
Note = Annotated[
    str | None, typer.Option(help="What the card says of the data besides, e.g. how re-encoded.")
]
Output = Annotated[Path, typer.Option(help="Folder to write to.")]
Seed = Annotated[int, typer.Option(help="Root of all randomness.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Precision = Annotated[
    str | None, typer.Option(help="float32, or bfloat16 for products in mixed precision.")
]


def load_public_data(
    data: Path,
    dataset: str,
    *,
    download: bool,
    size: int | None,
    colour: bool,
    skip_unreadable: bool,
    note: str | None,
) -> "PublicData":
    """Reads both splits of what the options name."""
    from engine.pretraining import read_public_data

    given: dict[str, Any] = {"size": size, "colour": colour or None}
    given["skip_unreadable"] = skip_unreadable or None
    settings = {name: value for name, value in given.items() if value is not None}
    return read_public_data(dataset, data, settings=settings, download=download, note=note)
