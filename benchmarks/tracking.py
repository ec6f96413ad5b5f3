"""Whether an audit is as fast with MLflow down, or silent, as with MLflow well or without it."""

import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from benchmarks.scale import in_turn, measure_queue

WORKERS: Final = 8
TRIALS: Final = 120
TRIAL_SECONDS: Final = 1.0
START_SECONDS = 120.0


def measure_tracking(*, rounds: int) -> dict[str, dict[str, Any]]:
    """Runs the same audit by each state of MLflow in turn; returns throughputs over that without.

    Args:
        rounds: How often each is run.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        _server(Path(folder)) as server,
        socket.create_server(("127.0.0.1", 0)) as silent,
        socket.socket() as bound,
    ):
        bound.bind(("127.0.0.1", 0))  # Taken, so that nobody listens there.
        states = {
            "off": ("tracking.mlflow=false",),
            "file": _tracked(f"sqlite:///{folder}/file.db"),
            "server": _tracked(server),
            "down": _tracked(_url(bound)),
            "silent": _tracked(_url(silent)),
        }
        cases = [
            {
                "queued": TRIALS,
                "workers": WORKERS,
                "seconds": TRIAL_SECONDS,
                "overrides": overrides,
            }
            for _ in range(rounds)
            for overrides in states.values()
        ]
        found = [row["trials_per_s"] for row in in_turn(measure_queue, cases)]
    by_state = {state: found[place :: len(states)] for place, state in enumerate(states)}
    return {
        state: {
            "throughput_vs_untracked": _ratio(rates, by_state["off"]),
            "throughput_vs_server": _ratio(rates, by_state["server"]),
            "trials_per_s": statistics.median(rates),
            "rounds": rates,
        }
        for state, rates in by_state.items()
    }


def _ratio(rates: list[float], others: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(rates, others, strict=True))


def _tracked(uri: str) -> tuple[str, ...]:
    return ("tracking.mlflow=true", f"tracking.uri={uri}")


def _url(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextlib.contextmanager
def _server(folder: Path) -> Iterator[str]:
    """Runs an MLflow server of its own; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = (f"--backend-store-uri=sqlite:///{folder}/server.db", f"--port={port}", "--workers=1")
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(  # noqa: S603 - Our own words.
            [sys.executable, "-m", "mlflow", "server", *options],
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            cwd=folder,
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _listens(port):
            if time.monotonic() > deadline or server.poll() is not None:
                raise RuntimeError((folder / "log").read_text())
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
