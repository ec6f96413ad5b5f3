"""How long trials have not been heard of, by the time in which anybody was listening."""

from typing import Any, Final

# A driver that was suspended, or busy with something else, has heard nothing of anybody meanwhile.
LONGEST_LOOK_SECONDS: Final = 5.0


class Silences:
    """Says which trials have been silent for too long.

    Each time one has, it may be silent for that much longer the next time: one that is slow and
    not stuck comes to its end all the same.

    Trials are any hashable values.

    Args:
        patience: Seconds a trial may be silent for the first time; None for ever.
    """

    def __init__(self, patience: float | None) -> None:
        self._patience = patience
        self._silent: dict[Any, float] = {}
        self._times: dict[Any, int] = {}
        self._looked: float | None = None

    def heard(self, trial: Any) -> None:
        """Notes a sign of life, of a trial that just starts or goes on."""
        self._silent[trial] = 0.0

    def expect(self, trial: Any) -> None:
        """Notes that signs of life of a trial are due from now on, if they were not before."""
        self._silent.setdefault(trial, 0.0)

    def left(self, trial: Any) -> None:
        """Notes that nothing is to be heard of a trial until it starts again."""
        self._silent.pop(trial, None)

    def look(self, now: float) -> dict[Any, float]:
        """Returns trials that have been silent for too long, each once, and for how many seconds.

        Args:
            now: By a clock of which only differences count.
        """
        passed = 0.0 if self._looked is None else min(now - self._looked, LONGEST_LOOK_SECONDS)
        self._looked = now
        if self._patience is None:
            return {}
        for trial in self._silent:
            self._silent[trial] += passed
        stuck = {
            trial: seconds
            for trial, seconds in self._silent.items()
            if seconds > self._patience * (1 + self._times.get(trial, 0))
        }
        for trial in stuck:
            self._times[trial] = 1 + self._times.get(trial, 0)
            self.left(trial)
        return stuck
