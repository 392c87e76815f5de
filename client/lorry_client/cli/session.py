"""What every command shares: where the server is and how results are printed.

`--server` and `--json` are accepted before and after the subcommand; what is given last on the line holds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer

from lorry_client._login import Login

if TYPE_CHECKING:
    from lorry_client.client import Client

ServerOption = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="HOST:PORT",
        help="Where the server is; else LORRY_SERVER, else 127.0.0.1:7070.",
        show_default=False,
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object.", show_default=False)
]


@dataclass(slots=True)
class Session:
    """The shared options of one invocation, collected from wherever they stood on the line."""

    server: str | None = None
    as_json: bool = False
    login: Login = field(default_factory=Login)

    def connect(self) -> Client:
        """A client of the chosen server; to be closed."""
        from lorry_client.client import Client

        return Client(self.server, login=self.login)


def session(ctx: typer.Context, server: str | None = None, as_json: bool = False) -> Session:
    """The invocation's session, with the options of one more level of the command line added."""
    shared: Session = ctx.ensure_object(Session)
    if server is not None:
        shared.server = server
    shared.as_json = shared.as_json or as_json
    return shared
