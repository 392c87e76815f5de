"""How a listener is guarded: who may call, and TLS. Cheap to import: command lines read their defaults from here."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from lorry_registry.errors import FailedPrecondition, InvalidArgument


class Auth(StrEnum):
    """Whether callers must say who they are."""

    AUTO = "auto"  # required unless only this machine can reach the server
    REQUIRED = "required"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Security:
    """The options that both kinds of server have.

    Raises InvalidArgument where options contradict each other.
    """

    auth: Auth = Auth.AUTO
    access_file: Path | None = None  # certificates and OIDC: who they are, and what they may do
    tls_cert: Path | None = None  # PEM, the chain included
    tls_key: Path | None = None  # PEM
    tls_client_ca: Path | None = None  # PEM; set, a client must show a certificate that it signed
    insecure: bool = False  # take what is missing as meant

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InvalidArgument(
                "--tls-cert and --tls-key go together: give both, or neither",
                reason="TLS_INCOMPLETE",
            )
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise InvalidArgument(
                "--tls-client-ca needs --tls-cert and --tls-key: without TLS nobody shows a certificate",
                reason="TLS_INCOMPLETE",
            )

    def requires_auth(self, *, loopback: bool) -> bool:
        """Whether callers must say who they are. Whoever says what certificates may do means it."""
        if self.auth is Auth.AUTO:
            named = self.access_file is not None or self.tls_client_ca is not None
            return named or not (loopback or self.insecure)
        return self.auth is Auth.REQUIRED

    def check(self, address: str, *, loopback: bool) -> None:
        """Raises FailedPrecondition `INSECURE_ADDRESS` where others would reach an unguarded server by accident."""
        missing = [] if self.requires_auth(loopback=loopback) else ["--auth required"]
        if self.tls_cert is None:
            missing.append("--tls-cert and --tls-key")
        if loopback or self.insecure or not missing:
            return
        raise FailedPrecondition(
            f"{address} can be reached from other machines, and the server is not started there without "
            f"{' and '.join(missing)}. Give what is missing, listen on 127.0.0.1, or say --insecure where the network "
            "itself keeps others out",
            reason="INSECURE_ADDRESS",
            address=address,
            missing=", ".join(missing),
        )


def read_pem(path: Path, option: str) -> bytes:
    """A file of certificates or keys. Raises FailedPrecondition `TLS_FILE_UNREADABLE`, naming the option."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FailedPrecondition(
            f"--{option} {path} cannot be read ({error.strerror}): correct the path or its permissions",
            reason="TLS_FILE_UNREADABLE",
            option=option,
        ) from error
    if b"-----BEGIN " not in data:
        raise FailedPrecondition(
            f"--{option} {path} holds nothing in PEM form: convert it with openssl",
            reason="TLS_FILE_UNREADABLE",
            option=option,
        )
    return data


def read_token_file(path: Path) -> str:
    """The token in a file that nobody but its owner can read.

    Raises FailedPrecondition: `TOKEN_FILE_UNREADABLE`, `TOKEN_FILE_OPEN`.
    """
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise FailedPrecondition(
            f"the token file {path} cannot be read: correct the path or its permissions",
            reason="TOKEN_FILE_UNREADABLE",
        ) from error
    if mode & 0o077:
        raise FailedPrecondition(
            f"others can read the token file {path} (mode {mode & 0o777:o}): chmod 600 it",
            reason="TOKEN_FILE_OPEN",
        )
    return text
