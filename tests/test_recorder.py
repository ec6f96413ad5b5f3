import io

import pytest
from rich.console import Console

from engine.audit import Recorder
from engine.progress import ProgressView
from engine.run_folder import RunFolder


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=400)


@pytest.fixture
def recorder(console, tmp_path):
    folder = RunFolder.create(tmp_path, "name", plan="{}", resolved={})
    return Recorder(folder, {}, ProgressView(console, {"a": "none", "b": "none"}, []))


def test_progress_that_cannot_be_saved_is_logged_for_each_trial_and_shown_once(recorder, console):
    for trial in ("a", "b"):
        recorder.unsaved(trial, "[Errno 28] No space left on device")

    events = [(event["kind"], event["trial"]) for event in recorder.folder.events()]
    assert events == [("trial_unsaved", "a"), ("trial_unsaved", "b")]
    shown = console.file.getvalue()
    assert shown.count("cannot be saved: [Errno 28] No space left on device") == 1
