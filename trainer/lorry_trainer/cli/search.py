"""`lorry search RECIPE`: try values, keep the best as a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorry_client.cli.output import print_data, print_json
from lorry_client.cli.session import JsonOption, session
from lorry_trainer.cli.loading import interruption, read_recipes, refusals


def search(
    ctx: typer.Context,
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe with `search`.")],
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the search. Left out: searches/ and the name."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Search the values that the recipe leaves open; prints the best one's recipe. The same command goes on with a
    search that was broken off.

    Ends with 2 when recipe or data are wrong, with 1 when no trial came to its end.
    """
    shared = session(ctx, None, as_json)
    from rich.console import Console

    console = Console(stderr=True)
    with refusals(shared.as_json):
        (read,) = read_recipes([recipe], console)
        from lorry_trainer.progress import Bars
        from lorry_trainer.search import search as run

        target = output or Path("searches") / recipe.stem
        with interruption(console, "the same command goes on"), Bars(console) as bars:
            found = run(read, name=recipe.stem, folder=recipe.parent, output=target, progress=bars)
    if shared.as_json:
        shown = {
            "recipe": str(found.recipe),
            "values": found.values,
            "validation_loss": found.loss,
            "trials": found.trials,
            "pruned": found.pruned,
        }
        print_json(shown)
    else:
        print_data(str(found.recipe))
