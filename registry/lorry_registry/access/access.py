"""The verbs of access: tokens, namespaces and the audit log, each within the rights of whoever calls.

Everything is synchronous and may block on the database: an event loop calls it in a thread.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from lorry_registry import references
from lorry_registry.access.entities import AuditEvent, Caller, Namespace, Quotas
from lorry_registry.access.rights import (
    EVERYWHERE,
    Grant,
    Rights,
    Role,
    current_rights,
    parse_grants,
)
from lorry_registry.access.store import AccessStore
from lorry_registry.access.tokens import (
    MAX_LIFETIME_DAYS,
    Token,
    is_token_id,
    make_token,
    matches,
    split_token,
)
from lorry_registry.errors import InvalidArgument, NotFound, PermissionDenied, Unauthenticated
from lorry_registry.limits import MAX_NAME_CHARACTERS, check_description, check_text
from lorry_registry.paging import MAX_PAGE_SIZE, Page, clip_page_size, decode_token, make_page
from lorry_registry.principal import current_principal

MAX_QUOTA = (1 << 63) - 1


class Access:
    """Over an access store. Safe to call from several threads."""

    def __init__(self, store: AccessStore) -> None:
        self._store = store

    # Tokens.

    def create_token(
        self,
        grants: Iterable[str],
        *,
        display_name: str = "",
        expire_time: datetime | None = None,
    ) -> tuple[Token, str]:
        """The token, and its text, which nobody can find out again.

        Raises:
            PermissionDenied: `GRANT_BEYOND_CALLER`, the caller does not administer what a grant is about.
            InvalidArgument: `GRANT_INVALID`, `EXPIRE_TIME_INVALID`.
        """
        wanted = parse_grants(grants)
        rights = current_rights.get()
        for grant in wanted:
            if not rights.allows(Role.ADMIN, grant.namespace):
                raise PermissionDenied(
                    f"a token with {grant} can only be created by an administrator of that namespace",
                    reason="GRANT_BEYOND_CALLER",
                    grant=grant,
                )
        check_text(display_name, "display_name", MAX_NAME_CHARACTERS)
        _check_expiry(expire_time)
        fresh = make_token()
        token = self._store.add_token(
            fresh,
            display_name=display_name,
            grants=wanted,
            created_by=current_principal.get(),
            expire_time=expire_time,
        )
        return token, fresh.text

    def get_token(self, token_id: str) -> Token:
        """Raises NotFound for one that the caller does not administer, whether it is there or not."""
        token = self._store.find_token(token_id) if is_token_id(token_id) else None
        if token is None or not _administers(token[0].grants):
            raise _no_token(token_id)
        return token[0]

    def list_tokens(self, *, page_size: int = 0, page_token: str = "") -> Page[Token]:
        """A page of those that the caller administers, newest first."""
        size = clip_page_size(page_size)
        key = decode_token(page_token, ("tokens",), types=(str,))
        after = None if key is None else str(key[0])
        mine: list[Token] = []
        while len(mine) <= size:  # a page token must name no token of others'
            rows = self._store.list_tokens(after=after, limit=MAX_PAGE_SIZE)
            mine += [token for token in rows if _administers(token.grants)]
            if len(rows) < MAX_PAGE_SIZE:
                break
            after = rows[-1].token_id
        return make_page(mine[: size + 1], size, lambda token: [token.token_id], ("tokens",))

    def revoke_token(self, token_id: str) -> Token:
        """As `get_token`, and the token is worth nothing from now on."""
        self.get_token(token_id)
        return self._store.revoke_token(token_id)

    def caller_of(self, text: str) -> Caller:
        """Whose token that is.

        Raises:
            Unauthenticated: `TOKEN_UNKNOWN`, `TOKEN_EXPIRED`, `TOKEN_REVOKED`.
        """
        parts = split_token(text)
        found = None if parts is None else self._store.find_token(parts[0])
        if parts is None or found is None or not matches(parts[1], found[1]):
            raise Unauthenticated(
                "the token is none of this registry's: check LORRY_TOKEN, or ask an administrator for a token",
                reason="TOKEN_UNKNOWN",
            )
        token, _ = found
        if token.revoke_time is not None:
            raise Unauthenticated(
                f"token {token.token_id} was revoked: ask an administrator for another",
                reason="TOKEN_REVOKED",
                token_id=token.token_id,
            )
        if token.expire_time is not None and token.expire_time <= datetime.now(UTC):
            raise Unauthenticated(
                f"token {token.token_id} has expired: ask an administrator for another",
                reason="TOKEN_EXPIRED",
                token_id=token.token_id,
            )
        return Caller(token.principal, Rights(token.grants, token.expire_time))

    # Namespaces.

    def create_namespace(
        self, name: str, *, description: str = "", quotas: Quotas | None = None
    ) -> Namespace:
        """Raises AlreadyExists `NAMESPACE_EXISTS`."""
        return self._store.create_namespace(
            references.check_id(name, "namespace"),
            description=check_description(description),
            quotas=_check_quotas(quotas or Quotas()),
        )

    def get_namespace(self, name: str) -> Namespace:
        return self._store.get_namespace(name)

    def quotas(self, name: str) -> Quotas:
        """Those in force; none where nobody created the namespace."""
        return self._store.get_quotas(name)

    def list_namespaces(self, *, page_size: int = 0, page_token: str = "") -> Page[Namespace]:
        """A page of those in which the caller has any role, in the order of names."""
        size = clip_page_size(page_size)
        after = decode_token(page_token, ("namespaces",), types=(str,))
        grants = current_rights.get().grants
        named = {grant.namespace for grant in grants}
        rows = self._store.list_namespaces(
            None if EVERYWHERE in named else named,
            after=None if after is None else str(after[0]),
            limit=size + 1,
        )
        return make_page(rows, size, lambda namespace: [namespace.name], ("namespaces",))

    def update_namespace(
        self,
        name: str,
        *,
        description: str | None = None,
        quotas: Quotas | None = None,
        etag: str = "",
    ) -> Namespace:
        """Changes what is not None. Raises Aborted where `etag` is stale."""
        return self._store.update_namespace(
            name,
            description=None if description is None else check_description(description),
            quotas=None if quotas is None else _check_quotas(quotas),
            etag=etag,
        )

    def delete_namespace(self, name: str) -> None:
        """Raises FailedPrecondition where it has adapters."""
        self._store.delete_namespace(name)

    # The audit log.

    def record(self, event: AuditEvent) -> None:
        """Adds to the log; nothing takes away from it."""
        self._store.add_audit_event(event)

    def list_audit_events(
        self,
        namespace: str | None,
        *,
        principal: str = "",
        page_size: int = 0,
        page_token: str = "",
    ) -> Page[AuditEvent]:
        """A page, newest first, of one namespace, or for None of all that the caller administers."""
        size = clip_page_size(page_size)
        arguments = ("audit", namespace, principal)
        after = decode_token(page_token, arguments, types=(int,))
        among = current_rights.get().namespaces(Role.ADMIN)
        rows = self._store.list_audit_events(
            among if namespace is None else {namespace},
            principal=check_text(principal, "principal", MAX_NAME_CHARACTERS),
            after=None if after is None else int(after[0]),
            limit=size + 1,
        )
        return make_page(rows, size, lambda event: [event.number], arguments)


def _administers(grants: Iterable[Grant]) -> bool:
    rights = current_rights.get()
    return all(rights.allows(Role.ADMIN, grant.namespace) for grant in grants)


def _no_token(token_id: str) -> NotFound:
    return NotFound(
        f"there is no token {token_id[:40]!r} that this caller administers: list the tokens",
        reason="TOKEN_NOT_FOUND",
        token_id=token_id[:40],
    )


def _check_expiry(expire_time: datetime | None) -> None:
    if expire_time is None:
        return
    now = datetime.now(UTC)
    if not now < expire_time <= now + timedelta(days=MAX_LIFETIME_DAYS):
        raise InvalidArgument(
            f"expire_time {expire_time:%Y-%m-%dT%H:%M:%SZ} must lie in the future, at most {MAX_LIFETIME_DAYS} days "
            "from now: leave it out for a token that does not expire",
            reason="EXPIRE_TIME_INVALID",
        )


def _check_quotas(quotas: Quotas) -> Quotas:
    for name in Quotas.__slots__:
        if not 0 <= getattr(quotas, name) <= MAX_QUOTA:
            raise InvalidArgument(
                f"quotas.{name} is {getattr(quotas, name)}: write 0 for no bound, or a positive number",
                reason="QUOTA_INVALID",
                field=name,
            )
    return quotas
