"""How a registry is run. Cheap to import: the command line reads its defaults from here."""

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path

from lorry_registry.errors import InvalidArgument
from lorry_registry.security import Security

HOME_VARIABLE = "LORRY_HOME"
DATABASE_VARIABLE = "LORRY_DATABASE"
BLOBS_VARIABLE = "LORRY_BLOBS"


@dataclass(frozen=True)
class RegistryConfig:
    """A stand-alone registry."""

    home: Path
    """The folder of the database and the blobs."""
    database: str = ""
    """postgresql://… of a shared database; empty: SQLite in `home`."""
    blobs: str = ""
    """s3://BUCKET/PREFIX, another folder or memory://; empty: a folder in `home`."""
    migrate: bool = False
    """Whether a shared database is brought to the newest schema; one in `home` is anyway."""
    listen: str = "127.0.0.1:7071"
    """HOST:PORT; port 0 takes a free one."""
    security: Security = field(default_factory=Security)
    grace_seconds: float = 10.0
    """How long calls in flight may go on after SIGTERM."""


def default_home() -> Path:
    """`$LORRY_HOME`, else the user's data folder."""
    home = os.environ.get(HOME_VARIABLE)
    if home:
        return Path(home)
    from platformdirs import user_data_dir

    return Path(user_data_dir("lorry"))


def parse_address(address: str, option: str) -> tuple[str, int]:
    """`HOST:PORT` in two, for every option that takes one; IPv6 hosts stand in brackets, and come without them.

    Raises:
        InvalidArgument: `ADDRESS_INVALID`, naming the option.
    """
    host, _, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    is_port = port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) <= 65535
    if not bare or not is_port or (":" in bare) != (bare != host):
        raise InvalidArgument(
            f"--{option} is {address!r}, which is no address: write HOST:PORT, 127.0.0.1:7071 or [::1]:7071 "
            "for example",
            reason="ADDRESS_INVALID",
            option=option,
            address=address,
        )
    return bare, int(port)


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach an address."""
    host, _ = parse_address(address, "listen")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, and whoever resolves it
        return False
