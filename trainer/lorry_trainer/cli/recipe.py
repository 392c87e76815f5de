"""`lorry recipe schema`: the recipe's keys for editors and programs."""

from __future__ import annotations

import typer

from lorry_client.cli.output import print_json

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """More than one command is to come; a callback keeps the name of the first."""


@app.command()
def schema() -> None:
    """Print the JSON schema of a recipe, which editors complete and check by."""
    from lorry_trainer.recipe import Recipe

    print_json(Recipe.model_json_schema())
