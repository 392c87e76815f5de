"""Virtual tokens: prompt tuning, P-tuning and CPT (embeddings), prefix tuning and cartridges (keys and values).

PEFT saves one tensor, `prompt_embeddings`, [num_virtual_tokens, width]: what an encoder made, not the encoder. For keys
and values a row is [num_layers, 2, heads, dim].
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lorry_registry.checks.adapter_config import AdapterConfig, Refusal, invalid_config, read_common
from lorry_registry.checks.names import TensorName, refuse_tensor
from lorry_registry.checks.parts import Parts, VirtualPart
from lorry_registry.checks.safetensors_header import TensorInfo
from lorry_registry.checks.saved import check_matrix_or_vector
from lorry_registry.entities import Base
from lorry_registry.errors import InvalidArgument

_TENSOR = "prompt_embeddings"
_MAX_NUMBER = 1 << 20
# How the encoder was made and trained; what it made is in the file.
_KNOWN = {
    "cpt_mask",
    "cpt_prompt_init",
    "cpt_token_ids",
    "cpt_tokens_type_mask",
    "encoder_dropout",
    "encoder_hidden_size",
    "encoder_num_layers",
    "encoder_reparameterization_type",
    "init_weights",
    "num_attention_heads",
    "num_frozen_tokens",
    "num_layers",
    "num_transformer_submodules",
    "num_virtual_tokens",
    "opt_loss_decay_factor",
    "opt_projection_epsilon",
    "opt_projection_format_epsilon",
    "opt_weighted_loss_type",
    "prefix_projection",
    "prompt_tuning_init",
    "prompt_tuning_init_state_dict_path",
    "prompt_tuning_init_text",
    "token_dim",
    "tokenizer_kwargs",
    "tokenizer_name_or_path",
}
_REFUSED = (
    Refusal(
        "modules_to_save",
        "whole modules beside virtual tokens are not served",
        "train without modules_to_save",
    ),
)
_ATTENTION_OUT = ("o_proj", "out_proj", "c_proj", "dense")


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualConfig(AdapterConfig):
    """What an adapter puts before a sequence."""

    num_tokens: int
    num_layers: int
    num_heads: int
    token_dim: int


class VirtualKind:
    """The kinds `PROMPT_TUNING`, `P_TUNING`, `CPT`; and, `injected`, `PREFIX_TUNING`, `CARTRIDGE`."""

    def __init__(self, *, injected: bool) -> None:
        self._injected = injected

    def parse_config(self, raw: Mapping[str, Any]) -> VirtualConfig:
        if raw.get("num_transformer_submodules") not in (None, 1):
            raise invalid_config(
                "num_transformer_submodules is not 1: only decoders are served",
                field="num_transformer_submodules",
            )
        return VirtualConfig(
            **read_common(raw, known=_KNOWN, refused=_REFUSED),
            num_tokens=_number(raw, "num_virtual_tokens"),
            num_layers=_number(raw, "num_layers"),
            num_heads=_number(raw, "num_attention_heads"),
            token_dim=_number(raw, "token_dim"),
        )

    def read_parts(
        self, config: VirtualConfig, tensors: Mapping[str, TensorInfo], max_modules: int
    ) -> Parts:
        for name in tensors:
            if name != _TENSOR:
                raise refuse_tensor(
                    f"tensor {name[:200]!r} would have no effect: an adapter of the kind {config.peft_type} is one "
                    f"tensor, {_TENSOR}, which holds what an encoder makes. Save it with save_pretrained",
                    "TENSOR_UNKNOWN",
                    name,
                )
        if _TENSOR not in tensors:
            raise InvalidArgument(
                f"adapter_model.safetensors holds no tensor {_TENSOR}: save the adapter after training it",
                reason="ADAPTER_EMPTY",
            )
        tensor = tensors[_TENSOR]
        check_matrix_or_vector(TensorName(_TENSOR, "", ""), tensor)
        width = config.token_dim * (2 * config.num_layers if self._injected else 1)
        if tensor.shape != (config.num_tokens, width):
            raise refuse_tensor(
                f"tensor {_TENSOR!r} has the shape {list(tensor.shape)}, and adapter_config.json means "
                f"{[config.num_tokens, width]} (num_virtual_tokens, "
                f"{'2 · num_layers · token_dim' if self._injected else 'token_dim'}): save the adapter again",
                "SHAPE_MISMATCH",
                _TENSOR,
            )
        if self._injected and config.token_dim % config.num_heads:
            raise invalid_config(
                f"token_dim is {config.token_dim}, which {config.num_heads} heads cannot share",
                field="token_dim",
            )
        return Parts(virtual=VirtualPart(_TENSOR, self._injected))

    def check_fit(
        self,
        config: VirtualConfig,
        parts: Parts,
        tensors: Mapping[str, TensorInfo],
        base: Base,
    ) -> None:
        if 0 < base.context_length <= config.num_tokens + 1:
            raise InvalidArgument(
                f"the adapter has {config.num_tokens} virtual tokens, and the context of base {_name(base)} holds "
                f"{base.context_length}: with a prompt and an answer they do not fit",
                reason="CONTEXT_TOO_SHORT",
                virtual_tokens=config.num_tokens,
                context_length=base.context_length,
                base=base.fingerprint,
            )
        if self._injected:
            _check_layers(config, base)
        else:
            _check_width(config, base)


def _check_width(config: VirtualConfig, base: Base) -> None:
    """Embeddings are as wide as the base's own."""
    linears = {layer.path for layer in base.modules}
    widths = {
        parameter.shape[1]
        for parameter in base.parameters
        if len(parameter.shape) == 2 and parameter.path.rpartition(".")[0] not in linears
    }
    if widths and config.token_dim not in widths:
        raise refuse_tensor(
            f"tensor {_TENSOR!r} is for embeddings of {config.token_dim} features, and those of base {_name(base)} "
            f"have {' or '.join(map(str, sorted(widths)))}: the adapter was trained on another base",
            "SHAPE_MISMATCH",
            _TENSOR,
            "",
            base.fingerprint,
        )


