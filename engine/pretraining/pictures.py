"""Pictures of many images: what a generator draws, or what was chosen."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.seeding import stream

COLUMNS, ROWS = 10, 8
WIDE = 900  # Pixels that a picture is about as wide as.


def save_samples(generator: Any, path: Path, *, seed: int) -> None:
    """Writes a picture of drawn images, a column a class; of more classes, the first ones."""
    device = next(generator.parameters()).device
    columns = min(generator.classes, COLUMNS)
    if columns == 1 or not getattr(generator, "conditional", True):
        columns = COLUMNS
    labels = torch.arange(columns).repeat(ROWS) % generator.classes
    latents = torch.randn(len(labels), generator.latent_dim, generator=stream(seed, "picture"))
    trained = generator.training
    with torch.no_grad():
        images = generator.eval()(latents.to(device), labels.to(device))
    generator.train(trained)
    save_grid(images.float().cpu(), path, columns=columns)


def save_grid(images: Tensor, path: Path, *, columns: int) -> None:
    """Writes images ``(N, ch, H, W)`` in [0, 1] as one picture, ``columns`` to a row.

    Args:
        images: Grey ones (``ch`` 1) or colour ones (3).
        path: Where the picture goes; its folder is made.
        columns: Images a row; what does not fill a last row is left out.
    """
    from PIL import Image  # Deferred: a training on a bare machine needs no pictures.

    count, channels, height, width = images.shape
    rows = count // columns
    tiles = images[: rows * columns].reshape(rows, columns, channels, height, width)
    grid = tiles.permute(0, 3, 1, 4, 2).reshape(rows * height, columns * width, channels)
    values = (grid * 255).round().to(torch.uint8).squeeze(2).numpy()
    zoom = max(1, round(WIDE / (columns * width)))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).resize(
        (columns * width * zoom, rows * height * zoom), Image.Resampling.NEAREST
    ).save(path)
