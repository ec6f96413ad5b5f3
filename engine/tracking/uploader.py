"""Sends a running audit to MLflow from the background, so that no search ever waits for it."""

import threading
from collections.abc import Callable

from engine.run_folder import RunFolder
from engine.tracking.connection import TrackingError
from engine.tracking.mlflow_tracker import MlflowTracker

INTERVAL_SECONDS = 3.0
FIRST_BACK_OFF_SECONDS = 5.0
LONGEST_BACK_OFF_SECONDS = 60.0


class Uploader:
    """Syncs a run folder every few seconds in a daemon thread of the driver.

    An MLflow that is slow, hangs or cannot be reached costs the audit nothing: the thread waits
    longer and longer between its tries, and :meth:`finish` waits no longer than it is told.

    Args:
        folder: The run folder whose events are sent.
        uri: MLflow's tracking URI.
        experiment: Name of the MLflow experiment.
        warn: Called with a sentence for the user when sending begins to fail.

    Raises:
        InfrastructureError: ``uri`` is of a kind that MLflow does not keep runs in.
    """

    def __init__(
        self,
        folder: RunFolder,
        uri: str,
        experiment: str,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        self._folder, self._warn = folder, warn
        self._tracker = MlflowTracker(folder, uri=uri, experiment=experiment)
        self._thread = threading.Thread(target=self._run, name="leaktune-uploader", daemon=True)
        self._finishing = threading.Event()
        self._failure: str | None = None

    def start(self) -> None:
        """Starts sending."""
        self._thread.start()

    def finish(self, timeout_seconds: float) -> str | None:
        """Sends the rest; waits no longer than the timeout.

        Returns:
            None when everything arrived, or nothing was started; otherwise a sentence for the user
            that says what is missing in MLflow, why, and what completes it.
        """
        if self._thread.ident is None:
            return None
        self._finishing.set()
        self._thread.join(timeout_seconds)
        missing, events = self._tracker.pending()
        if missing == 0:
            return None
        reason = self._failure or f"it was not done within {timeout_seconds:g} s"
        return (
            f"MLflow at {self._tracker.shown_uri} lacks {missing} of {events} events "
            f"of this audit ({reason}); `leaktune sync {self._folder.path}` completes it."
        )

    def _run(self) -> None:
        """Syncs until a sync has ended that began after :meth:`finish` was called."""
        pause, back_off = INTERVAL_SECONDS, FIRST_BACK_OFF_SECONDS
        is_last = False
        while not is_last:
            is_last = self._finishing.wait(pause)
            if self._try_to_sync():
                pause, back_off = INTERVAL_SECONDS, FIRST_BACK_OFF_SECONDS
            else:
                pause, back_off = back_off, min(2 * back_off, LONGEST_BACK_OFF_SECONDS)

    def _try_to_sync(self) -> bool:
        try:
            self._tracker.sync()
        except TrackingError as error:
            self._fail(error.reason)
        except Exception as error:  # Whatever it is, the audit goes on.
            self._fail(str(error) or type(error).__name__)
        else:
            self._failure = None
        return self._failure is None

    def _fail(self, reason: str) -> None:
        """Remembers the first of several failures, and warns of it."""
        if self._failure is not None:
            return
        self._failure = reason
        if self._warn and not self._finishing.is_set():  # Then finish() has the last word.
            self._warn(
                f"MLflow at {self._tracker.shown_uri} is not receiving this audit ({reason}). "
                "The audit goes on, and MLflow is tried again."
            )
