import os

import pytest
import torch

from engine.determinism import repeat_sums
from engine.plan import make_plan
from engine.tuning import worker


@pytest.fixture
def process(monkeypatch):
    """Leaves the process as it was."""
    for name in ("CUBLAS_WORKSPACE_CONFIG", "TUNE_FUNCTION_THREAD_TIMEOUT_S"):
        monkeypatch.setenv(name, "")  # So that its being unset is put back.
        monkeypatch.delenv(name)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    yield
    torch.use_deterministic_algorithms(False)


def test_torch_takes_the_ways_of_summing_that_repeat(process):
    repeat_sums()

    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.mark.parametrize(("gpus", "repeats"), [(0.5, True), (0, False)])
def test_workers_with_a_gpu_repeat_sums_from_the_first_one_on(process, monkeypatch, gpus, repeats):
    seen = []

    def build(plan, device):
        seen.append((device, torch.are_deterministic_algorithms_enabled()))

    monkeypatch.setattr(worker, "build_lab", build)
    monkeypatch.setattr(worker, "use_threads", lambda plan: None)
    monkeypatch.setattr(worker, "keep_freed_memory", lambda: None)
    plan = make_plan({"compute": {"gpus_per_trial": gpus}}, source="test")
    worker._load.__wrapped__(plan.model_dump_json())

    assert seen == [("cuda" if repeats else "cpu", repeats)]
