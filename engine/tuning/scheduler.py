"""The order in which Ray Tune runs trials."""

from typing import Any

from ray.tune.schedulers import FIFOScheduler


class InOrder(FIFOScheduler):  # type: ignore[misc] # Ray is not typed for mypy.
    """Leaves it to Tune's controller to start trials in the order they come.

    Tune's own scheduler of that order goes through all trials of the experiment to find the next
    one, at every event.
    """

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        del tune_controller
