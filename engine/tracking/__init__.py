"""Records audits in MLflow, from the event log of their run folders.

The searches know nothing of MLflow: they append events, and what is here reads them.
"""

from engine.tracking.connection import TrackingError, shown_uri
from engine.tracking.experiment import check_artifacts, check_server
from engine.tracking.mlflow_tracker import MlflowTracker, SyncReport
from engine.tracking.training_tracker import TrainingTracker
from engine.tracking.uploader import Uploader

__all__ = [
    "MlflowTracker",
    "SyncReport",
    "TrackingError",
    "TrainingTracker",
    "Uploader",
    "check_artifacts",
    "check_server",
    "shown_uri",
]
