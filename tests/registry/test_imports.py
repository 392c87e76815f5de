"""What the registry imports, and when: the command line stays fast, and nothing here needs torch."""

import subprocess
import sys

HEAVY = ("sqlalchemy", "grpc", "numpy", "platformdirs", "google.protobuf")


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return set(answer.stdout.split())


def test_the_command_line_imports_nothing_heavy() -> None:
    loaded = modules_after("import lorry_registry.cli, lorry_registry.config")
    assert loaded.isdisjoint(HEAVY)


def test_the_whole_registry_imports_no_torch() -> None:
    loaded = modules_after("import lorry_registry.rpc.server, lorry_registry.cli")
    assert not {"torch", "transformers", "peft", "safetensors"} & loaded
    assert "sqlalchemy" in loaded


def test_the_checks_need_neither_database_nor_grpc() -> None:
    """The server's engine reads adapters through them."""
    assert not {"sqlalchemy", "grpc"} & modules_after("import lorry_registry.checks")
