"""Before training: would the place that `--push` names take the adapter? Asked there, by what the recipe says alone.

Nothing is refused here that would not be refused at the push, or at the server's load: the registry takes an adapter
for a base that it knows, by fingerprint, of a rank that the base's server takes, where it has one. A fingerprint is
over bytes: the same weights in other files are another base, here as there.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from lorry_trainer.errors import RecipeError
from lorry_trainer.recipe import Recipe

if TYPE_CHECKING:
    from lorry_client import Client, Status


def check_destination(recipe: Recipe, name: str, alias: str | None, client: Client) -> str | None:
    """Whether what the recipe trains can be published under `name`, and the alias be pointed at it; what is to be
    minded besides, or None.

    The base counts as it will be served, in plain NF4, however it is held in training.

    Raises:
        RecipeError: the base is not known there, or the rank is above the cap.
        lorry_client.LorryError: nobody answers, the name or the alias is none, or the caller may not ask.
    """
    from lorry_bases import BaseNotFound, fingerprint, resolve
    from lorry_client import NotFound
    from lorry_trainer.methods import METHODS

    with suppress(NotFound):  # a new name
        client.adapters.get(name)
    if alias:
        with suppress(NotFound):  # a new one
            client.alias_moves(name, alias)
    server = _status(client)
    try:
        ours = fingerprint(resolve(recipe.base))
    except BaseNotFound as error:
        raise RecipeError(f"base: {error}") from error
    runs = f"the server there runs {server.base} ({server.base_fingerprint})" if server else ""
    try:
        known = client.base(ours)
    except NotFound:
        raise RecipeError(
            f"base {recipe.base!r} ({ours}) is not known to the registry at {client.server}, which would refuse the "
            f"adapter{'; ' if runs else ''}{runs}: make it known with `lorry announce {recipe.base}`, set base to what "
            "is served there, or train without --push"
        ) from None
    is_served = server is not None and server.base_fingerprint == ours
    cap = server.max_rank if server and is_served else known.max_rank
    rank = METHODS[recipe.method].published_rank(recipe)
    if 0 < cap < rank:
        given, factor = recipe.lora.rank, rank // recipe.lora.rank
        doubled = f", which {recipe.method} publishes as rank {rank}" if factor > 1 else ""
        raise RecipeError(
            f"lora.rank is {given}{doubled}, and the server of base {known.display_name} at {client.server} accepts at "
            f"most {cap}: set lora.rank to {cap // factor} or less, or start the server with --max-rank {rank}"
        )
    if server and not is_served:
        return f"{runs}: it keeps adapters for {recipe.base} and does not serve them; a server of that base does"
    return None


def _status(client: Client) -> Status | None:
    """None where there is a registry alone."""
    from lorry_client import Unimplemented

    with suppress(Unimplemented):
        return client.status()
    return None
