"""Commands that run audits and show what they found."""

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from engine.errors import PlanError
from engine.scoring.verdict import INCONCLUSIVE

INCONCLUSIVE_EXIT = 101

Output = Annotated[Path, typer.Option(help="Folder the run folder is made in.")]
Address = Annotated[
    str | None,
    typer.Option(help="Ray cluster to use: auto, or an address. Default: this machine alone."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a key of the plan, e.g. --set attack.budget=5000."),
]
Run = Annotated[Path, typer.Argument(help="A run folder, as printed by a run.")]
Plan = Annotated[Path, typer.Argument(help="A plan in YAML.")]
Format = Annotated[Literal["text", "json"], typer.Option("--format", help="text or json.")]


def register(app: typer.Typer) -> None:
    """Adds the commands of this module to the application."""
    for command in (run, resume, validate, report, sync):
        app.command()(command)


def run(
    config: Annotated[
        Path | None, typer.Option(help="Plan in YAML. Default: the embedded one.")
    ] = None,
    overrides: Overrides = None,
    output: Output = Path("runs"),
    address: Address = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the plan, print what it would do, and stop.")
    ] = False,
) -> None:
    """Run an audit.

    Exit codes: 0 done; 2 plan or usage; 3 input refused; 4 infrastructure; 101 inconclusive, of a
    plan that asks for a verdict; 130 or 143 interrupted, finish it with `leaktune resume`.

    Example: leaktune run --config plan.yaml --set targets=16 --set attack.budget=5000
    """
    from engine import tuning
    from engine.audit import run_audit, start_audit  # Deferred: `--help` answers at once.
    from engine.lab import check_plan
    from engine.plan import DEFAULT_PLAN, read_plan

    started = time.monotonic()
    plan, text = read_plan(config or DEFAULT_PLAN, overrides or ())
    console = _console()
    if dry_run:
        _print_outline(plan, check_plan(plan), console)
        return
    # A cluster that is not there is named first, before a run folder is made.
    with tuning.connect(address) if address else contextlib.nullcontext():
        folder, lab = start_audit(plan, text, output)
        console.print(f"Run folder: {folder.path}", highlight=False, soft_wrap=True)
        summary = run_audit(folder, address=address, console=console, lab=lab)
    _print_outcome(summary, folder.path, console, time.monotonic() - started)
    _exit(summary)


def resume(run_folder: Run, address: Address = None) -> None:
    """Finish an interrupted audit, with the same numbers as if it had not been interrupted.

    On GPUs that takes compute.searches_per_trial: 1 in its plan.
    Exit code 4 while another driver is at work on it; otherwise the exit codes of `leaktune run`.
    """
    from engine.driver import drive
    from engine.run_folder import RunFolder

    started = time.monotonic()
    folder = RunFolder.open(run_folder)
    console = _console()
    with drive(folder.path, console.print) as driver:
        from engine.audit import run_audit  # Takes seconds: no reason to wait for a refusal.

        summary = run_audit(folder, address=address, console=console, driver=driver)
    _print_outcome(summary, folder.path, console, time.monotonic() - started)
    _exit(summary)


def validate(plan_file: Plan, overrides: Overrides = None) -> None:
    """Check a plan and everything it names, and name every problem, without running anything."""
    from engine.lab import check_plan
    from engine.plan import read_plan

    plan, _ = read_plan(plan_file, overrides or ())
    _print_outline(plan, check_plan(plan), Console())


def report(
    run_folder: Run,
    output_format: Annotated[
        Literal["text", "json", "markdown"],
        typer.Option("--format", help="text; json, the summary; or markdown, the table to paste."),
    ] = "text",
) -> None:
    """Write an audit's summary and report anew, as far as it is, and print its table."""
    from engine.lab import check_plan
    from engine.outcome import conclude_audit
    from engine.plan import make_plan
    from engine.reporting import markdown_table
    from engine.run_folder import RunFolder

    folder = RunFolder.open(run_folder)
    if not folder.results():
        raise PlanError(
            f"Expected finished trials in {run_folder}, found none. Run `leaktune resume`."
        )
    plan = make_plan(folder.plan(), source=str(folder.path / "plan.resolved.yaml"))
    summary = conclude_audit(folder, plan, check_plan(plan), over=False)
    if output_format == "json":
        typer.echo(json.dumps(summary, indent=1))
    elif output_format == "markdown":
        typer.echo(markdown_table(summary))
    else:
        _print_outcome(summary, folder.path, _console(), None)


def sync(
    run_folder: Run, uri: Annotated[str | None, typer.Option(help="MLflow's URI.")] = None
) -> None:
    """Send to MLflow what it has not received of an audit yet."""
    from engine.plan import make_plan
    from engine.run_folder import RunFolder
    from engine.tracking import MlflowTracker

    folder = RunFolder.open(run_folder)
    plan = make_plan(folder.plan(), source=str(folder.path / "plan.resolved.yaml"))
    tracker = MlflowTracker(
        folder, uri=uri or plan.tracking.uri, experiment=plan.tracking.experiment
    )
    outcome = tracker.sync()
    typer.echo(f"{outcome.events} events read, {outcome.metrics} figures sent.")


def _console() -> Console:
    """Returns a console wide enough for the whole table where nobody's terminal sets its width."""
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, 100))


def _print_outline(plan: Any, lab: Any, console: Console) -> None:
    from engine.lab import matching_paths, trial_specs

    specs = trial_specs(plan)
    searches = [spec for spec in specs if spec.searches]
    console.print(f"Plan {plan.name!r} is fine: {len(specs)} trials.", highlight=False)
    console.print(f"  targets    {plan.targets}", highlight=False)
    client = plan.client
    if (client.images, client.local_steps) != (1, 1):
        console.print(
            f"  client     {client.images} images, {client.local_steps} local steps",
            highlight=False,
        )
    lineup = plan.lineup()
    several = {
        "attacks": list(dict.fromkeys(attack.name for attack in lineup)),
        "searchers": list(dict.fromkeys(attack.settings.searcher for attack in lineup)),
        "seeds": plan.all_seeds(),
    }
    for name, values in several.items():
        if len(values) > 1:
            console.print(f"  {name:<10} {', '.join(map(str, values))}", highlight=False)
    for label, path in matching_paths(plan, lab).items():
        console.print(f"  defense    {label}, compared by {path}", highlight=False, soft_wrap=True)
    budgets = sorted({spec.budget for spec in searches})
    each = f"{budgets[0]}" if len(budgets) == 1 else f"{budgets[0]} to {budgets[-1]}"
    evaluations = sum(spec.budget for spec in searches)
    console.print(
        f"  searches   {len(searches)} of {each} evaluations, {evaluations} in all",
        highlight=False,
    )


def _print_outcome(
    summary: dict[str, Any], folder: Path, console: Console, seconds: float | None
) -> None:
    from engine.reporting import render_terminal

    render_terminal(summary, console)
    if seconds is not None:
        console.print(f"Done in {seconds:.0f} s.", highlight=False)
    page = (folder / "report" / "index.html").resolve()
    console.print(f"Report: {page}", highlight=False, soft_wrap=True)


def _exit(summary: dict[str, Any]) -> None:
    if summary["verdict"]["status"] == INCONCLUSIVE and summary["verdict"]["asked"]:
        sys.exit(INCONCLUSIVE_EXIT)
