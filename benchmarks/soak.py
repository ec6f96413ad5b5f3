"""Whether a long audit of small trials keeps its memory, its open files and its pace."""

import os
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from engine.plan import DEFAULT_PLAN, read_plan
from engine.run_folder import RunFolder

TARGETS, DEFENSES = 8, 5  # Of the embedded default.
LOOK_SECONDS = 2.0
EARLY, LATE = 0.2, 0.95  # Between which parts of the trials growth is measured.
WORKER: Final = b"ray::ImplicitFunc"


@dataclass(frozen=True)
class Sample:
    """What processes of an audit hold at a time.

    Attributes:
        trials: Finished so far.
        driver: Resident bytes, open files and threads of the driver.
        worker: The largest of each among the workers.
    """

    trials: int
    driver: tuple[int, ...]
    worker: tuple[int, ...]


def measure_soak(*, trials: int, workers: int, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Runs an audit of many small searches, all of it real, MLflow in a file included.

    Args:
        trials: How many; a multiple of 40.
        workers: At once.
        overrides: Further ``key=value`` of the plan.
    """
    from rich.console import Console

    from engine.audit import run_audit, start_audit

    with tempfile.TemporaryDirectory() as parent:
        fixed = (
            f"seeds={list(range(trials // (TARGETS * DEFENSES)))}",
            "controls=[]",
            "attack.budget=100",
            f"compute.workers={workers}",
            f"tracking.uri=sqlite:///{parent}/mlflow.db",
        )
        plan, text = read_plan(DEFAULT_PLAN, (*fixed, *overrides))
        folder, lab = start_audit(plan, text, Path(parent))
        samples: list[Sample] = []
        over = threading.Event()
        watch = threading.Thread(target=_look, args=(folder, samples, over), daemon=True)
        watch.start()
        summary = run_audit(folder, address=None, console=Console(quiet=True), lab=lab)
        over.set()
        watch.join()
        events = list(folder.events())
    return {"trials": trials, "workers": workers, **_figures(samples, summary, events)}


def _look(folder: RunFolder, samples: list[Sample], over: threading.Event) -> None:
    while not over.wait(LOOK_SECONDS):
        workers = [held for pid in _workers() if (held := _held(pid))]
        if workers:
            finished = len(list(folder.path.glob("trials/*/result.json")))
            largest = tuple(map(max, zip(*workers, strict=True)))
            samples.append(Sample(finished, _held(os.getpid()), largest))


def _workers() -> list[int]:
    """Returns the ids of this machine's Ray workers that run trials."""
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if line.read_bytes().startswith(WORKER):
                found.append(int(line.parent.name))
        except OSError:
            continue
    return found


def _held(pid: int) -> tuple[int, ...]:
    """Returns resident bytes, open files and threads of a process; nothing once it has ended."""
    place = Path(f"/proc/{pid}")
    try:
        resident = int((place / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return resident, len(os.listdir(place / "fd")), len(os.listdir(place / "task"))
    except OSError:
        return ()


def _figures(
    samples: Sequence[Sample], summary: dict[str, Any], events: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    total = len(summary["trials"])
    early = next(sample for sample in samples if sample.trials >= EARLY * total)
    # A short audit ends before it is looked at often.
    late = next((sample for sample in samples if sample.trials >= LATE * total), samples[-1])
    between = max(1, late.trials - early.trials)
    ended = [event["time"] for event in events if event["kind"] == "trial_finished"]
    quarter = len(ended) // 4
    figures: dict[str, Any] = {
        "pace_at_the_end": (ended[quarter] - ended[0]) / (ended[-1] - ended[-1 - quarter]),
        "wall_s": ended[-1] - events[0]["time"],
        "report_s": time.time() - ended[-1],
        "failed": len(summary["failed"]),
    }
    for who in ("driver", "worker"):
        before, after = getattr(early, who), getattr(late, who)
        figures |= {
            f"{who}_bytes": after[0],
            f"{who}_bytes_per_trial": (after[0] - before[0]) / between,
            f"{who}_files": [before[1], after[1]],
            f"{who}_threads": [before[2], after[2]],
        }
    return figures
