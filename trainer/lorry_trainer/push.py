"""Publish an adapter folder. `lorry_client` does it, and reads the lineage from the folder."""

from __future__ import annotations

from pathlib import Path


def push(
    folder: Path,
    name: str,
    *,
    alias: str | None = None,
    server: str | None = None,
    description: str = "",
) -> str:
    """The reference of the new version, with its digest. Raises lorry_client's errors."""
    from lorry_client import Client

    with Client(server) as client:
        return str(client.push(folder, name, alias=alias, description=description).reference)
