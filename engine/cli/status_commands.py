"""Commands that watch a running audit and end it, from any machine that reaches its run folder."""

import contextlib
import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from engine.errors import PlanError

if TYPE_CHECKING:
    from engine.run_folder.status import Status

WATCH_SECONDS: Final = 2.0
FAILURES_SHOWN: Final = 5

Run = Annotated[Path, typer.Argument(help="A run folder, as printed by a run.")]
Format = Annotated[Literal["text", "json"], typer.Option("--format", help="text or json.")]


def register(app: typer.Typer) -> None:
    """Adds the commands of this module to the application."""
    for command in (status, stop):
        app.command()(command)


def status(
    run_folder: Run,
    output_format: Format = "text",
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it anew every two seconds, until the driver ends.")
    ] = False,
) -> None:
    """Show how far an audit has come, from the files of its run folder alone.

    Example: leaktune status runs/20260101T000000Z-name-abc123
    """
    from engine.run_folder.status import read_status

    if watch and output_format == "json":
        raise PlanError("Expected --watch or --format json, got both. Leave one of them out.")
    found = read_status(run_folder)
    if output_format == "json":
        typer.echo(json.dumps(found.to_dict(), indent=1))
        return
    console = _console()
    if watch:
        found = _watched(run_folder, found, console)
    for line in _lines(found):
        _say(console, line)
    if found.losses:
        console.print(_losses(found))


def stop(
    run_folder: Run,
    timeout: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for the driver to end.")
    ] = 120.0,
) -> None:
    """End a running audit, as SIGTERM does: nothing is lost, and `leaktune resume` goes on with it.

    Waits until the driver has ended. Exit codes: 0 ended, or none was at work; 4 still at work.

    Example: leaktune stop runs/20260101T000000Z-name-abc123
    """
    from engine.run_folder.status import read_status
    from engine.run_folder.stop import stop_driver

    console = _console()
    found, lease = read_status(run_folder), None
    if found.state == "running":
        lease = stop_driver(
            run_folder, timeout_seconds=timeout, say=lambda text: _say(console, Text(text))
        )
        found = read_status(run_folder)
    if lease is None:
        _say(console, Text(f"Nothing to stop: no driver is at work on {found.run}."))
    else:
        _say(console, Text(f"The driver on host {lease.host}, process {lease.pid}, has ended."))
    _say(console, Text(f"{found.state}: {_trials(found)}"))
    if found.next:
        _say(console, Text(f"Go on with: {found.next}"))


def _watched(run: Path, status: "Status", console: Console) -> "Status":
    """Shows a status anew until the driver or the user ends; returns the last one."""
    from engine.run_folder.status import read_status

    with (
        contextlib.suppress(KeyboardInterrupt),
        Live(console=console, auto_refresh=False, transient=True) as live,
    ):
        while status.state == "running":
            live.update(Group(*_lines(status), _losses(status)), refresh=True)
            time.sleep(WATCH_SECONDS)
            status = read_status(run)
    return status


def _console() -> Console:
    """Returns a console wide enough for the whole table where nobody's terminal sets its width."""
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, 120))


def _say(console: Console, text: Text) -> None:
    console.print(text, soft_wrap=True)


def _lines(status: "Status") -> list[Text]:
    rows = {
        "driver": _driver(status.driver, status.state),
        "trials": _trials(status),
        "evaluations": _evaluations(status.evaluations),
        "time left": "?" if status.left_s is None else _duration(status.left_s),
        "go on with": status.next,
    }
    if status.state != "running":
        del rows["time left"]
    lines = [Text(f"{status.run}: {status.state}", style="bold")]
    lines += [Text(f"  {name:<11}  {text}") for name, text in rows.items() if text]
    for failure in status.failures[:FAILURES_SHOWN]:
        lines.append(Text(f"  failed       {failure['trial']}: {failure['error']}", style="red"))
    if len(status.failures) > FAILURES_SHOWN:
        more = len(status.failures) - FAILURES_SHOWN
        lines.append(Text(f"  failed       and {more} more", style="red"))
    return lines


def _losses(status: "Status") -> Table:
    table = Table(title="best matching losses so far", title_justify="left")
    for name in ("defense", "attack", "searcher"):
        table.add_column(name)
    for name in ("trials", "lowest", "median"):
        table.add_column(name, justify="right")
    for row in status.losses:
        attack = row["attack"] + (f" of {row['of']}" if row["of"] else "")
        figures = (f"{row['lowest']:.4g}", f"{row['median']:.4g}")
        table.add_row(
            Text(row["defense"]), Text(attack), Text(row["searcher"]), str(row["trials"]), *figures
        )
    return table


def _driver(driver: Mapping[str, Any] | None, state: str) -> str:
    if driver is None:
        return "none that is known"
    since = datetime.fromtimestamp(driver["started"], UTC).strftime("%Y-%m-%d %H:%M:%S")
    who = f"host {driver['host']}, process {driver['pid']}, since {since} UTC"
    heard = f"{_duration(driver['age_s'])} ago"
    if state == "running":
        return f"{who}, last heartbeat {heard}"
    if driver["ended"]:
        return f"{who}, ended {heard}"
    return f"{who}, gone without a word, last heartbeat {heard}"


def _trials(status: "Status") -> str:
    trials = status.trials
    text = f"{trials['done']} of {trials['total']} trials done, {trials['running']} running"
    text += f", {trials['waiting']} waiting"
    return text + (f", {trials['failed']} FAILED" if trials["failed"] else "")


def _evaluations(evaluations: Mapping[str, float | None]) -> str:
    total = "?" if evaluations["total"] is None else f"{evaluations['total']:,}"
    text = f"{evaluations['spent']:,} of {total}"
    rates = {"lately": evaluations["recent_per_s"], "on the whole": evaluations["whole_per_s"]}
    known = [f"{_rate(rate)} a second {name}" for name, rate in rates.items() if rate is not None]
    return ", ".join([text, *known])


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def _duration(seconds: float) -> str:
    seconds = max(0, round(seconds))
    hours, minutes = seconds // 3600, seconds // 60 % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds % 60} s" if minutes else f"{seconds} s"
