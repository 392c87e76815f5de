"""Kinds that are nothing but parameters trained anew: norms (LN_TUNING), embeddings of tokens (TRAINABLE_TOKENS).

PEFT's names: `<module>.ln_tuning_layers.weight`, `<module>.trainable_tokens_delta`.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lorry_registry.checks.adapter_config import AdapterConfig, read_common, token_indices
from lorry_registry.checks.fit import check_parts
from lorry_registry.checks.names import ADAPTER, SAVED, TensorName, refuse_tensor, take_apart
from lorry_registry.checks.parts import Parts
from lorry_registry.checks.safetensors_header import TensorInfo
from lorry_registry.checks.saved import check_matrix_or_vector, read_saved
from lorry_registry.checks.targeting import is_targeted
from lorry_registry.entities import Base
from lorry_registry.errors import InvalidArgument

_NAMES: Mapping[str, str] = {
    "norm": rf"\.ln_tuning_layers{ADAPTER}\.(?P<parameter>weight|bias)",
    **SAVED,
    "tokens": rf"(?:\.token_adapter)?\.trainable_tokens_delta{ADAPTER}",
}
KEYS = frozenset({"token_indices", "init_weights"})


class WholeKind:
    """The Kinds `LN_TUNING` and `TRAINABLE_TOKENS`."""

    def parse_config(self, raw: Mapping[str, Any]) -> AdapterConfig:
        config = AdapterConfig(**read_common(raw, known=KEYS))
        if "token_indices" not in raw:
            return config
        return replace(config, token_indices=token_indices(raw["token_indices"], "token_indices"))

    def read_parts(
        self, config: AdapterConfig, tensors: Mapping[str, TensorInfo], max_modules: int
    ) -> Parts:
        names = take_apart(tensors, _NAMES, config.peft_type)
        if len(names) > 2 * max_modules:  # a weight and a bias each
            raise InvalidArgument(
                f"the file has {len(names)} tensors, and the base has {max_modules} modules that could have them: the "
                "adapter was trained on another base",
                reason="MODULES_TOO_MANY",
                modules=len(names),
                max_modules=max_modules,
            )
        norms = {
            f"{name.module}.{name.parameter}": _norm(config, name, tensors)
            for name in names
            if name.part == "norm"
        }
        replaced, tokens, copies, heads = read_saved(
            config, (name for name in names if name.part != "norm"), tensors
        )
        if not norms and not tokens:
            raise InvalidArgument(
                f"adapter_model.safetensors holds nothing of the kind {config.peft_type}: save the adapter after "
                "training it",
                reason="ADAPTER_EMPTY",
            )
        return Parts(replaced={**replaced, **norms}, tokens=tokens, copies=copies, heads=heads)

    def check_fit(
        self, config: AdapterConfig, parts: Parts, tensors: Mapping[str, TensorInfo], base: Base
    ) -> None:
        check_parts(config, parts, tensors, base)


def _norm(config: AdapterConfig, name: TensorName, tensors: Mapping[str, TensorInfo]) -> str:
    check_matrix_or_vector(name, tensors[name.tensor])
    if not is_targeted(config, name.module):
        raise refuse_tensor(
            f"tensor {name.tensor!r} is for module {name.module!r}, which adapter_config.json does not target: "
            "it would have no effect in PEFT",
            "TENSOR_UNKNOWN",
            name.tensor,
            name.module,
        )
    return name.tensor
