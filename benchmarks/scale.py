"""How many trials and workers one driver carries: a real audit whose evaluations are sleep."""

import contextlib
import json
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import torch

from engine.plan import DEFAULT_PLAN, Plan, read_plan
from engine.run_folder import RunFolder

TARGETS, DEFENSES, BUDGET = 8, 5, 1000  # Of the embedded default.
QUEUED: Final = (100, 1_000, 10_000)
WORKERS: Final = (1, 8, 50, 200)
REAL_WORKERS: Final = (1, 2, 4, 8)
WAVES: Final = 5  # Trials that a worker has at least.
TARGET = 0.90  # Least efficiency aimed at.
LOOK_SECONDS = 0.5


def measure_real(*, workers: int, seconds: float) -> dict[str, Any]:
    """Runs an audit with real workers that sleep in place of evaluating.

    Args:
        workers: At once.
        seconds: Of sleep in one search.
    """
    from benchmarks.stand_ins import sleeping_work

    trials = WAVES * workers
    found = _measure(
        trials,
        workers=workers,
        seconds=seconds,
        stand_ins=lambda *_: patch("engine.tuning.fan_out.work", sleeping_work(seconds / BUDGET)),
    )
    return {**found, "targets": {"fanout_efficiency": TARGET}}


def measure_queue(
    *,
    queued: int,
    workers: int,
    seconds: float,
    patience: float = float("inf"),
    overrides: Sequence[str] = (),
) -> dict[str, float]:
    """Runs an audit with stand-ins for workers, :data:`benchmarks.stand_ins.SEATS` a process.

    Args:
        queued: Trials of the audit.
        workers: Stand-ins at once.
        seconds: That each trial sleeps.
        patience: After so many seconds of work the audit is stopped.
        overrides: Further ``key=value`` of the plan.
    """

    def stand_ins(plan: Plan, lab: Any) -> contextlib.AbstractContextManager[Any]:
        from benchmarks.stand_ins import Script, standing_in
        from engine.lab import trial_specs
        from engine.trial import run_trial

        found = run_trial(trial_specs(plan)[0], lab)
        return standing_in(Script(json.dumps(plan.to_dict()), found, seconds), workers)

    return _measure(
        queued,
        workers=workers,
        seconds=seconds,
        patience=patience,
        overrides=overrides,
        stand_ins=stand_ins,
    )


