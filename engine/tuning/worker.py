"""What a worker does: trials, their state saved and their progress reported as they go."""

import functools
import json
import math
import os
import socket
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from engine.allocator import keep_freed_memory
from engine.attacks import History, Progress
from engine.attacks.matching import is_out_of_memory
from engine.determinism import repeat_sums
from engine.errors import AuditError
from engine.lab import build_lab, trial_specs
from engine.plan import Plan, make_plan
from engine.run_folder import RunFolder
from engine.run_folder.history_file import HistoryKeeper, load_history
from engine.trial import run_trials
from engine.trial.parts import Lab, Outcome, TrialSpec
from engine.trial.record import spec_hash, to_record

REPORT_SECONDS = 1.0
# How long Tune waits for the last trial's thread, before it drops the next one without a word. One
# that does not end hangs, and for that there is HangCallback.
HAND_OVER_SECONDS = 24 * 3600
# What Ray and Python say when memory was missing, or may have been.
OUT_OF_MEMORY: Final = ("OOM", "MemoryError", "memory")


@dataclass(frozen=True, repr=False)
class News:
    """What a worker reports to the driver.

    Says nothing of itself: Tune writes out every result for logs that nobody reads, and arrays
    written out take the driver longer than everything else it does.

    Attributes:
        by_trial: Progress or an outcome, by trial id.
    """

    by_trial: Mapping[str, Mapping[str, Any]]


def work(config: Mapping[str, Any], plan: str, folder: str) -> None:
    """Runs the trials ``config["trials"]`` of a plan; the function Ray Tune calls.

    Reports under ``news``, by trial id, progress and outcomes. An exception of a trial is
    reported, not raised: the worker stays for the next trials, and the user is shown the traceback.

    Args:
        config: Which trials.
        plan: The plan as JSON.
        folder: The run folder.
    """
    from ray import tune

    try:
        specs, lab = prepare(plan, config["trials"])
        run = RunFolder(Path(folder))
        # A worker was lost that had come to the end of some of its trials.
        specs = [spec for spec in specs if not run.is_finished(spec.id, spec_hash(spec))]
        reporter = _Reporter(specs, run)
        for outcomes in run_trials(specs, lab, known=reporter.known, on_batch=reporter.on_batch):
            tune.report({"news": News({one.spec.id: news_of(one) for one in outcomes})})
    except Exception as error:  # Shown to the user, counted as failed, never dropped.
        tune.report({"news": News(dict.fromkeys(config["trials"], news_of_error(error)))})


def prepare(plan: str, trials: Sequence[str]) -> tuple[list[TrialSpec], Lab]:
    """Returns the specs of trials and the lab, which a worker builds once and keeps."""
    specs, lab = _load(plan)
    return [specs[trial] for trial in trials], lab


@functools.lru_cache(maxsize=2)
def _load(plan_json: str) -> tuple[dict[str, TrialSpec], Lab]:
    plan = make_plan(json.loads(plan_json), source="plan")
    use_threads(plan)
    keep_freed_memory()
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", str(HAND_OVER_SECONDS))
    specs = {spec.id: spec for spec in trial_specs(plan)}
    if not plan.compute.gpus_per_trial:
        return specs, build_lab(plan, "cpu")
    repeat_sums()
    return specs, build_lab(plan, "cuda")


def use_threads(plan: Plan) -> None:
    """Gives torch the threads a trial has; float sums, and so results, depend on their number."""
    torch.set_num_threads(plan.compute.cpus_per_trial)


def news_of(outcome: Outcome) -> dict[str, Any]:
    """Returns what the driver is told of a trial that is over."""
    result = outcome.result
    if isinstance(result, Exception):
        return news_of_error(result)
    return {
        "result": to_record(outcome.spec, result),
        "arrays": {"images": result.images, "losses": result.losses},
    }


def news_of_error(error: Exception) -> dict[str, str]:
    """Returns what the driver is told of a trial that an exception ended."""
    trace = "".join(traceback.format_exception(error))
    return {
        "error": f"{type(error).__name__}: {error}{for_want_of_memory(error)}",
        "traceback": trace,
    }


def for_want_of_memory(error: Exception) -> str:
    """Returns what to do about an error that says memory was missing, or may have been."""
    text = f"{type(error).__name__} {error}"
    missing = is_out_of_memory(error) or any(words in text for words in OUT_OF_MEMORY)
    if isinstance(error, AuditError) or not missing:  # The former have a remedy of their own.
        return ""
    return ", perhaps for want of memory; lower compute.workers or compute.searches_per_trial"


class _Reporter:
    """Keeps every generation of searches on disk, and reports their progress once in a while."""

    def __init__(self, specs: Sequence[TrialSpec], folder: RunFolder) -> None:
        self.known: dict[str, History] = {}
        self._keepers: dict[str, HistoryKeeper] = {}
        self._unreported: dict[str, dict[str, Any]] = {}
        self._reported = time.monotonic()
        self._unsaved: dict[str, str] = {}
        # A worker on another machine may not see the run folder: then an unfinished search starts
        # again from its seed, with the same outcome.
        if not folder.path.is_dir():
            blind = f"{socket.gethostname()} does not see {folder.path}"
            self._unsaved = {spec.id: blind for spec in specs}
        else:
            for spec in specs:
                own, place = spec_hash(spec), folder.path / "trials" / spec.id
                self.known[spec.id] = known = load_history(place, own)
                self._keepers[spec.id] = HistoryKeeper(place, own, known)

    def on_batch(self, trial: str, progress: Progress) -> None:
        """Keeps a generation of one search, and reports the progress of all when it is time."""
        from ray import tune

        keeper = self._keepers.get(trial)
        problem = keeper.keep(progress) if keeper else self._unsaved.pop(trial, None)
        self._unreported[trial] = _progress_of(progress)
        now = time.monotonic()
        if problem:
            self._unreported[trial]["unsaved"] = problem
        if problem or now - self._reported >= REPORT_SECONDS:
            self._reported = now
            tune.report({"news": News(self._unreported)})
            self._unreported = {}


def _progress_of(progress: Progress) -> dict[str, Any]:
    loss = progress.best_loss if math.isfinite(progress.best_loss) else None
    return {"evaluations": progress.evaluations, "loss": loss}
