"""How often images are halved and doubled between the picture and a grid of a few places."""

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
