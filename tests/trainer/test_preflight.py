"""Before training: what counts of what a registry and a server say about an adapter that is to be pushed there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lorry_bases import Quantization, fingerprint
from lorry_client import Base, Client, InvalidArgument, NotFound, Status, Unimplemented
from lorry_registry import entities
from lorry_registry.entities import LinearModule
from lorry_trainer.errors import RecipeError
from lorry_trainer.preflight import check_destination

Build = Callable[..., Any]
RUNNING = Status("1", "tiny", "", "cpu", 128, 0, 0, 0, 64, 0, 4, 16, None)


class Server:
    """Stands in for a client: a registry that knows some bases, and maybe an engine beside it."""

    server = "there:7070"

    def __init__(self, *known: Base, status: Status | None = None) -> None:
        self._known = {base.fingerprint: base for base in known}
        self._status = status
        self.adapters = self

    def get(self, name: str) -> None:
        raise NotFound("there is no such adapter", reason="ADAPTER_NOT_FOUND")

    def base(self, asked: str) -> Base:
        if asked not in self._known:
            raise NotFound("there is no such base", reason="BASE_NOT_FOUND")
        return self._known[asked]

    def status(self) -> Status:
        if self._status is None:
            raise Unimplemented("a registry alone", reason=None)
        return self._status


@pytest.fixture
def base(base_folder: Path) -> Base:
    """The random base as a server announces it, in plain NF4."""
    return Base(
        fingerprint(base_folder, Quantization()), "tiny", "LlamaForCausalLM", "nf4", 8, 128, None
    )


def ask(recipe: Any, server: Server) -> str | None:
    return check_destination(recipe, "letters", None, server)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["lora", "qlora", "loftq", "full"])
def test_how_the_base_is_held_in_training_makes_no_other_base(
    method: str, tiny_recipe: Build, base: Base
) -> None:
    """In full precision, or in 4 bits with quantized scales: it is served in plain NF4 either way."""
    recipe = tiny_recipe(method=method, lora={"rank": 8})
    status = replace(RUNNING, base_fingerprint=base.fingerprint)
    assert ask(recipe, Server(base, status=status)) is None
    assert ask(recipe, Server(base)) is None


@pytest.mark.parametrize(
    ("method", "rank", "said"),
    [
        ("qlora", 9, "lora.rank is 9, and the server of base tiny at there:7070 accepts at most 8"),
        ("pissa", 5, "lora.rank is 5, which pissa publishes as rank 10, and the server"),
    ],
)
def test_a_rank_above_the_cap(
    method: str, rank: int, said: str, tiny_recipe: Build, base: Base
) -> None:
    with pytest.raises(RecipeError) as refused:
        ask(tiny_recipe(method=method, lora={"rank": rank}), Server(base))
    published, most = (10, 4) if method == "pissa" else (9, 8)
    assert said in refused.value.message
    assert f"set lora.rank to {most} or less" in refused.value.message
    assert f"--max-rank {published}" in refused.value.message
    assert ask(tiny_recipe(method=method, lora={"rank": most}), Server(base)) is None


def test_the_cap_is_the_servers_own_where_it_runs_the_base(tiny_recipe: Build, base: Base) -> None:
    """The registry remembers the highest that any server of the base had, and may not know of one at all."""
    recipe = tiny_recipe(lora={"rank": 8})
    status = replace(RUNNING, base_fingerprint=base.fingerprint, max_rank=4)
    with pytest.raises(RecipeError, match="accepts at most 4"):
        ask(recipe, Server(base, status=status))
    assert ask(recipe, Server(replace(base, max_rank=0))) is None


def test_a_base_that_the_registry_does_not_know(tiny_recipe: Build, base: Base) -> None:
    other = replace(base, fingerprint="sha256:" + "0" * 64, display_name="lorry-tiny")
    status = replace(RUNNING, base="lorry-tiny", base_fingerprint=other.fingerprint)
    recipe = tiny_recipe()
    with pytest.raises(RecipeError) as refused:
        ask(recipe, Server(other, status=status))
    assert recipe.base in refused.value.message
    assert base.fingerprint in refused.value.message
    assert f"the server there runs lorry-tiny ({other.fingerprint})" in refused.value.message
    assert f"`lorry announce {recipe.base}`" in refused.value.message
    assert "train without --push" in refused.value.message
    with pytest.raises(RecipeError, match="is not known to the registry at there:7070"):
        ask(recipe, Server())


def test_a_registry_that_knows_more_bases_than_its_server_runs(
    tiny_recipe: Build, base: Base
) -> None:
    """It takes the adapter, so nothing is refused; who trains is told that this server will not serve it."""
    status = replace(RUNNING, base="lorry-tiny", base_fingerprint="sha256:" + "0" * 64, max_rank=1)
    told = ask(tiny_recipe(), Server(base, status=status))
    assert told is not None
    assert "the server there runs lorry-tiny" in told
    assert "does not serve them; a server of that base does" in told


def test_a_base_that_is_not_there(tiny_recipe: Build, base: Base) -> None:
    with pytest.raises(RecipeError, match="base: base 'nope'"):
        ask(tiny_recipe(base="nope"), Server(base))


async def test_a_registry_alone_is_asked_too(
    tiny_recipe: Build, base: Base, tmp_path: Path
) -> None:
    """Over a real socket: it has no engine whose status could be asked, and knows the bases that were announced."""
    from lorry_registry.embedded import open_catalogue
    from lorry_registry.rpc.host import create_server
    from lorry_registry.rpc.server import add_services

    catalogue = open_catalogue(tmp_path / "home")
    host = create_server("127.0.0.1:0", lambda server: add_services(server, catalogue))
    await host.start()

    def told(alias: str | None = None) -> str | None:
        with Client(host.address) as client:
            return check_destination(tiny_recipe(), "letters", alias, client)

    try:
        with pytest.raises(RecipeError, match=f"is not known to the registry at {host.address}"):
            await asyncio.to_thread(told)
        layers = (LinearModule("model.layers.0.self_attn.q_proj", 64, 64),)
        known = entities.Base(
            fingerprint=base.fingerprint,
            display_name="tiny",
            architecture="LlamaForCausalLM",
            quantization="nf4",
            modules=layers,
            max_rank=8,
            context_length=128,
        )
        catalogue.put_base(known)
        assert await asyncio.to_thread(told) is None
        assert await asyncio.to_thread(told, "production") is None
        # It was found to be no name once all was trained.
        with pytest.raises(InvalidArgument, match="bad alias!"):
            await asyncio.to_thread(told, "bad alias!")
    finally:
        await host.stop(0)
        catalogue.close()
