"""Between a picture and a grid of a few places: how often it is halved or doubled, and by what."""

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import nn

from engine.errors import PlanError

SMALLEST_GRID = 4


def doublings(image_shape: tuple[int, int, int], *, at_least: int = 0) -> int:
    """Returns how often a grid is doubled until it is the image.

    As often as height and width are both even and leave at least ``SMALLEST_GRID`` places a side.

    Args:
        image_shape: ``(ch, H, W)``.
        at_least: Doublings that must be possible, however small a grid they start from.

    Raises:
        PlanError: If height and width cannot be halved ``at_least`` times.
    """
    _, height, width = image_shape
    if height % 2**at_least or width % 2**at_least:
        raise PlanError(
            f"Expected an image height and width divisible by {2**at_least}, "
            f"got {height} x {width}. Use the architecture mlp."
        )
    count = at_least
    while not (height % 2 ** (count + 1) or width % 2 ** (count + 1)):
        if min(height, width) // 2 ** (count + 1) < SMALLEST_GRID:
            break
        count += 1
    return count


def halved(channels: int, times: int) -> list[int]:
    """Returns ``channels``, and what each of ``times`` halvings leaves of them: at least 1."""
    return [max(1, channels // 2**time) for time in range(times + 1)]


def growing_layers(
    image_shape: tuple[int, int, int],
    *,
    inputs: int,
    width: int,
    at_least: int,
    double: Callable[[int, int], Sequence[nn.Module]],
) -> nn.Sequential:
    """Returns one linear layer to a small grid, layers that double it, and one to pixels.

    Args:
        image_shape: ``(ch, H, W)``.
        inputs: Numbers that the first layer takes.
        width: Channels of the smallest grid; halved at each doubling.
        at_least: Doublings there are at least.
        double: Channels before and after to the layers that double a grid.
    """
    channels, height, image_width = image_shape
    times = doublings(image_shape, at_least=at_least)
    grid = (width, height // 2**times, image_width // 2**times)
    widths = halved(width, times)
    layers = nn.Sequential(
        nn.Linear(inputs, grid[0] * grid[1] * grid[2]),
        nn.Unflatten(1, grid),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    )
    for before, after in pairwise(widths):
        layers.extend([*double(before, after), nn.BatchNorm2d(after), nn.ReLU()])
    return layers.extend([nn.Conv2d(widths[-1], channels, 3, padding=1), nn.Sigmoid()])
