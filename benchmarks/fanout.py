"""How much of the workers' time Ray Tune leaves to searches, on the embedded default."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TARGET = 0.90  # Least efficiency aimed at.


def measure_fanout(*, workers: int, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Runs the embedded default audit and returns what its workers were busy with.

    Args:
        workers: Ray Tune trials at once, a processor each.
        overrides: Further ``key=value`` of the plan.

    Raises:
        ImportError: Where Ray is not installed.
    """
    import ray  # noqa: F401 - Not everywhere; the run itself imports it late.
    from rich.console import Console

    from engine.audit import run_audit, start_audit
    from engine.plan import DEFAULT_PLAN, read_plan

    fixed = (f"compute.workers={workers}", "tracking.mlflow=false")
    plan, text = read_plan(DEFAULT_PLAN, (*fixed, *overrides))
    with tempfile.TemporaryDirectory() as parent:
        folder, lab = start_audit(plan, text, Path(parent))
        started = time.time()
        summary = run_audit(folder, address=None, console=Console(quiet=True), lab=lab)
        events = list(folder.events())
    begun = [event["time"] for event in events if event["kind"] == "trial_started"]
    ended = [event["time"] for event in events if event["kind"] == "trial_finished"]
    busy = sum(trial["wall_s"] for trial in summary["trials"])
    wall = max(ended) - min(begun)
    carriers = -(-len(summary["trials"]) // plan.compute.searches_per_trial)
    return {
        "fanout_efficiency": busy / (workers * wall),
        "fanout_efficiency_with_start_up": busy / (workers * (max(ended) - started)),
        "wall_s": wall,
        "start_up_s": min(begun) - started,
        "search_s": busy,
        "overhead_s_per_tune_trial": (workers * wall - busy) / carriers,
        "searches": len(summary["trials"]),
        "tune_trials": carriers,
        "evaluations_per_s": sum(t["evaluations"] for t in summary["trials"]) / wall,
        "workers": workers,
        "targets": {"fanout_efficiency": TARGET},
    }
