import io

import pytest
from rich.console import Console

from engine.lab import trial_specs
from engine.plan import make_plan
from engine.progress import ProgressView
from engine.run_folder import RunFolder
from engine.run_folder.recorder import Recorder


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=400)


@pytest.fixture
def held():
    """Whether the run is the driver's, as the tests set it."""
    return [True]


@pytest.fixture
def recorder(console, tmp_path, held):
    folder = RunFolder.create(tmp_path, "name", plan="{}", resolved={})
    view = ProgressView(console, {"a": "none", "b": "none"}, [], {})
    spec = trial_specs(make_plan({}, source="test"))[0]
    return Recorder(folder, {"a": spec, "b": spec}, view, lambda: held[0])


def test_progress_that_cannot_be_saved_is_logged_for_each_trial_and_shown_once(recorder, console):
    for trial in ("a", "b"):
        recorder.unsaved(trial, "[Errno 28] No space left on device")

    events = [(event["kind"], event["trial"]) for event in recorder.folder.events()]
    assert events == [("trial_unsaved", "a"), ("trial_unsaved", "b")]
    shown = console.file.getvalue()
    assert shown.count("cannot be saved: [Errno 28] No space left on device") == 1


def test_nothing_is_written_once_the_run_is_another_drivers(recorder, held):
    held[0] = False

    recorder.started("a")
    recorder.progressed("a", 10, 0.5)
    recorder.unsaved("a", "full")
    recorder.lost("a", "error")
    recorder.finished("a", {"spec": "s"}, {"images": None, "losses": None})
    recorder.failed("b", "error", "trace")

    assert list(recorder.folder.events()) == []
    assert list(recorder.folder.path.glob("*/*")) == []
    assert recorder.failures == 0


def test_a_lost_worker_is_logged_and_shown(recorder, console):
    recorder.lost("a", "worker lost: ActorDiedError")

    [event] = recorder.folder.events()
    assert (event["kind"], event["error"]) == ("trial_lost", "worker lost: ActorDiedError")
    assert "a: worker lost: ActorDiedError. It goes on from its last" in console.file.getvalue()


def test_a_hung_worker_is_logged_and_shown(recorder, console):
    recorder.hung("a", 1800.4)

    [event] = recorder.folder.events()
    assert (event["kind"], event["trial"], event["seconds"]) == ("trial_hung", "a", 1800.4)
    assert "Nothing was heard of the worker of a for 1800 s" in console.file.getvalue()
