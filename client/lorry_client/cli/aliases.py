"""`lorry aliases`: mutable names for versions, with every move they made and the way back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from lorry_client.cli import output
from lorry_client.cli.session import JsonOption, ServerOption, session

if TYPE_CHECKING:
    from lorry_client.results import Alias, AliasTarget

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="[namespace/]name.")]
AliasArgument = Annotated[str, typer.Argument(metavar="ALIAS", help="Such as production.")]
WhyOption = Annotated[
    str, typer.Option("--why", metavar="TEXT", help="For the alias's history.", show_default=False)
]
EtagOption = Annotated[
    str | None,
    typer.Option("--etag", metavar="E", help="Only where nobody moved it since it had this etag."),
]

_SHARE = re.compile(r"(?P<version>[1-9]\d*|sha256:[0-9a-f]{64}|@[\w-]+)(?::(?P<weight>\d+))?")


def register(app: typer.Typer) -> None:
    group = typer.Typer(
        help="Point aliases at versions; `lorry adapters show NAME` lists them.",
        no_args_is_help=True,
    )
    group.callback()(_shared_options)
    group.command("set")(set_)
    group.command("rm")(rm)
    group.command("history")(history)
    group.command("rollback")(rollback)
    app.add_typer(group, name="aliases")


def _shared_options(
    ctx: typer.Context, server: ServerOption = None, as_json: JsonOption = False
) -> None:
    session(ctx, server, as_json)


def set_(
    ctx: typer.Context,
    name: NameArgument,
    alias: AliasArgument,
    reference: Annotated[
        str,
        typer.Argument(
            metavar="REF",
            help="A version's number, its digest, @alias, or a reference; several with weights divide the requests: "
            "3:90,4:10.",
        ),
    ],
    why: WhyOption = "",
    etag: EtagOption = None,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Point an alias at a version; prints the reference with the version's digest."""
    shared = session(ctx, server, as_json)
    target = _shares(reference) if "," in reference else reference
    with shared.connect() as client:
        moved = client.set_alias(name, alias, target, etag=etag, why=why)
    _print_alias(moved, shared.as_json)


def rollback(
    ctx: typer.Context,
    name: NameArgument,
    alias: AliasArgument,
    to: Annotated[
        int | None,
        typer.Option(metavar="N", help="What it was after move N; without, one step back."),
    ] = None,
    why: WhyOption = "",
    etag: EtagOption = None,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Point an alias at what it pointed at before; a deleted one is there again."""
    shared = session(ctx, server, as_json)
    with shared.connect() as client:
        moved = client.rollback_alias(name, alias, to, etag=etag, why=why)
    _print_alias(moved, shared.as_json)


def history(
    ctx: typer.Context,
    name: NameArgument,
    alias: AliasArgument,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """List an alias's moves, newest first."""
    shared = session(ctx, server, as_json)
    with shared.connect() as client:
        moves = client.alias_moves(name, alias)
    if shared.as_json:
        output.print_json({"moves": moves})
        return
    output.print_table(
        ["MOVE", "TIME", "WHO", "FROM", "TO", "BACK TO", "WHY"],
        [
            [
                str(move.number),
                output.time(move.time),
                move.principal,
                shares(move.from_targets),
                shares(move.to_targets),
                "" if move.restores is None else str(move.restores),
                move.why,
            ]
            for move in moves
        ],
    )


def rm(
    ctx: typer.Context,
    name: NameArgument,
    alias: AliasArgument,
    why: WhyOption = "",
    etag: EtagOption = None,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete an alias; the versions and the alias's history stay."""
    shared = session(ctx, server, as_json)
    with shared.connect() as client:
        client.delete_alias(name, alias, etag=etag, why=why)
    if shared.as_json:
        output.print_json({"deleted": f"{name}@{alias}"})
    else:
        output.note(f"deleted {name}@{alias}")


def shares(targets: Sequence[AliasTarget]) -> str:
    """As `lorry aliases set` takes them: `3` or `3:90,4:10`."""
    if len(targets) == 1:
        return str(targets[0].version)
    return ",".join(f"{target.version}:{target.weight}" for target in targets)


def _shares(text: str) -> Mapping[str, int]:
    parsed: dict[str, int] = {}
    for part in text.split(","):
        share = _SHARE.fullmatch(part.strip())
        if share is None or share["version"] in parsed:
            raise typer.BadParameter(
                f"{part!r} in {text!r} is no share: write VERSION:WEIGHT, each version once, as in 3:90,4:10."
            )
        parsed[share["version"]] = int(share["weight"] or 1)
    return parsed


def _print_alias(moved: Alias, as_json: bool) -> None:
    if as_json:
        output.print_json(moved)
        return
    total = sum(target.weight for target in moved.targets)
    for target in moved.targets:
        output.print_data(f"{moved.adapter}@{target.digest}")
        share = "" if len(moved.targets) == 1 else f" for {target.weight / total:.1%} of requests"
        output.note(f"{moved.adapter}@{moved.name} is version {target.version}{share}")
