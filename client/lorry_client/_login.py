"""How a client shows itself, and knows the server: a token and TLS, from arguments or the environment."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lorry_client.errors import FailedPrecondition, InvalidArgument, from_os

if TYPE_CHECKING:
    import grpc

TOKEN_VARIABLE = "LORRY_TOKEN"
TOKEN_FILE_VARIABLE = "LORRY_TOKEN_FILE"
TLS_CA_VARIABLE = "LORRY_TLS_CA"
TLS_CERT_VARIABLE = "LORRY_TLS_CERT"
TLS_KEY_VARIABLE = "LORRY_TLS_KEY"
INSECURE_VARIABLE = "LORRY_INSECURE"


@dataclass(frozen=True, slots=True)
class Login:
    """What is not given is taken from the environment; what is nowhere is left out.

    Attributes:
        token: what the server gave out with `lorry tokens create`. Never printed.
        token_file: a file with it, that nobody else can read.
        tls_ca: PEM file with whose certificates servers show; with it, or with a certificate, the channel is TLS.
        tls_cert: PEM file with the client's own certificate, for mutual TLS.
        tls_key: PEM file with its key.
        insecure: send the token over a plain channel to another machine all the same.
    """

    token: str | None = field(default=None, repr=False)
    token_file: str | Path | None = None
    tls_ca: str | Path | None = None
    tls_cert: str | Path | None = None
    tls_key: str | Path | None = None
    insecure: bool = False

    def metadata(self, server: str, *, secure: bool) -> tuple[tuple[str, str], ...]:
        """What every call carries. Raises where a token would travel in clear text to another machine."""
        token = self._token()
        if not token:
            return ()
        insecure = self.insecure or os.environ.get(INSECURE_VARIABLE) == "1"
        if not (secure or insecure or _is_loopback(server)):
            raise FailedPrecondition(
                f"The token would go to {server} in clear text. Give --tls-ca (LORRY_TLS_CA), or, where the network "
                "itself keeps others out, --insecure (LORRY_INSECURE=1).",
                reason="TOKEN_IN_CLEAR_TEXT",
                metadata={"server": server},
            )
        return (("authorization", f"Bearer {token}"),)

    def credentials(self) -> grpc.ChannelCredentials | None:
        """TLS as the options say; None for a plain channel."""
        ca = self.tls_ca or os.environ.get(TLS_CA_VARIABLE)
        cert = self.tls_cert or os.environ.get(TLS_CERT_VARIABLE)
        key = self.tls_key or os.environ.get(TLS_KEY_VARIABLE)
        if bool(cert) != bool(key):
            raise InvalidArgument(
                "--tls-cert and --tls-key (LORRY_TLS_CERT and LORRY_TLS_KEY) go together; give both, or neither.",
                reason="TLS_INCOMPLETE",
            )
        if not ca and not cert:
            return None
        import grpc

        return grpc.ssl_channel_credentials(*(_read(path) for path in (ca, key, cert)))

    def _token(self) -> str:
        if self.token is not None:
            return _printable(self.token.strip())
        if self.token_file is None and (token := os.environ.get(TOKEN_VARIABLE)):
            return _printable(token.strip())
        path = self.token_file or os.environ.get(TOKEN_FILE_VARIABLE)
        return _printable(_read_token(Path(path))) if path else ""


def _printable(token: str) -> str:
    if not (token.isascii() and token.isprintable()):
        raise InvalidArgument(
            "The token holds characters that no token has; copy it again.", reason="INVALID_TOKEN"
        )
    return token


def _read_token(path: Path) -> str:
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError as error:
        raise from_os(error) from error
    if os.name == "posix" and mode & 0o077:
        raise FailedPrecondition(
            f"Others can read the token file {path} (mode {mode & 0o777:o}); chmod 600 it.",
            reason="TOKEN_FILE_OPEN",
            metadata={"file": str(path)},
        )
    return text


def _read(path: str | Path | None) -> bytes | None:
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise from_os(error) from error


def _is_loopback(server: str) -> bool:
    host = server.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
