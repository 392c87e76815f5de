"""The trainer's commands. Data (a folder, a reference, a figure) goes to stdout, everything else to stderr.

Importing them must stay cheap: `lorry --help` does it.
"""

from __future__ import annotations

import typer

from lorry_trainer.cli import announce, evaluate, recipe, search, train


def register(app: typer.Typer) -> None:
    """Add the trainer's commands to `lorry`."""
    app.command("train")(train.train)
    app.command("announce")(announce.announce)
    app.command("eval")(evaluate.evaluate)
    app.command("search")(search.search)
    app.add_typer(recipe.app, name="recipe", help="About recipes.")
