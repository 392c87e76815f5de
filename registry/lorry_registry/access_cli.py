"""`lorry registry tokens` and `lorry registry audit`: on the registry's own machine, past every role.

The first token of a registry comes from here: whoever can open its database needs none. Imports little.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorry_registry.store_options import DatabaseOption, HomeOption

if TYPE_CHECKING:
    from lorry_registry.access.access import Access


def register(group: typer.Typer) -> None:
    """Adds its commands to `lorry registry`."""
    tokens = typer.Typer(
        no_args_is_help=True, help="Give out tokens and take them back, on the registry's machine."
    )
    tokens.command("create")(create_token)
    tokens.command("ls")(list_tokens)
    tokens.command("revoke")(revoke_token)
    group.add_typer(tokens, name="tokens")
    group.command("audit")(audit)


def create_token(
    grants: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ROLE:NS...]", help="What it is good for.", show_default="admin:*"),
    ] = None,
    name: Annotated[str, typer.Option(metavar="TEXT", help="What it is for.")] = "",
    days: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Ends after so many days; else never.")
    ] = None,
    home: HomeOption = None,
    database: DatabaseOption = "",
) -> None:
    """Create a token; prints it, this once. Without grants it is an administrator's of everything."""
    expire_time = None if days is None else datetime.now(UTC) + timedelta(days=days)
    with _access(home, database) as access:
        token, text = access.create_token(
            grants or ["admin:*"], display_name=name, expire_time=expire_time
        )
    typer.echo(text)
    typer.echo(f"token {token.token_id}: it is not shown again", err=True)


def list_tokens(home: HomeOption = None, database: DatabaseOption = "") -> None:
    """List all tokens, newest first."""
    with _access(home, database) as access:
        page_token = ""
        while True:
            page = access.list_tokens(page_size=1000, page_token=page_token)
            for token in page.items:
                state = "revoked" if token.revoke_time else _until(token.expire_time)
                typer.echo(
                    f"{token.token_id}  {state}  {' '.join(map(str, token.grants))}  {token.display_name}".rstrip()
                )
            page_token = page.next_token
            if not page_token:
                return


def revoke_token(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="As `ls` shows it.")],
    home: HomeOption = None,
    database: DatabaseOption = "",
) -> None:
    """End a token's life."""
    with _access(home, database) as access:
        access.revoke_token(token_id)
    typer.echo(f"revoked {token_id}", err=True)


def audit(
    namespace: Annotated[
        str | None, typer.Option(metavar="NS", help="Only this namespace.")
    ] = None,
    principal: Annotated[
        str, typer.Option(metavar="WHO", help="Only what this principal did.")
    ] = "",
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="At most this many.")] = 1000,
    home: HomeOption = None,
    database: DatabaseOption = "",
) -> None:
    """Show what was done and what was refused, newest first."""
    left, page_token = limit, ""
    with _access(home, database) as access:
        while left > 0:
            page = access.list_audit_events(
                namespace, principal=principal, page_size=min(left, 1000), page_token=page_token
            )
            for event in page.items:
                typer.echo(
                    f"{event.time:%Y-%m-%dT%H:%M:%SZ}  {event.principal}  {event.peer}  {event.action}  "
                    f"{event.resource}  {event.outcome} {event.reason}".rstrip()
                )
            left -= len(page.items)
            page_token = page.next_token
            if not page_token:
                return


@contextmanager
def _access(home: Path | None, database: str) -> Iterator["Access"]:
    from lorry_registry.config import default_home
    from lorry_registry.embedded import open_catalogue

    catalogue = open_catalogue(home or default_home(), database=database)
    try:
        yield catalogue.access
    finally:
        catalogue.close()


def _until(expire_time: datetime | None) -> str:
    return "for ever" if expire_time is None else f"until {expire_time:%Y-%m-%d %H:%M}"
