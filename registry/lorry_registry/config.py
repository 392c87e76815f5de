"""How a registry is run. Cheap to import: the command line reads its defaults from here."""

import os
from dataclasses import dataclass
from pathlib import Path

HOME_VARIABLE = "LORRY_HOME"


@dataclass(frozen=True)
class RegistryConfig:
    """A stand-alone registry."""

    home: Path
    """The folder of the database and the blobs."""
    listen: str = "127.0.0.1:7071"
    """HOST:PORT; port 0 takes a free one."""
    grace_seconds: float = 10.0
    """How long calls in flight may go on after SIGTERM."""


def default_home() -> Path:
    """`$LORRY_HOME`, else the user's data folder."""
    home = os.environ.get(HOME_VARIABLE)
    if home:
        return Path(home)
    from platformdirs import user_data_dir

    return Path(user_data_dir("lorry"))
