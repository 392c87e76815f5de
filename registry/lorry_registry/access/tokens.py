"""API tokens: `lorry_<id>_<secret>`.

The id is public: it finds the row, and lists and logs show it. The secret is 256 bits from the system's generator, and
only its SHA-256 is kept. A slow hash exists to make guessing a *human's* password dear; nobody guesses 256 random
bits, so it would add nothing but the means to keep the registry's processors busy with wrong tokens.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime

from lorry_registry.access.rights import Grant

PREFIX = "lorry_"
MAX_LIFETIME_DAYS = 3650

_TOKEN = re.compile(r"lorry_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")
_TOKEN_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Token:
    """What is kept of a token, and may be shown."""

    token_id: str
    display_name: str
    grants: tuple[Grant, ...]
    create_time: datetime
    created_by: str  # a principal
    expire_time: datetime | None
    revoke_time: datetime | None

    @property
    def principal(self) -> str:
        return f"token:{self.token_id}"


@dataclass(frozen=True, slots=True)
class FreshToken:
    """A new token: `text` is shown once, to whoever asked for it, and kept nowhere."""

    token_id: str
    text: str
    secret_hash: str


def make_token() -> FreshToken:
    token_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
    return FreshToken(token_id, f"{PREFIX}{token_id}_{secret}", hash_secret(secret))


def split_token(text: str) -> tuple[str, str] | None:
    """The id and the secret; None where it is no token of ours."""
    found = _TOKEN.fullmatch(text)
    return None if found is None else (found[1], found[2])


def hash_secret(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def matches(secret: str, secret_hash: str) -> bool:
    """Whether the secret is the one whose hash was kept; takes the same time whatever the answer."""
    return hmac.compare_digest(hash_secret(secret), secret_hash)


def is_token_id(text: str) -> bool:
    return _TOKEN_ID.fullmatch(text) is not None
