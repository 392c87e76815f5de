"""The engine's layers: what decides needs no torch, and nothing in the engine knows gRPC."""

import subprocess
import sys

POLICY = ("scheduler", "block_manager", "residency", "sequence", "request", "config", "stats")


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return set(answer.stdout.split())


def test_policy_imports_no_torch() -> None:
    """What decides is tested without a model, and stays quick to read, import and test."""
    names = ", ".join(f"lorry_server.engine.{name}" for name in POLICY)
    loaded = modules_after(f"import {names}")
    assert "lorry_server.engine.scheduler" in loaded
    assert not {"torch", "numpy", "transformers", "safetensors"} & loaded


def test_the_engine_knows_no_grpc_and_no_text() -> None:
    """Token ids, digests and numbers only; what speaks gRPC stands in front of it.

    transformers brings the tokenizers package along; that nothing here asks for a tokenizer is visible in the
    sources.
    """
    loaded = modules_after("import lorry_server.engine.engine")
    assert "torch" in loaded
    assert not [name for name in loaded if name.partition(".")[0] in {"grpc", "lorry", "peft"}]
    assert not [
        name for name in loaded if name.startswith(("lorry_server.services", "lorry_client"))
    ]
