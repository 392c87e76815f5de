"""The settings of `lorry serve`. The command line takes its defaults from here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from lorry_registry.config import default_home
from lorry_registry.errors import InvalidArgument
from lorry_server.engine.config import EngineConfig

_ENGINE = EngineConfig()


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
    slots: int = _ENGINE.slots
    max_rank: int = _ENGINE.max_rank
    drain_seconds: float = 30.0  # for the requests in flight, once the server is told to stop

    def __post_init__(self) -> None:
        for option in ("listen", "metrics", "registry"):
            if address := getattr(self, option):
                split_address(address, option)
        _ = self.engine

    @property
    def engine(self) -> EngineConfig:
        """The engine's share of the settings."""
        return EngineConfig(slots=self.slots, max_rank=self.max_rank)

    @property
    def cache(self) -> Path:
        """Where adapters lie that the engine can load: one folder for each digest."""
        return self.home / "cache"


def split_address(address: str, option: str) -> tuple[str, int]:
    """`HOST:PORT` in two; IPv6 hosts stand in brackets."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise InvalidArgument(
            f"--{option} is {address!r}; it must be HOST:PORT, as in 127.0.0.1:7070 or [::1]:7070.",
            reason="BAD_ADDRESS",
            option=option,
            value=address,
        )
    return host.removeprefix("[").removesuffix("]"), int(port)
