from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CompositionMethod(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COMPOSITION_METHOD_UNSPECIFIED: _ClassVar[CompositionMethod]
    COMPOSITION_METHOD_SUM: _ClassVar[CompositionMethod]
    COMPOSITION_METHOD_SVD: _ClassVar[CompositionMethod]
    COMPOSITION_METHOD_TIES: _ClassVar[CompositionMethod]
    COMPOSITION_METHOD_TIES_SVD: _ClassVar[CompositionMethod]
    COMPOSITION_METHOD_DARE_LINEAR: _ClassVar[CompositionMethod]
    COMPOSITION_METHOD_DARE_LINEAR_SVD: _ClassVar[CompositionMethod]
    COMPOSITION_METHOD_DARE_TIES: _ClassVar[CompositionMethod]
    COMPOSITION_METHOD_DARE_TIES_SVD: _ClassVar[CompositionMethod]
    COMPOSITION_METHOD_MAGNITUDE_PRUNE: _ClassVar[CompositionMethod]
    COMPOSITION_METHOD_MAGNITUDE_PRUNE_SVD: _ClassVar[CompositionMethod]
COMPOSITION_METHOD_UNSPECIFIED: CompositionMethod
COMPOSITION_METHOD_SUM: CompositionMethod
COMPOSITION_METHOD_SVD: CompositionMethod
COMPOSITION_METHOD_TIES: CompositionMethod
COMPOSITION_METHOD_TIES_SVD: CompositionMethod
COMPOSITION_METHOD_DARE_LINEAR: CompositionMethod
COMPOSITION_METHOD_DARE_LINEAR_SVD: CompositionMethod
COMPOSITION_METHOD_DARE_TIES: CompositionMethod
COMPOSITION_METHOD_DARE_TIES_SVD: CompositionMethod
COMPOSITION_METHOD_MAGNITUDE_PRUNE: CompositionMethod
COMPOSITION_METHOD_MAGNITUDE_PRUNE_SVD: CompositionMethod

class Composition(_message.Message):
    __slots__ = ("terms", "method", "density", "seed", "rank")
    TERMS_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    DENSITY_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    terms: _containers.RepeatedCompositeFieldContainer[CompositionTerm]
    method: CompositionMethod
    density: float
    seed: int
    rank: int
    def __init__(self, terms: _Optional[_Iterable[_Union[CompositionTerm, _Mapping]]] = ..., method: _Optional[_Union[CompositionMethod, str]] = ..., density: _Optional[float] = ..., seed: _Optional[int] = ..., rank: _Optional[int] = ...) -> None: ...

class CompositionTerm(_message.Message):
    __slots__ = ("adapter", "weight")
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    adapter: str
    weight: float
    def __init__(self, adapter: _Optional[str] = ..., weight: _Optional[float] = ...) -> None: ...

class ResolvedTerm(_message.Message):
    __slots__ = ("adapter", "digest", "weight")
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    adapter: str
    digest: str
    weight: float
    def __init__(self, adapter: _Optional[str] = ..., digest: _Optional[str] = ..., weight: _Optional[float] = ...) -> None: ...
