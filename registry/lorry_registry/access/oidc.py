"""OIDC bearer tokens: a JWT that an identity provider signed, and the grants that its claims are good for.

Only signatures by a private key count (RSA, ECDSA, EdDSA), from a key of the provider's set; issuer, audience and the
times must be there and right. Synchronous, and may fetch keys: an event loop calls it in a thread.
"""

import json
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import jwt

from lorry_registry.access.entities import Caller
from lorry_registry.access.rights import MAX_GRANTS, Rights
from lorry_registry.access.settings import OidcSettings
from lorry_registry.errors import FailedPrecondition, Unauthenticated, Unavailable

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA")
LEEWAY_SECONDS = 30
KEYS_SECONDS = 300.0
"""How long keys that were fetched hold; those of a file are read again as often."""
_BETWEEN_FETCHES_SECONDS = 10.0  # however many tokens come with a key that is not known
_FETCH_SECONDS = 5.0
_MAX_KEYS_BYTES = 1 << 20
_MAX_PRINCIPAL_CHARACTERS = 200


class OidcVerifier:
    """Knows callers by one provider's tokens. Safe to call from several threads."""

    def __init__(self, settings: OidcSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._keys: Mapping[str, jwt.PyJWK] = {}
        self._fetched = -KEYS_SECONDS
        self._keys = self._read_keys() if settings.jwks_url is None else {}

    def caller_of(self, text: str) -> Caller:
        """Whose token that is; one with no claim that the access file names has no grants.

        Raises:
            Unauthenticated: `OIDC_TOKEN_INVALID`, naming what is wrong with it.
            Unavailable: `OIDC_KEYS_UNAVAILABLE`, the provider's keys cannot be had.
        """
        try:
            key_id = str(jwt.get_unverified_header(text).get("kid", ""))
            claims = jwt.decode(
                text,
                self._key(key_id),
                algorithms=list(ALGORITHMS),
                audience=self._settings.audience,
                issuer=self._settings.issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
            expire_time = datetime.fromtimestamp(int(claims["exp"]), UTC)
        except (jwt.PyJWTError, ValueError, OverflowError, OSError, TypeError) as error:
            raise Unauthenticated(
                f"the OIDC token is not accepted ({error}): get a fresh one from {self._settings.issuer}",
                reason="OIDC_TOKEN_INVALID",
            ) from error
        grants = {
            grant
            for known in self._settings.grants
            if _holds(claims.get(known.claim), known.value)
            for grant in known.grants
        }
        name = str(claims["sub"])[:_MAX_PRINCIPAL_CHARACTERS]
        return Caller(f"oidc:{name}", Rights(tuple(sorted(grants)[:MAX_GRANTS]), expire_time))

    def _key(self, key_id: str) -> jwt.PyJWK:
        with self._lock:
            age = time.monotonic() - self._fetched
            known = self._keys.get(key_id)
            if age >= KEYS_SECONDS or (known is None and age >= _BETWEEN_FETCHES_SECONDS):
                self._refresh(known)
                known = self._keys.get(key_id)
        if known is None:
            raise jwt.InvalidTokenError(f"no key {key_id[:80]!r} in the provider's set")
        return known

    def _refresh(self, known: jwt.PyJWK | None) -> None:
        """The keys anew; where they cannot be had, those known before hold on."""
        self._fetched = time.monotonic()
        try:
            self._keys = self._read_keys()
        except Unavailable:
            if known is None:
                raise

    def _read_keys(self) -> Mapping[str, jwt.PyJWK]:
        settings = self._settings
        where = settings.jwks_url or str(settings.jwks_file)
        try:
            if settings.jwks_file is not None:
                data = settings.jwks_file.read_bytes()
            else:
                request = Request(where, headers={"Accept": "application/json"})
                with urlopen(request, timeout=_FETCH_SECONDS) as answer:
                    data = answer.read(_MAX_KEYS_BYTES + 1)
            if len(data) > _MAX_KEYS_BYTES:
                raise ValueError(f"more than {_MAX_KEYS_BYTES} bytes")
            keys = jwt.PyJWKSet.from_dict(json.loads(data)).keys
        except (OSError, URLError, ValueError, TypeError, AttributeError, jwt.PyJWTError) as error:
            if settings.jwks_file is not None and not self._keys:
                raise FailedPrecondition(
                    f"the keys in {where} cannot be read ({error}): correct oidc.jwks_file",
                    reason="OIDC_KEYS_UNREADABLE",
                ) from error
            raise Unavailable(
                f"the identity provider's keys at {where} cannot be had ({error}): retry",
                reason="OIDC_KEYS_UNAVAILABLE",
            ) from error
        return {key.key_id or "": key for key in keys if _is_public(key)}


def _is_public(key: jwt.PyJWK) -> bool:
    """A shared secret in the set would let whoever reads the set sign."""
    return key.key_type != "oct"


def _holds(claim: Any, value: str) -> bool:
    return claim == value or (isinstance(claim, list) and value in claim)
