import json

import numpy as np
import pytest
from ray import tune

from engine.attacks import Progress
from engine.errors import InfrastructureError
from engine.lab import trial_specs
from engine.plan import make_plan
from engine.run_folder import RunFolder, write_json
from engine.run_folder.history_file import load_history
from engine.trial.record import spec_hash
from engine.tuning.worker import REPORT_SECONDS, _Reporter, news_of_error, work

PLAN = make_plan({"name": "n", "attack": {"budget": 4}}, source="test")
LOSSES = np.array([3.0, 1.0, 2.0, 5.0], dtype=np.float32)


@pytest.fixture
def spec():
    return trial_specs(PLAN)[0]


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path, "name", plan="{}", resolved={})


@pytest.fixture
def reported(monkeypatch):
    """What workers report to Tune."""
    heard = []
    monkeypatch.setattr(tune, "report", lambda result: heard.append(result["news"].by_trial))
    return heard


def progress(evaluations, **rest):
    return Progress(evaluations, 1.0, None, LOSSES[:evaluations], **rest)


def test_every_generation_is_kept_and_a_new_worker_begins_with_it(spec, folder, reported):
    reporter = _Reporter([spec], folder)
    assert len(reporter.known[spec.id].losses) == 0

    reporter.on_batch(spec.id, progress(2))
    reporter.on_batch(spec.id, progress(4))

    np.testing.assert_array_equal(_Reporter([spec], folder).known[spec.id].losses, LOSSES)
    assert reported == []


def test_progress_is_reported_once_in_a_while(spec, folder, reported, monkeypatch):
    reporter = _Reporter([spec], folder)
    reporter.on_batch(spec.id, progress(1))
    monkeypatch.setattr(reporter, "_reported", reporter._reported - REPORT_SECONDS)

    for evaluations in (2, 3):
        reporter.on_batch(spec.id, progress(evaluations))

    assert reported == [{spec.id: {"evaluations": 2, "loss": 1.0}}]


def test_progress_that_cannot_be_saved_is_reported_at_once_and_once(spec, folder, reported):
    (folder.path / "trials" / spec.id).write_text("in the way")
    reporter = _Reporter([spec], folder)

    for evaluations in (2, 4):
        reporter.on_batch(spec.id, progress(evaluations))

    [news] = reported
    assert news[spec.id].keys() == {"evaluations", "loss", "unsaved"}
    assert "File exists" in news[spec.id]["unsaved"]


def test_a_worker_does_not_search_again_what_has_a_result(spec, folder, reported):
    plan = json.dumps(PLAN.to_dict())
    write_json(folder.trial_folder(spec.id) / "result.json", {"spec": spec_hash(spec)})
    other = trial_specs(PLAN)[1]

    work({"trials": [spec.id, other.id]}, plan, str(folder.path))

    assert [[*news] for news in reported] == [[other.id]]
    assert "result" in reported[0][other.id]


def test_a_worker_that_does_not_see_the_run_folder_saves_nothing_and_says_so_once(
    spec, tmp_path, reported
):
    reporter = _Reporter([spec], RunFolder(tmp_path / "elsewhere"))

    for evaluations in (2, 4):
        reporter.on_batch(spec.id, progress(evaluations))

    assert reporter.known == {}
    assert list(tmp_path.iterdir()) == []
    [news] = reported
    assert news[spec.id]["unsaved"].endswith(f" does not see {tmp_path / 'elsewhere'}")


def test_a_history_of_another_plan_is_not_taken_up(spec, folder, reported):
    _Reporter([spec], folder).on_batch(spec.id, progress(4))

    other = trial_specs(make_plan({"name": "n", "attack": {"budget": 5}}, source="test"))[0]

    assert other.id == spec.id
    assert len(_Reporter([other], folder).known[spec.id].losses) == 0
    kept = load_history(folder.path / "trials" / spec.id, spec_hash(spec))
    np.testing.assert_array_equal(kept.losses, LOSSES)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Cannot allocate memory (os error 12)"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"),
        RuntimeError("could not create a primitive"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_what_needs_less_memory_is_said_with_an_error_for_want_of_it(error):
    assert news_of_error(error)["error"] == (
        f"{type(error).__name__}: {error}, perhaps for want of memory; lower compute.workers or "
        "compute.searches_per_trial"
    )


def test_other_errors_are_told_as_they_are():
    assert news_of_error(ValueError("no"))["error"] == "ValueError: no"
    own = InfrastructureError("Expected memory. Use more.")
    assert news_of_error(own)["error"] == f"InfrastructureError: {own}"
