"""What any kind may bring besides its own tensors: whole parameters, rows of embeddings, and copies of the base's."""

from collections.abc import Collection, Iterable, Mapping

from lorry_registry.checks.adapter_config import AdapterConfig
from lorry_registry.checks.names import TensorName, refuse_tensor, unknown_tensor
from lorry_registry.checks.parts import TokenRows
from lorry_registry.checks.safetensors_header import TensorInfo
from lorry_registry.errors import InvalidArgument

HEADS = ("score", "classifier")  # what PEFT trains whole for classification; no causal LM has one
_EMBEDDINGS = ("embed_tokens", "lm_head", "wte", "embed_in", "embed_out")
_DTYPES = ("F32", "F16", "BF16", "F64")

Saved = tuple[dict[str, str], dict[str, TokenRows], dict[str, str], dict[str, str]]


def read_saved(
    config: AdapterConfig,
    names: Iterable[TensorName],
    tensors: Mapping[str, TensorInfo],
    biases: Collection[str] | None = (),
) -> Saved:
    """The `replaced`, `tokens`, `copies` and `heads` of `Parts`, of the names that are no kind's own.

    `biases` are the modules whose biases were trained with the adapter; None means all.

    Raises InvalidArgument `TENSOR_UNKNOWN` for one that PEFT would not load into anything.
    """
    replaced: dict[str, str] = {}
    tokens: dict[str, TokenRows] = {}
    copies: dict[str, str] = {}
    heads: dict[str, str] = {}
    for name in names:
        check_matrix_or_vector(name, tensors[name.tensor])
        parameter = f"{name.module}.{name.parameter}"
        if name.part == "tokens":
            tokens[name.module] = _rows(config, name, tensors[name.tensor])
        elif name.parameter == "bias" and (biases is None or name.module in biases):
            replaced[parameter] = name.tensor
        elif name.part == "copy":
            copies[parameter] = name.tensor
        elif is_saved(config, name.module) or (
            config.modules_to_save and is_tied_embedding(config, name.module)
        ):
            place = heads if name.module in HEADS else replaced
            place[parameter] = name.tensor
        elif name.parameter == "weight" and name.module.rpartition(".")[2] in _EMBEDDINGS:
            copies[parameter] = name.tensor  # save_pretrained(save_embedding_layers=True)
        else:
            raise unknown_tensor(name.tensor, config.peft_type)
    _check_tokens(config, tokens)
    return replaced, tokens, copies, heads


def is_saved(config: AdapterConfig, module: str) -> bool:
    """Whether `modules_to_save` means a module, or one that it is inside of: PEFT compares endings of paths."""
    while module:
        if module.endswith(config.modules_to_save):
            return True
        module = module.rpartition(".")[0]
    return False


def is_tied_embedding(config: AdapterConfig, module: str) -> bool:
    """Whether PEFT writes a module beside the embedding that it is tied to, without naming it."""
    return config.ties_weights and module.rpartition(".")[2] in _EMBEDDINGS


def check_matrix_or_vector(name: TensorName, tensor: TensorInfo) -> None:
    """Raises InvalidArgument `DTYPE_UNSUPPORTED`, `SHAPE_MISMATCH` for what no parameter can be."""
    if tensor.dtype not in _DTYPES:
        raise refuse_tensor(
            f"tensor {name.tensor!r} is of type {tensor.dtype}, and must be one of {', '.join(_DTYPES)}",
            "DTYPE_UNSUPPORTED",
            name.tensor,
            name.module,
        )
    if len(tensor.shape) not in (1, 2) or 0 in tensor.shape:
        raise refuse_tensor(
            f"tensor {name.tensor!r} has the shape {list(tensor.shape)}, and must be a vector or a matrix "
            "(a sharded model must be gathered before it is saved)",
            "SHAPE_MISMATCH",
            name.tensor,
            name.module,
        )


def _rows(config: AdapterConfig, name: TensorName, tensor: TensorInfo) -> TokenRows:
    indices = next(
        (
            indices
            for ending, indices in config.token_indices.items()
            if name.module.endswith(ending)
        ),
        None,
    )
    if indices is None:
        raise refuse_tensor(
            f"tensor {name.tensor!r} has rows for tokens of {name.module!r}, for which adapter_config.json names "
            "none: save the adapter again, with its trainable_token_indices",
            "TENSOR_UNKNOWN",
            name.tensor,
            name.module,
        )
    if len(tensor.shape) != 2 or tensor.shape[0] != len(indices):
        raise refuse_tensor(
            f"tensor {name.tensor!r} has the shape {list(tensor.shape)}, and adapter_config.json names "
            f"{len(indices)} tokens: each needs its row",
            "SHAPE_MISMATCH",
            name.tensor,
            name.module,
        )
    return TokenRows(name.tensor, indices)


def _check_tokens(config: AdapterConfig, tokens: Mapping[str, TokenRows]) -> None:
    if config.token_indices and not tokens:
        raise InvalidArgument(
            "adapter_config.json names tokens whose embeddings were trained, and the file has no such embeddings: "
            "save the adapter again",
            reason="TENSOR_MISSING",
        )
