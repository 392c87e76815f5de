"""A client that Node.js makes of the protos alone works; skipped where there is no node, or npm cannot install."""

import asyncio
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from lorry_registry.embedded import open_catalogue
from lorry_registry.entities import AdapterKey
from lorry_registry.rpc.gate import Gate
from lorry_registry.rpc.host import create_server
from lorry_registry.rpc.rules import RULES
from lorry_registry.rpc.server import add_services, authority_of
from lorry_registry.security import Auth, Security
from tests.registry.helpers import adapter_bytes, make_base, write_folder

HERE = Path(__file__).parent
PROTOS = HERE.parents[1] / "protos"


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    """A folder with the script and what it needs."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("needs node and npm")
    for name in ("client.js", "package.json"):
        shutil.copy(HERE / name, tmp_path)
    install = ["npm", "install", "--prefer-offline", "--no-audit", "--no-fund", "--ignore-scripts"]
    try:
        done = subprocess.run(
            install, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.skip("npm did not install the packages in time")
    if done.returncode != 0:
        pytest.skip(f"npm cannot install the packages: {done.stderr[-300:]}")
    return tmp_path


async def test_a_client_in_another_language(modules: Path) -> None:
    catalogue = open_catalogue(modules / "home")
    catalogue.put_base(make_base())
    catalogue.create_adapter(AdapterKey("theirs", "secret"))
    made, token = catalogue.access.create_token(["publish:node"])
    security = Security(Auth.REQUIRED)
    gate = Gate(RULES, authority_of(catalogue, security, "127.0.0.1:0"))
    host = create_server("127.0.0.1:0", lambda s: add_services(s, catalogue), gate=gate)
    await host.start()
    folder = write_folder(modules / "adapter", adapter_bytes())
    done = await asyncio.to_thread(
        subprocess.run,
        ["node", "client.js", str(PROTOS), host.address, str(folder)],
        cwd=modules,
        env={**os.environ, "LORRY_TOKEN": token},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    await host.stop(0)
    version = catalogue.resolve("node/support")
    catalogue.close()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "principal": made.principal,
        "digest": version.digest,
        "same": True,
        "adapters": ["namespaces/node/adapters/support"],
        "refused": "NOT_FOUND",
    }
