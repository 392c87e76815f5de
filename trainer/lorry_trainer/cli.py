"""`lorry train RECIPE`. Data (the folder or the reference) goes to stdout, everything else to stderr.

Importing this module must stay cheap: `lorry --help` does it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorry_client.cli.output import print_data, print_error, print_json
from lorry_client.cli.session import JsonOption, ServerOption, session

if TYPE_CHECKING:
    from rich.console import Console

    from lorry_trainer.recipe import Recipe
    from lorry_trainer.run import Result


def register(app: typer.Typer) -> None:
    """Add the trainer's commands to `lorry`."""
    app.command("train")(train)


def train(
    ctx: typer.Context,
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe in YAML.")],
    push: Annotated[
        str | None, typer.Option(metavar="NAME", help="Publish the adapter under this name.")
    ] = None,
    alias: Annotated[
        str | None, typer.Option(metavar="A", help="With --push: point this alias at it.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to write, not the recipe's.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the folder if it is there.")
    ] = False,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train an adapter, score it on held-out rows, publish it if asked; prints its folder or reference.

    Ends with 1 when training or writing failed, with 2 when the recipe or its data is wrong. When publishing fails, it
    ends as `lorry push` does, and the folder stays.
    """
    if alias and not push:
        raise typer.BadParameter("needs --push NAME", param_hint="--alias")
    shared = session(ctx, server, as_json)
    from rich.console import Console

    from lorry_trainer.errors import TrainerError

    console = Console(stderr=True)
    try:
        result, used = _run(recipe, output, overwrite, console)
    except TrainerError as error:
        print_error(error, shared.as_json)
        raise typer.Exit(error.exit_code) from None
    _show_scores(result, console)
    reference = _publish(result, used, push, alias, shared.server, console) if push else None
    if shared.as_json:
        shown = {
            "output": str(result.folder),
            "reference": reference,
            "metric": result.metric,
            "metrics": result.metrics,
            "seconds": result.seconds,
        }
        print_json(shown)
    else:
        print_data(reference or str(result.folder))


def _run(
    recipe: Path, output: Path | None, overwrite: bool, console: Console
) -> tuple[Result, Recipe]:
    from lorry_trainer.errors import RecipeError

    try:
        from lorry_trainer.recipe_file import read_recipe

        read = read_recipe(recipe)  # before the libraries below, which take seconds
        console.print("loading…", style="dim")
        from lorry_trainer.quiet import quiet_logs

        quiet_logs()
        from lorry_trainer.progress import Bars
        from lorry_trainer.run import run
    except ImportError as error:
        raise RecipeError(
            f"training needs more libraries ({error}): pip install 'lorry[trainer]'"
        ) from error
    with Bars(console) as bars:
        result = run(
            read,
            name=recipe.stem,
            folder=recipe.parent,
            output=output,
            overwrite=overwrite,
            progress=bars,
        )
    return result, read


def _publish(
    result: Result,
    recipe: Recipe,
    name: str,
    alias: str | None,
    server: str | None,
    console: Console,
) -> str:
    from lorry_trainer.push import push

    console.print(f"publishing {result.folder} as {name}…", style="dim", markup=False)
    return push(result.folder, name, alias=alias, server=server, description=recipe.description)


def _show_scores(result: Result, console: Console) -> None:
    from rich.table import Table

    metrics = result.metrics
    scores = [n.removeprefix("base_test_") for n in metrics if n.startswith("base_test_")]
    if not scores:
        console.print("no test rows, so no score", style="dim")
        return
    table = Table("held-out, " + f"{metrics['test_rows']:.0f} rows", "base", "adapter")
    for score in sorted(scores, key=lambda s: s != result.metric):
        table.add_row(
            score, f"{metrics[f'base_test_{score}']:.3f}", f"{metrics[f'test_{score}']:.3f}"
        )
    console.print(table)
