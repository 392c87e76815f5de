"""Imports go one way, and what is heavy stays where it belongs. docs/architecture.md draws the same picture."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {
    "lorry": "protos/lorry",
    "lorry_bases": "bases/lorry_bases",
    "lorry_client": "client/lorry_client",
    "lorry_registry": "registry/lorry_registry",
    "lorry_server": "server/lorry_server",
    "lorry_trainer": "trainer/lorry_trainer",
}
MAY_IMPORT = {
    "lorry": set(),
    "lorry_bases": set(),
    "lorry_client": {"lorry"},
    "lorry_registry": {"lorry"},
    "lorry_server": {"lorry", "lorry_bases", "lorry_registry"},
    "lorry_trainer": {"lorry", "lorry_bases", "lorry_client"},
}
HEAVY = {"torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "safetensors"}
ENGINE = "server/lorry_server/engine"
DECIDES = ("block_manager", "config", "request", "residency", "scheduler", "sequence", "stats")


def sources(folder: str) -> list[Path]:
    return [p for p in (ROOT / folder).rglob("*.py") if not p.stem.endswith(("_pb2", "_pb2_grpc"))]


def imported(path: Path) -> Iterator[str]:
    """The dotted names of the modules that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module


def root(module: str) -> str:
    return module.partition(".")[0]


@pytest.mark.parametrize("package", FOLDERS)
def test_each_import_root_reaches_only_those_below_it(package: str) -> None:
    allowed = MAY_IMPORT[package] | {package}
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in sources(FOLDERS[package])
        for module in imported(path)
        if root(module) in FOLDERS and root(module) not in allowed
    ]
    assert not wrong


@pytest.mark.parametrize("package", ["lorry_client", "lorry_registry"])
def test_client_and_registry_know_no_torch(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in sources(FOLDERS[package])
        for module in imported(path)
        if root(module) in HEAVY
    ]
    assert not wrong


def test_the_engine_knows_no_grpc_and_no_text() -> None:
    outside = {"grpc", "google", "tokenizers", "lorry", "lorry_bases", "prometheus_client"}
    shapes = "lorry_bases.shapes"  # what a loaded model is made of
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in sources(ENGINE)
        for module in imported(path)
        if (root(module) in outside and module != shapes)
        or (root(module) == "lorry_server" and not module.startswith("lorry_server.engine"))
        or (
            root(module) == "lorry_registry"
            and module not in {"lorry_registry.checks", "lorry_registry.errors"}
        )
    ]
    assert not wrong


@pytest.mark.parametrize("module", DECIDES)
def test_what_decides_imports_no_torch(module: str) -> None:
    names = {root(name) for name in imported(ROOT / ENGINE / f"{module}.py")}
    assert not names & (HEAVY | {"numpy"})
