"""Commands that look at what there is, and run nothing."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from engine.registry import unknown_name

Format = Annotated[Literal["text", "json"], typer.Option("--format", help="text or json.")]


def register(app: typer.Typer) -> None:
    """Adds the commands of this module to the application."""
    app.command("list")(list_names)
    app.command()(doctor)
    captures = typer.Typer(help="Look at captured updates.", no_args_is_help=True)
    captures.callback()(lambda: None)
    captures.command("inspect")(inspect_capture)
    app.add_typer(captures, name="capture")


def list_names(
    kind: Annotated[
        str,
        typer.Argument(
            help="attacks, datasets, defenses, generators, metrics, models, searchers or spaces."
        ),
    ],
    output_format: Format = "text",
) -> None:
    """List what a plan may name."""
    if kind == "searchers":
        _list_searchers(output_format)
        return
    listings = _listings()
    if kind not in listings:
        raise unknown_name("list", kind, (*listings, "searchers"))
    rows = listings[kind]()
    if output_format == "json":
        typer.echo(json.dumps([{"name": name, "summary": text} for name, text in rows.items()]))
        return
    width = max(map(len, rows))
    for name, text in rows.items():
        typer.echo(f"{name:<{width}}  {text}")


def _list_searchers(output_format: str) -> None:
    from engine.attacks.searchers import list_searchers

    rows = list_searchers()
    if output_format == "json":
        typer.echo(json.dumps([asdict(row) for row in rows]))
        return
    versions = [(row.version or "-") if row.available else "missing" for row in rows]
    width, version_width = max(len(row.name) for row in rows), max(map(len, versions))
    for row, version in zip(rows, versions, strict=True):
        typer.echo(f"{row.name:<{width}}  {version:<{version_width}}  {row.summary}")
    typer.echo("Besides, nevergrad:<name> with any other name of Nevergrad's registry.", err=True)


def inspect_capture(
    capture: Annotated[Path, typer.Argument(help="A captured update, as safetensors.")],
    config: Annotated[
        Path | None, typer.Option(help="Plan that names the target model. Default: the embedded.")
    ] = None,
) -> None:
    """Check a captured update against a plan's target model, and show what it looks like."""
    from engine.federation.captures import describe_capture, read_capture
    from engine.lab import build_lab
    from engine.plan import DEFAULT_PLAN, read_plan

    plan, _ = read_plan(config or DEFAULT_PLAN)
    update = read_capture(capture, build_lab(plan).model)
    for name, value in describe_capture(update).items():
        typer.echo(f"{name:<8}  {value:g}")


def doctor(
    config: Annotated[
        Path | None, typer.Option(help="Plan whose needs are checked. Default: the embedded.")
    ] = None,
    output: Annotated[
        Path,
        typer.Option(exists=True, file_okay=False, help="Folder that audits would write to."),
    ] = Path("."),
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to check as well: auto, or an address.")
    ] = None,
) -> None:
    """Check this machine, MLflow and a cluster before an audit is trusted to them.

    Looks at packages, processors, GPUs, storage and MLflow; of a cluster, whether it answers, a
    trial has room, and all machines see the output folder and have the same versions. Puts one
    small file into MLflow's store, to see whether artifacts arrive. Exit code 4 at the first thing
    that would stop an audit.
    """
    from engine.doctor import examine
    from engine.plan import DEFAULT_PLAN, read_plan

    plan, _ = read_plan(config or DEFAULT_PLAN)
    for line in examine(output, plan, address):
        typer.echo(line)


def _listings() -> dict[str, Callable[[], dict[str, str]]]:
    from engine.attacks import PRESETS
    from engine.datasets import DATASETS
    from engine.defenses import DEFENSES
    from engine.federation.target_models import TARGET_MODELS
    from engine.generators import GENERATORS
    from engine.scoring import metrics
    from search_spaces import latent_spaces

    return {
        "attacks": lambda: {
            name: f"{s.searcher}, {s.distance}, regulariser {s.regulariser}"
            for name, s in PRESETS.items()
        },
        "datasets": DATASETS.summaries,
        "defenses": DEFENSES.summaries,
        "generators": GENERATORS.summaries,
        "metrics": lambda: {
            name: "higher leaks more" if higher else "lower leaks more"
            for name, higher in metrics.HIGHER_LEAKS.items()
        },
        "models": TARGET_MODELS.summaries,
        "spaces": latent_spaces.summaries,
    }
