"""Times contestants in turn, so that a machine that slows down slows all of them."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Timing:
    """Seconds of each round, in the order run.

    Attributes:
        seconds: One entry a round.
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median seconds."""
        return statistics.median(self.seconds)

    def over(self, other: "Timing") -> float:
        """Returns the median over the rounds of this one's seconds divided by the other's."""
        return statistics.median(a / b for a, b in zip(self.seconds, other.seconds, strict=True))


def time_in_turn(
    contestants: Mapping[str, Callable[[], object]], *, rounds: int, device: torch.device
) -> dict[str, Timing]:
    """Runs every contestant once to warm up, then all in turn, ``rounds`` times."""
    for run in contestants.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            _finish(device)
            started = time.perf_counter()
            run()
            _finish(device)
            seconds[name].append(time.perf_counter() - started)
    return {name: Timing(tuple(row)) for name, row in seconds.items()}


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
