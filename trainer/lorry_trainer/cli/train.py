"""`lorry train RECIPE…`: train, score, publish; or look first: `--check`, `--dry-run`, `--preview`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorry_client.cli.output import print_data, print_json
from lorry_client.cli.session import JsonOption, ServerOption, session
from lorry_trainer.cli.loading import interruption, read_recipes, refusals

if TYPE_CHECKING:
    from rich.console import Console

    from lorry_client.cli.session import Session
    from lorry_trainer.bases import Bases
    from lorry_trainer.recipe import Recipe
    from lorry_trainer.run import Result


def train(
    ctx: typer.Context,
    recipes: Annotated[
        list[Path],
        typer.Argument(
            metavar="RECIPE…", help="Recipes in YAML; several share one load of a base."
        ),
    ],
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
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on from the last checkpoint of a run that ended early."),
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Read recipe, rows and base, and say what is wrong.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what the run would be: rows, steps, memory.")
    ] = False,
    preview: Annotated[
        bool, typer.Option("--preview", help="Show rows as they are learnt, loss marked [[so]].")
    ] = False,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train an adapter, score it on held-out rows, publish it if asked; prints its folder or reference.

    Ends with 1 when training or writing failed or the recipe's `require` is not met, with 2 when the recipe or its data
    is wrong, or --push names a server that would not take the adapter. When that does not answer, or publishing fails,
    it ends as `lorry push` does; what was trained by then stays.
    """
    if alias and not push:
        raise typer.BadParameter("needs --push NAME", param_hint="--alias")
    if len(recipes) > 1 and (push or output):
        raise typer.BadParameter(
            "goes with one recipe", param_hint="--push" if push else "--output"
        )
    shared = session(ctx, server, as_json)
    from rich.console import Console

    from lorry_trainer import processes

    console = Console(stderr=True, quiet=not processes.is_first())
    with refusals(shared.as_json):
        read = read_recipes(recipes, console)
        if push and processes.is_first():
            _ask_destination(read[0], push, alias, shared, console)
        if check or dry_run or preview:
            if not processes.is_first():
                return
            for path, recipe in zip(recipes, read, strict=True):
                _look(recipe, path, check, preview, console, shared.as_json)
            return
        from lorry_trainer.bases import Bases

        bases = Bases() if len(read) > 1 else None
        if bases is not None:
            _refuse_one_target_twice(read, recipes)
            _refuse_later_ones(read[1:], recipes[1:], overwrite)
        missed = False
        for path, recipe in zip(recipes, read, strict=True):
            if bases is not None:
                console.print(f"{path}:", style="bold", highlight=False, markup=False)
            result = _run(recipe, path, output, overwrite, resume, console, bases)
            if result is None:  # another process of the run speaks for it
                continue
            _show_scores(result, console)
            reference = None
            if push:
                given = None if result.missed else alias
                reference = _publish(result, recipe, push, given, shared, console)
            _print(result, reference, shared.as_json)
            _say_missed(result, alias, console)
            missed |= bool(result.missed)
    if missed:
        raise typer.Exit(1)


def _refuse_one_target_twice(recipes: list[Recipe], paths: list[Path]) -> None:
    """Raise RecipeError where an adapter would take the place of another that is trained beside it."""
    from lorry_trainer.errors import RecipeError
    from lorry_trainer.run import target_of

    first: dict[Path, Path] = {}
    for recipe, path in zip(recipes, paths, strict=True):
        target = target_of(recipe, path.stem).resolve()
        if target in first:
            raise RecipeError(
                f"{first[target]} and {path} both write {target_of(recipe, path.stem)}: give one of them another "
                "`output`, or another name"
            )
        first[target] = path


def _refuse_later_ones(recipes: list[Recipe], paths: list[Path], overwrite: bool) -> None:
    """What is wrong with the last one is told before the first one has been trained for hours."""
    from lorry_trainer.folder import refuse_taken
    from lorry_trainer.prepare import prepare_data
    from lorry_trainer.progress import Silent
    from lorry_trainer.run import target_of

    for recipe, path in zip(recipes, paths, strict=True):
        refuse_taken(target_of(recipe, path.stem), overwrite=overwrite)
        prepare_data(recipe, path.parent, Silent())


def _ask_destination(
    recipe: Recipe, name: str, alias: str | None, shared: Session, console: Console
) -> None:
    from lorry_trainer.preflight import check_destination

    with shared.connect() as client:
        if note := check_destination(recipe, name, alias, client):
            console.print(note, style="yellow", markup=False)


def _run(
    recipe: Recipe,
    path: Path,
    output: Path | None,
    overwrite: bool,
    resume: bool,
    console: Console,
    bases: Bases | None,
) -> Result | None:
    from lorry_trainer.progress import Bars
    from lorry_trainer.run import run

    way_on = "--resume goes on from the last checkpoint"
    with interruption(console, way_on), Bars(console) as bars:
        return run(
            recipe,
            name=path.stem,
            folder=path.parent,
            output=output,
            overwrite=overwrite,
            progress=bars,
            bases=bases,
            resume=resume,
        )


def _look(
    recipe: Recipe, path: Path, check: bool, preview: bool, console: Console, as_json: bool
) -> None:
    """--preview, --check and --dry-run: each does all that the one before it does, and nothing is trained."""
    from lorry_trainer.looking import look
    from lorry_trainer.progress import Bars

    with Bars(console) as bars:
        seen = look(recipe, path.stem, path.parent, bars, rows=3 if preview else 0)
    if as_json:
        print_json({"recipe": str(path), **seen.forecast.as_dict(), "notes": seen.notes})
        return
    for row in seen.rows:
        print_data("".join(f"[[{text}]]" if learnt else text for text, learnt in row) + "\n")
    if check:
        print_data(f"{path}: nothing is wrong with it")
    elif not preview:
        for name, value in seen.forecast.as_dict().items():
            print_data(f"{name:<26}{_shown(name, value)}")


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name.endswith("_bytes"):
        return f"{value / 2**20:,.1f} MiB"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _publish(
    result: Result,
    recipe: Recipe,
    name: str,
    alias: str | None,
    shared: Session,
    console: Console,
) -> str:
    console.print(f"publishing {result.folder} as {name}…", style="dim", markup=False)
    with shared.connect() as client:
        pushed = client.push(result.folder, name, alias=alias, description=recipe.description)
    return str(pushed.reference)


def _print(result: Result, reference: str | None, as_json: bool) -> None:
    if as_json:
        shown = {
            "output": str(result.folder),
            "reference": reference,
            "metric": result.metric,
            "metrics": result.metrics,
            "seconds": result.seconds,
            "missed": result.missed,
        }
        print_json(shown)
    else:
        print_data(reference or str(result.folder))


def _say_missed(result: Result, alias: str | None, console: Console) -> None:
    without = f", so {alias!r} does not point at it" if alias else ""
    for complaint in result.missed:
        console.print(f"required and not met{without}: {complaint}", style="red", markup=False)


def _show_scores(result: Result, console: Console) -> None:
    from rich.table import Table

    from lorry_trainer.figures import side_by_side
    from lorry_trainer.wording import counted

    metrics = result.metrics
    columns = [("base", "base_test_"), ("adapter", "test_")]
    headings, rows = side_by_side(metrics, columns, result.metric)
    if not rows:
        console.print("no test rows, so no score", style="dim")
        return
    table = Table(f"held-out, {counted(int(metrics['test_rows']), 'row')}", *headings)
    for row in rows:
        table.add_row(*row)
    console.print(table)
