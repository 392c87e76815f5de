"""Whether every number of an adapter is finite, read in pieces: memory does not grow with the file.

NaN or infinity in one adapter would spread to every answer given with it, so such a file never gets in.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lorry_registry.checks.safetensors_header import TensorInfo
from lorry_registry.errors import InvalidArgument

CHUNK_BYTES = 8 << 20

_FLOATS: Mapping[str, np.dtype[np.floating]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
}
_BF16_EXPONENT = np.uint16(0x7F80)


def check_finite(path: Path, tensors: Mapping[str, TensorInfo]) -> None:
    """Reads every floating-point tensor of the file.

    Raises:
        InvalidArgument: `TENSOR_NOT_FINITE`, naming the first tensor and the index of its first such value.
    """
    with path.open("rb") as stream:
        for name, tensor in tensors.items():
            if tensor.dtype not in _FLOATS and tensor.dtype != "BF16":
                continue
            stream.seek(tensor.start)
            index = 0
            remaining = tensor.size_bytes
            while remaining:
                data = stream.read(min(remaining, CHUNK_BYTES))
                if not data:
                    raise InvalidArgument(
                        f"the file ends within tensor {name!r}: was it cut off?",
                        reason="HEADER_INVALID",
                        tensor=name,
                    )
                finite = _finite(data, tensor.dtype)
                if not finite.all():
                    at = index + int(np.argmin(finite))
                    raise _not_finite(name, tensor, at)
                index += finite.size
                remaining -= len(data)


def _finite(data: bytes, dtype: str) -> npt.NDArray[np.bool_]:
    if dtype == "BF16":
        # numpy has no bfloat16; an exponent of all ones is infinity or NaN.
        bits = np.frombuffer(data, "<u2")
        finite: npt.NDArray[np.bool_] = (bits & _BF16_EXPONENT) != _BF16_EXPONENT
        return finite
    return np.isfinite(np.frombuffer(data, _FLOATS[dtype]))


def _not_finite(name: str, tensor: TensorInfo, flat_index: int) -> InvalidArgument:
    index = [int(i) for i in np.unravel_index(flat_index, tensor.shape)] if tensor.shape else []
    return InvalidArgument(
        f"tensor {name!r} holds NaN or infinity, first at {index}: "
        "the training diverged; lower the learning rate and train again",
        reason="TENSOR_NOT_FINITE",
        tensor=name,
        index=index,
    )
