"""IA³: a vector for each layer, which multiplies what comes out of it, or into it where it is a feed-forward one.

PEFT's name: `<module>.ia3_l`, of the shape [out_features, 1], or [1, in_features] for a feed-forward module.
"""

from collections.abc import Mapping
from typing import Any

from lorry_registry.checks.adapter_config import AdapterConfig, read_common, strings
from lorry_registry.checks.fit import check_parts
from lorry_registry.checks.names import ADAPTER, SAVED, TensorName, refuse_tensor, take_apart
from lorry_registry.checks.parts import Parts, Scale
from lorry_registry.checks.safetensors_header import TensorInfo
from lorry_registry.checks.saved import check_matrix_or_vector, read_saved
from lorry_registry.checks.targeting import is_targeted
from lorry_registry.entities import Base
from lorry_registry.errors import InvalidArgument

KEYS = frozenset({"feedforward_modules", "init_ia3_weights"})
_NAMES: Mapping[str, str] = {"vector": rf"\.ia3_l{ADAPTER}", **SAVED}


class Ia3Kind:
    """The Kind `IA3`."""

    def parse_config(self, raw: Mapping[str, Any]) -> AdapterConfig:
        return AdapterConfig(**read_common(raw, known=KEYS))

    def read_parts(
        self, config: AdapterConfig, tensors: Mapping[str, TensorInfo], max_modules: int
    ) -> Parts:
        names = take_apart(tensors, _NAMES, config.peft_type)
        vectors = [name for name in names if name.part == "vector"]
        if not vectors:
            raise InvalidArgument(
                "adapter_model.safetensors holds no IA³ vectors: save the adapter after training it",
                reason="ADAPTER_EMPTY",
            )
        if len(vectors) > max_modules:
            raise InvalidArgument(
                f"the file has IA³ for {len(vectors)} modules, and the base has {max_modules} that could have it: "
                "the adapter was trained on another base",
                reason="MODULES_TOO_MANY",
                modules=len(vectors),
                max_modules=max_modules,
            )
        replaced, tokens, copies, heads = read_saved(
            config, (name for name in names if name.part in SAVED), tensors
        )
        return Parts(
            scales={name.module: _scale(config, name, tensors[name.tensor]) for name in vectors},
            replaced=replaced,
            tokens=tokens,
            copies=copies,
            heads=heads,
        )

    def check_fit(
        self, config: AdapterConfig, parts: Parts, tensors: Mapping[str, TensorInfo], base: Base
    ) -> None:
        check_parts(config, parts, tensors, base)


def _scale(config: AdapterConfig, name: TensorName, tensor: TensorInfo) -> Scale:
    check_matrix_or_vector(name, tensor)
    if len(tensor.shape) != 2 or 1 not in tensor.shape:
        raise refuse_tensor(
            f"tensor {name.tensor!r} has the shape {list(tensor.shape)}, and IA³ has [out_features, 1], or "
            "[1, in_features] for a feed-forward module",
            "SHAPE_MISMATCH",
            name.tensor,
            name.module,
        )
    of_input = tensor.shape[0] == 1
    feedforward = config.raw.get("feedforward_modules")
    # Where it is one regular expression, the shape tells, and a stranger's expression is not run.
    if isinstance(feedforward, list):
        named = name.module.endswith(strings(feedforward, "feedforward_modules"))
        if named != of_input and tensor.shape != (1, 1):
            raise refuse_tensor(
                f"tensor {name.tensor!r} has the shape {list(tensor.shape)}, and feedforward_modules in "
                f"adapter_config.json {'names' if named else 'does not name'} its module: save the adapter again",
                "KIND_MISMATCH",
                name.tensor,
                name.module,
            )
        of_input = named
    if not is_targeted(config, name.module):
        raise refuse_tensor(
            f"tensor {name.tensor!r} is for module {name.module!r}, which adapter_config.json does not target: "
            "it would have no effect in PEFT",
            "TENSOR_UNKNOWN",
            name.tensor,
            name.module,
        )
    return Scale(name.module, name.tensor, of_input, max(tensor.shape))
