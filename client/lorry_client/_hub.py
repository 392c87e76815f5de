"""Adapters from a hub repository, at a revision."""

from __future__ import annotations

import shutil
from pathlib import Path

from lorry_client._folder import MEDIA_TYPES
from lorry_client.errors import FailedPrecondition, NotFound, Unavailable

DEFAULT_REVISION = "main"


def fetch(repository: str, revision: str | None, into: Path) -> str:
    """Writes a repository's files into a folder; returns `repository@commit`, which names the same bytes for ever.

    What the hub's cache has of it is taken from there; `HF_TOKEN`, `HF_ENDPOINT` and `HF_HUB_OFFLINE` hold.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
        from huggingface_hub.utils import (
            HFValidationError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ModuleNotFoundError as error:
        raise FailedPrecondition(
            f"The hub needs the Python module {error.name}; pip install 'lorry[hub]'.",
            reason="MODULE_MISSING",
        ) from error
    where = f"{repository}@{revision or DEFAULT_REVISION}"
    try:
        snapshot = Path(
            snapshot_download(
                repository,
                revision=revision or DEFAULT_REVISION,
                # One folder deep, and nothing that could run: no checkpoints, no pickles.
                allow_patterns=[f"*{suffix}" for suffix in MEDIA_TYPES],
                ignore_patterns=["*/*"],
            )
        )
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise NotFound(f"The hub has no {where}: {error}.", reason="HUB_NOT_FOUND") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise Unavailable(
            f"{where} cannot be had from the hub: {error}.", reason="HUB_UNAVAILABLE"
        ) from error
    for path in snapshot.iterdir():
        if path.is_file():  # in the cache, a link to the blob
            shutil.copyfile(path, into / path.name)
    return f"{repository}@{snapshot.name}"
