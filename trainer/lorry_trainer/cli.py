"""`lorry train RECIPE`. Data (the folder or the reference) goes to stdout, everything else to stderr.

Importing this module must stay cheap: `lorry --help` does it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from lorry_trainer.recipe import Recipe
    from lorry_trainer.run import Result


def register(app: typer.Typer) -> None:
    """Add the trainer's commands to `lorry`."""
    app.command("train")(train)


def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe in YAML.", show_default=False)],
    push: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Publish the adapter under this name.", show_default=False
        ),
    ] = None,
    alias: Annotated[
        str | None,
        typer.Option(
            metavar="ALIAS", help="With --push: point this alias at it.", show_default=False
        ),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            envvar="LORRY_SERVER", metavar="HOST:PORT", help="Where to publish.", show_default=False
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder to write, instead of the recipe's.", show_default=False),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the folder if it is there.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train an adapter from a recipe, score it on held-out rows, and publish it if asked.

    Exit codes: 0 done, 1 training or writing failed, 2 the recipe or its data is wrong (nothing was trained);
    publishing ends with the codes of `lorry push`, and the folder stays.
    """
    if alias and not push:
        raise typer.BadParameter(
            "an alias points into the registry; give --push NAME too", param_hint="--alias"
        )
    from rich.console import Console

    from lorry_trainer.errors import TrainerError

    console = Console(stderr=True)
    try:
        result, used = _run(recipe, output, overwrite, console)
    except TrainerError as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(error.exit_code) from None
    _show_scores(result, console)
    reference = _publish(result, used, push, alias, server, console) if push else None
    if as_json:
        _print_json(result, reference)
    else:
        typer.echo(reference or str(result.folder))


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


def _print_json(result: Result, reference: str | None) -> None:
    import json

    shown: dict[str, Any] = {
        "output": str(result.folder),
        "reference": reference,
        "metric": result.metric,
        "metrics": result.metrics,
        "seconds": result.seconds,
    }
    typer.echo(json.dumps(shown, ensure_ascii=False))
