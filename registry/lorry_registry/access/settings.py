"""The access file: what client certificates and OIDC tokens may do. TOML, strict: an unknown key is an error.

[[certificates]]                    # mutual TLS
name = "spiffe://example/serve"     # a URI or DNS name of the certificate, or its common name
grants = ["read:*"]

[oidc]
issuer = "https://id.example"
audience = "lorry"
jwks_file = "jwks.json"             # or jwks_url = "https://id.example/keys"

[[oidc.grants]]
claim = "groups"                    # a claim that is this text, or a list that holds it
value = "search-team"
grants = ["publish:search", "infer:search"]
"""

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lorry_registry.access.rights import Grant, Rights, parse_grants
from lorry_registry.errors import FailedPrecondition, InvalidArgument


@dataclass(frozen=True, slots=True)
class ClaimGrants:
    """What a claim with a value is good for."""

    claim: str
    value: str
    grants: tuple[Grant, ...]


@dataclass(frozen=True, slots=True)
class OidcSettings:
    """Whose tokens are believed, and what they are good for."""

    issuer: str
    audience: str
    jwks_file: Path | None
    jwks_url: str | None
    grants: tuple[ClaimGrants, ...]


@dataclass(frozen=True, slots=True)
class AccessSettings:
    """What the access file says; without one, only tokens are known."""

    certificates: Mapping[str, Rights] = field(default_factory=dict)
    oidc: OidcSettings | None = None


def read_settings(path: Path) -> AccessSettings:
    """Reads an access file; relative paths in it are beside it.

    Raises:
        FailedPrecondition: `ACCESS_FILE_UNREADABLE`.
        InvalidArgument: `ACCESS_FILE_INVALID`, naming the key and the rule.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FailedPrecondition(
            f"the access file {path} cannot be read ({error.strerror}): correct the path or its permissions",
            reason="ACCESS_FILE_UNREADABLE",
        ) from error
    except ValueError as error:
        raise _invalid(path, f"it is no TOML: {error}") from error
    try:
        _check_keys(content, "", optional={"certificates", "oidc"})
        certificates = {}
        for entry in _tables(content, "certificates"):
            _check_keys(entry, "certificates", {"name", "grants"})
            name = _text(entry, "certificates", "name")
            if name in certificates:
                raise ValueError(f"certificates: {name!r} stands there twice")
            certificates[name] = Rights(_grants(entry, "certificates"))
        oidc = None if "oidc" not in content else _oidc(content["oidc"], path.parent)
    except InvalidArgument as error:
        raise _invalid(path, error.message) from error
    except ValueError as error:
        raise _invalid(path, str(error)) from error
    return AccessSettings(certificates, oidc)


def _oidc(table: Any, folder: Path) -> OidcSettings:
    keys = {"issuer", "audience", "grants"}
    _check_keys(table, "oidc", keys, optional={"jwks_file", "jwks_url"})
    if ("jwks_file" in table) == ("jwks_url" in table):
        raise ValueError("oidc: give either jwks_file or jwks_url")
    grants = []
    for entry in _tables(table, "grants"):
        _check_keys(entry, "oidc.grants", {"claim", "value", "grants"})
        claim, value = (_text(entry, "oidc.grants", key) for key in ("claim", "value"))
        grants.append(ClaimGrants(claim, value, _grants(entry, "oidc.grants")))
    url = _text(table, "oidc", "jwks_url") if "jwks_url" in table else None
    if url is not None and not _is_unspoilt(url):
        raise ValueError(f"oidc.jwks_url is {url!r}: keys are fetched over https:// only")
    return OidcSettings(
        issuer=_text(table, "oidc", "issuer"),
        audience=_text(table, "oidc", "audience"),
        jwks_file=folder / _text(table, "oidc", "jwks_file") if url is None else None,
        jwks_url=url,
        grants=tuple(grants),
    )


def _is_unspoilt(url: str) -> bool:
    """Whether nobody on the way can put keys of their own into the answer."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (
        parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1")
    )


def _check_keys(
    table: Any, where: str, wanted: Collection[str] = (), *, optional: Collection[str] = ()
) -> None:
    if not isinstance(table, dict):
        raise ValueError(f"{where} must be a table")
    prefix = f"{where}." if where else ""
    if unknown := sorted(set(table) - {*wanted, *optional}):
        raise ValueError(
            f"{prefix}{unknown[0]} is no key: use {', '.join(sorted({*wanted, *optional}))}"
        )
    if missing := sorted(set(wanted) - set(table)):
        raise ValueError(f"{prefix}{missing[0]} is missing")


def _tables(table: Mapping[str, Any], key: str) -> list[Any]:
    entries = table.get(key, [])
    if not isinstance(entries, list):
        raise ValueError(f"{key} must be a list of tables: write [[{key}]]")
    return entries


def _text(table: Mapping[str, Any], where: str, key: str) -> str:
    value = table[key]
    if not isinstance(value, str) or not value:
        raise ValueError(f"{where}.{key} must be a text that is not empty")
    return value


def _grants(table: Mapping[str, Any], where: str) -> tuple[Grant, ...]:
    grants = table["grants"]
    if not isinstance(grants, list) or not all(isinstance(grant, str) for grant in grants):
        raise ValueError(f"{where}.grants must be a list of texts, read:search for example")
    return parse_grants(grants)


def _invalid(path: Path, why: str) -> InvalidArgument:
    return InvalidArgument(
        f"the access file {path} is wrong: {why}", reason="ACCESS_FILE_INVALID", file=path
    )
