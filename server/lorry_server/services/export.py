"""A composition as files: LoRA as PEFT saves it, and beside it where it comes from."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from lorry.inference.v1 import inference_service_pb2 as pb
from lorry_server.adapters import ResolvedAdapter
from lorry_server.base import ServedBase
from lorry_server.services.submission import GeneratingEngine
from lorry_server.version import version

_FILES = ("adapter_config.json", "adapter_model.safetensors", "lineage.json")
_PIECE_BYTES = 1 << 20


async def folder_of(
    composition: ResolvedAdapter, base: ServedBase, engine: GeneratingEngine
) -> AsyncIterator[pb.ComposeResponse]:
    """The pieces of the folder, file by file."""
    with tempfile.TemporaryDirectory(prefix="lorry-compose-") as name:
        folder = Path(name)
        await asyncio.wrap_future(engine.export(composition.digest, folder))
        lineage = json.dumps(_lineage(composition, base), indent=2)
        (folder / "lineage.json").write_text(lineage, encoding="utf-8")
        for path in [folder / name for name in _FILES]:
            with path.open("rb") as stream:
                data = await asyncio.to_thread(stream.read, _PIECE_BYTES)
                while True:
                    yield pb.ComposeResponse(path=path.name, data=data)
                    data = await asyncio.to_thread(stream.read, _PIECE_BYTES)
                    if not data:
                        break


def _lineage(composition: ResolvedAdapter, base: ServedBase) -> dict[str, object]:
    """The JSON form of `lorry.registry.v1.Lineage`."""
    return {
        "baseFingerprint": base.fingerprint,
        "baseName": base.name,
        "recipe": f"composition: {composition.reference}\ndigest: {composition.digest}\n",
        "parents": [term.digest for term in composition.terms],
        "producer": f"lorry {version()}",
    }
