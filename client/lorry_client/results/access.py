"""Who may do what: callers, tokens, namespaces with their quotas, and the audit log."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from lorry_client.results.times import moment

if TYPE_CHECKING:
    from lorry.registry.v1 import access_service_pb2 as pb


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls; each grant is `role:namespace`, or `role:*`."""

    principal: str
    grants: tuple[str, ...]
    expire_time: datetime | None

    @classmethod
    def read(cls, message: pb.Caller) -> Caller:
        return cls(message.principal, tuple(message.grants), moment(message, "expire_time"))


@dataclass(frozen=True, slots=True)
class Token:
    """A token, as far as it may be shown; `id` is what `lorry tokens revoke` takes."""

    id: str
    display_name: str
    grants: tuple[str, ...]
    create_time: datetime | None
    created_by: str
    expire_time: datetime | None
    revoke_time: datetime | None

    @classmethod
    def read(cls, message: pb.Token) -> Token:
        return cls(
            id=message.name.rpartition("/")[2],
            display_name=message.display_name,
            grants=tuple(message.grants),
            create_time=moment(message, "create_time"),
            created_by=message.created_by,
            expire_time=moment(message, "expire_time"),
            revoke_time=moment(message, "revoke_time"),
        )


@dataclass(frozen=True, slots=True)
class FreshToken:
    """A new token. `text` is what clients send: it is shown this once, and kept nowhere."""

    token: Token
    text: str = field(repr=False)

    @classmethod
    def read(cls, message: pb.CreateTokenResponse) -> FreshToken:
        return cls(Token.read(message.token), message.text)


@dataclass(frozen=True, slots=True)
class Quotas:
    """What a namespace may hold and use; 0 means no bound."""

    max_adapters: int = 0
    max_versions: int = 0
    max_bytes: int = 0
    requests_per_minute: int = 0
    tokens_per_minute: int = 0

    @classmethod
    def read(cls, message: pb.Quotas) -> Quotas:
        return cls(**{name: getattr(message, name) for name in cls.__slots__})


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace; `create_time` is None where adapters name it and nobody created it."""

    name: str
    description: str
    quotas: Quotas
    create_time: datetime | None
    etag: str

    @classmethod
    def read(cls, message: pb.Namespace) -> Namespace:
        return cls(
            name=message.name.rpartition("/")[2],
            description=message.description,
            quotas=Quotas.read(message.quotas),
            create_time=moment(message, "create_time"),
            etag=message.etag,
        )


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """Something that was done, or refused: `outcome` is `OK` or a status code's name."""

    number: int
    time: datetime | None
    principal: str
    peer: str
    action: str
    resource: str
    outcome: str
    reason: str

    @classmethod
    def read(cls, message: pb.AuditEvent) -> AuditEvent:
        return cls(
            message.number,
            moment(message, "time"),
            message.principal,
            message.peer,
            message.action,
            message.resource,
            message.outcome,
            message.reason,
        )
