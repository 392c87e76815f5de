"""OIDC tokens: only what the provider's key signed, for us, now."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from lorry_registry.access import oidc
from lorry_registry.access.authority import Credentials, RegistryAuthority
from lorry_registry.access.oidc import OidcVerifier
from lorry_registry.access.rights import parse_grants
from lorry_registry.access.settings import AccessSettings, ClaimGrants, OidcSettings
from lorry_registry.catalogue import Catalogue
from lorry_registry.errors import FailedPrecondition, Unauthenticated, Unavailable

ISSUER = "https://id.example"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
CURVE = ec.generate_private_key(ec.SECP256R1())
GRANTS = (
    ClaimGrants("groups", "search", parse_grants(["publish:search"])),
    ClaimGrants("role", "app", parse_grants(["infer:*"])),
)


def keys(**by_id: Any) -> str:
    made = []
    for key_id, key in by_id.items():
        algorithm: Any = (
            ECAlgorithm if isinstance(key, ec.EllipticCurvePrivateKey) else RSAAlgorithm
        )
        jwk = json.loads(algorithm.to_jwk(key.public_key()))
        made.append({**jwk, "kid": key_id})
    return json.dumps({"keys": made})


def signed(key: Any = KEY, *, kid: str = "one", alg: str = "RS256", **claims: Any) -> str:
    now = int(time.time())
    body = {
        "iss": ISSUER, "aud": "lorry", "sub": "ada", "exp": now + 300, "groups": ["search", "x"],
        **claims,
    }  # fmt: skip
    body = {name: value for name, value in body.items() if value is not None}
    return jwt.encode(body, key, algorithm=alg, headers={"kid": kid})


@pytest.fixture
def settings(tmp_path: Path) -> OidcSettings:
    file = tmp_path / "keys.json"
    file.write_text(keys(one=KEY, curve=CURVE))
    return OidcSettings(ISSUER, "lorry", file, None, GRANTS)


def test_claims_are_good_for_what_the_file_says(settings: OidcSettings) -> None:
    verifier = OidcVerifier(settings)
    caller = verifier.caller_of(signed())
    assert caller.principal == "oidc:ada"
    assert [str(grant) for grant in caller.rights.grants] == ["publish:search"]
    assert caller.rights.expire_time is not None
    both = verifier.caller_of(signed(role="app", aud=["other", "lorry"]))
    assert [str(grant) for grant in both.rights.grants] == ["infer:*", "publish:search"]
    assert verifier.caller_of(signed(CURVE, kid="curve", alg="ES256")).principal == "oidc:ada"
    assert verifier.caller_of(signed(groups="sear")).rights.grants == ()


def refused(verifier: OidcVerifier, token: str) -> None:
    with pytest.raises(Unauthenticated) as caught:
        verifier.caller_of(token)
    assert caught.value.reason == "OIDC_TOKEN_INVALID"


@pytest.mark.parametrize(
    "token",
    [
        lambda: signed(OTHER),
        lambda: signed(kid="two"),
        lambda: signed(iss="https://evil.example"),
        lambda: signed(aud="other"),
        lambda: signed(aud=None),
        lambda: signed(exp=int(time.time()) - 31),
        lambda: signed(exp=None),
        lambda: signed(sub=None),
        lambda: signed(nbf=int(time.time()) + 60),
        lambda: signed()[:-4] + "AAAA",
        lambda: signed("a secret that is long enough for it", alg="HS256"),
        lambda: jwt.encode({"iss": ISSUER, "aud": "lorry", "sub": "x"}, None, algorithm="none"),
        lambda: "a.b.c",
        lambda: "..",
        lambda: signed(exp=1 << 70),
    ],
)
def test_anything_else_is_nobody(settings: OidcSettings, token: Callable[[], str]) -> None:
    refused(OidcVerifier(settings), token())


def test_the_providers_public_key_is_no_shared_secret(
    settings: OidcSettings, tmp_path: Path
) -> None:
    """The old trick: sign with HMAC, and take the public key, which everybody has, for the secret."""
    assert settings.jwks_file is not None
    secret = {"kty": "oct", "k": "c2VjcmV0LXRoYXQtaXMtaW4tdGhlLXNldC1mb3ItYWxs", "kid": "shared"}
    known = json.loads(settings.jwks_file.read_text())
    settings.jwks_file.write_text(json.dumps({"keys": [*known["keys"], secret]}))
    verifier = OidcVerifier(settings)
    refused(verifier, signed("secret-that-is-in-the-set-for-all", kid="shared", alg="HS256"))


def test_a_file_without_keys_is_refused_at_the_start(tmp_path: Path) -> None:
    for name, content in (("none.json", None), ("bad.json", "{"), ("list.json", "[]")):
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(FailedPrecondition) as caught:
            OidcVerifier(OidcSettings(ISSUER, "lorry", tmp_path / name, None, GRANTS))
        assert caught.value.reason == "OIDC_KEYS_UNREADABLE"


class Provider(HTTPServer):
    """Serves its keys, counts the questions, and may be broken."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.keys, self.asked = keys(one=KEY), 0


class Handler(BaseHTTPRequestHandler):
    server: Provider

    def do_GET(self) -> None:
        self.server.asked += 1
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.keys.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def provider() -> Iterator[Provider]:
    server = Provider()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_keys_are_fetched_once_and_again_when_they_change(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://127.0.0.1:{provider.server_port}/keys"
    verifier = OidcVerifier(OidcSettings(ISSUER, "lorry", None, url, GRANTS))
    for _ in range(3):
        verifier.caller_of(signed())
    for _ in range(3):  # a flood of tokens with keys that nobody has asks the provider no more
        refused(verifier, signed(OTHER, kid="two"))
    assert provider.asked == 1
    provider.keys = keys(two=OTHER)
    monkeypatch.setattr(oidc, "_BETWEEN_FETCHES_SECONDS", 0.0)
    verifier.caller_of(signed(OTHER, kid="two"))
    refused(verifier, signed())
    provider.keys = "broken"
    with pytest.raises(Unavailable):
        verifier.caller_of(signed(kid="three"))
    verifier.caller_of(signed(OTHER, kid="two"))


async def test_the_registry_takes_both_kinds_of_token(
    catalogue: Catalogue, settings: OidcSettings
) -> None:
    judge = RegistryAuthority(catalogue.access, AccessSettings(oidc=settings))
    made, text = catalogue.access.create_token(["read:a"])
    assert (await judge.identify(Credentials(text))).principal == made.principal
    assert (await judge.identify(Credentials(signed()))).principal == "oidc:ada"
    with pytest.raises(Unauthenticated):
        await judge.identify(Credentials(signed(OTHER)))
