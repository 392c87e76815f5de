"""What the commands share: reading a recipe before the libraries are loaded, and errors to exit codes."""

from __future__ import annotations

import signal
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
    from lorry_trainer.processes import leave_the_word_to_the_first

    try:
        yield
    except TrainerError as error:
        leave_the_word_to_the_first()
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


class _Ended(BaseException):
    """SIGTERM, as an exception: what is half written is taken away on the way out."""


@contextmanager
def interruption(console: Console, way_on: str) -> Iterator[None]:
    """Ctrl-C ends with 130 and SIGTERM with 143, as a shell has it, and both say how to go on."""
    from lorry_trainer import processes

    def end(*_: object) -> None:
        raise _Ended

    before = signal.getsignal(signal.SIGTERM)
    try:
        if processes.count() == 1:  # a launcher ends its processes itself, and does not wait long
            signal.signal(signal.SIGTERM, end)
        yield
    except (KeyboardInterrupt, _Ended) as error:
        console.print(f"interrupted; {way_on}", style="yellow")
        raise typer.Exit(143 if isinstance(error, _Ended) else 130) from None
    finally:
        signal.signal(signal.SIGTERM, before)
