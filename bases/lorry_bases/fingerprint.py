"""What makes two bases the same base.

An adapter fits the base that it was trained on and, strictly, no other. The fingerprint is how a
registry and a server tell: it covers the architecture (`config.json`), every byte of the weights,
and how they are quantized. It does not cover where the folder is, who wrote it with which version,
the tokenizer, or generation defaults.

The same weights split into other shards have another fingerprint: bytes are compared, not numbers.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from lorry_bases.weights import weight_files

QuantizationType = Literal["nf4", "none"]

# What save_pretrained writes about the writing itself, not about the model. The weights' own bytes
# carry their dtype.
_NOT_THE_MODEL = frozenset(
    {
        "_name_or_path",
        "_attn_implementation_autoset",
        "_commit_hash",
        "dtype",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)


@dataclass(frozen=True)
class Quantization:
    """How a base's linear layers are held in memory.

    `nf4`: 4-bit NormalFloat in blocks of `block_size` weights, one scale each; `double` quantizes
    the scales too.
    `none`: as they are, and the other two fields mean nothing.
    """

    type: QuantizationType = "nf4"
    block_size: int = 64
    double: bool = False

    def __post_init__(self) -> None:
        if self.type not in get_args(QuantizationType):
            known = ", ".join(get_args(QuantizationType))
            raise ValueError(f"quantization type {self.type!r} is not one of: {known}")
        if self.block_size < 1 or self.block_size & (self.block_size - 1):
            raise ValueError(f"quantization block_size {self.block_size} is not a power of two")

    def canonical(self) -> dict[str, Any]:
        """Equal for two settings that act alike."""
        return {"type": "none"} if self.type == "none" else asdict(self)


NF4 = Quantization()


def fingerprint(path: Path, quantization: Quantization = NF4) -> str:
    """`sha256:<hex>` of the base in the folder `path` under `quantization`.

    Reads every weight file once, in pieces: memory stays small, time is that of the disk.
    """
    described = {
        "config": _model_only(json.loads((path / "config.json").read_text(encoding="utf-8"))),
        "weights": [_file_digest(file) for file in weight_files(path)],
        "quantization": quantization.canonical(),
    }
    canonical = json.dumps(described, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def _model_only(config: Any) -> Any:
    """The config without notes about its writing, at every depth."""
    if isinstance(config, dict):
        return {k: _model_only(v) for k, v in config.items() if k not in _NOT_THE_MODEL}
    if isinstance(config, list):
        return [_model_only(v) for v in config]
    return config


def _file_digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
