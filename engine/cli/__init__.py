"""The command line: arguments in, exit codes out; no logic of its own."""

import os
import sys

import typer
from rich.console import Console

from engine.cli import (
    audit_commands,
    inspect_commands,
    pretrain_commands,
    status_commands,
    tune_commands,
)
from engine.errors import AuditError

app = typer.Typer(
    name="leaktune",
    help="Audit the privacy defenses of federated learning: rebuild clients' images from their "
    "defended updates, and say which defense leaks how much. Audit only systems and data you are "
    "entitled to audit. Without a command, runs the embedded default.",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
audit_commands.register(app)
status_commands.register(app)
inspect_commands.register(app)
tune_commands.register(app)
app.add_typer(pretrain_commands.app, name="pretrain")


@app.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    """Runs the embedded default when no command is given."""
    if context.invoked_subcommand is None:
        audit_commands.run()


def main() -> None:
    """Runs the command line and exits with its code."""
    # A library that talks to the network by default is told not to.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    errors = Console(stderr=True)
    try:
        app(standalone_mode=True)
    except AuditError as error:
        errors.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
