"""What an adapter's tensors are: each by its name in the file, in its place in a base. Names alone, no bytes."""

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class AdapterModule:
    """Low-rank factors for one linear layer of a base, y += scaling · B (A x), or for an embedding."""

    path: str  # as the base names it, `model.layers.0.self_attn.q_proj`
    rank: int
    scaling: float
    a: str  # name of the tensor A, [rank, in_features]; of an embedding [rank, num_embeddings]
    b: str  # name of the tensor B, [out_features, rank]; of an embedding [embedding_dim, rank]
    magnitude: str = ""  # DoRA's, [out_features]
    bias: str = ""  # of B, [out_features]: scaled as B is
    embedding: bool = False


@dataclass(frozen=True, slots=True)
class Scale:
    """A vector that multiplies what goes into a linear layer, or what comes out of it (IA³)."""

    path: str
    tensor: str
    of_input: bool
    size: int  # features


@dataclass(frozen=True, slots=True)
class TokenRows:
    """New rows for some tokens of an embedding or an output head."""

    tensor: str  # [number of indices, features]
    indices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BottleneckPart:
    """A narrow pair of layers after a linear layer."""

    path: str
    features: int  # of the layer's output
    scaling: float  # of what comes out of `up`
    down_weight: str
    down_bias: str
    up_weight: str
    up_bias: str


@dataclass(frozen=True, slots=True)
class VirtualPart:
    """What stands before every sequence."""

    tensor: str  # [num_virtual_tokens, width]
    injected: bool  # keys and values of every layer; else embeddings


@dataclass(frozen=True, slots=True)
class Parts:
    """Every tensor of a file. Paths of parameters end in `.weight` or `.bias`."""

    modules: Mapping[str, AdapterModule] = field(default_factory=dict)  # by the layer's path
    scales: Mapping[str, Scale] = field(default_factory=dict)  # by the layer's path
    replaced: Mapping[str, str] = field(default_factory=dict)
    """Tensors that take the place of the base's own, by the parameter's path."""
    tokens: Mapping[str, TokenRows] = field(default_factory=dict)  # by the module's path
    copies: Mapping[str, str] = field(default_factory=dict)
    """Tensors that should be the base's own and are only checked, by the parameter's path."""
    heads: Mapping[str, str] = field(default_factory=dict)  # `score.weight`: what no base has
    bottlenecks: Mapping[str, BottleneckPart] = field(default_factory=dict)  # by the layer's path
    virtual: VirtualPart | None = None

    @property
    def max_rank(self) -> int:
        return max((module.rank for module in self.modules.values()), default=0)

    @property
    def module_count(self) -> int:
        """How many modules of a base it acts on."""
        parameters = {path.rpartition(".")[0] for path in (*self.replaced, *self.heads)}
        return len({*self.modules, *self.scales, *self.tokens, *parameters, *self.bottlenecks})

    @property
    def scalings(self) -> dict[str, float]:
        """What tensors are multiplied by before they act, by name."""
        scaled = [(module.scaling, (module.b, module.bias)) for module in self.modules.values()] + [
            (each.scaling, (each.up_weight, each.up_bias)) for each in self.bottlenecks.values()
        ]
        return {name: scaling for scaling, names in scaled for name in names if name}

    def may_act(self, zeros: Set[str]) -> bool:
        """Whether it can change anything, `zeros` being the tensors that are nothing but zeros.

        What replaces something may be the same as what it replaces; that shows where the base is.
        """
        others = (self.scales, self.replaced, self.tokens, self.heads, self.bottlenecks)
        if any(others) or self.virtual is not None:
            return True
        return any(
            module.magnitude
            or (module.bias and module.bias not in zeros)
            or not {module.a, module.b} & zeros
            for module in self.modules.values()
        )

    def tensors(self) -> Iterator[str]:
        """The names of all tensors that have a place."""
        for module in self.modules.values():
            yield from filter(None, (module.a, module.b, module.magnitude, module.bias))
        yield from (scale.tensor for scale in self.scales.values())
        yield from (rows.tensor for rows in self.tokens.values())
        for each in self.bottlenecks.values():
            yield from (each.down_weight, each.down_bias, each.up_weight, each.up_bias)
        if self.virtual is not None:
            yield self.virtual.tensor
        for names in (self.replaced, self.copies, self.heads):
            yield from names.values()
