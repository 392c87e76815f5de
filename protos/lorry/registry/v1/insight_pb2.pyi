from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LineageNodeKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LINEAGE_NODE_KIND_UNSPECIFIED: _ClassVar[LineageNodeKind]
    LINEAGE_NODE_KIND_VERSION: _ClassVar[LineageNodeKind]
    LINEAGE_NODE_KIND_BASE: _ClassVar[LineageNodeKind]
    LINEAGE_NODE_KIND_DATASET: _ClassVar[LineageNodeKind]
    LINEAGE_NODE_KIND_RECIPE: _ClassVar[LineageNodeKind]
    LINEAGE_NODE_KIND_CODE: _ClassVar[LineageNodeKind]
    LINEAGE_NODE_KIND_EVALUATION: _ClassVar[LineageNodeKind]
LINEAGE_NODE_KIND_UNSPECIFIED: LineageNodeKind
LINEAGE_NODE_KIND_VERSION: LineageNodeKind
LINEAGE_NODE_KIND_BASE: LineageNodeKind
LINEAGE_NODE_KIND_DATASET: LineageNodeKind
LINEAGE_NODE_KIND_RECIPE: LineageNodeKind
LINEAGE_NODE_KIND_CODE: LineageNodeKind
LINEAGE_NODE_KIND_EVALUATION: LineageNodeKind

class LineageGraph(_message.Message):
    __slots__ = ("nodes", "edges", "truncated")
    NODES_FIELD_NUMBER: _ClassVar[int]
    EDGES_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[LineageNode]
    edges: _containers.RepeatedCompositeFieldContainer[LineageEdge]
    truncated: bool
    def __init__(self, nodes: _Optional[_Iterable[_Union[LineageNode, _Mapping]]] = ..., edges: _Optional[_Iterable[_Union[LineageEdge, _Mapping]]] = ..., truncated: _Optional[bool] = ...) -> None: ...

class LineageNode(_message.Message):
    __slots__ = ("id", "kind", "label", "digest", "version", "metrics")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    id: str
    kind: LineageNodeKind
    label: str
    digest: str
    version: str
    metrics: _containers.ScalarMap[str, float]
    def __init__(self, id: _Optional[str] = ..., kind: _Optional[_Union[LineageNodeKind, str]] = ..., label: _Optional[str] = ..., digest: _Optional[str] = ..., version: _Optional[str] = ..., metrics: _Optional[_Mapping[str, float]] = ...) -> None: ...

class LineageEdge(_message.Message):
    __slots__ = ("source", "target", "relation")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    RELATION_FIELD_NUMBER: _ClassVar[int]
    source: str
    target: str
    relation: str
    def __init__(self, source: _Optional[str] = ..., target: _Optional[str] = ..., relation: _Optional[str] = ...) -> None: ...

class Comparison(_message.Message):
    __slots__ = ("first", "second", "identical", "values", "metrics", "modules")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    SECOND_FIELD_NUMBER: _ClassVar[int]
    IDENTICAL_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    MODULES_FIELD_NUMBER: _ClassVar[int]
    first: str
    second: str
    identical: bool
    values: _containers.RepeatedCompositeFieldContainer[ValueComparison]
    metrics: _containers.RepeatedCompositeFieldContainer[MetricComparison]
    modules: _containers.RepeatedCompositeFieldContainer[ModuleComparison]
    def __init__(self, first: _Optional[str] = ..., second: _Optional[str] = ..., identical: _Optional[bool] = ..., values: _Optional[_Iterable[_Union[ValueComparison, _Mapping]]] = ..., metrics: _Optional[_Iterable[_Union[MetricComparison, _Mapping]]] = ..., modules: _Optional[_Iterable[_Union[ModuleComparison, _Mapping]]] = ...) -> None: ...

class ValueComparison(_message.Message):
    __slots__ = ("path", "first", "second")
    PATH_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    SECOND_FIELD_NUMBER: _ClassVar[int]
    path: str
    first: str
    second: str
    def __init__(self, path: _Optional[str] = ..., first: _Optional[str] = ..., second: _Optional[str] = ...) -> None: ...

class MetricComparison(_message.Message):
    __slots__ = ("name", "first", "second")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    SECOND_FIELD_NUMBER: _ClassVar[int]
    name: str
    first: float
    second: float
    def __init__(self, name: _Optional[str] = ..., first: _Optional[float] = ..., second: _Optional[float] = ...) -> None: ...

class ModuleComparison(_message.Message):
    __slots__ = ("module", "factors", "first_effect", "second_effect", "effect_difference")
    MODULE_FIELD_NUMBER: _ClassVar[int]
    FACTORS_FIELD_NUMBER: _ClassVar[int]
    FIRST_EFFECT_FIELD_NUMBER: _ClassVar[int]
    SECOND_EFFECT_FIELD_NUMBER: _ClassVar[int]
    EFFECT_DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    module: str
    factors: _containers.RepeatedCompositeFieldContainer[FactorComparison]
    first_effect: float
    second_effect: float
    effect_difference: float
    def __init__(self, module: _Optional[str] = ..., factors: _Optional[_Iterable[_Union[FactorComparison, _Mapping]]] = ..., first_effect: _Optional[float] = ..., second_effect: _Optional[float] = ..., effect_difference: _Optional[float] = ...) -> None: ...

class FactorComparison(_message.Message):
    __slots__ = ("name", "first_norm", "second_norm")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FIRST_NORM_FIELD_NUMBER: _ClassVar[int]
    SECOND_NORM_FIELD_NUMBER: _ClassVar[int]
    name: str
    first_norm: float
    second_norm: float
    def __init__(self, name: _Optional[str] = ..., first_norm: _Optional[float] = ..., second_norm: _Optional[float] = ...) -> None: ...
