"""What the commands share: reading a recipe before the libraries are loaded, and errors to exit codes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lorry_client.cli.output import print_error

if TYPE_CHECKING:
    from rich.console import Console

    from lorry_trainer.recipe import Recipe


@contextmanager
def refusals(as_json: bool) -> Iterator[None]:
    """The trainer's errors as messages and exit codes: 2 for recipe and data, 1 for what failed."""
    from lorry_trainer.errors import TrainerError

    try:
        yield
    except TrainerError as error:
        print_error(error, as_json)
        raise typer.Exit(error.exit_code) from None


def read_recipes(paths: list[Path], console: Console) -> list[Recipe]:
    """All of them, before the libraries of training, which take seconds to load. Raises RecipeError."""
    from lorry_trainer.errors import RecipeError

    try:
        from lorry_trainer.recipe_file import read_recipe

        recipes = [read_recipe(path) for path in paths]
        console.print("loading…", style="dim")
        from lorry_trainer.quiet import quiet_logs

        quiet_logs()
        import lorry_trainer.train  # noqa: F401
    except ImportError as error:
        raise RecipeError(
            f"training needs more libraries ({error}): pip install 'lorry[trainer]'"
        ) from error
    return recipes


@contextmanager
def interruption(console: Console) -> Iterator[None]:
    """Ctrl-C ends with 130, as a shell has it, and says how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        console.print("interrupted; --resume goes on from the last checkpoint", style="yellow")
        raise typer.Exit(130) from None
