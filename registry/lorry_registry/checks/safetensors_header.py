"""The header of a safetensors file, read and believed only where it holds together.

    8 bytes   N, little-endian
    N bytes   JSON: name → {dtype, shape, data_offsets: [start, stop]}, and optionally `__metadata__`
    the rest  the tensors' bytes, in the order of their offsets, without gaps or overlaps

A header that lies (offsets beyond the file, overlaps, holes, spans that are not shape × dtype) is refused naming
the tensor: InvalidArgument `HEADER_INVALID`. Nothing here reads tensor bytes.
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorry_registry.errors import InvalidArgument

MAX_HEADER_BYTES = 32 << 20
"""A third of what the format allows: some 200,000 tensors. Parsing costs a multiple of it in memory."""

DTYPE_BYTES: Mapping[str, int] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
}
_MAX_DIMENSIONS = 8


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies. `start` and `stop` count from the beginning of the file, in bytes."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def size_bytes(self) -> int:
        return self.stop - self.start

    @property
    def parameter_count(self) -> int:
        return math.prod(self.shape)


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file by name, in the order of their bytes.

    Raises InvalidArgument `HEADER_INVALID`, OSError.
    """
    file_bytes = path.stat().st_size
    with path.open("rb") as stream:
        prefix = stream.read(8)
        if len(prefix) < 8:
            raise _bad(f"it has {file_bytes} bytes, too few for a header; was it cut off?")
        (header_bytes,) = struct.unpack("<Q", prefix)
        if header_bytes > file_bytes - 8 or header_bytes > MAX_HEADER_BYTES:
            raise _bad(
                f"its header claims {header_bytes} bytes, of a file of {file_bytes} "
                f"and at most {MAX_HEADER_BYTES}{_looks_like(prefix)}"
            )
        raw = stream.read(header_bytes)
    entries = _parse_json(raw)
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _bad("its __metadata__ is no map of strings")
    data_start = 8 + header_bytes
    tensors = {name: _tensor(name, entry, data_start) for name, entry in entries.items()}
    ordered = dict(sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)))
    _check_cover(ordered, data_start, file_bytes)
    return ordered


def _parse_json(raw: bytes) -> dict[str, Any]:
    try:
        header = json.loads(
            raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise _bad(f"its header is no JSON: {_short(error)}") from None
    if not isinstance(header, dict):
        raise _bad("its header is no JSON object")
    return header


def _tensor(name: str, entry: Any, data_start: int) -> TensorInfo:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _bad("its entry is not {dtype, shape, data_offsets}", name)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise _bad(f"its dtype {_short(dtype)!r} is none of {', '.join(DTYPE_BYTES)}", name)
    if not _are_sizes(shape) or len(shape) > _MAX_DIMENSIONS:
        raise _bad(f"its shape {_short(shape)} is no short list of sizes", name)
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _bad(f"its data_offsets {_short(offsets)} are no [start, stop]", name)
    start, stop = offsets
    expected = math.prod(shape) * DTYPE_BYTES[dtype]
    if stop - start != expected:
        raise _bad(
            f"its data_offsets span {stop - start} bytes, and {dtype} {shape} takes {expected}",
            name,
        )
    return TensorInfo(dtype, tuple(shape), data_start + start, data_start + stop)


def _check_cover(tensors: Mapping[str, TensorInfo], data_start: int, file_bytes: int) -> None:
    """Every byte after the header belongs to exactly one tensor."""
    position = data_start
    for name, tensor in tensors.items():
        if tensor.stop > file_bytes:
            raise _bad(
                f"it ends at byte {tensor.stop} of a file of {file_bytes}; was the file cut off?",
                name,
            )
        if tensor.start != position:
            fault = "overlaps the tensor before it" if tensor.start < position else "leaves a hole"
            raise _bad(
                f"it begins at byte {tensor.start} and {fault}, which ends at {position}", name
            )
        position = tensor.stop
    if position != file_bytes:
        raise _bad(f"{file_bytes - position} bytes at its end belong to no tensor")


def _are_sizes(value: Any) -> bool:
    # bool is an int in Python, not in JSON; beyond 2**48 bytes there is no file.
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 1 << 48 for v in value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"{_short(twice)!r} stands in it twice")
    return result


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _looks_like(prefix: bytes) -> str:
    if prefix.startswith(b"PK\x03\x04"):
        return " (it looks like a zip archive, which is how torch.save writes pickles)"
    if prefix[:1] == b"\x80":
        return " (it looks like a pickle)"
    return ""


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _bad(fault: str, tensor: str | None = None) -> InvalidArgument:
    if tensor is None:
        return InvalidArgument(
            f"the file is no valid safetensors file: {fault}. Save the adapter again with "
            "save_pretrained(..., safe_serialization=True)",
            reason="HEADER_INVALID",
        )
    return InvalidArgument(
        f"the safetensors header lies about tensor {_short(tensor)!r}: {fault}. Save the adapter again",
        reason="HEADER_INVALID",
        tensor=_short(tensor),
    )
