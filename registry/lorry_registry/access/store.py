"""What access asks of the place that keeps its rows. As in `store`, each verb is one transaction."""

from collections.abc import Collection
from datetime import datetime
from typing import Protocol

from lorry_registry.access.entities import AuditEvent, Namespace, Quotas
from lorry_registry.access.rights import Grant
from lorry_registry.access.tokens import FreshToken, Token


class AccessStore(Protocol):
    """Tokens, namespaces and the audit log."""

    # Tokens.

    def add_token(
        self,
        token: FreshToken,
        *,
        display_name: str,
        grants: Collection[Grant],
        created_by: str,
        expire_time: datetime | None,
    ) -> Token: ...

    def get_token(self, token_id: str) -> Token:
        """Raises NotFound `TOKEN_NOT_FOUND`."""
        ...

    def find_token(self, token_id: str) -> tuple[Token, str] | None:
        """The token and its secret's hash; None where there is none."""
        ...

    def list_tokens(self, *, after: str | None, limit: int) -> list[Token]:
        """Newest first; `after` is an id."""
        ...

    def revoke_token(self, token_id: str) -> Token:
        """Revoked again, it stays as it is. Raises NotFound `TOKEN_NOT_FOUND`."""
        ...

    # Namespaces.

    def create_namespace(self, name: str, *, description: str, quotas: Quotas) -> Namespace:
        """Raises AlreadyExists `NAMESPACE_EXISTS`."""
        ...

    def get_namespace(self, name: str) -> Namespace:
        """One that adapters name counts, created or not. Raises NotFound `NAMESPACE_NOT_FOUND`."""
        ...

    def get_quotas(self, name: str) -> Quotas:
        """None are set where there is no such namespace. Raises nothing of its own."""
        ...

    def list_namespaces(
        self, among: Collection[str] | None, *, after: str | None, limit: int
    ) -> list[Namespace]:
        """In the order of names, those created and those that adapters name; of `among` where it is not None."""
        ...

    def update_namespace(
        self, name: str, *, description: str | None, quotas: Quotas | None, etag: str
    ) -> Namespace:
        """Changes what is not None, and creates one that only adapters name. Raises Aborted `ETAG_MISMATCH`."""
        ...

    def delete_namespace(self, name: str) -> None:
        """Raises FailedPrecondition `NAMESPACE_HAS_ADAPTERS`."""
        ...

    # The audit log, which is only ever added to.

    def add_audit_event(self, event: AuditEvent) -> None: ...

    def list_audit_events(
        self,
        among: Collection[str] | None,
        *,
        principal: str,
        after: int | None,
        limit: int,
    ) -> list[AuditEvent]:
        """Newest first, of the namespaces `among` where it is not None, by `principal` where it is not empty."""
        ...
