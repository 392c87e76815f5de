"""`lorry tokens`, `lorry namespaces`, `lorry whoami` and `lorry audit`: who may do what, and who did."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from lorry_client.cli import output
from lorry_client.cli.session import JsonOption, ServerOption, session

if TYPE_CHECKING:
    from lorry_client.results.access import Namespace

_LIFETIME = re.compile(r"([1-9][0-9]{0,5})([mhd])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}

NameArgument = Annotated[str, typer.Argument(metavar="NS", help="The namespace.")]
BoundOption = Annotated[int | None, typer.Option(metavar="N", min=0, help="0: no bound.")]


def register(app: typer.Typer) -> None:
    tokens = typer.Typer(help="Give out tokens and take them back.", no_args_is_help=True)
    tokens.callback()(_shared_options)
    tokens.command("create")(create_token)
    tokens.command("ls")(list_tokens)
    tokens.command("revoke")(revoke_token)
    app.add_typer(tokens, name="tokens")
    namespaces = typer.Typer(help="Namespaces and their quotas.", no_args_is_help=True)
    namespaces.callback()(_shared_options)
    namespaces.command("ls")(list_namespaces)
    namespaces.command("set")(set_namespace)
    namespaces.command("rm")(remove_namespace)
    app.add_typer(namespaces, name="namespaces")
    app.command("whoami")(whoami)
    app.command("audit")(audit)


def _shared_options(
    ctx: typer.Context, server: ServerOption = None, as_json: JsonOption = False
) -> None:
    session(ctx, server, as_json)


def create_token(
    ctx: typer.Context,
    grants: Annotated[
        list[str],
        typer.Argument(
            metavar="ROLE:NS...",
            help="read, infer, publish, promote or admin; in a namespace, or in all: read:*",
        ),
    ],
    name: Annotated[str, typer.Option(metavar="TEXT", help="What it is for.")] = "",
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="Ends after 30m, 12h or 90d; else never.")
    ] = None,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create a token; prints it, this once."""
    shared = session(ctx, server, as_json)
    lifetime = None if expires is None else read_lifetime(expires)
    with shared.connect() as client:
        fresh = client.access.create_token(grants, display_name=name, lifetime=lifetime)
    if shared.as_json:
        output.print_json({"token": fresh.token, "text": fresh.text})
        return
    output.print_data(fresh.text)
    output.note(f"token {fresh.token.id}: it is not shown again")


def list_tokens(
    ctx: typer.Context, server: ServerOption = None, as_json: JsonOption = False
) -> None:
    """List the tokens that you administer."""
    shared = session(ctx, server, as_json)
    with shared.connect() as client:
        tokens = client.access.tokens()
    if shared.as_json:
        output.print_json({"tokens": tokens})
        return
    output.print_table(
        ["ID", "GRANTS", "CREATED", "EXPIRES", "REVOKED", "DESCRIPTION"],
        [
            [
                token.id,
                " ".join(token.grants),
                output.time(token.create_time),
                output.time(token.expire_time),
                output.time(token.revoke_time),
                token.display_name,
            ]
            for token in tokens
        ],
    )


