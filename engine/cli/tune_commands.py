"""The command that chooses settings of an attack."""

import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from engine.cli.audit_commands import Address, Format, Overrides
from engine.errors import AuditError, PlanError


def register(app: typer.Typer) -> None:
    """Adds the commands of this module to the application."""
    app.command()(tune)


def tune(
    over: Annotated[
        list[str],
        typer.Option(help="A setting and the values to try, e.g. 'attack.restarts=[1, 2]'."),
    ],
    config: Annotated[
        Path | None, typer.Option(help="Plan in YAML. Default: the embedded one.")
    ] = None,
    overrides: Overrides = None,
    address: Address = None,
    output_format: Format = "text",
) -> None:
    """Choose settings of the attack by its matching loss, on the plan's targets and defenses.

    Every combination is a Ray Tune trial that attacks all of the plan's updates. Settings are
    ranked by what an attacker has, losses alone, so the truth has no part in the choice. Judge
    the chosen ones by an audit of other targets.

    Example: leaktune tune --over 'attack.searcher=[gauss_newton, sepcma]' --set targets=4
    """
    from engine import tuning  # Deferred: `--help` answers at once.
    from engine.lab import check_plan
    from engine.plan import DEFAULT_PLAN, read_plan
    from engine.tuning.attack_settings import with_settings
    from search_spaces.audit_grid import grid_points

    plan, _ = read_plan(config or DEFAULT_PLAN, overrides or ())
    axes = _axes(over)
    points = grid_points(axes)
    for point in points:
        check_plan(with_settings(plan, point))
    console = Console(stderr=True)
    done: list[Any] = []

    def note(settings: Mapping[str, Any]) -> None:
        done.append(settings)
        console.print(f"{len(done)} of {len(points)} settings done: {_label(settings)}")

    # Ray prints on standard output what became of workers.
    with contextlib.redirect_stdout(sys.stderr), tuning.connect(address):
        if awaited := tuning.check_machines(plan.compute, alone=address is None):
            console.print(awaited)
        found, failed = tuning.tune_attack(plan, axes, on_done=note)
    if output_format == "json":
        typer.echo(json.dumps([asdict(one) for one in found], indent=1))
    elif found:
        _print(found)
    if failed:
        raise AuditError(
            f"Expected losses of {len(points)} settings, got those of {len(found)}. Failed:\n"
            + "\n".join(f"{_label(one.settings)}: {one.reason}" for one in failed)
        )


def _axes(over: Sequence[str]) -> dict[str, list[Any]]:
    """Returns the values to try by key; raises PlanError for what is no setting to tune."""
    import yaml

    from search_spaces.attack_settings import check_axes

    axes: dict[str, list[Any]] = {}
    for text in over:
        key, equals, listed = text.partition("=")
        try:
            values = yaml.safe_load(listed) if equals else None
        except yaml.YAMLError as error:
            raise PlanError(f"Expected a YAML list in --over {text!r}: {error}") from error
        if not isinstance(values, list):
            raise PlanError(f"Expected --over 'key=[value, value]', got {text!r}.")
        axes[key.strip()] = values
    try:
        check_axes(axes)
    except ValueError as error:
        raise PlanError(f"--over: {error}") from error
    return axes


def _print(found: Sequence[Any]) -> None:
    table = Table(box=None)
    for head in ("Settings", "Mean rank", "Relative loss", "Lowest on", "s a search"):
        table.add_column(head, justify="left" if head == "Settings" else "right")
    for one in found:
        table.add_row(
            _label(one.settings),
            f"{one.rank:.2f}",
            f"{one.relative_loss:.3f}",
            f"{one.best_on} of {one.updates}",
            f"{one.seconds:.1f}",
        )
    console = Console()
    console.print(table)
    chosen = " ".join(f"--set '{key}={json.dumps(v)}'" for key, v in found[0].settings.items())
    console.print(f"Chosen by matching loss: {chosen}", soft_wrap=True, highlight=False)


def _label(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key.removeprefix('attack.')}={value}" for key, value in settings.items())
