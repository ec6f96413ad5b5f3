"""Writes what happens to trials into the run folder, and shows it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.progress import ProgressView
from engine.run_folder.history_file import remove_histories
from engine.run_folder.run_folder import RunFolder, storing, write_json
from engine.trial.parts import TrialSpec
from engine.trial.record import to_metrics, to_params


@dataclass
class Recorder:
    """Writes what happens to trials into the run folder, and shows it.

    Attributes:
        folder: The audit's run folder.
        specs: The audit's trials by their ids.
        view: What the user watches.
        holds: Whether the run is still this driver's; when it is not, nothing is written.
        failures: Trials that failed.
        unsaved_trials: Trials whose progress could not be saved.
    """

    folder: RunFolder
    specs: Mapping[str, TrialSpec]
    view: ProgressView
    holds: Callable[[], bool]
    failures: int = 0
    unsaved_trials: int = 0

    def started(self, trial: str) -> None:
        """Logs that a trial was taken up."""
        self._log("trial_started", trial, params=to_params(self.specs[trial]))

    def progressed(self, trial: str, evaluations: int, loss: float | None) -> None:
        """Logs how far a trial has come."""
        if self._log("trial_progress", trial, evaluations=evaluations, loss=loss):
            self.view.progressed(trial, evaluations)

    def unsaved(self, trial: str, error: str) -> None:
        """Logs that a trial's progress could not be saved, and warns the user of the first."""
        if self._log("trial_unsaved", trial, error=error):
            self.unsaved_trials += 1
            if self.unsaved_trials == 1:
                self.view.unsaved(trial, error)

    def hung(self, trial: str, seconds: float) -> None:
        """Logs that a trial's worker was given up, and tells the user."""
        if self._log("trial_hung", trial, seconds=seconds):
            self.view.hung(trial, seconds)

    def lost(self, trial: str, error: str) -> None:
        """Logs that a trial's worker was lost, and tells the user."""
        if self._log("trial_lost", trial, error=error):
            self.view.lost(trial, error)

    def finished(self, trial: str, result: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
        """Keeps a trial's outcome: its images first, its result last, as that marks it finished."""
        if not self.holds():
            return
        with storing(self.folder.path):
            self.folder.save_images(trial, arrays["images"])
            self.folder.save_losses(trial, np.asarray(arrays["losses"]), result["spec"])
            self.folder.append_event(
                "trial_finished",
                trial=trial,
                metrics=to_metrics(dict(result)),
                trace=result["trace"],
                matching=result["matching"],
            )
            write_json(self.folder.trial_folder(trial) / "result.json", result)
            remove_histories(self.folder.trial_folder(trial))
        self.view.finished(trial, result)

    def failed(self, trial: str, error: str, trace: str) -> None:
        """Logs a failed trial and shows the user why."""
        if self._log("trial_failed", trial, error=error, traceback=trace):
            self.failures += 1
            self.view.failed(trial, error, trace, first=self.failures == 1)

    def _log(self, kind: str, trial: str, **facts: Any) -> bool:
        """Appends an event while the run is this driver's; returns whether it is."""
        held = self.holds()
        if held:
            self.folder.append_event(kind, trial=trial, **facts)
        return held
