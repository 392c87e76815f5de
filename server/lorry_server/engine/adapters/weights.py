"""What an adapter does to a base, in the few forms that the engine runs. Every kind is read into these.

Every field of every form is what the adapter *adds*, so that a weighted sum of adapters is the weighted sum of their
fields, exactly, whatever their kinds (low-rank factors are summed by laying them side by side, rows by their union).
What is None adds nothing. Tensors are in float32 or the engine's dtype.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields

import torch


@dataclass(frozen=True, slots=True)
class RowsUpdate:
    """What is added to a few rows of a matrix: those of some tokens, in an embedding or an output head."""

    indices: torch.Tensor  # [num_rows] int64, ascending, each once
    delta: torch.Tensor  # [num_rows, width]

    @property
    def size_bytes(self) -> int:
        return self.indices.nbytes + self.delta.nbytes


@dataclass(frozen=True, slots=True)
class LinearUpdate:
    """One linear layer's update. For a base layer `y = W x + c`:

    `y' = y  +  W (in_delta ⊙ x)  +  out_delta ⊙ (W x)  +  (x aᵀ) b  +  weight x  +  rows x  +  bias`

    A scale is already in `b`. `rows` is a `weight` of which only some rows (outputs) are not zero.
    """

    a: torch.Tensor | None = None  # [rank, in_features]
    b: torch.Tensor | None = None  # [rank, out_features]
    in_delta: torch.Tensor | None = None  # [in_features]
    out_delta: torch.Tensor | None = None  # [out_features]
    bias: torch.Tensor | None = None  # [out_features]
    weight: torch.Tensor | None = None  # [out_features, in_features]
    rows: RowsUpdate | None = None  # of out_features rows, [in_features] each

    @property
    def rank(self) -> int:
        return 0 if self.a is None else self.a.shape[0]

    @property
    def size_bytes(self) -> int:
        return sum(map(_bytes, _parts(self)))

    @property
    def has_vectors(self) -> bool:
        """Whether it does more than LoRA."""
        return any(part is not None for part in _parts(self)[2:])

    @property
    def dense_bytes(self) -> int:
        """Of these, what no pool has room for: memory that this slot takes besides."""
        return _bytes(self.weight) + _bytes(self.rows)


@dataclass(frozen=True, slots=True)
class EmbeddingUpdate:
    """One embedding's update. For a base that says `y = s · E[t]` of token `t` (s is its own scale, mostly 1):

    `y' = y  +  out_delta ⊙ y  +  s · (a[t] b  +  weight[t]  +  rows[t])`
    """

    a: torch.Tensor | None = None  # [num_embeddings, rank]
    b: torch.Tensor | None = None  # [rank, embedding_dim]
    out_delta: torch.Tensor | None = None  # [embedding_dim]
    weight: torch.Tensor | None = None  # [num_embeddings, embedding_dim]
    rows: RowsUpdate | None = None  # of num_embeddings rows, [embedding_dim] each

    @property
    def rank(self) -> int:
        return 0 if self.a is None else self.a.shape[1]

    @property
    def size_bytes(self) -> int:
        return sum(map(_bytes, _parts(self)))

    @property
    def dense_bytes(self) -> int:
        return self.size_bytes


@dataclass(frozen=True, slots=True)
class Head:
    """What an adapter judges with, and the base does not have: whole parameters."""

    task: str  # that it was trained for, as PEFT calls it: `SEQ_CLS`
    parameters: Mapping[str, torch.Tensor]  # by the parameter: `classifier.weight`

    @property
    def size_bytes(self) -> int:
        return sum(parameter.nbytes for parameter in self.parameters.values())

    def to(self, device: torch.device) -> Head:
        return Head(self.task, {path: each.to(device) for path, each in self.parameters.items()})


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """A narrow pair of layers after a linear layer: `y' = y + up · act(down · y + down_bias) + up_bias`.

    It reads what the layer says with everything else that an adapter adds there. No sum of two is one of these.
    """

    activation: str  # `relu`, `gelu`, `silu`, `tanh`
    down: torch.Tensor  # [size, out_features]
    down_bias: torch.Tensor  # [size]
    up: torch.Tensor  # [out_features, size]
    up_bias: torch.Tensor  # [out_features]

    @property
    def size_bytes(self) -> int:
        return sum(map(_bytes, _parts(self)))

    @property
    def dense_bytes(self) -> int:
        return self.size_bytes


@dataclass(frozen=True, slots=True)
class VirtualTokens:
    """What stands before every sequence: embeddings to be computed, or keys and values that are.

    One of the two is there. Keys are as a layer caches them: they are not turned by their position any more.
    """

    embeddings: torch.Tensor | None = (
        None  # [num_tokens, hidden_size], as the embedding module says them
    )
    keys: tuple[torch.Tensor, ...] = ()  # of each layer, [kv_heads, num_tokens, key_dim]
    values: tuple[torch.Tensor, ...] = ()  # of each layer, [kv_heads, num_tokens, value_dim]

    @property
    def count(self) -> int:
        return self.keys[0].shape[1] if self.embeddings is None else len(self.embeddings)

    @property
    def size_bytes(self) -> int:
        return sum(tensor.nbytes for _, tensor in self.tensors())

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        if self.embeddings is not None:
            yield "virtual embeddings", self.embeddings
        for name, layers in (("keys", self.keys), ("values", self.values)):
            for index, layer in enumerate(layers):
                yield f"virtual {name} of layer {index}", layer


@dataclass(frozen=True, slots=True)
class AdapterWeights:
    """All of one adapter, by dotted paths in the base as `named_modules` and `named_parameters` say them."""

    linears: Mapping[str, LinearUpdate] = field(default_factory=dict)  # by the layer
    embeddings: Mapping[str, EmbeddingUpdate] = field(default_factory=dict)  # by the module
    parameters: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """What is added to any other module's own parameters (norms), by the parameter, in its own shape."""
    head: Head | None = None
    bottlenecks: Mapping[str, Bottleneck] = field(default_factory=dict)  # by the layer
    virtual: VirtualTokens | None = None
    allow_no_effect: bool = False  # it says of itself that it may do nothing
    scalings: Mapping[str, float] = field(default_factory=dict)
    """LoRA's own by the layer: it is in `b` already, and PEFT's ways of merging want it apart."""

    @property
    def rank(self) -> int:
        return max(
            (
                *(update.rank for update in self.linears.values()),
                *(update.rank for update in self.embeddings.values()),
            ),
            default=0,
        )

    @property
    def size_bytes(self) -> int:
        return (
            sum(update.size_bytes for _, update in self._updates())
            + sum(delta.nbytes for delta in self.parameters.values())
            + self._size_of_wholes
        )

    @property
    def dense_bytes(self) -> int:
        """What it takes in device memory besides its share of the pools."""
        return sum(update.dense_bytes for _, update in self._updates()) + self._size_of_wholes

    @property
    def _size_of_wholes(self) -> int:
        return sum(part.size_bytes for part in (self.head, self.virtual) if part is not None)

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor of numbers with a name that says where it acts."""
        for path, update in self._updates():
            for name, part in zip(_names(update), _parts(update), strict=True):
                if isinstance(part, RowsUpdate):
                    yield f"{path} {name}", part.delta
                elif part is not None:
                    yield f"{path} {name}", part
        yield from self.parameters.items()
        if self.head is not None:
            yield from self.head.parameters.items()
        if self.virtual is not None:
            yield from self.virtual.tensors()

    def _updates(self) -> Iterator[tuple[str, _Update]]:
        yield from self.linears.items()
        yield from self.embeddings.items()
        yield from self.bottlenecks.items()


_Update = LinearUpdate | EmbeddingUpdate | Bottleneck
_Part = torch.Tensor | RowsUpdate | None


def _names(update: _Update) -> tuple[str, ...]:
    """Of the fields that hold numbers."""
    return tuple(each.name for each in fields(update) if each.name != "activation")


def _parts(update: _Update) -> tuple[_Part, ...]:
    return tuple(getattr(update, name) for name in _names(update))


def _bytes(part: _Part) -> int:
    if part is None:
        return 0
    return part.size_bytes if isinstance(part, RowsUpdate) else part.nbytes
