"""The nouns of access beside tokens: namespaces with their quotas, callers, and what the audit log holds."""

from dataclasses import dataclass, field
from datetime import datetime

from lorry_registry.access.rights import EVERY_RIGHT, Rights
from lorry_registry.principal import ANONYMOUS


@dataclass(frozen=True, slots=True)
class Quotas:
    """What a namespace may hold and use; 0 means no bound."""

    max_adapters: int = 0
    max_versions: int = 0
    max_bytes: int = 0
    requests_per_minute: int = 0
    tokens_per_minute: int = 0


@dataclass(frozen=True, slots=True)
class Namespace:
    """Adapters that belong together: what grants and quotas are about."""

    name: str
    description: str = ""
    quotas: Quotas = field(default_factory=Quotas)
    create_time: datetime | None = None  # None for one that adapters name and nobody created
    etag: str = ""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and what they may do."""

    principal: str
    rights: Rights


ANYONE = Caller(ANONYMOUS, EVERY_RIGHT)
"""Whoever calls, where nobody is asked who they are."""


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """Something that was done, or refused. Namespaces: those that it was about; none where it was about all."""

    time: datetime
    principal: str
    peer: str
    action: str
    namespace: str
    resource: str
    outcome: str  # `OK`, or the status code's name
    reason: str = ""
    number: int = 0  # the log's own, once it is in
