"""`lorry eval REF`: score any published version on rows of data, through a running server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorry_client.cli.output import print_data, print_json, print_table
from lorry_client.cli.session import JsonOption, ServerOption, session
from lorry_trainer.cli.loading import refusals

if TYPE_CHECKING:
    from rich.console import Console

    from lorry_client.cli.session import Session
    from lorry_trainer.recipe import Data
    from lorry_trainer.remote import Asked


def evaluate(
    ctx: typer.Context,
    reference: Annotated[str, typer.Argument(metavar="REF", help="An adapter's reference.")],
    data: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Rows with the expected answers, as a recipe's data."),
    ],
    columns: Annotated[
        str, typer.Option(metavar="Q,A", help="The columns of question and answer, by name.")
    ] = "",
    template: Annotated[
        str | None, typer.Option(metavar="T", help="As the recipe's data.template.")
    ] = None,
    system: Annotated[str | None, typer.Option(metavar="S", help="As data.system.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer.")] = None,
    max_rows: Annotated[int, typer.Option(min=1, help="At most so many, a seeded choice.")] = 1000,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 32,
    seed: Annotated[int, typer.Option(min=0, help="Chooses rows, and draws the intervals.")] = 0,
    against: Annotated[
        str | None,
        typer.Option(metavar="REF2", help="Ask this one too: how often does REF win over it?"),
    ] = None,
    reward: Annotated[
        str | None,
        typer.Option(
            metavar="R",
            help="What judges answers, as the recipe's evaluation.reward; exact_match if left out.",
        ),
    ] = None,
    base: Annotated[bool, typer.Option("--base/--no-base", help="Ask the bare base too.")] = True,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write a page of it.")
    ] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Add the figures to the version, as an evaluation.")
    ] = False,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask a running server for an answer to every row, and score the answers: a table on a terminal, else one figure a
    line.

    A win rate is the share of rows in which an answer earns more, ties counted as half: over REF2's answers, or with
    --reward alone over the bare base's.

    Ends with 2 when the rows are wrong, else as `lorry generate` does when the server refuses.
    """
    shared = session(ctx, server, as_json)
    from rich.console import Console

    console = Console(stderr=True)
    with refusals(shared.as_json):
        from lorry_trainer.remote import BARE

        described = _data(data, columns, template, system)
        references = [*([None] if base else []), *([against] if against else []), reference]
        if against == reference:
            raise typer.BadParameter("is the reference itself", param_hint="--against")
        if base and BARE in references:
            raise typer.BadParameter(
                "base is what the bare base is called here: add --no-base, or name the adapter by a version (base:1)",
                param_hint="REF",
            )
        judge, named = None, reward or ("exact_match" if against else None)
        if named:
            from lorry_trainer.rewards import find_reward

            judge = find_reward(named, Path(), None, key="--reward")
        rival = against or (BARE if base and reward else None)
        asked = _ask(
            shared,
            references,
            described,
            max_rows,
            console,
            rule=named,
            max_tokens=max_tokens,
            concurrency=concurrency,
            seed=seed,
            reward=judge,
            rival=rival,
        )
        if report is not None:
            from lorry_trainer.remote_report import write_report

            write_report(asked, reference, report)
    if record:
        _record(shared, asked, reference)
    if shared.as_json:
        print_json(
            {
                "rows": len(asked.questions.rows),
                "acted": asked.acted,
                "rival": asked.rival,
                "metrics": asked.metrics(),
            }
        )
        return
    if sys.stdout.isatty():
        from lorry_trainer.figures import side_by_side
        from lorry_trainer.wording import counted

        headings, rows = side_by_side(*asked.columns())
        print_table([counted(len(asked.questions.rows), "row").upper(), *headings], rows)
        return
    for who, metrics in asked.metrics().items():
        for name, value in metrics.items():
            print_data(f"{who}  {name}  {value:.4f}")


def _record(shared: Session, asked: Asked, reference: str) -> None:
    from lorry_client.results import Dataset
    from lorry_trainer.remote import BARE

    questions = asked.questions
    name = Path(questions.source.name).name
    figures = asked.metrics()
    metrics = figures[reference] | {f"base_{n}": v for n, v in figures.get(BARE, {}).items()}
    rival = asked.acted.get(asked.rival or "")
    dataset = Dataset(name, questions.source.digest, "test", len(questions.rows))
    with shared.connect() as client:
        client.add_evaluation(
            asked.acted[reference] or reference,
            f"lorry eval {name}" + (f" against {asked.rival}" if rival else ""),
            metrics,
            dataset=dataset,
            description=f"The win rate is over {rival}." if rival else "",
        )


def _data(path: Path, columns: str, template: str | None, system: str | None) -> Data:
    from pydantic import ValidationError

    from lorry_trainer.errors import DataError
    from lorry_trainer.recipe import Columns, Data

    named = {}
    if columns:
        question, comma, answer = columns.partition(",")
        if not comma or not question or not answer:
            raise typer.BadParameter("two names, as in text,label", param_hint="--columns")
        named = {"columns": Columns(instruction=question, output=answer), "format": "instruction"}
    given = {"template": template, "system": system}
    try:
        return Data(path=str(path), **named, **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        raise DataError("; ".join(e["msg"] for e in error.errors())) from error


def _ask(
    shared: Session,
    references: list[str | None],
    data: Data,
    max_rows: int,
    console: Console,
    *,
    rule: str | None,
    seed: int,
    **options: Any,
) -> Asked:
    import asyncio

    from lorry_client import AsyncClient
    from lorry_trainer.progress import Bars
    from lorry_trainer.remote import ask, read_questions
    from lorry_trainer.rewards import refuse_unearnable

    questions = read_questions(data, Path(), max_rows, seed)
    refuse_unearnable(rule, questions.rows, "--reward")

    async def run(bars: Bars) -> Asked:
        async with AsyncClient(shared.server, login=shared.login) as client:
            return await ask(
                client,
                references,
                questions,
                seed=seed,
                progress=bars,
                **options,
            )

    with Bars(console) as bars:
        return asyncio.run(run(bars))
