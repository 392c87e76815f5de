import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from lorry.registry.v1 import resources_pb2 as _resources_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EventKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EVENT_KIND_UNSPECIFIED: _ClassVar[EventKind]
    EVENT_KIND_ADAPTER_CREATED: _ClassVar[EventKind]
    EVENT_KIND_ADAPTER_UPDATED: _ClassVar[EventKind]
    EVENT_KIND_ADAPTER_DELETED: _ClassVar[EventKind]
    EVENT_KIND_ADAPTER_UNDELETED: _ClassVar[EventKind]
    EVENT_KIND_VERSION_CREATED: _ClassVar[EventKind]
    EVENT_KIND_VERSION_UPDATED: _ClassVar[EventKind]
    EVENT_KIND_VERSION_DELETED: _ClassVar[EventKind]
    EVENT_KIND_VERSION_UNDELETED: _ClassVar[EventKind]
    EVENT_KIND_VERSION_DEPRECATED: _ClassVar[EventKind]
    EVENT_KIND_VERSION_UNDEPRECATED: _ClassVar[EventKind]
    EVENT_KIND_VERSION_BLOCKED: _ClassVar[EventKind]
    EVENT_KIND_VERSION_UNBLOCKED: _ClassVar[EventKind]
    EVENT_KIND_ALIAS_MOVED: _ClassVar[EventKind]
    EVENT_KIND_ALIAS_DELETED: _ClassVar[EventKind]
EVENT_KIND_UNSPECIFIED: EventKind
EVENT_KIND_ADAPTER_CREATED: EventKind
EVENT_KIND_ADAPTER_UPDATED: EventKind
EVENT_KIND_ADAPTER_DELETED: EventKind
EVENT_KIND_ADAPTER_UNDELETED: EventKind
EVENT_KIND_VERSION_CREATED: EventKind
EVENT_KIND_VERSION_UPDATED: EventKind
EVENT_KIND_VERSION_DELETED: EventKind
EVENT_KIND_VERSION_UNDELETED: EventKind
EVENT_KIND_VERSION_DEPRECATED: EventKind
EVENT_KIND_VERSION_UNDEPRECATED: EventKind
EVENT_KIND_VERSION_BLOCKED: EventKind
EVENT_KIND_VERSION_UNBLOCKED: EventKind
EVENT_KIND_ALIAS_MOVED: EventKind
EVENT_KIND_ALIAS_DELETED: EventKind

class WatchRequest(_message.Message):
    __slots__ = ("parent", "resume_token", "heartbeat", "filter")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    parent: str
    resume_token: str
    heartbeat: _duration_pb2.Duration
    filter: str
    def __init__(self, parent: _Optional[str] = ..., resume_token: _Optional[str] = ..., heartbeat: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., filter: _Optional[str] = ...) -> None: ...

class WatchResponse(_message.Message):
    __slots__ = ("resume_token", "position", "events")
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    resume_token: str
    position: int
    events: _containers.RepeatedCompositeFieldContainer[Event]
    def __init__(self, resume_token: _Optional[str] = ..., position: _Optional[int] = ..., events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ...) -> None: ...

class GetPositionRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetPositionResponse(_message.Message):
    __slots__ = ("position",)
    POSITION_FIELD_NUMBER: _ClassVar[int]
    position: int
    def __init__(self, position: _Optional[int] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("position", "kind", "event_time", "principal", "adapter", "version", "digest", "alias", "targets", "why")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    position: int
    kind: EventKind
    event_time: _timestamp_pb2.Timestamp
    principal: str
    adapter: str
    version: int
    digest: str
    alias: str
    targets: _containers.RepeatedCompositeFieldContainer[_resources_pb2.AliasTarget]
    why: str
    def __init__(self, position: _Optional[int] = ..., kind: _Optional[_Union[EventKind, str]] = ..., event_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., principal: _Optional[str] = ..., adapter: _Optional[str] = ..., version: _Optional[int] = ..., digest: _Optional[str] = ..., alias: _Optional[str] = ..., targets: _Optional[_Iterable[_Union[_resources_pb2.AliasTarget, _Mapping]]] = ..., why: _Optional[str] = ...) -> None: ...
