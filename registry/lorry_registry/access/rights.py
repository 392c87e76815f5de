"""What a caller may do: roles, each in one namespace or in all.

    read      see adapters, versions and aliases, and fetch their files
    infer     generate with adapters, without seeing their files
    publish   read, and create adapters and versions
    promote   read, and move aliases and a version's state
    admin     all of that, and tokens and the audit log

A grant is written `role:namespace`, with `*` for every namespace, those to come included.
"""

import re
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from lorry_registry.errors import InvalidArgument, NotFound, PermissionDenied
from lorry_registry.references import check_id

EVERYWHERE = "*"
MAX_GRANTS = 256

_GRANT = re.compile(r"(?P<role>[a-z]+):(?P<namespace>\S+)")


class Role(StrEnum):
    """What a grant allows."""

    READ = "read"
    INFER = "infer"
    PUBLISH = "publish"
    PROMOTE = "promote"
    ADMIN = "admin"


_INCLUDED: Mapping[Role, frozenset[Role]] = {
    Role.READ: frozenset({Role.READ}),
    Role.INFER: frozenset({Role.INFER}),
    Role.PUBLISH: frozenset({Role.PUBLISH, Role.READ}),
    Role.PROMOTE: frozenset({Role.PROMOTE, Role.READ}),
    Role.ADMIN: frozenset(Role),
}


@dataclass(frozen=True, slots=True, order=True)
class Grant:
    """A role in a namespace, or in all of them (`*`)."""

    role: Role
    namespace: str

    def __str__(self) -> str:
        return f"{self.role}:{self.namespace}"


def parse_grant(text: str) -> Grant:
    """Reads `role:namespace` or `role:*`. Raises InvalidArgument `GRANT_INVALID` or `NAME_INVALID`."""
    found = _GRANT.fullmatch(text)
    if found is None or found["role"] not in set(Role):
        raise InvalidArgument(
            f"{text[:100]!r} is no grant: write ROLE:NAMESPACE or ROLE:*, the role one of {', '.join(Role)}",
            reason="GRANT_INVALID",
            grant=text[:100],
        )
    namespace = found["namespace"]
    if namespace != EVERYWHERE:
        check_id(namespace, "namespace")
    return Grant(Role(found["role"]), namespace)


def parse_grants(texts: Iterable[str]) -> tuple[Grant, ...]:
    """As `parse_grant`, for at least one of them; in order, each once."""
    grants = tuple(sorted({parse_grant(text) for text in texts}))
    if not 1 <= len(grants) <= MAX_GRANTS:
        raise InvalidArgument(
            f"{len(grants)} grants are given: give 1 to {MAX_GRANTS}, read:search for example",
            reason="GRANT_INVALID",
        )
    return grants


@dataclass(frozen=True, slots=True)
class Rights:
    """All grants of a caller, and the questions that are asked of them."""

    grants: tuple[Grant, ...]
    expire_time: datetime | None = None  # None: they do not end by themselves

    @property
    def are_over(self) -> bool:
        return self.expire_time is not None and self.expire_time <= datetime.now(UTC)

    def allows(self, role: Role, namespace: str) -> bool:
        """Whether some grant includes the role there; `*` asks for a grant over every namespace."""
        return any(
            role in _INCLUDED[grant.role] and grant.namespace in (EVERYWHERE, namespace)
            for grant in self.grants
        )

    def allows_somewhere(self, role: Role) -> bool:
        return any(role in _INCLUDED[grant.role] for grant in self.grants)

    def sees(self, namespace: str) -> bool:
        """Whether the caller has any role there: elsewhere, nothing exists for it."""
        return any(grant.namespace in (EVERYWHERE, namespace) for grant in self.grants)

    def namespaces(self, role: Role) -> frozenset[str] | None:
        """Where the caller has the role; None means everywhere."""
        named = {grant.namespace for grant in self.grants if role in _INCLUDED[grant.role]}
        return None if EVERYWHERE in named else frozenset(named)

    def check(self, role: Role, namespace: str) -> None:
        """Permission comes before existence: what is refused here says nothing about what is there.

        Raises:
            NotFound: `NAMESPACE_NOT_FOUND`, the caller has no role in the namespace, whether there is one or not.
            PermissionDenied: `ROLE_MISSING`, it has others there.
        """
        if self.allows(role, namespace):
            return
        if not self.sees(namespace):
            raise NotFound(
                f"there is no namespace {namespace} that this caller may see: ask an administrator for a role in it",
                reason="NAMESPACE_NOT_FOUND",
                namespace=namespace,
            )
        raise role_missing(role, f"in namespace {namespace}")

    def check_somewhere(self, role: Role) -> None:
        """Raises PermissionDenied `ROLE_MISSING`."""
        if not self.allows_somewhere(role):
            raise role_missing(role, "in any namespace")

    def check_everywhere(self, role: Role) -> None:
        """Raises PermissionDenied `ROLE_MISSING`."""
        if not self.allows(role, EVERYWHERE):
            raise role_missing(role, "over all namespaces")


def role_missing(role: Role, where: str) -> PermissionDenied:
    return PermissionDenied(
        f"this needs the role {role} {where}, which the caller does not have: ask an administrator for it",
        reason="ROLE_MISSING",
        role=role,
    )


EVERY_RIGHT = Rights((Grant(Role.ADMIN, EVERYWHERE),))
"""Of whoever calls where nobody is asked who they are, and of code that calls the catalogue itself."""

current_rights: ContextVar[Rights] = ContextVar("current_rights", default=EVERY_RIGHT)
"""The caller's rights. They follow a call into `asyncio.to_thread`, which carries the context along."""
