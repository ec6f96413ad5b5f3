"""What a worker does: one trial, its state saved and its progress reported as it goes."""

import functools
import json
import math
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.attacks import Progress
from engine.lab import build_lab, trial_specs
from engine.plan import Plan, make_plan
from engine.run_folder import RunFolder
from engine.trial import Lab, TrialSpec, run_trial
from engine.trial_record import spec_hash, to_record

REPORT_SECONDS = 1.0
SAVE_SECONDS = 2.0


def work(config: Mapping[str, Any], plan: Mapping[str, Any], folder: str) -> None:
    """Runs the trial ``config["trial"]`` of a plan; the function Ray Tune calls.

    An exception of the trial is reported, not raised: the worker stays for the next trial, and the
    user is shown the traceback.
    """
    from ray import tune

    try:
        spec, lab = prepare(json.dumps(plan), config["trial"])
        result = run_trial(
            spec,
            lab,
            known_losses=RunFolder(Path(folder)).load_losses(spec.id, spec_hash(spec)),
            on_batch=_Reporter(spec, RunFolder(Path(folder))),
        )
    except Exception as error:  # Shown to the user, counted as failed, never dropped.
        shown = f"{type(error).__name__}: {error}"
        tune.report({"error": shown, "traceback": traceback.format_exc()})
        return
    record = to_record(spec, result)
    arrays = {"image": result.image, "losses": result.losses}
    tune.report({"result": record, "arrays": arrays})


def prepare(plan_json: str, trial: str) -> tuple[TrialSpec, Lab]:
    """Returns a trial's spec and the lab, which a worker builds once and keeps."""
    specs, lab = _load(plan_json)
    return specs[trial], lab


@functools.lru_cache(maxsize=2)
def _load(plan_json: str) -> tuple[dict[str, TrialSpec], Lab]:
    plan = make_plan(json.loads(plan_json), source="plan")
    use_threads(plan)
    specs = {spec.id: spec for spec in trial_specs(plan)}
    return specs, build_lab(plan, "cuda" if plan.compute.gpus_per_trial else "cpu")


def use_threads(plan: Plan) -> None:
    """Gives torch the threads a trial has; float sums, and so results, depend on their number."""
    torch.set_num_threads(plan.compute.cpus_per_trial)


class _Reporter:
    """Saves a search's losses and reports its progress, each at most once in a while."""

    def __init__(self, spec: TrialSpec, folder: RunFolder) -> None:
        self._spec, self._folder = spec, folder
        self._reported = self._saved = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        from ray import tune

        now = time.monotonic()
        if now - self._saved >= SAVE_SECONDS:
            self._saved = now
            self._save(progress.losses)
        if now - self._reported >= REPORT_SECONDS:
            self._reported = now
            loss = progress.best_loss if math.isfinite(progress.best_loss) else None
            tune.report({"evaluations": progress.evaluations, "loss": loss})

    def _save(self, losses: np.ndarray) -> None:
        # A worker on another machine may not see the run folder: then an unfinished search starts
        # again from its seed, with the same outcome.
        if self._folder.path.is_dir():
            self._folder.save_losses(self._spec.id, losses.copy(), spec_hash(self._spec))
