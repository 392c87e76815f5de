import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from lorry.inference.v1 import composition_pb2 as _composition_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Tier(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TIER_UNSPECIFIED: _ClassVar[Tier]
    TIER_DISK: _ClassVar[Tier]
    TIER_HOST: _ClassVar[Tier]
    TIER_SLOT: _ClassVar[Tier]

class MergeCause(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MERGE_CAUSE_UNSPECIFIED: _ClassVar[MergeCause]
    MERGE_CAUSE_OPERATOR: _ClassVar[MergeCause]
    MERGE_CAUSE_REQUEST: _ClassVar[MergeCause]
    MERGE_CAUSE_AUTO: _ClassVar[MergeCause]
TIER_UNSPECIFIED: Tier
TIER_DISK: Tier
TIER_HOST: Tier
TIER_SLOT: Tier
MERGE_CAUSE_UNSPECIFIED: MergeCause
MERGE_CAUSE_OPERATOR: MergeCause
MERGE_CAUSE_REQUEST: MergeCause
MERGE_CAUSE_AUTO: MergeCause

class Resident(_message.Message):
    __slots__ = ("digest", "references", "tier", "rank", "size_bytes", "pinned", "requests_in_flight", "load_duration", "last_used_time", "logit_change", "merged")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    REFERENCES_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    LOAD_DURATION_FIELD_NUMBER: _ClassVar[int]
    LAST_USED_TIME_FIELD_NUMBER: _ClassVar[int]
    LOGIT_CHANGE_FIELD_NUMBER: _ClassVar[int]
    MERGED_FIELD_NUMBER: _ClassVar[int]
    digest: str
    references: _containers.RepeatedScalarFieldContainer[str]
    tier: Tier
    rank: int
    size_bytes: int
    pinned: bool
    requests_in_flight: int
    load_duration: _duration_pb2.Duration
    last_used_time: _timestamp_pb2.Timestamp
    logit_change: float
    merged: bool
    def __init__(self, digest: _Optional[str] = ..., references: _Optional[_Iterable[str]] = ..., tier: _Optional[_Union[Tier, str]] = ..., rank: _Optional[int] = ..., size_bytes: _Optional[int] = ..., pinned: _Optional[bool] = ..., requests_in_flight: _Optional[int] = ..., load_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., last_used_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., logit_change: _Optional[float] = ..., merged: _Optional[bool] = ...) -> None: ...

class ListResidentsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListResidentsResponse(_message.Message):
    __slots__ = ("residents",)
    RESIDENTS_FIELD_NUMBER: _ClassVar[int]
    residents: _containers.RepeatedCompositeFieldContainer[Resident]
    def __init__(self, residents: _Optional[_Iterable[_Union[Resident, _Mapping]]] = ...) -> None: ...

class LoadAdapterRequest(_message.Message):
    __slots__ = ("adapter", "composition", "pin")
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    COMPOSITION_FIELD_NUMBER: _ClassVar[int]
    PIN_FIELD_NUMBER: _ClassVar[int]
    adapter: str
    composition: _composition_pb2.Composition
    pin: bool
    def __init__(self, adapter: _Optional[str] = ..., composition: _Optional[_Union[_composition_pb2.Composition, _Mapping]] = ..., pin: _Optional[bool] = ...) -> None: ...

class PinAdapterRequest(_message.Message):
    __slots__ = ("adapter", "pinned")
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    adapter: str
    pinned: bool
    def __init__(self, adapter: _Optional[str] = ..., pinned: _Optional[bool] = ...) -> None: ...

class UnloadAdapterRequest(_message.Message):
    __slots__ = ("adapter",)
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    adapter: str
    def __init__(self, adapter: _Optional[str] = ...) -> None: ...

class UnloadAdapterResponse(_message.Message):
    __slots__ = ("digest",)
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    digest: str
    def __init__(self, digest: _Optional[str] = ...) -> None: ...

class MergeAdapterRequest(_message.Message):
    __slots__ = ("adapter", "composition")
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    COMPOSITION_FIELD_NUMBER: _ClassVar[int]
    adapter: str
    composition: _composition_pb2.Composition
    def __init__(self, adapter: _Optional[str] = ..., composition: _Optional[_Union[_composition_pb2.Composition, _Mapping]] = ...) -> None: ...

class UnmergeAdapterRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class UnmergeAdapterResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Merge(_message.Message):
    __slots__ = ("digest", "references", "cause", "active", "size_bytes", "merge_duration")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    REFERENCES_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MERGE_DURATION_FIELD_NUMBER: _ClassVar[int]
    digest: str
    references: _containers.RepeatedScalarFieldContainer[str]
    cause: MergeCause
    active: bool
    size_bytes: int
    merge_duration: _duration_pb2.Duration
    def __init__(self, digest: _Optional[str] = ..., references: _Optional[_Iterable[str]] = ..., cause: _Optional[_Union[MergeCause, str]] = ..., active: _Optional[bool] = ..., size_bytes: _Optional[int] = ..., merge_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Status(_message.Message):
    __slots__ = ("version", "base", "base_fingerprint", "device", "context_length", "queued_requests", "running_requests", "kv_blocks_used", "kv_blocks_total", "slots_used", "slots_total", "max_rank", "start_time", "registry", "merge")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    BASE_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    QUEUED_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    RUNNING_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    KV_BLOCKS_USED_FIELD_NUMBER: _ClassVar[int]
    KV_BLOCKS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    SLOTS_USED_FIELD_NUMBER: _ClassVar[int]
    SLOTS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    MAX_RANK_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    REGISTRY_FIELD_NUMBER: _ClassVar[int]
    MERGE_FIELD_NUMBER: _ClassVar[int]
    version: str
    base: str
    base_fingerprint: str
    device: str
    context_length: int
    queued_requests: int
    running_requests: int
    kv_blocks_used: int
    kv_blocks_total: int
    slots_used: int
    slots_total: int
    max_rank: int
    start_time: _timestamp_pb2.Timestamp
    registry: RegistryLink
    merge: Merge
    def __init__(self, version: _Optional[str] = ..., base: _Optional[str] = ..., base_fingerprint: _Optional[str] = ..., device: _Optional[str] = ..., context_length: _Optional[int] = ..., queued_requests: _Optional[int] = ..., running_requests: _Optional[int] = ..., kv_blocks_used: _Optional[int] = ..., kv_blocks_total: _Optional[int] = ..., slots_used: _Optional[int] = ..., slots_total: _Optional[int] = ..., max_rank: _Optional[int] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., registry: _Optional[_Union[RegistryLink, _Mapping]] = ..., merge: _Optional[_Union[Merge, _Mapping]] = ...) -> None: ...

class RegistryLink(_message.Message):
    __slots__ = ("address", "connected", "silence", "position")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    SILENCE_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    address: str
    connected: bool
    silence: _duration_pb2.Duration
    position: int
    def __init__(self, address: _Optional[str] = ..., connected: _Optional[bool] = ..., silence: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., position: _Optional[int] = ...) -> None: ...
