"""What a user sees while an audit runs: a live table on a terminal, plain lines elsewhere."""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from engine.scoring.variants import is_attack

PLAIN_SECONDS = 10.0


@dataclass
class _Row:
    """The progress of one defense's trials."""

    total: int
    done: int = 0
    failed: int = 0
    psnr: list[float] = field(default_factory=list)


class ProgressView:
    """Counts trials and shows them; also a context manager that starts and stops the display.

    Args:
        console: Where to show.
        trials: Trial id to the defense it belongs to.
        done: Ids of trials finished before.
        restored: Evaluations of trials interrupted before, which are not made again.
    """

    def __init__(
        self,
        console: Console,
        trials: Mapping[str, str],
        done: Sequence[str],
        restored: Mapping[str, int],
    ) -> None:
        self._console, self._defense_of, self._restored = console, trials, restored
        self._rows: dict[str, _Row] = {}
        for defense in trials.values():
            self._rows.setdefault(defense, _Row(0)).total += 1
        for trial in done:
            self._rows[trials[trial]].done += 1
        self._before = len(done)
        self._evaluations: dict[str, int] = {}
        self._started = self._spoken = time.monotonic()
        self._live = (
            Live(get_renderable=self._table, console=console, refresh_per_second=4, transient=True)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> "ProgressView":
        if self._live:
            self._live.start()
        else:
            self._console.print(self._line(), highlight=False)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live:
            self._live.stop()
        else:
            self._console.print(self._line(), highlight=False)

    def progressed(self, trial: str, evaluations: int) -> None:
        """Notes a running trial's evaluations."""
        self._evaluations[trial] = evaluations
        self._speak()

    def finished(self, trial: str, record: Mapping[str, Any]) -> None:
        """Notes a finished trial."""
        row = self._rows[self._defense_of[trial]]
        row.done += 1
        if is_attack(record):
            row.psnr.append(record["metrics"]["psnr"])
        self._evaluations[trial] = record["evaluations"]
        self._speak()

    def failed(self, trial: str, error: str, trace: str, *, first: bool) -> None:
        """Notes a failed trial; the first one's traceback is shown in full."""
        self._rows[self._defense_of[trial]].failed += 1
        shown = f"Trial {trial} failed: {error}"
        if first:
            shown += f"\n{trace}\nFurther failures are shown without their tracebacks."
        self._warn(shown, style="red")

    def unsaved(self, trial: str, error: str) -> None:
        """Warns that the progress of trials cannot be saved."""
        self._warn(
            f"The progress of {trial} cannot be saved: {error}. It goes on; were it interrupted, "
            "it would begin again. Further trials of which this is true are in events.jsonl."
        )

    def hung(self, trial: str, seconds: float) -> None:
        """Warns that a worker was given up."""
        self._warn(
            f"Nothing was heard of the worker of {trial} for {seconds:.0f} s, so it is killed; the "
            "trial goes on from its last generation with another. If it was only slow, raise "
            "compute.hang_seconds."
        )

    def lost(self, trial: str, error: str) -> None:
        """Warns that a worker was lost."""
        self._warn(f"{trial}: {error}. It goes on from its last generation with another worker.")

    def _warn(self, text: str, style: str = "yellow") -> None:
        self._console.print(text, style=style, markup=False, highlight=False)

    def _speak(self) -> None:
        now = time.monotonic()
        if not self._live and now - self._spoken >= PLAIN_SECONDS:
            self._spoken = now
            self._console.print(self._line(), highlight=False)

    def _counts(self) -> tuple[int, int, int]:
        rows = self._rows.values()
        return (
            sum(row.done for row in rows),
            sum(row.failed for row in rows),
            sum(row.total for row in rows),
        )

    def _line(self) -> str:
        done, failed, total = self._counts()
        elapsed = time.monotonic() - self._started
        rate = sum(map(self._made, self._evaluations)) / max(elapsed, 1e-9)
        finished = done + failed - self._before
        left = f"{elapsed / finished * (total - done - failed):.0f} s" if finished else "?"
        text = f"{done}/{total} trials done, {rate:.0f} evaluations/s"
        text += f", {elapsed:.0f} s gone, {left} left"
        return text + (f", {failed} FAILED" if failed else "")

    def _made(self, trial: str) -> int:
        # A restored search tells of what it was restored from as well, from its beginning on.
        return max(0, self._evaluations[trial] - self._restored.get(trial, 0))

    def _table(self) -> Table:
        table = Table(caption=self._line(), caption_justify="left")
        table.add_column("defense")
        table.add_column("trials done", justify="right")
        table.add_column("failed", justify="right")
        table.add_column("attack's PSNR so far", justify="right")
        for defense, row in self._rows.items():
            psnr = f"{statistics.fmean(row.psnr):.1f} dB" if row.psnr else "–"
            table.add_row(defense, f"{row.done}/{row.total}", str(row.failed), psnr)
        return table