def revoke_token(
    ctx: typer.Context,
    token_id: Annotated[str, typer.Argument(metavar="ID", help="As `lorry tokens ls` shows it.")],
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a token's life; within two seconds no server takes it any more."""
    shared = session(ctx, server, as_json)
    with shared.connect() as client:
        token = client.access.revoke_token(token_id)
    if shared.as_json:
        output.print_json(token)
    else:
        output.note(f"revoked {token.id}")


def list_namespaces(
    ctx: typer.Context, server: ServerOption = None, as_json: JsonOption = False
) -> None:
    """List the namespaces in which you have a role."""
    shared = session(ctx, server, as_json)
    with shared.connect() as client:
        namespaces = client.access.namespaces()
    if shared.as_json:
        output.print_json({"namespaces": namespaces})
        return
    output.print_table(
        ["NAME", "ADAPTERS", "VERSIONS", "BYTES", "REQUESTS/MIN", "TOKENS/MIN", "DESCRIPTION"],
        [_row(namespace) for namespace in namespaces],
    )


def set_namespace(
    ctx: typer.Context,
    name: NameArgument,
    max_adapters: BoundOption = None,
    max_versions: BoundOption = None,
    max_bytes: BoundOption = None,
    requests_per_minute: BoundOption = None,
    tokens_per_minute: BoundOption = None,
    description: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What the namespace is for.")
    ] = None,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Set a namespace's quotas, creating it where it is new; what is not given stays."""
    from dataclasses import replace

    from lorry_client.errors import NotFound
    from lorry_client.results.access import Quotas

    shared = session(ctx, server, as_json)
    bounds = {
        "max_adapters": max_adapters,
        "max_versions": max_versions,
        "max_bytes": max_bytes,
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
    }
    given = {name: bound for name, bound in bounds.items() if bound is not None}
    with shared.connect() as client:
        try:
            known = client.access.namespace(name)
        except NotFound:
            namespace = client.access.create_namespace(
                name, description=description or "", quotas=Quotas(**given)
            )
        else:
            namespace = client.access.update_namespace(
                name,
                description=description,
                quotas=replace(known.quotas, **given),
                etag=known.etag,
            )
    if shared.as_json:
        output.print_json(namespace)
    else:
        output.print_table(
            ["NAME", "ADAPTERS", "VERSIONS", "BYTES", "REQUESTS/MIN", "TOKENS/MIN", "DESCRIPTION"],
            [_row(namespace)],
        )


def remove_namespace(
    ctx: typer.Context,
    name: NameArgument,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete a namespace that has no adapters."""
    shared = session(ctx, server, as_json)
    with shared.connect() as client:
        client.access.delete_namespace(name)
    if shared.as_json:
        output.print_json({"deleted": name})
    else:
        output.note(f"deleted {name}")


def whoami(ctx: typer.Context, server: ServerOption = None, as_json: JsonOption = False) -> None:
    """Show who you are to the server, and what you may do."""
    shared = session(ctx, server, as_json)
    with shared.connect() as client:
        caller = client.access.caller()
    if shared.as_json:
        output.print_json(caller)
        return
    output.print_data(caller.principal)
    for grant in caller.grants:
        output.print_data(f"  {grant}")
    if caller.expire_time:
        output.note(f"until {output.time(caller.expire_time)}")


def audit(
    ctx: typer.Context,
    namespace: Annotated[
        str | None, typer.Option(metavar="NS", help="Only this namespace.")
    ] = None,
    principal: Annotated[
        str, typer.Option(metavar="WHO", help="Only what this principal did.")
    ] = "",
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="At most this many.")] = 100,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what was done and what was refused, newest first."""
    shared = session(ctx, server, as_json)
    with shared.connect() as client:
        events = client.access.audit(namespace, principal=principal, limit=limit)
    if shared.as_json:
        output.print_json({"events": events})
        return
    output.print_table(
        ["TIME", "PRINCIPAL", "FROM", "ACTION", "RESOURCE", "OUTCOME"],
        [
            [
                output.time(event.time),
                event.principal,
                event.peer,
                event.action.rpartition("/")[2],
                event.resource,
                f"{event.outcome} {event.reason}".strip(),
            ]
            for event in events
        ],
    )


def read_lifetime(text: str) -> timedelta:
    """`30m`, `12h` or `90d`."""
    found = _LIFETIME.fullmatch(text)
    if found is None:
        raise typer.BadParameter(
            f"{text!r} is no time; write 30m, 12h or 90d", param_hint="--expires"
        )
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def _row(namespace: Namespace) -> list[str]:
    quotas = namespace.quotas
    bounds = (
        quotas.max_adapters,
        quotas.max_versions,
        quotas.max_bytes,
        quotas.requests_per_minute,
        quotas.tokens_per_minute,
    )
    return [namespace.name, *(str(bound or "") for bound in bounds), namespace.description]
