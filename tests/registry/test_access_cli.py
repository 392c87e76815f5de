"""`lorry tokens`, `lorry namespaces`, `lorry whoami`, `lorry audit`, and what the registry's own machine can do."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from lorry_client.cli.main import build_app
from lorry_registry.catalogue import Catalogue
from lorry_registry.embedded import open_catalogue
from lorry_registry.entities import AdapterKey
from lorry_registry.rpc.gate import Gate
from lorry_registry.rpc.host import create_server
from lorry_registry.rpc.rules import RULES
from lorry_registry.rpc.server import add_services, authority_of
from lorry_registry.security import Auth, Security

Lorry = Callable[..., Awaitable[Result]]


def run(*arguments: str, token: str = "", server: str = "") -> Result:
    environment = {"LORRY_TOKEN": token, "LORRY_SERVER": server, "LORRY_TOKEN_FILE": ""}
    return CliRunner().invoke(build_app(), list(arguments), env=environment)


@pytest.fixture
async def lorry(stocked: Catalogue) -> AsyncIterator[Lorry]:
    """The command, against a registry that knows who calls."""
    security = Security(Auth.REQUIRED)
    gate = Gate(RULES, authority_of(stocked, security, "127.0.0.1:0"))
    host = create_server("127.0.0.1:0", lambda s: add_services(s, stocked), gate=gate)
    await host.start()

    async def act(*arguments: str, token: str = "") -> Result:
        return await asyncio.to_thread(run, *arguments, token=token, server=host.address)

    yield act
    await host.stop(0)


async def test_a_token_from_its_making_to_its_end(lorry: Lorry, stocked: Catalogue) -> None:
    _, admin = stocked.access.create_token(["admin:*"])
    made = await lorry(
        "--json", "tokens", "create", "publish:default", "infer:*", "--name", "ci", "--expires", "90d",
        token=admin,
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    answer = json.loads(made.stdout)
    token, token_id = answer["text"], answer["token"]["id"]
    me = await lorry("whoami", token=token)
    assert me.stdout.splitlines() == [f"token:{token_id}", "  infer:*", "  publish:default"]
    listed = await lorry("tokens", "ls", token=admin)
    assert token_id in listed.stdout
    assert token.rpartition("_")[2] not in listed.stdout
    assert (await lorry("adapters", "ls", token=token)).exit_code == 0
    assert (await lorry("tokens", "ls", token=token)).exit_code == 9
    assert (await lorry("adapters", "ls")).exit_code == 9
    revoked = await lorry("tokens", "revoke", token_id, token=admin)
    assert revoked.exit_code == 0
    async with asyncio.timeout(10):
        while (last := await lorry("--json", "whoami", token=token)).exit_code == 0:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert last.exit_code == 9
    assert json.loads(last.stderr)["error"]["reason"] == "TOKEN_REVOKED"
    assert token not in last.output
    for wrong in (["owner:x"], ["read:x", "--expires", "soon"]):
        assert (await lorry("tokens", "create", *wrong, token=admin)).exit_code in (2, 4)


async def test_namespaces_and_the_log(lorry: Lorry, stocked: Catalogue) -> None:
    made, admin = stocked.access.create_token(["admin:*"])
    first = await lorry("--json", "namespaces", "set", "team", "--max-adapters", "1", token=admin)
    assert json.loads(first.stdout)["quotas"]["max_adapters"] == 1
    await lorry("namespaces", "set", "team", "--tokens-per-minute", "600", token=admin)
    assert stocked.access.quotas("team").max_adapters == 1  # what is not given stays
    stocked.create_adapter(AdapterKey("team", "a"))
    listed = await lorry("--json", "namespaces", "ls", token=admin)
    assert [n["name"] for n in json.loads(listed.stdout)["namespaces"]] == ["default", "team"]
    assert (await lorry("namespaces", "rm", "team", token=admin)).exit_code == 5
    events = json.loads((await lorry("--json", "audit", "--limit", "2", token=admin)).stdout)[
        "events"
    ]
    assert [(e["principal"], e["action"].rpartition("/")[2], e["outcome"]) for e in events] == [
        (made.principal, "DeleteNamespace", "FAILED_PRECONDITION"),
        (made.principal, "UpdateNamespace", "OK"),
    ]


def test_the_first_token_comes_from_the_registrys_own_machine(home: Path) -> None:
    made = run("registry", "tokens", "create", "--home", str(home))
    text = made.stdout.strip()
    limited = run("registry", "tokens", "create", "read:a", "--days", "3", "--home", str(home))
    listed = run("registry", "tokens", "ls", "--home", str(home)).stdout.splitlines()
    assert [line.split()[-1] for line in listed] == ["read:a", "admin:*"]
    catalogue = open_catalogue(home)
    try:
        assert str(catalogue.access.caller_of(text).rights.grants[0]) == "admin:*"
        token_id = limited.stdout.split("_")[1]
        run("registry", "tokens", "revoke", token_id, "--home", str(home))
        assert catalogue.access.get_token(token_id).revoke_time is not None
    finally:
        catalogue.close()
    assert run("registry", "audit", "--home", str(home)).exit_code == 0


def test_an_unguarded_registry_does_not_start_where_others_reach_it(home: Path) -> None:
    for options in ((), ("--auth", "required"), ("--auth", "off")):
        refused = run("registry", "serve", "--home", str(home), "--listen", "0.0.0.0:0", *options)
        assert refused.exit_code == 5
        assert "INSECURE_ADDRESS" in refused.output
