"""The version of Lorry that runs."""

from __future__ import annotations

from importlib import metadata


def version() -> str:
    """As installed; `unknown` where Lorry runs from its sources."""
    try:
        return metadata.version("lorry")
    except metadata.PackageNotFoundError:
        return "unknown"
