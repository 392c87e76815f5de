"""Commands that the other packages add to `lorry`: each entry point of a group is a `register(app)`.

One that cannot be loaded (its extra is not installed, say) stays in the list of commands and says so when it is used;
the other commands are none the worse for it.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

import typer

from lorry_client.cli.exit_codes import ExitCode
from lorry_client.cli.output import note

GROUP = "lorry.commands"


def register_all(app: typer.Typer) -> None:
    """Adds every command of the group, in the order of their names."""
    by_name = {point.name: point for point in entry_points(group=GROUP)}
    for _, point in sorted(by_name.items()):
        _register(app, point)


def _register(app: typer.Typer, point: EntryPoint) -> None:
    commands, groups = len(app.registered_commands), len(app.registered_groups)
    try:
        register: Callable[[typer.Typer], None] = point.load()
        register(app)
    except Exception as error:
        # What it had added before it failed goes again.
        del app.registered_commands[commands:], app.registered_groups[groups:]
        _stand_in(app, point, error)


def _stand_in(app: typer.Typer, point: EntryPoint, error: Exception) -> None:
    why = f"{type(error).__name__}: {error}"
    if isinstance(error, ModuleNotFoundError):
        why = f"the Python module {error.name!r} is not installed"

    @app.command(
        point.name,
        help=f"Not available: {why}.",
        short_help=f"Not available: {why}.",
        add_help_option=False,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )
    def unavailable() -> None:
        note(
            f"error: `lorry {point.name}` is not available: {why}. It comes from {point.value}; "
            "`pip install 'lorry[all]'` brings what every command needs."
        )
        raise typer.Exit(ExitCode.FAILURE)
