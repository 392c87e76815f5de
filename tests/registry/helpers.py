"""Adapters made by hand, without torch: small, exact, and as wrong as a test wants them."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lorry_registry.catalogue import Catalogue
from lorry_registry.digests import digest_bytes
from lorry_registry.entities import AdapterKey, Base, File, LinearModule, Version

PREFIX = "base_model.model."
KEY = AdapterKey("default", "support")
MODULES = {
    f"model.layers.{layer}.self_attn.{name}": size
    for layer in (0, 1)
    for name, size in (("q_proj", (8, 8)), ("v_proj", (8, 4)))
}

_DTYPES = {"float32": "F32", "float16": "F16", "float64": "F64", "uint16": "BF16", "int8": "I8"}


def fingerprint(letter: str) -> str:
    return "sha256:" + letter * 64


def make_base(
    letter: str = "a",
    *,
    modules: Mapping[str, tuple[int, int]] = MODULES,
    max_rank: int = 0,
    name: str = "tiny",
) -> Base:
    return Base(
        fingerprint=fingerprint(letter),
        display_name=name,
        architecture="LlamaForCausalLM",
        quantization="nf4",
        modules=tuple(LinearModule(path, *size) for path, size in modules.items()),
        max_rank=max_rank,
        context_length=128,
    )


def lora_tensors(
    rank: int = 4, modules: Mapping[str, tuple[int, int]] = MODULES, *, seed: int = 0
) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    tensors = {}
    for path, (n_in, n_out) in modules.items():
        tensors[f"{PREFIX}{path}.lora_A.weight"] = random.normal(size=(rank, n_in)).astype(
            "float32"
        )
        tensors[f"{PREFIX}{path}.lora_B.weight"] = random.normal(size=(n_out, rank)).astype(
            "float32"
        )
    return tensors


def lora_config(rank: int = 4, **changes: Any) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 8,
        "bias": "none",
        "target_modules": ["q_proj", "v_proj"],
        **changes,
    }


def header_of(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    header, position = {}, 0
    for name, tensor in tensors.items():
        stop = position + tensor.nbytes
        header[name] = {
            "dtype": _DTYPES[str(tensor.dtype)],
            "shape": list(tensor.shape),
            "data_offsets": [position, stop],
        }
        position = stop
    return header


def pack(header: Any, data: bytes) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def safetensors_bytes(tensors: Mapping[str, np.ndarray]) -> bytes:
    return pack(header_of(tensors), b"".join(tensor.tobytes() for tensor in tensors.values()))


def adapter_bytes(
    rank: int = 4,
    *,
    config: Mapping[str, Any] | None = None,
    tensors: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
) -> dict[str, bytes]:
    """The files of an adapter by name."""
    return {
        "adapter_config.json": json.dumps(config or lora_config(rank)).encode(),
        "adapter_model.safetensors": safetensors_bytes(
            lora_tensors(rank, seed=seed) if tensors is None else tensors
        ),
    }


def write_folder(folder: Path, files: Mapping[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def upload(catalogue: Catalogue, files: Mapping[str, bytes]) -> list[File]:
    """Writes the files' blobs and returns their manifest."""
    manifest = []
    for path, data in files.items():
        digest = digest_bytes(data)
        catalogue.blobs.append(digest, size_bytes=len(data), offset=0, data=data)
        catalogue.blobs.finish(digest, size_bytes=len(data))
        manifest.append(File(path, digest, len(data)))
    return manifest


def publish(catalogue: Catalogue, files: Mapping[str, bytes], **kwargs: Any) -> Version:
    return catalogue.publish(KEY, upload(catalogue, files), **kwargs)
