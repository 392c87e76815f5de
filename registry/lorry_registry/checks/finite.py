"""Whether every number of an adapter can act, read in pieces: memory does not grow with the file.

NaN or infinity in one adapter would spread to every answer given with it, so such a file never gets in; nor one with
numbers that become infinite on their way to a device, in a smaller type or multiplied by the adapter's scaling.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lorry_registry.checks.safetensors_header import TensorInfo
from lorry_registry.errors import InvalidArgument

CHUNK_BYTES = 8 << 20
LARGEST = 3.3895313892515355e38
"""The largest number of bfloat16, and a little less than float32's: adapters act in one of the two."""

_BYTES: Mapping[str, int] = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


def check_finite(
    path: Path, tensors: Mapping[str, TensorInfo], scalings: Mapping[str, float]
) -> set[str]:
    """Reads every floating-point tensor of the file; returns the names of those that are nothing but zeros.

    Args:
        scalings: what some of the tensors are multiplied by before they act.

    Raises:
        InvalidArgument: naming the first tensor and the index of its first such value: `TENSOR_NOT_FINITE`, or
            `TENSOR_OUT_OF_RANGE` for one that is finite and too large to act.
    """
    zeros: set[str] = set()
    with path.open("rb") as stream:
        for name, tensor in tensors.items():
            if tensor.dtype not in _BYTES:
                continue
            zeros.add(name)
            scaling = scalings.get(name, 1.0)
            limit = LARGEST / max(1.0, abs(scaling))
            # As float32, a piece of any type has at most CHUNK_BYTES.
            piece_bytes = CHUNK_BYTES * min(_BYTES[tensor.dtype], 4) // 4
            stream.seek(tensor.start)
            index = 0
            remaining = tensor.size_bytes
            while remaining:
                data = stream.read(min(remaining, piece_bytes))
                if not data:
                    raise InvalidArgument(
                        f"the file ends within tensor {name!r}: was it cut off?",
                        reason="HEADER_INVALID",
                        tensor=name,
                    )
                values = float_values(data, tensor.dtype)
                good = (values <= limit) & (values >= -limit)  # NaN is neither
                if not good.all():
                    at = int(np.argmin(good))
                    raise _bad(name, tensor, index + at, float(values[at]), scaling)
                if name in zeros and values.any():
                    zeros.remove(name)
                index += good.size
                remaining -= len(data)
    return zeros


def float_values(data: bytes, dtype: str) -> npt.NDArray[np.float32] | npt.NDArray[np.float64]:
    if dtype == "F64":
        return np.frombuffer(data, "<f8")
    if dtype == "F32":
        return np.frombuffer(data, "<f4")
    if dtype == "F16":
        return np.frombuffer(data, "<f2").astype(np.float32)
    # numpy has no bfloat16; it is the upper half of a float32.
    bits = np.frombuffer(data, "<u2").astype(np.uint32)
    bits <<= 16
    return bits.view(np.float32)


def _bad(
    name: str, tensor: TensorInfo, flat_index: int, value: float, scaling: float
) -> InvalidArgument:
    index = [int(i) for i in np.unravel_index(flat_index, tensor.shape)] if tensor.shape else []
    if not np.isfinite(value):
        return InvalidArgument(
            f"tensor {name!r} holds NaN or infinity, first at {index}: "
            "the training diverged; lower the learning rate and train again",
            reason="TENSOR_NOT_FINITE",
            tensor=name,
            index=index,
        )
    scaled = f" times the adapter's scaling {scaling:.6g}" if abs(value) <= LARGEST else ""
    return InvalidArgument(
        f"tensor {name!r} holds {value:.6g} at {index}, which{scaled} is beyond {LARGEST:.3g}, the largest "
        "number that an adapter can act with: "
        + ("lower lora_alpha" if scaled else "the training diverged; train again"),
        reason="TENSOR_OUT_OF_RANGE",
        tensor=name,
        index=index,
    )
