"""The store's verbs over tokens: never changed but to be revoked."""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from lorry_registry.access.rights import Grant, parse_grant
from lorry_registry.access.tokens import FreshToken, Token
from lorry_registry.errors import NotFound
from lorry_registry.sql.lookups import now_utc
from lorry_registry.sql.models import TokenRow
from lorry_registry.sql.transactions import Transactions


class TokenVerbs(Transactions):
    """Tokens by id; see `access.store.AccessStore`."""

    def add_token(
        self,
        token: FreshToken,
        *,
        display_name: str,
        grants: Collection[Grant],
        created_by: str,
        expire_time: datetime | None,
    ) -> Token:
        row = TokenRow(
            token_id=token.token_id,
            secret_hash=token.secret_hash,
            display_name=display_name,
            grants=[str(grant) for grant in grants],
            created_by=created_by,
            create_time=now_utc(),
            expire_time=expire_time,
        )
        with self._write() as session:
            session.add(row)
            session.flush()
            return _to_token(row)

    def get_token(self, token_id: str) -> Token:
        with self._read() as session:
            return _to_token(_token_row(session, token_id))

    def find_token(self, token_id: str) -> tuple[Token, str] | None:
        with self._read() as session:
            row = session.scalar(select(TokenRow).where(TokenRow.token_id == token_id))
            return None if row is None else (_to_token(row), row.secret_hash)

    def list_tokens(self, *, after: str | None, limit: int) -> list[Token]:
        with self._read() as session:
            query = select(TokenRow).order_by(TokenRow.id.desc()).limit(limit)
            if after is not None:
                query = query.where(TokenRow.id < _token_row(session, after).id)
            return [_to_token(row) for row in session.scalars(query)]

    def revoke_token(self, token_id: str) -> Token:
        with self._write() as session:
            row = _token_row(session, token_id)
            row.revoke_time = row.revoke_time or now_utc()
            session.flush()
            return _to_token(row)


def _token_row(session: Session, token_id: str) -> TokenRow:
    row = session.scalar(select(TokenRow).where(TokenRow.token_id == token_id))
    if row is None:
        raise NotFound(
            f"there is no token {token_id[:40]!r}: list the tokens",
            reason="TOKEN_NOT_FOUND",
            token_id=token_id[:40],
        )
    return row


def _to_token(row: TokenRow) -> Token:
    return Token(
        token_id=row.token_id,
        display_name=row.display_name,
        grants=tuple(parse_grant(grant) for grant in row.grants),
        create_time=row.create_time,
        created_by=row.created_by,
        expire_time=row.expire_time,
        revoke_time=row.revoke_time,
    )