def _check_layers(config: VirtualConfig, base: Base) -> None:
    """Keys are as wide as the base's projections make them, where their names tell; a server looks at its cache."""
    widths = list(key_widths(base))
    if widths and len(widths) != config.num_layers:
        raise refuse_tensor(
            f"tensor {_TENSOR!r} is for {config.num_layers} layers, and base {_name(base)} has {len(widths)}: the "
            "adapter was trained on another base",
            "SHAPE_MISMATCH",
            _TENSOR,
            "",
            base.fingerprint,
        )
    for width in widths:
        if width != config.token_dim:
            raise refuse_tensor(
                f"tensor {_TENSOR!r} has keys of {config.token_dim} features in each layer, and those of base "
                f"{_name(base)} have {width}: the adapter was trained on another base, or by a PEFT that knew no "
                "grouped query heads",
                "SHAPE_MISMATCH",
                _TENSOR,
                "",
                base.fingerprint,
            )


def key_widths(base: Base) -> Iterator[int]:
    """The features of each layer's keys, all heads together, from the shapes of its projections.

    Of a fused projection [queries | keys | values] that is half of what the queries leave, which are as wide as what
    goes into the projection after attention.
    """
    layers = {layer.path: layer for layer in base.modules}
    for path, layer in layers.items():
        parent, _, name = path.rpartition(".")
        if name == "k_proj":
            yield layer.out_features
        elif name in ("c_attn", "qkv_proj", "query_key_value", "Wqkv"):
            out = next(
                (layers.get(f"{parent}.{n}") for n in _ATTENTION_OUT if f"{parent}.{n}" in layers),
                None,
            )
            if out is not None:
                yield (layer.out_features - out.in_features) // 2


def _number(raw: Mapping[str, Any], field: str) -> int:
    value = raw.get(field)
    if type(value) is not int or not 0 < value <= _MAX_NUMBER:
        raise invalid_config(
            f"{field} is {str(value)[:40]!r}, and must be a number, 1 or more: save the adapter with "
            "save_pretrained, which fills it in",
            field=field,
        )
    return value


def _name(base: Base) -> str:
    return f"{base.display_name or 'unnamed'} ({base.fingerprint[:19]}…)"
