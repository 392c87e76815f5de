"""The settings of `lorry serve`. The command line takes its defaults from here."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from lorry_registry.config import default_home, parse_address
from lorry_registry.errors import InvalidArgument
from lorry_registry.security import Security, read_token_file
from lorry_server.engine.config import EngineConfig

REGISTRY_TOKEN_VARIABLE = "LORRY_REGISTRY_TOKEN"
DEFAULT_CACHE_BYTES = 20 << 30
_ENGINE = EngineConfig()


@dataclass(frozen=True, slots=True)
class RegistryLogin:
    """How a server shows itself to a registry elsewhere, and knows that one."""

    token_file: Path | None = None  # else LORRY_REGISTRY_TOKEN, else no token
    tls_ca: Path | None = None  # PEM; TLS where it or the next is given
    tls_cert: Path | None = None
    tls_key: Path | None = None

    def token(self) -> str:
        """Raises FailedPrecondition where the file cannot be read, or others can read it."""
        if self.token_file is not None:
            return read_token_file(self.token_file)
        return os.environ.get(REGISTRY_TOKEN_VARIABLE, "")


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """What a server serves, and where.

    Raises InvalidArgument where a value breaks its rule.
    """

    base: str = "lorry-tiny"  # a shipped name, a folder or a hub id
    home: Path = field(
        default_factory=default_home
    )  # the catalogue, the blobs and the adapters at hand
    listen: str = "127.0.0.1:7070"  # port 0 takes any free port
    metrics: str = "127.0.0.1:9090"  # empty: no metrics endpoint
    registry: str | None = None  # HOST:PORT of a registry elsewhere; None keeps one in this process
    registry_login: RegistryLogin = field(default_factory=RegistryLogin)  # used with that one
    require_signature: tuple[
        Path, ...
    ] = ()  # public keys, PEM: only what one of them signed is loaded
    security: Security = field(default_factory=Security)
    slots: int = _ENGINE.slots
    max_rank: int = _ENGINE.max_rank
    dense_memory_bytes: int = _ENGINE.dense_memory_bytes
    merge_memory: int = _ENGINE.merge_memory_bytes
    auto_merge: bool = _ENGINE.auto_merge
    cache_bytes: int = (
        DEFAULT_CACHE_BYTES  # adapters on disk that the registry here does not keep anyway
    )
    database: str = ""  # postgresql://… of a shared one; empty: SQLite in `home`
    blobs: str = ""  # s3://BUCKET/PREFIX or another folder; empty: a folder in `home`
    migrate: bool = False  # bring a shared database to the newest schema
    drain_seconds: float = 30.0  # for the requests in flight, once the server is told to stop

    def __post_init__(self) -> None:
        for option in ("listen", "metrics", "registry"):
            address = getattr(self, option)
            if address is not None and (address or option != "metrics"):
                parse_address(address, option)
        if self.cache_bytes < 1:
            raise InvalidArgument(
                f"--cache-bytes is {self.cache_bytes}; it must be at least 1.",
                reason="BAD_CACHE_BYTES",
                value=self.cache_bytes,
            )
        _ = self.engine

    @property
    def engine(self) -> EngineConfig:
        """The engine's share of the settings."""
        return EngineConfig(
            slots=self.slots,
            max_rank=self.max_rank,
            dense_memory_bytes=self.dense_memory_bytes,
            merge_memory_bytes=self.merge_memory,
            auto_merge=self.auto_merge,
        )

    @property
    def cache(self) -> Path:
        """Where adapters lie that the engine can load: one folder for each digest."""
        return self.home / "cache"