def in_turn(measure: Callable[..., Any], cases: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Returns what is measured of each case, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    found = []
    for case in cases:
        with ProcessPoolExecutor(1, mp_context=context) as process:
            found.append(process.submit(measure, **case).result())
        print(json.dumps(found[-1]), file=sys.stderr)  # noqa: T201
    return found


def queue_cases(seconds: float, patience: float) -> list[dict[str, Any]]:
    """Returns the cases of which every worker has at least ``WAVES`` trials."""
    return [
        {"queued": queued, "workers": workers, "seconds": seconds, "patience": patience}
        for queued in QUEUED
        for workers in WORKERS
        if queued >= WAVES * workers
    ]


def _measure(
    trials: int,
    *,
    workers: int,
    seconds: float,
    patience: float = float("inf"),
    overrides: Sequence[str] = (),
    stand_ins: Callable[[Plan, Any], contextlib.AbstractContextManager[Any]],
) -> dict[str, float]:
    from rich.console import Console

    from engine.audit import InterruptedAuditError, run_audit, start_audit

    torch.set_num_threads(1)
    plan, text = _plan_of(trials, workers, overrides)
    with tempfile.TemporaryDirectory() as parent, _ray(workers):
        folder, lab = start_audit(plan, text, Path(parent))
        with (
            stand_ins(plan, lab),
            Watch(folder, patience) as watch,
            # Whose patience ends while the report is written has measured all there is.
            contextlib.suppress(InterruptedAuditError, KeyboardInterrupt),
        ):
            run_audit(folder, address=None, console=Console(quiet=True), lab=lab)
        return _figures(folder, watch, workers=workers, seconds=seconds)


def plot_scale(found: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draws what :func:`measure_queue` found, over workers, a line for each length of the queue."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    panels = (
        ("trials_per_s", "trials per second", 1.0),
        ("hand_over_s", "hand-over, ms", 1e3),
        ("driver_cpu_s_per_trial", "driver's processor time a trial, ms", 1e3),
    )
    for axis, (value, up, factor) in zip(figure.subplots(1, 3), panels, strict=True):
        for queued in QUEUED:
            line = [row for row in found if row["queued"] == queued]
            heights = [factor * row[value] for row in line]
            axis.plot([row["workers"] for row in line], heights, marker="o", label=f"{queued:,}")
        axis.set_xscale("log")
        axis.set_xticks(WORKERS, [str(n) for n in WORKERS])
        axis.xaxis.minorticks_off()
        axis.set_ylim(bottom=0)
        axis.set_xlabel("workers")
        axis.set_ylabel(up)
        axis.grid(alpha=0.3)
        axis.legend(title="trials queued")
    figure.savefig(path, dpi=110)


def _plan_of(trials: int, workers: int, overrides: Sequence[str]) -> tuple[Plan, str]:
    """Returns the plan of an audit of ``trials`` searches, and its text."""
    targets = next(n for n in range(TARGETS, 0, -1) if trials % (n * DEFENSES) == 0)
    return read_plan(
        DEFAULT_PLAN,
        (
            f"targets={targets}",
            f"seeds={list(range(trials // (targets * DEFENSES)))}",
            "controls=[]",
            "attack.searcher=sepcma",
            f"compute.workers={workers}",
            "compute.searches_per_trial=1",
            "tracking.mlflow=false",
            *overrides,
        ),
    )


@contextlib.contextmanager
def _ray(workers: int) -> Iterator[None]:
    """Starts a Ray that believes it has a processor for each worker."""
    from engine.tuning.cluster import set_defaults

    set_defaults()
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])  # Of workers, to find this package.
    import ray

    ray.init(
        address="local",
        num_cpus=workers,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        yield
    finally:
        ray.shutdown()


@dataclass
class Watch:
    """Looks at this process while it drives an audit, and ends the audit after a while.

    Attributes:
        folder: The audit's.
        patience: Seconds from the first trial's start until the audit is stopped.
        samples: Time, processor seconds and resident bytes so far.
    """

    folder: RunFolder
    patience: float
    samples: list[tuple[float, float, int]] = field(default_factory=list)
    _ending: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Watch":
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ending.set()
        self._thread.join()

    def at(self, moment: float) -> tuple[float, int]:
        """Returns processor seconds and resident bytes at a time."""
        _, cpu, resident = min(self.samples, key=lambda sample: abs(sample[0] - moment))
        return cpu, resident

    def _look(self) -> None:
        started = None
        while not self._ending.wait(LOOK_SECONDS):
            now = time.time()
            self.samples.append((now, time.process_time(), _resident()))
            if started is None and any((self.folder.path / "trials").iterdir()):
                started = now
            if started is not None and now - started > self.patience:
                os.kill(os.getpid(), signal.SIGINT)
                return


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _figures(folder: RunFolder, watch: Watch, *, workers: int, seconds: float) -> dict[str, float]:
    """Returns figures of the time in which all workers were busy.

    That is from when each has done a first trial until the last one is taken up.
    """
    events = list(folder.events())
    began = [event["time"] for event in events if event["kind"] == "trial_started"]
    ended = [event["time"] for event in events if event["kind"] == "trial_finished"]
    start, stop = ended[workers - 1], began[-1]
    trials = sum(start < moment <= stop for moment in ended)
    each = (stop - start) / trials
    (cpu, resident), (cpu_after, resident_after) = watch.at(start), watch.at(stop)
    return {
        "fanout_efficiency": seconds / workers / each,
        "trials_per_s": 1 / each,
        "hand_over_s": workers * each - seconds,
        "driver_cpu_s_per_trial": (cpu_after - cpu) / trials,
        "driver_share_of_a_core": (cpu_after - cpu) / (stop - start),
        "driver_bytes": resident_after,
        "driver_bytes_per_trial": (resident_after - resident) / trials,
        "start_up_s": start - seconds - events[0]["time"],
        "queued": events[0]["trials"],
        "trials": trials,
        "workers": workers,
        "sleep_s": seconds,
    }
